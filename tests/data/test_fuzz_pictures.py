# SPDX-License-Identifier: Apache-2.0
"""Damaged pictures: each is read or refused in words, by all readers alike."""

import random
import warnings
from pathlib import Path

from dino_d2.data.convert.images import image_size
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.data.pictures import read_header
from dino_d2.data.pixels import pixels
from dino_d2.errors import UserError
from tests.data import fuzz


def attempt_in(folder: Path):
    def attempt(rng: random.Random) -> None:
        suffix, content = fuzz.mutated_picture(rng)
        path = folder / f"picture.{suffix}"
        path.write_bytes(content)
        sizes = {
            "check": _size(lambda: read_header(path, decode=True)[:2]),
            "predictor": _size(lambda: pixels(path, "RGB", "RGB").shape[1::-1]),
            "mapper": _size(lambda: DetrDatasetMapper([])({"file_name": str(path)})["image"].shape[:0:-1]),
        }
        assert len(set(sizes.values())) == 1, sizes
        undecoded = _size(lambda: read_header(path, decode=False)[:2]), _size(lambda: image_size(path))
        if sizes["mapper"] is None:
            raise UserError("refused by all")
        assert set(undecoded) == {sizes["mapper"]}, (undecoded, sizes)

    return attempt


def _size(read) -> tuple[int, int] | None:
    try:
        return tuple(read())
    except UserError:
        return None


def test_every_damaged_picture_is_read_or_refused_by_all_readers_alike(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF data
        counts = fuzz.run(2000, 0, attempt_in(tmp_path))
    print(counts)
    assert counts["accepted"] > 400
    assert counts["refused"] > 400
