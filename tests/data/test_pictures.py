# SPDX-License-Identifier: Apache-2.0
"""Pictures of every depth, size and orientation, as all readers see them."""

import io
import os
import resource
import time

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.data.augmentation import detr_augmentation, resize_augmentation
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.data.pictures import PictureError, read_header, read_picture
from dino_d2.data.pixels import pixels
from dino_d2.detectron2.data import transforms as T
from dino_d2.errors import UserError
from tests.data import fuzz

RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)
EIGHT_BITS = (RAMP * 255).round().astype(np.uint8)


@pytest.mark.filterwarnings("error::RuntimeWarning")  # NumPy's, of sums that overflow
@pytest.mark.parametrize(
    ("values", "suffix", "expected"),
    [
        ((RAMP * 65535).astype(np.uint16), "png", EIGHT_BITS),
        ((RAMP * 65535).astype(np.uint16), "tif", EIGHT_BITS),
        ((RAMP * 4095).astype(np.uint16), "png", EIGHT_BITS),  # 12 bits
        ((RAMP * 65535).astype(">u2"), "tif", EIGHT_BITS),
        ((RAMP * 1e6 - 5e5).astype(np.int32), "tif", EIGHT_BITS),
        (RAMP.astype(np.float32), "tif", EIGHT_BITS),
        ((RAMP * 300 - 20).astype(np.float32), "tif", EIGHT_BITS),
        ((RAMP * 200).astype(np.uint16), "png", (RAMP * 200).astype(np.uint8)),  # 8 bits in 16 stay
        ((RAMP * 200).astype(np.float32), "tif", (RAMP * 200).astype(np.uint8)),
        ((RAMP * 1.05).astype(np.float32), "tif", EIGHT_BITS),  # of a filter that overshoots
        (RAMP.round().astype(np.float32) * 2, "tif", (RAMP.round() * 2).astype(np.uint8)),  # whole numbers stay
        (np.full((64, 64), 1000, np.uint16), "png", np.zeros((64, 64), np.uint8)),
    ],
)
def test_deep_pictures_keep_their_values(values, suffix, expected, tmp_path):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(values).save(path)
    read = read_picture(path, "RGB")
    assert read.shape == (64, 64, 3)
    assert np.abs(read[:, :, 0].astype(int) - expected).max() <= 1
    assert read_header(path, decode=False).is_deep
    for other in (pixels(path, "RGB", "RGB"), pixels(Image.open(path), "RGB", "RGB")):
        assert np.array_equal(other, read)
    mapped = DetrDatasetMapper([])({"file_name": str(path)})["image"]
    assert np.array_equal(mapped.numpy().transpose(1, 2, 0), read)


def test_values_that_are_not_finite(tmp_path):
    values = RAMP.astype(np.float32)
    values[0, 5] = np.nan
    values[0, 6] = np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    read = read_picture(tmp_path / "a.tif", "RGB")[:, :, 0]
    assert read[0, 5] == read[0, 6] == 0
    assert read[-1, -1] == 255
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(PictureError, match="finite"):
        read_picture(tmp_path / "b.tif", "RGB")


@pytest.mark.parametrize("exif", fuzz.ORIENTATIONS, ids=range(len(fuzz.ORIENTATIONS)))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "late png"])
def test_every_orientation_is_known_before_decoding(suffix, exif, tmp_path):
    """Whatever type and value the tag has, and where a PNG holds it: the header tells the size that is read."""
    file = io.BytesIO()
    late = suffix == "late png"
    kind = {"jpg": "JPEG", "late png": "PNG"}.get(suffix, suffix.upper())
    Image.new("RGB", (40, 30)).save(file, kind, **({} if late else {"exif": exif}))
    path = tmp_path / "a"
    path.write_bytes(fuzz.with_late_exif(file.getvalue(), exif) if late else file.getvalue())
    height, width = read_picture(path, "RGB").shape[:2]
    for decode in (True, False):
        assert read_header(path, decode)[:2] == (width, height)


def test_orientation_6_turns_and_9_does_not(tmp_path):
    for value, size in ((6, (30, 40)), (9, (40, 30)), (65537, (40, 30))):
        exif = fuzz.exif_orientation(4, 1, value.to_bytes(4, "little"))
        Image.new("RGB", (40, 30)).save(tmp_path / "a.png", exif=exif)
        assert read_header(tmp_path / "a.png", decode=False)[:2] == size


@pytest.mark.parametrize("side", [12_000, 14_000])
def test_bombs_are_refused_at_once(side, tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (side, side)).save(path)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for read in (
        lambda: read_picture(path, "RGB"),
        lambda: read_header(path, decode=True),
        lambda: read_header(path, decode=False),
        lambda: pixels(path, "RGB", "RGB"),
        lambda: DetrDatasetMapper([])({"file_name": str(path), "image_id": 7}),
    ):
        with pytest.raises(UserError, match="pixels"):
            read()
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_postscript_is_not_run(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(PictureError, match="EPS"):
        read_picture(tmp_path / "a.jpg", "RGB")


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (20, 4000)])
def test_long_thin_pictures_need_little_memory(shape):
    """Each side keeps a pixel, and no step of the augmentation makes more than a few megabytes of them."""
    image = np.zeros((*shape, 3), np.uint8)
    largest = 0
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        given = T.AugInput(image)
        for step in detr_augmentation():
            transforms = step(given)
            for transform in getattr(transforms, "transforms", [transforms]):
                largest = max(largest, getattr(transform, "new_h", 0) * getattr(transform, "new_w", 0))
        assert min(given.image.shape[:2]) >= 1
        assert max(given.image.shape[:2]) <= 1333
    assert largest <= 16 * 600 * 600
    given = T.AugInput(image)
    T.AugmentationList(resize_augmentation())(given)
    assert min(given.image.shape[:2]) >= 1


def test_empty_arrays_are_refused():
    with pytest.raises(UserError, match=r"an array \[0, 0, 3\] has no pixels"):
        pixels(np.zeros((0, 0, 3), np.uint8), "RGB", "RGB")


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(PictureError, match="a pipe, a socket or a device"):
            read_header(tmp_path / name, decode=False)
        with pytest.raises(UserError):
            pixels(tmp_path / name, "RGB", "RGB")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("a" * 5000, "does not exist"),
        ("a\0b", "does not exist"),
        ("/dev/zero", "is not a file"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8, device="meta"), "pixels in memory"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8).to_sparse(), "pixels in memory"),
    ],
)
def test_images_that_are_none_are_refused(image, words):
    with pytest.raises(UserError, match=words):
        pixels(image, "RGB", "RGB")
