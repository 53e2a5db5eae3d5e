"""YOLO: one text file an image, one object a line: class number, centre, width, height, all as shares of the image."""

import math
from collections.abc import Iterator
from pathlib import Path

import yaml

from dino_d2.data.check import DatasetError

from .dataset import IMAGE_SUFFIXES, AnnotatedImage, Box, Dataset, image_size, split_of

#: Plain lists of class names, one a line, which tools without a data.yaml write.
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")

#: Shares may pass 1 by rounding.
_TOLERANCE = 1e-3


def is_yolo(root: Path) -> bool:
    has_names = any(next(root.rglob(name), None) for name in NAME_FILES) or _yaml_file(root) is not None
    return has_names or next(root.rglob("labels/"), None) is not None


def read_yolo(root: Path, classes: list[str] | None = None) -> Dataset:
    """Read every image below a folder, with its label file; an image without one has no objects.

    The splits are those of data.yaml, or of folders called train, valid, ...; otherwise all images belong to no split.
    A line with a polygon gives the box around it.

    Args:
        root: with data.yaml, or a list of names (classes.txt, obj.names), and images and labels below.
        classes: names in order, where neither is there.

    Raises:
        DatasetError: no class names, or a line that cannot be used; it names file and line.
    """
    names = classes or _class_names(root)
    by_split = _images_of_yaml(root) or _images_of_folders(root)
    dataset = Dataset(names)
    for split, images in by_split.items():
        dataset.splits[split] = [_read_image(image, names) for image in images]
    if not any(dataset.splits.values()):
        raise DatasetError(f"{root}: no images below it ({', '.join(IMAGE_SUFFIXES)}). Is it the right folder?")
    return dataset


def _yaml_file(root: Path) -> Path | None:
    return next((file for file in sorted(root.glob("*.y*ml")) if "names" in _load_yaml(file)), None)


def _load_yaml(file: Path) -> dict:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DatasetError(f"{file} is no YAML file: {error}") from error
    return content if isinstance(content, dict) else {}


def _class_names(root: Path) -> list[str]:
    if file := _yaml_file(root):
        names = _load_yaml(file)["names"]
        if isinstance(names, dict):
            if sorted(names) != list(range(len(names))):
                raise DatasetError(f"{file}: the numbers of `names` must be 0 to {len(names) - 1}, not {list(names)}.")
            names = [names[number] for number in range(len(names))]
        return [str(name) for name in names]
    for name in NAME_FILES:
        if file := next(root.rglob(name), None):
            return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    raise DatasetError(
        f"{root}: no class names. Add a data.yaml with `names: [cat, dog]`, a classes.txt with a name a line, or give "
        "--classes cat dog."
    )


def _images_of_yaml(root: Path) -> dict[str | None, list[Path]]:
    """The images of `train`, `val` and `test` of data.yaml, as far as the folders it names are here."""
    file = _yaml_file(root)
    content = _load_yaml(file) if file else {}
    base = root / str(content.get("path") or "")
    by_split: dict[str | None, list[Path]] = {}
    for split in ("train", "val", "test"):
        entries = content.get(split) or []
        images: list[Path] = []
        for entry in [entries] if isinstance(entries, str) else entries:
            # Roboflow writes ../train/images for what is train/images beside the file.
            places = [base / entry, root / entry, root / str(entry).removeprefix("../")]
            place = next((place for place in places if place.exists()), None)
            if place is None:
                raise DatasetError(f"{file}: {split}: {entry} is neither in {base} nor in {root}. Correct the path.")
            images += _images_below(place) if place.is_dir() else _images_of_list(place, base)
        if images:
            by_split[split] = images
    return by_split


def _images_of_list(file: Path, base: Path) -> list[Path]:
    images = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            image = base / line.strip()
            if not image.is_file():
                raise DatasetError(f"{file}:{number}: there is no image {image}. Add it, or delete the line.")
            images.append(image)
    return images


def _images_of_folders(root: Path) -> dict[str | None, list[Path]]:
    by_split: dict[str | None, list[Path]] = {}
    for image in _images_below(root):
        split = next(filter(None, map(split_of, image.relative_to(root).parts[:-1])), None)
        by_split.setdefault(split, []).append(image)
    return by_split


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _read_image(image: Path, names: list[str]) -> AnnotatedImage:
    width, height = image_size(image)
    label = next((file for file in _label_files(image) if file.is_file()), None)
    lines = [] if label is None else label.read_text(encoding="utf-8").splitlines()
    boxes = [
        _read_line(f"{label}:{number}", line, names, width, height)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    return AnnotatedImage(image, width, height, tuple(boxes))


def _label_files(image: Path) -> Iterator[Path]:
    """images/train/1.jpg -> labels/train/1.txt, or 1.txt beside the image."""
    parts = list(image.with_suffix(".txt").parts)
    for i in reversed([i for i, part in enumerate(parts[:-1]) if part == "images"]):
        yield Path(*parts[:i], "labels", *parts[i + 1 :])
    yield image.with_suffix(".txt")


def _read_line(where: str, line: str, names: list[str], width: int, height: int) -> Box:
    try:
        number, *values = (float(word) for word in line.split())
    except ValueError:
        message = f"{where}: {line.strip()!r} is not all numbers; needed are class, x, y, width, height."
        raise DatasetError(message) from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        message = f"{where}: {len(values) + 1} numbers; needed are 5 (class, x, y, width, height) or a polygon."
        raise DatasetError(message)
    if number not in range(len(names)):
        raise DatasetError(
            f"{where}: class {number:g}, but there are {len(names)} class names, 0 ({names[0]}) to {len(names) - 1} "
            f"({names[-1]}). Correct the line or the names."
        )
    if not all(math.isfinite(v) and -_TOLERANCE <= v <= 1 + _TOLERANCE for v in values):
        raise DatasetError(
            f"{where}: {line.strip()!r} has values outside 0..1; they must be shares of the image, not pixels."
        )
    if len(values) == 4:
        x, y, w, h = values
        left, top = x - w / 2, y - h / 2
    else:
        left, top = min(values[::2]), min(values[1::2])
        w, h = max(values[::2]) - left, max(values[1::2]) - top
    # Shares have six digits as a rule; a hundredth of a pixel is finer than that in any image below 10,000 pixels.
    box = (left * width, top * height, w * width, h * height)
    return Box(names[int(number)], tuple(round(value, 2) for value in box))
