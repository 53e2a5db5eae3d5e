"""Pascal VOC: one XML file an image.

Boxes are pixels counted from 1, both ends included (VOC development kit), so that xmin 1 and xmax W is the whole width.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from dino_d2.data.check import DatasetError

from .dataset import IMAGE_SUFFIXES, AnnotatedImage, Box, Dataset, image_size, split_of


def is_voc(root: Path) -> bool:
    return next(root.rglob("*.xml"), None) is not None


def read_voc(root: Path, classes: list[str] | None = None) -> Dataset:
    """Read every XML file below a folder, with its image.

    The splits are those of ImageSets/Main/{train,val,test}.txt, or of folders called train, valid, ...; otherwise all
    images belong to no split. `difficult` objects become crowd regions: neither learnt nor counted as missed.

    Args:
        root: VOCdevkit, VOC2007, an export of a labelling tool, or any folder with XML files.
        classes: names in order; sorted by the alphabet if not given.

    Raises:
        DatasetError: an XML file that is broken, has no image or an unusable box; it names file and object.
    """
    files = sorted(root.rglob("*.xml"))
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            by_stem.setdefault(path.stem, []).append(path)
    listed = _image_sets(root)
    dataset = Dataset(classes or [])
    for file in files:
        image = _read_image(file, by_stem)
        split = listed.get(file.stem) or next(filter(None, map(split_of, file.relative_to(root).parts[:-1])), None)
        dataset.splits.setdefault(split, []).append(image)
    found = sorted({box.name for images in dataset.splits.values() for image in images for box in image.boxes})
    if not classes:
        dataset.classes = found
    elif unknown := [name for name in found if name not in classes]:
        raise DatasetError(f"{root} has classes that are not in --classes: {', '.join(unknown)}. Add them there.")
    return dataset


def _image_sets(root: Path) -> dict[str, str]:
    """{file stem: split} from ImageSets/Main; trainval.txt counts for what no other list has."""
    listed: dict[str, str] = {}
    for name, split in (("trainval", "train"), ("test", "test"), ("val", "val"), ("train", "train")):
        for file in root.rglob(f"ImageSets/Main/{name}.txt"):
            listed |= {line.split()[0]: split for line in file.read_text().splitlines() if line.strip()}
    return listed


def _read_image(file: Path, images: dict[str, list[Path]]) -> AnnotatedImage:
    try:
        annotation = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise DatasetError(f"{file} is no XML file: {error}. Export it again, or delete it.") from error
    file_name = annotation.findtext("filename", default="").strip()
    image = file.parent / file_name
    if not file_name or not image.is_file():
        candidates = images.get(file.stem) or images.get(Path(file_name).stem) or []
        # annotations/train/1.xml belongs to images/train/1.jpg and not to images/val/1.jpg.
        image = max(candidates, key=lambda path: len({*path.parts} & {*file.parts}), default=None)
    if image is None:
        raise DatasetError(f"{file}: its image {file_name or file.stem} is nowhere in the folder. Add it there.")
    try:
        width, height = (int(float(annotation.findtext(f"size/{side}", default="0"))) for side in ("width", "height"))
    except ValueError as error:
        raise DatasetError(f"{file}: <size> has no numbers: {error}. Correct it, or delete <size>.") from error
    if width <= 0 or height <= 0:  # some tools write zeros
        width, height = image_size(image)
    boxes = [_read_box(file, number, thing) for number, thing in enumerate(annotation.iter("object"), start=1)]
    return AnnotatedImage(image, width, height, tuple(boxes))


def _read_box(file: Path, number: int, thing: ElementTree.Element) -> Box:
    where = f"{file}: object {number}"
    name = thing.findtext("name", default="").strip()
    if not name:
        raise DatasetError(f"{where} has no <name>. Add its class.")
    corners = []
    for corner in ("xmin", "ymin", "xmax", "ymax"):
        text = thing.findtext(f"bndbox/{corner}")
        try:
            corners.append(float(text))
        except (TypeError, ValueError):
            said = "is missing" if text is None else f"is {text!r}, not a number"
            raise DatasetError(f"{where} ({name}): <{corner}> in its <bndbox> {said}. Correct it.") from None
    xmin, ymin, xmax, ymax = corners
    if xmax < xmin or ymax < ymin:
        raise DatasetError(f"{where} ({name}): the box ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}) ends before it begins.")
    difficult = thing.findtext("difficult", default="0").strip() == "1"
    return Box(name, (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1), difficult)
