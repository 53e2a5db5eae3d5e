# SPDX-License-Identifier: Apache-2.0
"""Finds the class names, images and label files of a YOLO folder."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dino_d2.data.check import DatasetError
from dino_d2.data.walk import files_below, is_file

from .dataset import check_classes
from .images import IMAGE_SUFFIXES, is_within, split_of_folders
from .text import lines_of, read_yaml

#: Plain lists of class names, one a line, which tools without a data.yaml write.
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")

#: Folders of images, in small letters, next to which darknet and its successors look for a folder of labels.
_IMAGE_FOLDERS = ("images", "jpegimages")
_LABEL_FOLDER = "labels"
_LABEL_SUFFIXES = (".txt",)


def is_yolo(root: Path) -> bool:
    has_names = bool(_name_files(root)) or yaml_file(root) is not None or darknet_file(root) is not None
    return has_names or any(_LABEL_FOLDER in _key(file, root)[:-1] for file in files_below(root, _LABEL_SUFFIXES))


def yaml_file(root: Path) -> Path | None:
    """The file with the class names: data.yaml, or the only one that has `names`.

    Raises:
        DatasetError: there are several.
    """
    files = sorted(root.glob("*.yaml")) + sorted(root.glob("*.yml"))
    usual = [file for file in files if file.stem == "data"]
    found = [file for file in usual or files if is_file(file) and "names" in read_yaml(file)]
    if len(found) > 1:
        raise DatasetError(f"{found[0]} and {found[1].name} both have class names. Keep one, and call it data.yaml.")
    return found[0] if found else None


def darknet_file(root: Path) -> Path | None:
    """obj.data, or another file of darknet with the paths of images and class names."""
    return next((file for file in files_below(root, (".data",)) if "names" in read_darknet(file)), None)


def read_darknet(file: Path) -> dict[str, str]:
    """Its `train` and `names`, and `valid` as "val", as far as they are there."""
    pairs = [line.partition("=") for _, line in lines_of(file)]
    values = {key.strip(): value.strip() for key, sign, value in pairs if sign}
    return {
        ours: values[key] for ours, key in (("train", "train"), ("val", "valid"), ("names", "names")) if key in values
    }


def _name_files(root: Path) -> list[Path]:
    found = [file for name in NAME_FILES for file in files_below(root, (Path(name).suffix,)) if file.name == name]
    if (darknet := darknet_file(root)) and not found:
        return [_place(read_darknet(darknet)["names"], "names", root, root, darknet)]
    return found


def class_names(root: Path, file: Path | None, content: dict) -> list[str]:
    if file:
        names = _names_of_yaml(file, content)
        check_classes(names, str(file))
        return names
    found = {file: [line for _, line in lines_of(file)] for file in _name_files(root)}
    if not found:
        raise DatasetError(
            f"{root}: no class names. Add a data.yaml with `names: [cat, dog]`, a classes.txt with a name a line, or "
            "give --classes cat dog."
        )
    (first, names), *others = found.items()
    for other, other_names in others:
        if other_names != names:
            raise DatasetError(f"{first} and {other} have different class names. Delete the wrong one.")
    check_classes(names, str(first))
    if not names:
        raise DatasetError(f"{first} has no class names. Write one a line.")
    return names


def _names_of_yaml(file: Path, content: dict) -> list[str]:
    names = content["names"]
    if isinstance(names, dict):
        if set(names) != set(range(len(names))) or any(isinstance(number, bool) for number in names):
            numbers = [str(number)[:20] for number in list(names)[:20]]
            raise DatasetError(f"{file}: the numbers of `names` must be 0 to {len(names) - 1}, not {numbers}.")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{file}: `names` must be a list of class names, such as [cat, dog].")
    for number, name in enumerate(names):
        # YAML parses no, off, yes, 1.0 and 2026-01-01 as other types, so the original text is lost.
        if not isinstance(name, str) and type(name) is not int:
            raise DatasetError(f"{file}: name {number} is read as {type(name).__name__}. Put it in quotes.")
    count = content.get("nc")
    if count is not None and (type(count) is not int or count != len(names)):
        raise DatasetError(
            f"{file}: `nc` is {str(count)[:40]}, but there are {len(names)} `names`. Correct one of them."
        )
    return [str(name) for name in names]


def images_of_yaml(root: Path, file: Path, content: dict) -> dict[str | None, list[Path]]:
    """The images of `train`, `val` and `test` of data.yaml."""
    path = content.get("path")
    if not isinstance(path, str | None):
        raise DatasetError(f"{file}: `path` must be a folder, not {type(path).__name__}.")
    base = root / Path(path or "").expanduser()
    by_split: dict[str | None, list[Path]] = {}
    for split in ("train", "val", "test"):
        entries = content.get(split) or []
        images: list[Path] = []
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, str):
                raise DatasetError(
                    f"{file}: {split}: must be a folder or a list of folders, not {type(entry).__name__}."
                )
            place = _place(entry, split, root, base, file)
            images += _images_below(place) if place.is_dir() else _images_of_list(place, base, root)
        if images:
            by_split[split] = images
    return by_split


def _place(entry: str, split: str, root: Path, base: Path, file: Path) -> Path:
    """The folder, or the list of images, that an entry of data.yaml names."""
    # Roboflow writes ../train/images, which means train/images in the folder of the file.
    tried = [base / entry, root / entry, root / entry.removeprefix("../")]
    there = [Path(os.path.abspath(place)) for place in tried if "\0" not in entry and os.path.exists(place)]
    inside = [place for place in there if is_within(place, root)]
    if inside:
        return inside[0]
    if there:
        raise DatasetError(
            f"{file}: {split}: {entry} is {there[0]}, outside {root}. Convert the folder that has the images, with a "
            "data.yaml in it whose paths are relative to it."
        )
    raise DatasetError(f"{file}: {split}: {entry} is neither in {base} nor in {root}. Correct the path.")


def _images_of_list(file: Path, base: Path, root: Path) -> list[Path]:
    images = []
    for number, line in lines_of(file):
        # Lists made on Windows have backslashes; Roboflow and others start paths one folder too high.
        names = dict.fromkeys((line, line.replace("\\", "/"), line.replace("\\", "/").removeprefix("../")))
        tried = [Path(os.path.normpath(folder / name)) for name in names for folder in (base, file.parent, root)]
        there = [path for path in tried if is_file(path)]
        image = next((path for path in there if is_within(path, root)), next(iter(there), None))
        if image is None:
            raise DatasetError(f"{file}:{number}: there is no image {tried[0]}. Add it, or delete the line.")
        if not is_within(image, root):
            raise DatasetError(
                f"{file}:{number}: {line} leads out of {root}. Move the image there, or delete the line."
            )
        images.append(image)
    return images


def images_of_folders(root: Path) -> dict[str | None, list[Path]]:
    by_split: dict[str | None, list[Path]] = {}
    for image in _images_below(root):
        by_split.setdefault(split_of_folders(image, root), []).append(image)
    return by_split


def _images_below(folder: Path) -> list[Path]:
    return sorted(files_below(folder, IMAGE_SUFFIXES))


class Labels:
    """The label files of a folder, found by the path of their image, in large letters or small."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[tuple[str, ...], Path] = {}
        for file in files_below(root, _LABEL_SUFFIXES):
            before = self._files.setdefault(_key(file, root), file)
            if before != file:
                raise DatasetError(f"{before} and {file} differ in capital letters alone. Delete one of them.")

    def of(self, images: list[Path]) -> dict[Path, Path]:
        """The label files of the images that have one.

        Raises:
            DatasetError: no image has one, or two images share one.
        """
        found = {image: self._files[key] for image in images for key in self._keys(image) if key in self._files}
        if images and not found:
            places = [self._root.joinpath(*key).with_suffix(".txt") for key in self._keys(images[0])]
            raise DatasetError(
                f"{images[0]}: there is no {' or '.join(map(str, places))}, and no other image has a label file "
                "either. Put the labels there."
            )
        owner: dict[Path, Path] = {}
        for image, label in found.items():
            if owner.setdefault(label, image) != image:
                raise DatasetError(f"{owner[label]} and {image} share the labels {label}. Keep one of the two images.")
        return found

    def without_image(self, used: Iterable[Path]) -> list[Path]:
        """The files of folders called labels that are not used; elsewhere a .txt file may be anything."""
        used = set(used)
        return [
            file
            for key, file in self._files.items()
            if _LABEL_FOLDER in key[:-1] and file not in used and file.name not in NAME_FILES
        ]

    def _keys(self, image: Path) -> Iterator[tuple[str, ...]]:
        """labels/train/1.txt for images/train/1.jpg, or 1.txt next to the image; the last existing one is used."""
        parts = _key(image, self._root)
        yield parts
        for i in [i for i, part in enumerate(parts[:-1]) if part in _IMAGE_FOLDERS]:
            yield (*parts[:i], _LABEL_FOLDER, *parts[i + 1 :])


def _key(file: Path, root: Path) -> tuple[str, ...]:
    return tuple(part.casefold() for part in file.relative_to(root).with_suffix("").parts)
