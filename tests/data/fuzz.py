# SPDX-License-Identifier: Apache-2.0
"""Mutated inputs for the fuzz tests of the data room, the same ones for the same seed."""

import copy
import io
import json
import random
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dino_d2.errors import UserError

_DEEP = "deep" * 16  # stands for a value that Python's json cannot write

#: Values that people's tools, or people who mean harm, put into a field.
ODD_VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 5, 0.0, 1.0, 1.5, -0.5, 1e-300, 1e9, 1e18, 1e300, 2**31, 2**53 + 1, 2**63, 2**64,
    10**40, 10**400, float("nan"), float("inf"), float("-inf"), "", " ", "0", "1", "-1", "5", "1.5", "nan", "1e5",
    "0005", "cat", "1.png", "../1.png", "../../secret.png", "/etc/passwd", "C:\\x.png", "..\\x.png", ".", "..", "x\0y",
    "\ud800", "Straße", "日本", "a" * 300, "a/" * 200, "%s{}", [], [1], [1, 2], [1, 2, 3, 4], [[1, 2, 3, 4, 5, 6]],
    [[1, 2, 3, 4, 5, 6], 3], [[]], [[[1]]], [None], ["1", "2", "3", "4"], [None, 2, 2], [10**400] * 4,
    [float("nan")] * 4, [0, 0, 1e308, 1e308], [-1e308, 0, 1e308, 5], [0, 0, 1e-320, 5], [1, 2, 0, 5], {}, {"a": 1},
    {"counts": [], "size": []}, {"counts": [1, 1199], "size": [30, 40]}, {"counts": "abc", "size": [30, 40]},
    {"counts": [10**30], "size": [10**15, 10**15]}, _DEEP,
]  # fmt: skip


def valid_coco() -> dict:
    """Three images of 40 x 30 pixels, the last without an object, with all the fields that COCO has."""
    polygon = [[1, 2, 11, 2, 11, 11]]
    annotations = [
        {"id": 11, "image_id": 3, "category_id": 17, "bbox": [1, 2, 10, 9], "area": 90, "iscrowd": 0,
         "segmentation": polygon, "keypoints": [1, 2, 2], "num_keypoints": 1, "attributes": {"occluded": False}},
        {"id": 12, "image_id": 3, "category_id": 4, "bbox": [20.5, 2, 12, 20], "area": 240.0, "iscrowd": 0,
         "ignore": 0},
        {"id": 13, "image_id": 5, "category_id": 4, "bbox": [5, 5, 30, 20], "area": 600, "iscrowd": 1,
         "segmentation": {"counts": [0, 25, 1175], "size": [30, 40]}},
    ]  # fmt: skip
    return {
        "info": {"year": 2026},
        "licenses": [{"id": 1, "name": "none"}],
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 40, "height": 30, "license": 1, "date_captured": ""}
            for i in (3, 5, 8)
        ],
        "categories": [{"id": 17, "name": "dog", "supercategory": "animal"}, {"id": 4, "name": "cat"}],
        "annotations": annotations,
    }


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in (3, 5, 8):
        Image.new("RGB", (40, 30)).save(folder / f"{i}.png")


def mutated_coco(rng: random.Random) -> bytes:
    """A valid json with one to four faults: of a value, a key, an entry, the lists or the bytes."""
    coco = valid_coco()
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        _mutate(coco, rng)
    text = json.dumps(coco)
    while (place := text.find(f'"{_DEEP}"')) >= 0:
        depth = rng.choice((20, 200, 900, 5000, 100_000))
        text = text[:place] + "[" * depth + "]" * depth + text[place + len(_DEEP) + 2 :]
    data = text.encode()
    if rng.random() < 0.04:
        data = _damaged(data, rng)
    return data


def _mutate(coco: dict, rng: random.Random) -> None:
    kind = rng.choice(("images", "annotations", "annotations", "annotations", "categories"))
    entries = coco.get(kind)
    what = rng.random()
    if what < 0.04 or not isinstance(entries, list) or not entries:
        coco[rng.choice(list(coco) or ["images"])] = copy.deepcopy(rng.choice(ODD_VALUES))
        return
    index = rng.randrange(len(entries))
    entry = entries[index]
    if what < 0.07:
        entries[index] = copy.deepcopy(rng.choice(ODD_VALUES))
    elif what < 0.10:
        entries.append(copy.deepcopy(entry))
    elif what < 0.12:
        del entries[index]
    elif isinstance(entry, dict) and entry:
        key = rng.choice(list(entry))
        if what < 0.18:
            del entry[key]
        elif what < 0.30 and isinstance(entry[key], list) and entry[key]:
            entry[key][rng.randrange(len(entry[key]))] = copy.deepcopy(rng.choice(ODD_VALUES))
        elif what < 0.38:  # the same fault in every entry
            value = rng.choice(ODD_VALUES)
            for other in filter(lambda other: isinstance(other, dict), entries):
                other[key] = copy.deepcopy(value)
        elif what < 0.44:
            entry[rng.choice(("ignore", "iscrowd", "area", "segmentation", "keypoints"))] = rng.choice(ODD_VALUES)
        else:
            entry[key] = copy.deepcopy(rng.choice(ODD_VALUES))


def _damaged(data: bytes, rng: random.Random) -> bytes:
    way = rng.randrange(5)
    if way == 0:
        return data[: rng.randrange(len(data))]
    if way == 1:
        return b"\xef\xbb\xbf" + data
    if way == 2:
        return data.decode().encode("utf-16")
    place = rng.randrange(len(data))
    return data[:place] + bytes(rng.randrange(256) for _ in range(3)) + data[place + way :]


