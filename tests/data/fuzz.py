"""Mutated inputs for the fuzz tests of the data room, the same ones for the same seed."""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

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
