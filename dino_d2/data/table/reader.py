# SPDX-License-Identifier: Apache-2.0
"""From a large COCO json to the columns of a table, in memory that does not grow with the annotations."""

import hashlib
import itertools
import json as json_module
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dino_d2.data.check.columns import Columns
from dino_d2.data.check.fields import (
    KINDS,
    LARGEST_ANNOTATION_ID,
    NO_SUCH_AREA,
    DatasetError,
    Finding,
    Mistakes,
    Normalised,
    annotation_id,
    box_faults,
    category_fields,
    check_annotation_ids,
    check_keys,
    id_reader,
    image_fields,
    usable_annotations,
    usable_areas,
    whole_number,
)
from dino_d2.data.check.findings import content_findings
from dino_d2.data.check.structure import ids_given_twice, no_entries, no_lists, references_to_nothing

from .annotation_table import COLUMNS, DESCRIPTION
from .json_parts import json_parts
from .plain_entries import PlainAnnotations, PlainImages, decode

#: Rows that are copied at a time.
_BLOCK = 2**20
#: Ids of annotations that a message shows.
_SHOWN = 5
#: Stands for an annotation id that pycocotools cannot use.
_NO_ID = -1
#: The columns of annotations while they are in the order of the json.
_COLLECTED: dict[str, np.dtype] = {
    "annotation_ids": np.dtype(np.int64),
    "images": np.dtype(np.int32),
    "category_ids": np.dtype(np.int64),
    "bbox": np.dtype((np.float64, 4)),
    "areas": np.dtype(np.float64),
    "is_crowd": np.dtype(bool),
}


class NotServed(Exception):
    """The json has what a table cannot hold: ids that are text, masks, keypoints, or a list twice."""


def read_table(json: Path, folder: Path) -> None:
    """Write the table of a json into an empty folder.

    Raises:
        DatasetError: as `dino_d2.data.check.read_coco`, but for what needs the folder of the images.
        NotServed: the json has to be read by `dino_d2.data.check.read_coco`.
    """
    _Reader(json, folder).read()


