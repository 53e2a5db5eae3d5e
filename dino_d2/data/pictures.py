# SPDX-License-Identifier: Apache-2.0
"""Picture files: opened, turned upright and read as 8-bit pixels by one set of rules for every part of the project.

Training, the dataset check, the converters and the predictor all read through this module, so that a picture which one
of them accepts is accepted by all, with the same size and the same pixels.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dino_d2.bit_depth import PictureError, eight_bits, is_deep
from dino_d2.detectron2.utils.file_io import PathManager
from dino_d2.files import check_regular

#: What Pillow and its plugins raise for files that are damaged, no images or absurdly large.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

_ORIENTATION = 0x0112  # the EXIF tag

#: EXIF orientation -> how to turn the picture upright; every other value means that it is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)

#: Formats whose header holds the EXIF data, so that the size is known without decoding.
_EXIF_IN_HEADER = ("JPEG", "MPO", "WEBP")
_NO_EXIF = ("BMP", "GIF", "PPM")

#: Pillow reads Encapsulated PostScript by running Ghostscript on the file, which is a program and no picture.
_PROGRAMS = ("EPS",)


class Header(NamedTuple):
    """What is known of a picture file before its pixels are used."""

    width: int  # in pixels, after the EXIF rotation
    height: int
    is_deep: bool  # more than 8 bits a channel


def read_picture(path: str | Path, format: str) -> np.ndarray:
    """Read a picture file, upright, scaled to 8 bits as by :func:`dino_d2.bit_depth.eight_bits`.

    Args:
        path: a file, or an address that iopath's PathManager knows.
        format: "RGB" or "BGR".

    Returns:
        uint8 [H, W, 3].

    Raises:
        FileNotFoundError: there is no such file.
        PictureError: it is no picture, is damaged, or has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels.
    """
    with _opened(path) as image:
        return to_pixels(image, format)


def read_header(path: str | Path, decode: bool) -> Header:
    """The size of a picture, as `read_picture` would return it.

    Args:
        path: a file.
        decode: decode the whole file, which finds damage beyond the first bytes.

    Raises:
        FileNotFoundError, PictureError: as for `read_picture`.
    """
    with _opened(path) as image:
        if decode or not _tells_orientation_undecoded(image, Path(path)):
            image.load()
        width, height = image.size
        if _orientation(image) in _SWAPS_SIDES:
            width, height = height, width
        return Header(width, height, is_deep(image))


def to_pixels(image: Image.Image, format: str) -> np.ndarray:
    """A Pillow image of any mode as upright uint8 [H, W, 3] in "RGB" or "BGR" order.

    Raises:
        PictureError: its pixels cannot be read.
    """
    with _picture_errors():
        if 0 in image.size:
            raise PictureError(f"it has {image.width} x {image.height} pixels")
        image.load()  # TIFF files are turned upright here and lose their orientation tag
        turn = _TURNS.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        pixels = np.asarray(eight_bits(upright).convert("RGB"))
    return pixels[:, :, ::-1] if format == "BGR" else pixels


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_picture_errors())
        if os.path.exists(path):  # otherwise it may be an address
            check_regular(path)
        image = stack.enter_context(Image.open(stack.enter_context(PathManager.open(str(path), "rb"))))
        _check_size(image)
        if image.format in _PROGRAMS:
            raise PictureError(f"{image.format} files are programs. Save it as PNG or JPEG")
        yield image


@contextlib.contextmanager
def _picture_errors() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PictureError):
        raise
    except _PILLOW_ERRORS as error:
        raise PictureError(str(error) or type(error).__name__) from error


def _check_size(image: Image.Image) -> None:
    """Refuse a picture before it is decoded where its pixels would not fit the memory of an ordinary machine."""
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise PictureError(
            f"it has {width} x {height} pixels, more than {limit / 1e6:.0f} million. Scale it down or cut it into "
            "tiles, or raise PIL.Image.MAX_IMAGE_PIXELS in the config file"
        )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where there is none or one of another type or range."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _PILLOW_ERRORS:  # damaged EXIF data say nothing of the picture
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _tells_orientation_undecoded(image: Image.Image, path: Path) -> bool:
    if image.format == "PNG":
        return not _has_text_after_pixels(path)
    return image.format in _EXIF_IN_HEADER or image.format in _NO_EXIF


def _has_text_after_pixels(png: Path) -> bool:
    """Whether chunks that may hold an orientation follow the pixels, where Pillow meets them only by decoding."""
    after_pixels = False
    with open(png, "rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if kind == b"IDAT":
                after_pixels = True
            elif after_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(length + 4, 1)  # over the content and its checksum
    return False
