"""What the readers give, and how it becomes COCO jsons."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from dino_d2.data.check import DatasetError
from dino_d2.data.check.findings import PILLOW_ERRORS

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Box:
    """An object: class, and COCO's [x, y, width, height] in pixels, counted from 0."""

    name: str
    xywh: tuple[float, float, float, float]
    is_crowd: bool = False  # neither to be learnt nor to be missed


@dataclass(frozen=True)
class AnnotatedImage:
    file: Path
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass
class Dataset:
    """Images by split ("train", "val", "test"; None where the folder does not say) and the classes in order."""

    classes: list[str]
    splits: dict[str | None, list[AnnotatedImage]] = field(default_factory=dict)


def hold_out(dataset: Dataset, share: float) -> None:
    """Divide the images that belong to no split into "train" and "val", in place.

    Which image goes where depends on its file name alone, so that it stays there when images are added.

    Args:
        share: of the images that go to "val", about; in [0, 1].
    """
    for image in dataset.splits.pop(None, []):
        fraction = int(hashlib.sha256(image.file.name.encode()).hexdigest()[:8], 16) / 2**32
        dataset.splits.setdefault("val" if fraction < share else "train", []).append(image)


def write(dataset: Dataset, root: Path, folder: Path) -> dict[str, Path]:
    """Write `folder`/instances_{split}.json with file names relative to `root`; returns the files by split.

    Raises:
        DatasetError: a file is there already.
    """
    files = {split: folder / f"instances_{split}.json" for split in dataset.splits}
    for file in files.values():
        if file.exists():
            raise DatasetError(f"{file} is there already. Delete it, or give another folder with --output.")
    folder.mkdir(parents=True, exist_ok=True)
    for split, file in files.items():
        file.write_text(json.dumps(to_coco(dataset.splits[split], dataset.classes, root)), encoding="utf-8")
    return files


def to_coco(images: list[AnnotatedImage], classes: list[str], root: Path) -> dict:
    """A COCO detection dictionary; categories have the ids 1, 2, ... in the order of `classes`."""
    ids = {name: i for i, name in enumerate(classes, start=1)}
    annotations: list[dict] = []
    for image_id, image in enumerate(images, start=1):
        for box in image.boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[box.name],
                    "bbox": list(box.xywh),
                    "area": box.xywh[2] * box.xywh[3],
                    "iscrowd": int(box.is_crowd),
                }
            )
    return {
        "images": [
            {"id": i, "file_name": x.file.relative_to(root).as_posix(), "width": x.width, "height": x.height}
            for i, x in enumerate(images, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in ids.items()],
    }


def image_size(file: Path) -> tuple[int, int]:
    """(width, height) after the EXIF rotation, which the boxes of labelling tools refer to.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image).size
    except PILLOW_ERRORS as error:
        raise DatasetError(f"{file} cannot be read: {error}. Replace it, or take it and its labels out.") from error


def split_of(folder: str) -> str | None:
    """ "train", "val" or "test" if a folder's name begins so ("valid", "val2017"), else None."""
    return next((split for split in ("train", "val", "test") if folder.lower().startswith(split)), None)
