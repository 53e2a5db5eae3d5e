# SPDX-License-Identifier: Apache-2.0
"""Finds photographs that are in both the training and the validation set, which inflates AP."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from .fields import Finding

_ADVICE = "AP is then measured on what was learnt. Keep all copies of a photograph in one split."


def source_name(file_name: str) -> str:
    """The photograph that a file is a copy of.

    Roboflow writes several augmented copies of one: `dog_jpg.rf.0a1b2c.jpg` and `dog_jpg.rf.9f8e7d.jpg` both come from
    `dog.jpg`. Other names are kept, without their folder.
    """
    path = PurePosixPath(file_name)
    return re.sub(r"\.rf\.[0-9A-Za-z_-]+$", "", path.stem) + path.suffix.lower() if ".rf." in path.stem else path.name


def shared_names(train: dict, train_images: Path, val: dict, val_images: Path) -> Iterator[Finding]:
    """Images of the validation json whose file, or another copy of whose photograph, the training json has.

    Args:
        train, val: dictionaries with "images", each with an id and a file name; those of `val` have two passes.
        train_images, val_images: folders of their images.
    """
    of_val = dict(zip(_paths(val, val_images), (image["id"] for image in val["images"]), strict=True))
    in_both, sources = set(), set()
    for path in _paths(train, train_images):
        if path in of_val:
            in_both.add(path)
        if ".rf." in path:
            sources.add(source_name(path))
    same = [image_id for path, image_id in of_val.items() if path in in_both]
    if same:
        yield Finding(False, "validation images are training images as well", same, _ADVICE)
    copies = [
        image_id
        for path, image_id in of_val.items()
        if ".rf." in path and path not in in_both and source_name(path) in sources
    ]
    if copies:
        yield Finding(False, "validation images have a copy (.rf.) in the training set", copies, _ADVICE)


def _paths(coco: dict, folder: Path) -> Iterator[str]:
    """The absolute path of each image, without dots and double slashes."""
    base = os.path.join(os.path.abspath(folder), "")
    for image in coco["images"]:
        name = image["file_name"]
        is_clean = not name.startswith(("/", ".")) and "/." not in name and "//" not in name
        yield base + name if is_clean else os.path.abspath(folder / name)


def shared_contents(train: dict, train_images: Path, val: dict, val_images: Path) -> Iterator[Finding]:
    """Images of the validation json whose file is, byte for byte, one of the training json under another path."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in _files(train, train_images):
        by_size[path.stat().st_size].append(path)
    digests: dict[int, set[bytes]] = {}
    same = []
    for image in val["images"]:
        path = val_images / image["file_name"]
        size = path.stat().st_size if path.is_file() else -1
        if size not in by_size:
            continue
        if size not in digests:
            digests[size] = {_digest(other) for other in by_size[size]}
        if path not in by_size[size] and _digest(path) in digests[size]:
            same.append(image["id"])
    if same:
        yield Finding(False, "validation images are copies of training images under another name", same, _ADVICE)


def _files(coco: dict, folder: Path) -> Iterable[Path]:
    return (path for image in coco["images"] if (path := folder / image["file_name"]).is_file())


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