def run(count: int, seed: int, attempt: Callable[[random.Random], object]) -> Counter:
    """Counts of "accepted" and "refused" among so many attempts; any error but `UserError` goes through.

    Args:
        attempt: does one thing with a mutated input, drawn from the generator.
    """
    return Counter(_outcome(random.Random(f"{seed} {number}"), attempt) for number in range(count))


def _outcome(rng: random.Random, attempt: Callable[[random.Random], object]) -> str:
    try:
        attempt(rng)
    except UserError as error:
        if not str(error).strip():
            raise ValueError("refused without a word") from error
        return "refused"
    return "accepted"


#: Formats and the modes of Pillow that they can hold.
PICTURES = {
    "png": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "jpg": ("RGB", "L", "CMYK"),
    "webp": ("RGB", "RGBA"),
    "tif": ("RGB", "L", "F", "I;16", "I", "CMYK"),
    "bmp": ("RGB", "L"),
    "gif": ("P", "L"),
    "ppm": ("RGB", "L"),
}


def mutated_picture(rng: random.Random) -> tuple[str, bytes]:
    """(suffix, content) of a small picture with EXIF data, of which some bytes are damaged."""
    suffix = rng.choice(list(PICTURES))
    mode = rng.choice(PICTURES[suffix])
    size = rng.choice(((1, 1), (1, 30), (13, 7), (24, 16)))
    generator = np.random.default_rng(rng.randrange(2**32))
    if mode in ("F", "I", "I;16"):
        dtype, top = {"F": (np.float32, 1.0), "I": (np.int32, 2**20), "I;16": (np.uint16, 2**16)}[mode]
        image = Image.fromarray((generator.random(size[::-1]) * top).astype(dtype))
    else:
        image = Image.fromarray(generator.integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode)
    exif = rng.choice(ORIENTATIONS)
    file = io.BytesIO()
    keeps_exif = suffix in ("png", "jpg", "webp") and rng.random() < 0.8
    late = keeps_exif and suffix == "png" and rng.random() < 0.5
    options = {"exif": exif} if keeps_exif and not late else {}
    image.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
    content = with_late_exif(file.getvalue(), exif) if late else file.getvalue()
    return suffix, _damaged_picture(content, rng)


def exif_orientation(kind: int, count: int, value: bytes) -> bytes:
    """EXIF data with one tag, the orientation, of any type (3 is SHORT, the right one; 2 ASCII, 4 LONG, ...)."""
    tag = struct.pack("<HHI4s", 0x0112, kind, count, value)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + tag + bytes(4)


#: Right ones, those beyond 1 to 8, of other types, several values, a damaged offset.
ORIENTATIONS = [
    *(exif_orientation(3, 1, struct.pack("<I", value)) for value in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 6, 6)),
    exif_orientation(4, 1, struct.pack("<I", 65537)),
    exif_orientation(4, 1, struct.pack("<I", 6)),
    exif_orientation(2, 2, b"A\0\0\0"),
    exif_orientation(2, 2, b"6\0\0\0"),
    exif_orientation(3, 2, struct.pack("<HH", 6, 6)),
    exif_orientation(5, 1, struct.pack("<I", 10_000)),
    exif_orientation(12, 1, struct.pack("<I", 0)),
    exif_orientation(7, 4, b"\6\0\0\0"),
    exif_orientation(99, 1, struct.pack("<I", 6)),
    b"Exif\0\0II*\0",
    b"Exif\0\0nothing of the kind",
]


def with_late_exif(png: bytes, exif: bytes) -> bytes:
    """A PNG whose EXIF chunk follows its pixels, as some programs write it."""
    content = b"eXIf" + exif.removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:-12] + chunk + png[-12:]


def _damaged_picture(data: bytes, rng: random.Random) -> bytes:
    way = rng.random()
    if way < 0.1:
        return data
    if way < 0.25:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    # Headers are near the start; elsewhere most damage is only to pixels.
    reach = len(changed) if way < 0.5 else min(len(changed), 120)
    for _ in range(rng.choice((1, 1, 2, 8, 30))):
        changed[rng.randrange(reach)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    if way > 0.9:
        place = rng.randrange(reach)
        changed[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 40)))
    return bytes(changed)


_WORDS = [
    "0", "1", "2", "-1", "0.5", "0.25", "1.0001", "2.5", "1e400", "-1e400", "nan", "inf", "cat", "1_0", "٣", "0x1",
    "9" * 30, "9" * 5000, "0,5", "", "\0", "\ud800", "<a>", "&amp;", "&x;", "*a", "&a [1]", "!!python/name:os.system",
    "../../secret.png", "/etc/passwd", "train", "[", "]", "{", "}", ":", "yes", "no", "2026-99-99", "null", "~", "<<",
    "é",
]  # fmt: skip


def damaged_text(text: str, rng: random.Random) -> bytes:
    """A label file, list, XML or YAML with some words replaced, lines repeated, or in another encoding."""
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        words = list(re.finditer(r"[^\s<>,:]+", text))
        way = rng.random()
        if words and way < 0.6:
            word = rng.choice(words)
            text = text[: word.start()] + rng.choice(_WORDS) + text[word.end() :]
        elif way < 0.75 and text:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(_WORDS) + text[place:]
        elif way < 0.85 and text:
            text = text[: rng.randrange(len(text))]
        else:
            lines = text.splitlines() or [""]
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            text = "\n".join(lines)
    if rng.random() < 0.02:
        text = rng.choice(("[", "{a: ", "- ", "<a>")) * rng.choice((500, 20_000))
    encoding = rng.choice(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "latin-1"))
    return text.encode(encoding, errors="surrogatepass" if encoding.startswith("utf") else "replace")
