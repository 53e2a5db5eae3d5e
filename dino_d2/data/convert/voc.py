# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC: one XML file an image.

Boxes are pixels counted from 1, both ends included (VOC development kit), so that xmin 1 and xmax W is the full width.
Some tools count from 0 instead; where a box of the folder begins at 0, all its boxes are read so.
"""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

from dino_d2.data.check import DatasetError
from dino_d2.data.walk import files_below

from .dataset import AnnotatedImage, Box, Dataset, finite
from .images import IMAGE_SUFFIXES, ImageIndex, check_stated_size, image_size, read_each, split_of_folders
from .text import lines_of
from .xml_text import parse_xml, root_tag

#: Lists of ImageSets/Main and their splits; trainval.txt applies to images that are in no other list.
_LISTS = (("train", "train"), ("val", "val"), ("test", "test"), ("trainval", "train"))


def is_voc(root: Path) -> bool:
    return any(root_tag(file) == "annotation" for file in files_below(root, (".xml",)))


def read_voc(root: Path, classes: list[str] | None = None) -> Dataset:
    """Read every XML file below a folder, with its image.

    The splits are those of ImageSets/Main/{train,val,test}.txt, or of folders called train, valid, ...; images that
    none of them names are left out. Without such lists and folders, all images belong to no split. `difficult` objects
    become crowd regions: neither learnt nor counted as missed.

    Args:
        root: VOCdevkit, VOC2007, an export of a labelling tool, or any folder with XML files.
        classes: names in order; sorted by the alphabet if not given.

    Raises:
        DatasetError: an XML file that is broken, has no image or an unusable box, with its name and the number of the
            object; or lists that contradict each other or the files.
    """
    everything = list(files_below(root, (".xml",)))
    files = [file for file in everything if root_tag(file) in ("annotation", None)]
    if not files:
        raise DatasetError(f"{root}: no .xml file with an <annotation> below it. Is it the right folder?")
    images = ImageIndex(root)
    listed = _image_sets(root)
    _check_listed(listed, files)
    dataset = Dataset()
    others = sorted({*everything} - {*files})
    dataset.note_left_out("XML files that hold no <annotation>", others)
    for file, image in read_each(files, lambda file: _read_image(file, images)):
        base = next((base for base in listed if file.is_relative_to(base)), None)
        split = split_of_folders(file, root) if base is None else listed[base].get(file.stem)
        dataset.splits.setdefault(split, []).append(image)
    _count_from_zero(dataset)
    dataset.leave_out_images_without_split("as no list of ImageSets/Main and no folder says their split")
    dataset.name_classes(classes, str(root))
    dataset.note_images_without_labels(images.files)
    return dataset


def _count_from_zero(dataset: Dataset) -> None:
    """Undo the step from pixels counted from 1 where a box shows that they are counted from 0."""
    boxes = [box for images in dataset.splits.values() for image in images for box in image.boxes]
    if not any(-1 <= min(box.xywh[:2]) < 0 for box in boxes):
        return
    dataset.notes.append("a box begins at pixel 0, so that corners are read as pixels counted from 0 and not from 1")
    for images in dataset.splits.values():
        images[:] = [replace(image, boxes=tuple(map(_from_zero, image.boxes))) for image in images]


def _from_zero(box: Box) -> Box:
    x, y, width, height = box.xywh
    return replace(box, xywh=(x + 1, y + 1, width - 1, height - 1))


def _image_sets(root: Path) -> dict[Path, dict[str, str]]:
    """{folder that has ImageSets: {file stem: split}}, innermost folders first.

    Raises:
        DatasetError: an image is in the lists of training and of validation or test.
    """
    listed: dict[Path, dict[str, str]] = {}
    files = [file for file in files_below(root, (".txt",)) if file.parts[-3:-1] == ("ImageSets", "Main")]
    for name, split in _LISTS:
        for file in (file for file in files if file.stem == name):
            of_base = listed.setdefault(file.parents[2], {})
            for number, line in lines_of(file):
                stem = _stem(line.split()[0])
                before = of_base.setdefault(stem, split)
                if name != "trainval" and {before, split} in ({"train", "val"}, {"train", "test"}):
                    raise DatasetError(
                        f"{file}:{number}: {stem} is in {name}.txt and in {before}.txt, so that AP would be measured "
                        "on what was learnt. Delete it from one of the lists."
                    )
    return dict(sorted(listed.items(), key=lambda item: -len(item[0].parts)))


def _stem(word: str) -> str:
    """Of a name in a list, which some tools write with a folder or a suffix."""
    path = Path(word)
    return path.stem if path.suffix.lower() in (*IMAGE_SUFFIXES, ".xml") else path.name


def _check_listed(listed: dict[Path, dict[str, str]], files: list[Path]) -> None:
    stems = {file.stem for file in files}
    for base, splits in listed.items():
        if splits and not splits.keys() & stems:
            raise DatasetError(
                f"{base}/ImageSets/Main lists {len(splits)} images, such as {next(iter(splits))}, but none of them has "
                "an .xml file. Correct the lists, or delete them."
            )


def _read_image(file: Path, images: ImageIndex) -> AnnotatedImage:
    annotation = parse_xml(file)
    image = images.of_label_file(file, annotation.findtext("filename", default="").strip())
    try:
        stated = [finite(annotation.findtext(f"size/{side}", default="0")) for side in ("width", "height")]
    except ValueError as error:
        raise DatasetError(f"{file}: <size> has no numbers: {error}. Correct it, or delete <size>.") from error
    width, height = image_size(image)
    check_stated_size(str(file), image, (width, height), *stated)  # some tools write zeros
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
            corners.append(finite(text or ""))
        except (TypeError, ValueError):
            said = "is missing" if text is None else f"is {text[:80]!r}, not a number"
            raise DatasetError(f"{where} ({name}): <{corner}> in its <bndbox> {said}. Correct it.") from None
    xmin, ymin, xmax, ymax = corners
    if xmax < xmin or ymax < ymin:
        raise DatasetError(f"{where} ({name}): the box ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}) ends before it begins.")
    difficult = thing.findtext("difficult", default="0").strip().lower() in ("1", "true", "yes")
    return Box(name, (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1), difficult)
