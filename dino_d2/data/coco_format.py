"""Any dataset in COCO format, named by its two paths: `coco_format(json=..., images=...)` in a config."""

import hashlib
import json as json_module
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from iopath.common.file_io import get_cache_dir

from dino_d2.data.check import bad_annotations, first, read_coco
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.data.datasets import register_coco_instances

logger = logging.getLogger(__name__)

_registered: dict[str, tuple] = {}  # dataset name -> what it was made from


def coco_format(json: str | os.PathLike, images: str | os.PathLike, name: str | None = None) -> str:
    """Registers a COCO-format dataset with Detectron2's catalogs and returns its name.

    Meant for configs, where a dataset name is asked for; calling it again costs nothing:

        names=L(coco_format)(json="annotations/train.json", images="train")

    Category ids may start anywhere and have holes: class k is the category with the k-th smallest id.
    Annotations without a usable box are skipped, with one warning. They are skipped in evaluation as well,
    and so are the gaps over which pycocotools stumbles (no "area", no "iscrowd", an annotation id of 0):
    where the file has any of these, the dataset uses a corrected copy of it in iopath's cache folder
    ($FVCORE_CACHE, or ~/.torch/iopath_cache). The file itself is never written to.

    Args:
        json: the annotation file, with "images", "annotations" and "categories".
        images: the folder that its `file_name`s are relative to.
        name: the name in the catalogs; made from the paths if not given.

    Raises:
        DatasetError: the dataset cannot be used; see `dino_d2.data.check.read_coco`.
        ValueError: `name` is taken by another dataset.
    """
    json, images = (Path(os.path.abspath(os.path.expanduser(path))) for path in (json, images))
    if name is None:
        digest = hashlib.sha256(f"{json}\n{images}".encode()).hexdigest()[:8]
        # Detectron2 warns of category ids with holes unless the name has "coco" in it.
        name = f"coco_{json.stem}_{digest}"
    # A file that is not there has no version; read_coco says so in its own words.
    version = (json.stat().st_mtime_ns, json.stat().st_size) if json.is_file() else None
    if _registered.get(name) == (json, images, version):
        return name

    if name in DatasetCatalog:
        if _registered.get(name, ())[:2] != (json, images):
            raise ValueError(f"The dataset name {name!r} is taken by another dataset. Choose another `name`.")
        DatasetCatalog.remove(name)  # the file has changed since
        MetadataCatalog.remove(name)

    coco = read_coco(json, images)
    categories = sorted(coco["categories"], key=lambda category: category["id"])
    register_coco_instances(name, {}, str(_usable_file(json, coco)), str(images))
    MetadataCatalog.get(name).set(
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={category["id"]: k for k, category in enumerate(categories)},
        num_images=len(coco["images"]),
    )
    _registered[name] = (json, images, version)
    return name


def num_classes(dataset: str) -> int:
    """The number of classes of a registered dataset; for a model's config, so that nobody types it."""
    return len(class_names(dataset))


def class_names(dataset: str) -> list[str]:
    """The classes of a registered dataset, in the order of the model's outputs."""
    return list(MetadataCatalog.get(dataset).thing_classes)


def iterations(epochs: float, dataset: str, batch_size: int, accumulate: int = 1) -> int:
    """Iterations in which a model sees each image of a `coco_format` dataset ``epochs`` times, at least one.

    Args:
        batch_size: images in a batch over all ranks.
        accumulate: batches in an iteration.
    """
    return max(1, math.ceil(epochs * MetadataCatalog.get(dataset).num_images / (batch_size * accumulate)))


def metadata_of(classes: Sequence[str]) -> str:
    """A name in the `MetadataCatalog` that has these classes, for a model whose dataset is not on this machine."""
    name = f"classes_{hashlib.sha256(json_module.dumps(list(classes)).encode()).hexdigest()[:8]}"
    MetadataCatalog.get(name).set(thing_classes=list(classes))
    return name


def categories(dataset: str) -> list[dict] | None:
    """[{"id", "name"}] of a registered dataset, as in its json, in the order of a model's classes; None if unknown."""
    metadata = MetadataCatalog.get(dataset)
    names = metadata.get("thing_classes")
    if names is None:
        return None
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {k: k for k in range(len(names))}
    id_of_class = {k: dataset_id for dataset_id, k in ids.items()}
    return [{"id": id_of_class[k], "name": name} for k, name in enumerate(names)]


def source_of(name: str) -> tuple[Path, Path] | None:
    """(json, images) that a name of `coco_format` was made from; None for other names."""
    return _registered[name][:2] if name in _registered else None


def _usable_file(json: Path, coco: dict) -> Path:
    """The file itself where it has no fault, otherwise a corrected copy."""
    bad = bad_annotations(coco)
    skipped = {annotation_id for ids in bad.values() for annotation_id in ids}
    if bad:
        reasons = "; ".join(f"{reason}: {len(ids)} (ids {first(ids)})" for reason, ids in bad.items())
        logger.warning(
            f"{json}: {len(skipped)} of {len(coco['annotations'])} annotations are skipped. {reasons}. "
            "Correct or delete them in the json to be rid of this message."
        )
    good = [annotation for annotation in coco["annotations"] if annotation["id"] not in skipped]
    corrected = [_complete(annotation) for annotation in good]
    _avoid_id_zero(corrected)
    if corrected == coco["annotations"]:
        return json
    path = write_to_cache(json.stem, {**coco, "annotations": corrected})
    logger.info(f"{json}: using the corrected copy {path}")
    return path


def _complete(annotation: dict) -> dict:
    """Fills what COCO's evaluation reads and other tools leave out."""
    complete = dict(annotation)
    if complete.get("area") is None:
        complete["area"] = complete["bbox"][2] * complete["bbox"][3]
    complete.setdefault("iscrowd", 0)
    if complete.get("ignore"):
        # Tools that convert from Pascal VOC write `ignore` for difficult objects. Neither learnt nor counted
        # as missed: that is what a crowd region is.
        complete["iscrowd"] = 1
        del complete["ignore"]
    if complete.get("segmentation") and not _is_segmentation(complete["segmentation"]):
        del complete["segmentation"]  # Detectron2 would drop the object, whose box is good, with it
    return complete


def _is_segmentation(segmentation: object) -> bool:
    if isinstance(segmentation, dict):
        return "counts" in segmentation and "size" in segmentation
    if isinstance(segmentation, list):
        return any(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in segmentation)
    return False


def _avoid_id_zero(annotations: list[dict]) -> None:
    """COCOeval marks an unmatched detection with 0, so a match with annotation 0 would count as an error."""
    for annotation in annotations:
        if annotation["id"] == 0:
            annotation["id"] = 1 + max(other["id"] for other in annotations)


def write_to_cache(stem: str, coco: dict) -> Path:
    """Writes the json under a name made from its content, so that processes can write it at the same time."""
    text = json_module.dumps(coco)
    folder = Path(get_cache_dir()) / "dino_d2"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
    return path