class _Behind:
    """Hashes and writes in a thread, in the order of the calls, while the next part is decoded."""

    MOST_WAITING = 16  # calls, so that the memory they hold is small

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.waiting: deque[Future] = deque()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call it later; raises the error of an earlier call."""
        self.waiting.append(self.thread.submit(function, *arguments))
        self.wait(self.MOST_WAITING)

    def wait(self, left: int = 0) -> None:
        """Wait until at most ``left`` calls are to be done; raises the error of one that failed."""
        while len(self.waiting) > left:
            self.waiting.popleft().result()

    def close(self) -> None:
        self.thread.shutdown(cancel_futures=True)


class _Reader:
    def __init__(self, json: Path, folder: Path):
        self.json, self.folder = json, folder
        self.sha = hashlib.sha256()
        self.behind = _Behind()
        self.key_mistakes = {kind: Mistakes(json) for kind in KINDS}
        self.id_mistakes, self.image_mistakes, self.annotation_mistakes = (Mistakes(json) for _ in range(3))
        self.images: list[PlainImages] = []
        self.images_are_read = False
        self.order = self.image_ids = self.widths = self.heights = np.empty(0, np.int64)  # sorted by id, when they are
        self.categories: list[Any] = []
        self.counts: Counter[str] = Counter()  # entries of each list that have been read
        self.raw_ids: list[np.ndarray] = []  # of all annotations
        self.text_ids: list[str] = []
        self.skipped: dict[str, list] = {}
        self.corrected: dict[str, list] = {}
        self.unknown_images: list[dict] = []  # annotations of images that are not there

    def read(self) -> None:
        files = {name: open(self.folder / name, "wb") for name in _COLLECTED}  # noqa: SIM115
        try:
            if not self._read_parts(lambda block: self.behind.call(self.sha.update, block), files, set(KINDS)):
                self._read_parts(lambda block: None, files, {"annotations"})  # the images came behind them
            self.behind.wait()
        finally:
            self.behind.close()
            for file in files.values():
                file.close()
        self._stop_on_mistakes()
        self._write()

    def _read_parts(self, on_read: Callable[[bytes], Any], files: dict, kinds: set[str]) -> bool:
        """Read the lists; False if the annotations have to be read again, with the sizes of the images known."""
        found: list[str] = []
        lists: set[str] = set()
        annotations_are_read = True
        # `disable=None`: a bar in a terminal, nothing in a log file.
        bar = tqdm(total=self.json.stat().st_size, desc=self.json.name, unit="B", unit_scale=True, disable=None)
        with bar:
            for key, number, entries, end in json_parts(self.json, decode, on_read):
                bar.update(end - bar.n)
                if number == 0:
                    if key in found:
                        raise NotServed
                    if "images" in found:
                        self._index_images()
                    found.append(key)
                if entries is not None:
                    lists.add(key)
                if key not in kinds or entries is None:
                    continue
                if key == "images":
                    self._add_images(entries)
                elif key == "categories":
                    self.categories += entries
                elif self.images_are_read:
                    self._add_annotations(entries, files)
                else:
                    annotations_are_read = False
        missing = [kind for kind in KINDS if kind not in lists]
        if missing:
            raise no_lists(self.json, missing, found)
        if not self.counts["images"]:
            raise no_entries(self.json, "images")
        if not self.categories:
            raise no_entries(self.json, "categories")
        self._index_images()
        return annotations_are_read

    def _add_images(self, entries: Any) -> None:
        start = self._count("images", entries)
        if isinstance(entries, PlainImages):
            self.images.append(entries)
        elif entries and self._have_keys("images", entries, start):
            fixed = []
            for entry in entries:
                if whole_number(entry["id"]) is not None:
                    fixed.append(image_fields(entry, whole_number, self.image_mistakes))
                elif isinstance(entry["id"], str):
                    raise NotServed
                else:
                    id_reader([entry], "images", self.id_mistakes)
            if not self.image_mistakes.count + self.id_mistakes.count:
                ids, widths, heights = (
                    np.array([entry[key] for entry in fixed], np.int64) for key in ("id", "width", "height")
                )
                self.images.append(PlainImages(ids, widths, heights, [entry["file_name"] for entry in fixed]))

    def _index_images(self) -> None:
        """Sort the images, when all have been read, by their ids."""
        if self.images_are_read:
            return
        self.images_are_read = True
        if not self.images:  # which is an error, as their mistakes are
            none = np.empty(0, np.int64)
            self.images = [PlainImages(none, none, none, [])]
        ids, widths, heights = (np.concatenate([part[k] for part in self.images]) for k in range(3))
        self.order = np.argsort(ids, kind="stable")
        self.image_ids, self.widths, self.heights = ids[self.order], widths[self.order], heights[self.order]

    def _rows_of_images(self, ids: np.ndarray) -> np.ndarray:
        """The places of ids among the sorted ones, int64; -1 for those that are not there."""
        rows = np.searchsorted(self.image_ids, ids).clip(max=len(self.image_ids) - 1)
        return np.where(self.image_ids[rows] == ids, rows, -1)

    def _add_annotations(self, entries: Any, files: dict) -> None:
        start = self._count("annotations", entries)
        if isinstance(entries, PlainAnnotations):
            if not len(entries.ids) or not len(self.image_ids):
                return
            self.raw_ids.append(entries.ids)
            rows, plain = self._usable(entries)
        elif entries and self._have_keys("annotations", entries, start):
            before = self.annotation_mistakes.count
            check_annotation_ids(entries, whole_number, whole_number, self.annotation_mistakes)
            if self.annotation_mistakes.count > before or not len(self.image_ids):
                return
            rows, plain = self._normalised(entries)
        else:
            return
        columns = (plain.ids, rows.astype(np.int32), plain.category_ids, plain.bbox, plain.areas, plain.is_crowd)
        for file, column in zip(files.values(), columns, strict=True):
            self.behind.call(file.write, np.ascontiguousarray(column).data)
        for k in np.flatnonzero(rows < 0):
            self.unknown_images.append({"id": int(plain.ids[k]), "image_id": int(plain.image_ids[k])})

    def _usable(self, plain: PlainAnnotations) -> tuple[np.ndarray, PlainAnnotations]:
        """The annotations whose boxes can be used, with usable areas, and the rows of their images."""
        rows = self._rows_of_images(plain.image_ids)
        widths, heights = (np.where(rows < 0, np.inf, sides[rows]) for sides in (self.widths, self.heights))
        faults = box_faults(plain.bbox, widths, heights)
        for reason, rows_at_fault in sorted(faults.items(), key=lambda fault: fault[1].argmax()):
            if rows_at_fault.any():
                self.skipped.setdefault(reason, []).extend(plain.ids[rows_at_fault].tolist())
        good = ~np.any(list(faults.values()), axis=0)
        if not good.all():
            plain = PlainAnnotations(*(column[good] for column in plain))
            rows, widths, heights = rows[good], widths[good], heights[good]
        areas, is_corrected = usable_areas(plain.areas, plain.bbox, widths, heights)
        if is_corrected.any():
            self.corrected.setdefault(NO_SUCH_AREA, []).extend(plain.ids[is_corrected].tolist())
        return rows, plain._replace(areas=areas)

    def _normalised(self, entries: list[dict]) -> tuple[np.ndarray, PlainAnnotations]:
        """The same for annotations that are not all plain."""
        image_ids = np.array([whole_number(entry["image_id"]) for entry in entries], np.int64)
        rows = self._rows_of_images(image_ids)
        sizes = {
            image_id: (int(self.widths[row]), int(self.heights[row]))
            for image_id, row in zip(image_ids.tolist(), rows.tolist(), strict=True)
            if row >= 0
        }
        usable, skipped, corrected = usable_annotations(entries, sizes, whole_number, whole_number)
        if any(entry.get("segmentation") or entry.get("keypoints") for entry in usable):
            raise NotServed
        for kept, new in ((self.skipped, skipped), (self.corrected, corrected)):
            for reason, ids in new.items():
                kept.setdefault(reason, []).extend(ids)
        raw_ids = [annotation_id(entry["id"]) for entry in entries]
        self.raw_ids.append(np.array([value for value in raw_ids if isinstance(value, int)], np.int64))
        self.text_ids += [value for value in raw_ids if isinstance(value, str)]
        plain = PlainAnnotations(
            np.array([_usable_id(entry["id"]) for entry in usable], np.int64),
            np.array([entry["image_id"] for entry in usable], np.int64),
            np.array([entry["category_id"] for entry in usable], np.int64),
            np.array([entry["bbox"] for entry in usable], np.float64).reshape(-1, 4),
            np.array([entry["area"] for entry in usable], np.float64),
            np.array([entry["iscrowd"] for entry in usable], bool),
        )
        return self._rows_of_images(plain.image_ids), plain

    def _count(self, kind: str, entries: Any) -> int:
        """The number of the first of these entries in its list."""
        start = self.counts[kind]
        self.counts[kind] += len(entries.ids if isinstance(entries, PlainImages | PlainAnnotations) else entries)
        return start

    def _have_keys(self, kind: str, entries: list, start: int) -> bool:
        before = self.key_mistakes[kind].count
        check_keys(entries, kind, self.key_mistakes[kind], start)
        return self.key_mistakes[kind].count == before

    def _stop_on_mistakes(self) -> None:
        """Raise the errors of the first step of `fields.normalise` that has any."""
        if self._have_keys("categories", self.categories, 0):
            category_id = id_reader(self.categories, "categories", self.id_mistakes)
            if category_id is not whole_number:
                raise NotServed
            if not self.id_mistakes.count:
                self.categories = [
                    category_fields(entry, whole_number, self.image_mistakes) for entry in self.categories
                ]
        of_keys = Mistakes(self.json)
        for kind in ("images", "categories", "annotations"):
            of_keys.extend(self.key_mistakes[kind])
        self.image_mistakes.extend(self.annotation_mistakes)
        for mistakes in (of_keys, self.id_mistakes, self.image_mistakes):
            mistakes.stop_if_any()

    def _write(self) -> None:
        collected = {name: _Column(self.folder / name, dtype) for name, dtype in _COLLECTED.items()}
        category_order = np.argsort([category["id"] for category in self.categories], kind="stable").astype(np.int32)
        categories = [self.categories[k] for k in category_order]
        category_ids = np.array([category["id"] for category in categories], np.int64)
        classes = np.empty(len(collected["category_ids"]), np.int32)
        for block in _blocks(classes):
            places = np.searchsorted(category_ids, collected["category_ids"][block])
            classes[block] = places.clip(max=len(categories) - 1)
        self._stop_on_faults(collected, category_ids, classes)
        self.raw_ids.clear()
        rows = collected["images"][:]
        findings = self._findings(collected, rows, category_order[classes])
        names = [name for part in self.images for name in part.file_names]
        names = [names[k] for k in self.order]
        self._save("image_ids", self.image_ids)
        self._save("widths", self.widths.astype(np.int32))
        self._save("heights", self.heights.astype(np.int32))
        self._save("positions", self.order.astype(np.int32))
        self._save("name_ends", _ends(np.array([len(name.encode()) for name in names], np.int64)))
        self._save("name_bytes", np.frombuffer("".join(names).encode(), np.uint8))
        self._save("annotation_ends", _ends(np.bincount(rows, minlength=len(self.order))))
        order = None if (rows[1:] >= rows[:-1]).all() else np.argsort(rows, kind="stable")
        self._save("annotation_ids", _with_usable_ids(collected["annotation_ids"][:]), order)
        self._save("classes", classes, order)
        for name in ("bbox", "areas", "is_crowd"):
            self._save(name, collected[name], order)
        for name in _COLLECTED:
            (self.folder / name).unlink()
        description = {
            "json": os.fspath(self.json),
            "digest": self.sha.hexdigest(),
            "categories": categories,
            "skipped": _abridged(self.skipped),
            "corrected": _abridged(self.corrected),
            "findings": [finding._replace(ids=_first_of(finding.ids)) for finding in findings],
        }
        (self.folder / DESCRIPTION).write_text(json_module.dumps(description), encoding="utf-8")

    def _findings(self, collected: dict[str, "_Column"], rows: np.ndarray, classes: np.ndarray) -> list[Finding]:
        """What the check says of the content, in the order of the json; `classes` are indices of `self.categories`."""
        ids, widths, heights = (np.concatenate([part[k] for part in self.images]) for k in range(3))
        dataset = Columns(
            ids,
            [name for part in self.images for name in part.file_names],
            widths.astype(np.float64),
            heights.astype(np.float64),
            self.categories,
            collected["annotation_ids"],
            self.order.astype(np.int32)[rows],
            classes,
            collected["bbox"],
            collected["is_crowd"][:],
        )
        return [*self._corrections(len(rows)), *content_findings(dataset)]

    def _stop_on_faults(self, collected: dict[str, "_Column"], category_ids: np.ndarray, classes: np.ndarray) -> None:
        """Raise the errors that `check.read_coco` finds without the image folder."""
        unknown = []
        for block in _blocks(classes):
            ids, referred = (collected[name][block] for name in ("annotation_ids", "category_ids"))
            unknown += [
                {"id": int(ids[k]), "category_id": int(referred[k])}
                for k in np.flatnonzero(category_ids[classes[block]] != referred)
            ]
        errors = [
            *(finding for finding in self._corrections(len(classes)) if finding.is_error),
            *ids_given_twice(_repeated([part.ids for part in self.images]), "images"),
            *ids_given_twice(_repeated(self.raw_ids) + self.text_ids, "annotations"),
            *ids_given_twice(category_ids.tolist(), "categories"),
            *references_to_nothing(self.unknown_images, "image_id", set(), "images"),
            *references_to_nothing(unknown, "category_id", set(), "categories"),
        ]
        if errors:
            raise DatasetError(f"{self.json}: " + "\n  ".join(map(str, errors)))

    def _corrections(self, usable: int) -> list[Finding]:
        remaining = {"annotations": range(usable)}  # of which only the number counts
        return Normalised(remaining, self.skipped, self.corrected, is_as_given=False).findings

    def _save(self, name: str, column: "np.ndarray | _Column", order: np.ndarray | None = None) -> None:
        """Write a column, in another order if one is given."""
        assert name in COLUMNS
        dtype = column.dtype
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": column.shape}
        with open(self.folder / f"{name}.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in _blocks(column):
                file.write(np.ascontiguousarray(column[block] if order is None else column[order[block]]).data)


class _Column:
    """A column of annotations in a file, of which only what is asked for is in memory."""

    def __init__(self, path: Path, dtype: np.dtype):
        self.path, self.dtype = path, dtype.base
        self.shape = (path.stat().st_size // dtype.itemsize, *dtype.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        if not len(self):
            return np.empty(self.shape, self.dtype)[index]
        if isinstance(index, slice):
            begin, end, _ = index.indices(len(self))
            values = math.prod(self.shape[1:])
            offset = begin * values * self.dtype.itemsize
            block = np.fromfile(self.path, self.dtype, max(0, end - begin) * values, offset=offset)
            return block.reshape(-1, *self.shape[1:])
        return np.array(np.memmap(self.path, self.dtype, "r", shape=self.shape)[index])


def _blocks(column: Sized) -> list[slice]:
    return [slice(k, k + _BLOCK) for k in range(0, len(column), _BLOCK)]


def _ends(lengths: np.ndarray) -> np.ndarray:
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


def _usable_id(value: object) -> int:
    return value if isinstance(value, int) and 0 < value <= LARGEST_ANNOTATION_ID else _NO_ID


def _with_usable_ids(ids: np.ndarray) -> np.ndarray:
    """New numbers in place of ids that pycocotools cannot use, as `fields.normalise` gives them."""
    is_good = ids != _NO_ID
    if is_good.all():
        return ids
    largest = int(ids.max(initial=0))
    if largest + len(ids) > LARGEST_ANNOTATION_ID:
        return np.arange(1, 1 + len(ids))
    ids = ids.copy()
    ids[~is_good] = np.arange(largest + 1, largest + 1 + np.count_nonzero(~is_good))
    return ids


def _repeated(parts: list[np.ndarray]) -> list[int]:
    """The ids that are there more than once, each as often as it is there, in their order."""
    if not parts:
        return []
    ids = np.concatenate(parts)
    ordered = np.sort(ids)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return ids[np.isin(ids, again)].tolist() if len(again) else []


def _abridged(reasons: dict[str, list]) -> dict[str, tuple[int, list]]:
    return {reason: _first_of(ids) for reason, ids in reasons.items()}


def _first_of(ids: Collection) -> tuple[int, list]:
    return len(ids), list(itertools.islice(ids, _SHOWN))
