# SPDX-License-Identifier: Apache-2.0
"""Reads the json, resolves its references and finds its images on disk."""

import json as json_module
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from dino_d2.files import check_regular

from .fields import KINDS, DatasetError, Finding, Normalised, annotation_id, first, normalise


def read_coco(json: str | Path, images: str | Path, within: str | Path | None = None) -> dict:
    """Reads a COCO detection json and checks everything but the content of the images.

    Args:
        json: the annotation file, with "images", "annotations" and "categories".
        images: the folder that the `file_name`s are relative to.
        within: the folder that no `file_name` may leave; the image folder if not given.

    Returns:
        the dictionary with fields of one type, see `fields.normalise`.

    Raises:
        DatasetError: the json or the folder is missing; the file is not JSON or not COCO; an id is given
            twice; an annotation refers to an image or a category that is not there; an image file is missing or
            lies outside the folder; a field cannot be used.
    """
    return read_normalised(json, images, within).coco


def read_normalised(json: str | Path, images: str | Path, within: str | Path | None = None) -> Normalised:
    """As :func:`read_coco`, with the omitted and corrected entries."""
    raw = load(json, images)
    normalised = normalise(raw, json)
    stop_at_errors(json, images, within, raw, normalised)
    return normalised


def stop_at_errors(
    json: str | Path, images: str | Path, within: str | Path | None, raw: dict, normalised: Normalised
) -> None:
    """
    Raises:
        DatasetError: the annotations have a fault that makes the dataset unusable.
    """
    findings = (*normalised.findings, *faults(raw, normalised.coco, Path(images), within))
    errors = [finding for finding in findings if finding.is_error]
    if errors:
        raise DatasetError(f"{json}: " + "\n  ".join(map(str, errors)))


def load(json: str | Path, images: str | Path) -> dict:
    """Reads a COCO detection json without changes.

    Raises:
        DatasetError: the json or the folder is missing, or the file is not JSON or not COCO.
    """
    json, images = Path(json), Path(images)
    if not json.is_file():
        problem = "is not a file" if json.exists() else "does not exist"
        raise DatasetError(f"Annotation file {json} {problem}. Check the path (`json=` in the config).")
    if not images.is_dir():
        raise DatasetError(f"Image folder {images} does not exist. Check the path (`images=` in the config).")
    return parse(json)


def parse(json: Path) -> dict:
    """Reads a COCO detection json with its three lists, whose entries are not examined.

    Raises:
        DatasetError: the file cannot be read, or is not JSON or not COCO.
    """
    coco = read_json(json)
    if not isinstance(coco, dict):
        raise DatasetError(f"{json} is not a COCO detection file: it holds a {type(coco).__name__}, not an object.")
    missing = [key for key in KINDS if not isinstance(coco.get(key), list)]
    if missing:
        raise no_lists(json, missing, list(coco))
    for kind in ("images", "categories"):
        if not coco[kind]:
            raise no_entries(json, kind)
    return coco


def no_lists(json: Path, missing: list[str], keys: list[str]) -> DatasetError:
    """The error for a json without some of the lists of a COCO detection file; `keys` are those it has."""
    found = ", ".join(repr(key[:40]) for key in keys[:10]) or "nothing"
    return DatasetError(
        f"{json} is not a COCO detection file: it has no list {' and '.join(map(repr, missing))} "
        f"(it has {found}). Give the json with the boxes, for example instances_train2017.json."
    )


def no_entries(json: Path, kind: str) -> DatasetError:
    """The error for a json whose list of images or categories is empty."""
    return DatasetError(f"{json} has no {kind}: the list {kind!r} is empty.")


def read_json(json: Path) -> object:
    """The content of a JSON file in UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        DatasetError: the file cannot be read, or is not JSON.
    """
    try:
        check_regular(json)
        return json_module.loads(json.read_bytes())
    except RecursionError as error:
        raise DatasetError(f"{json} is nested too deeply to be a COCO detection file.") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, or a number of more than 4300 digits
        raise DatasetError(f"{json} is not a JSON file: {error}. Is it cut off, or another kind of file?") from error
    except OSError as error:
        raise DatasetError(f"{json} cannot be read: {error}.") from error


