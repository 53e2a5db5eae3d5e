# SPDX-License-Identifier: Apache-2.0
"""LabelMe: one JSON file an image, with shapes in pixels counted from 0."""

import math
from pathlib import Path

from dino_d2.data.check import DatasetError
from dino_d2.data.walk import files_below

from .dataset import AnnotatedImage, Box, Dataset, box_around, finite
from .images import ImageIndex, check_stated_size, image_size, read_each, split_of_folders
from .json_text import holds, json_object

#: Shapes without an area, which are no objects for a detector.
_WITHOUT_AREA = ("point", "points", "line", "linestrip")


def is_labelme(root: Path) -> bool:
    return any(holds(file, {"shapes": list}) for file in files_below(root, (".json",)))


def read_labelme(root: Path, classes: list[str] | None = None) -> Dataset:
    """Read every LabelMe JSON below a folder, with its image.

    Rectangles, polygons, circles and masks give the box around them; points and lines are left out and counted. The
    splits are those of folders called train, valid, ...; without such folders all images belong to no split.

    Args:
        root: a folder with JSON files and images.
        classes: names in order; the labels sorted by the alphabet if not given.

    Raises:
        DatasetError: a file that is broken, has no image or an unusable shape, with its name and the shape's number.
    """
    images = ImageIndex(root)
    dataset = Dataset()
    others, without_area = [], 0
    for file, (image, left_out) in read_each(files_below(root, (".json",)), lambda file: _read_image(file, images)):
        if image is None:
            others.append(file)
        else:
            dataset.splits.setdefault(split_of_folders(file, root), []).append(image)
            without_area += left_out
    dataset.note_left_out("JSON files without LabelMe's `shapes`", others)
    if without_area:
        dataset.notes.append(f"left out: {without_area} points and lines, which have no area")
    dataset.leave_out_images_without_split("as they are in no folder of a split")
    dataset.name_classes(classes, str(root))
    dataset.note_images_without_labels(images.files)
    return dataset


def _read_image(file: Path, images: ImageIndex) -> tuple[AnnotatedImage | None, int]:
    """The image, or None if the file is not LabelMe's; and the number of its shapes that have no area."""
    content = json_object(file)
    if not isinstance(content.get("shapes"), list):
        return None, 0
    name = content.get("imagePath")
    image = images.of_label_file(file, name if isinstance(name, str) else "")
    width, height = image_size(image)
    check_stated_size(str(file), image, (width, height), content.get("imageWidth"), content.get("imageHeight"))
    boxes = [_read_shape(f"{file}: shape {number}", shape) for number, shape in enumerate(content["shapes"], start=1)]
    with_area = tuple(box for box in boxes if box is not None)
    return AnnotatedImage(image, width, height, with_area), len(boxes) - len(with_area)


def _read_shape(where: str, shape: object) -> Box | None:
    """The box around a shape; None where it has no area by its kind."""
    if not isinstance(shape, dict):
        raise DatasetError(f"{where} is no object with label and points. Correct or delete it.")
    name, kind = shape.get("label"), shape.get("shape_type", "polygon")
    if not isinstance(name, str) or not name.strip():
        raise DatasetError(f"{where} has no label. Add its class.")
    if kind in _WITHOUT_AREA:
        return None
    try:
        points = [(finite(x), finite(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError):
        raise DatasetError(f"{where} ({name}): its points are not pairs of numbers. Correct or delete it.") from None
    if kind == "circle" and len(points) == 2:
        (x, y), on_circle = points
        radius = math.dist((x, y), on_circle)
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    elif kind not in ("rectangle", "polygon", "mask", "oriented_rectangle") or len(points) < 2:
        raise DatasetError(
            f"{where} ({name}): a {kind!s:.40} of {len(points)} points has no box. Correct or delete it."
        )
    return box_around(name.strip(), *zip(*points, strict=True))
