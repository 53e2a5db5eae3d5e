# SPDX-License-Identifier: Apache-2.0
"""Fast decoding of the usual entries of a COCO json to arrays; `fields` reads the others one by one."""

import importlib
import itertools
import json as json_module
import math
from operator import attrgetter
from types import GenericAlias
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from dino_d2.data.check.fields import LARGEST_ANNOTATION_ID, LARGEST_SIDE

try:
    msgspec: Any = importlib.import_module("msgspec")
except ImportError:  # all entries are then read one by one
    msgspec = None


class PlainImages(NamedTuple):
    """Images that need no correction."""

    ids: np.ndarray  # int64 [images]
    widths: np.ndarray  # int64 [images]
    heights: np.ndarray  # int64 [images]
    file_names: list[str]


class PlainAnnotations(NamedTuple):
    """Annotations with fields of the usual types, whose boxes and areas may still be of no use."""

    ids: np.ndarray  # int64 [M], from 1 to 2^53
    image_ids: np.ndarray  # int64 [M]
    category_ids: np.ndarray  # int64 [M]
    bbox: np.ndarray  # float64 [M, 4]: x, y, width, height
    areas: np.ndarray  # float64 [M]; NaN where there is none
    is_crowd: np.ndarray  # bool [M]


def decode(key: str, text: bytes) -> Any:
    """`PlainImages`, `PlainAnnotations`, or the Python objects of entries that are not all plain.

    Args:
        key: of the list in the json.
        text: a JSON list with some of its entries.

    Raises:
        ValueError: the text is not JSON.
    """
    if not text.isascii():
        text.decode()  # msgspec does not look at the strings that it skips
    if msgspec is not None and key in _READERS:
        decoder, read = _READERS[key]
        try:
            return read(decoder.decode(text))
        except (msgspec.MsgspecError, OverflowError):
            pass
    return json_module.loads(text)


def _images(entries: list) -> PlainImages:
    ids, widths, heights = (
        np.fromiter(map(attrgetter(key), entries), np.int64, len(entries)) for key in ("id", "width", "height")
    )
    return PlainImages(ids, widths, heights, list(map(attrgetter("file_name"), entries)))


def _annotations(entries: list) -> PlainAnnotations:
    ids, image_ids, category_ids, is_crowd = (
        np.fromiter(map(attrgetter(key), entries), np.int64, len(entries))
        for key in ("id", "image_id", "category_id", "iscrowd")
    )
    numbers = itertools.chain.from_iterable(map(attrgetter("bbox"), entries))
    bbox = np.fromiter(numbers, np.float64, 4 * len(entries)).reshape(-1, 4)
    areas = np.array(list(map(attrgetter("area"), entries)), np.float64)  # None becomes NaN
    return PlainAnnotations(ids, image_ids, category_ids, bbox, areas, is_crowd.astype(bool))


if msgspec is not None:
    _Id = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
    _Side = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_SIDE)]

    _FileName = Annotated[str, msgspec.Meta(min_length=1, pattern=r"\A[^\0]+\Z")]
    _AnnotationId = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ANNOTATION_ID)]
    _Bbox = tuple[float, float, float, float]

    # gc=False: millions of objects without cycles need not be looked at by the garbage collector.
    _Image: Any = msgspec.defstruct(
        "_Image", [("id", _Id), ("file_name", _FileName), ("width", _Side), ("height", _Side)], gc=False
    )
    _Annotation: Any = msgspec.defstruct(
        "_Annotation",
        [
            ("id", _AnnotationId),
            ("image_id", _Id),
            ("category_id", _Id),
            ("bbox", _Bbox),
            ("area", float | None, math.nan),
            ("iscrowd", Literal[0, 1], 0),
            ("ignore", Literal[0], 0),
            ("segmentation", tuple[()] | None, ()),
            ("keypoints", tuple[()] | None, ()),
        ],
        gc=False,
    )

    _READERS = {
        "images": (msgspec.json.Decoder(GenericAlias(list, (_Image,))), _images),
        "annotations": (msgspec.json.Decoder(GenericAlias(list, (_Annotation,))), _annotations),
    }