def faults(raw: dict, coco: dict, images: Path, within: str | Path | None = None) -> Iterator[Finding]:
    """Errors that make the dataset unusable: duplicate ids, broken references, missing files, paths to other folders.

    Args:
        raw: as `load` gives it.
        coco: the same, normalised.
        images: folder of the images.
        within: the folder that no path may leave; `images` if not given.
    """
    ids = {kind: [entry["id"] for entry in coco[kind]] for kind in ("images", "categories")}
    # Annotations that are left out count here as well: the file has a fault that its author should know of.
    yield from ids_given_twice(ids["images"], "images")
    yield from ids_given_twice([annotation_id(a["id"]) for a in raw["annotations"]], "annotations")
    yield from ids_given_twice(ids["categories"], "categories")
    for key, kind in (("image_id", "images"), ("category_id", "categories")):
        yield from references_to_nothing(coco["annotations"], key, set(ids[kind]), kind)
    yield from file_faults(coco["images"], images, Path(within or images))


def file_faults(entries: Iterable[dict], images: Path, within: Path) -> Iterator[Finding]:
    """Images whose files are missing, or whose paths lead away.

    Args:
        entries: images with their ids and file names; gone through once.
        images: folder of the images.
        within: the folder that no path may leave.
    """
    outside: list[dict] = []
    missing: list[dict] = []
    inside = 0
    # One listing per folder instead of one look-up per file: network drives are slow at the latter.
    names_in: dict[str, set[str]] = {}
    for image in entries:
        file_name = image["file_name"]
        if leaves(images, file_name, within):
            outside.append(image)
            continue
        inside += 1
        folder, _, name = file_name.rpartition("/")
        if not name or name in (".", ".."):
            path = images / file_name
            folder, name = os.fspath(path.parent), path.name
        if folder not in names_in:
            names_in[folder] = _names_in(images / folder)
        if name not in names_in[folder]:
            missing.append(image)
    if outside:
        yield Finding(
            True,
            "images whose file_name leads out of the dataset's folder",
            [image["id"] for image in outside],
            "Give paths within it. If you trust this json, set data.within in the config (`within=` of coco_format, "
            "--within of the check) to a folder that has all images.",
            f"the first is {outside[0]['file_name']!r}",
        )
    if missing:
        yield Finding(
            True,
            f"images (of {inside}) without a file",
            [entry["id"] for entry in missing],
            f"Is {images} the right folder? Otherwise add the files, or take these images out of the json."
            if len(missing) == inside
            else "Add the files, or take these images out of the json.",
            f"the first is {images / missing[0]['file_name']}",
        )


def leaves(images: Path, file_name: str, within: Path) -> bool:
    """Whether a path of a json, relative to the image folder, leads out of a folder, by its words alone.

    Links on the disk are followed freely: a json cannot make any.
    """
    if ".." not in file_name and not re.match(r"[\\/]|[A-Za-z]:", file_name) and within == images:
        return False  # the usual case, quickly
    # A backslash separates folders on Windows, where such a json may be used as well.
    words = file_name.replace("\\", "/")
    if re.match(r"[A-Za-z]:", words):
        return True
    folder = os.path.abspath(within)
    target = os.path.abspath(os.path.join(images, words))
    return os.path.commonpath([folder, target]) != folder


def ids_given_twice(ids: list, kind: str) -> Iterator[Finding]:
    """An error if an id of a list is there more than once."""
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        yield Finding(True, f"ids of {kind!r} given more than once", twice, "Give each its own id.")


def references_to_nothing(annotations: list[dict], key: str, known: set, kind: str) -> Iterator[Finding]:
    """An error if annotations have an id under `key` that is not among the known ids of a list."""
    unknown = [annotation for annotation in annotations if annotation[key] not in known]
    if unknown:
        yield Finding(
            True,
            f"annotations whose {key} is not in {kind!r}",
            [annotation["id"] for annotation in unknown],
            f"Add the missing entry to {kind!r}, or take these annotations out.",
            f"with {key} {first(dict.fromkeys(annotation[key] for annotation in unknown))}",
        )


def _names_in(folder: Path) -> set[str]:
    """The names in a folder; none where there is no such folder or its name is longer than names can be."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
