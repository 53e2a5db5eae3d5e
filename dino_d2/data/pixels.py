# SPDX-License-Identifier: Apache-2.0
"""Images in any of the forms that scripts hold them in, as the pixels that the data mapper would read."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dino_d2.data.pictures import PictureError, read_picture, to_pixels
from dino_d2.data.walk import is_file
from dino_d2.errors import UserError

AnyImage = str | os.PathLike | Image.Image | np.ndarray | Tensor
ColourOrder = Literal["RGB", "BGR"]


def pixels(image: AnyImage, wanted: ColourOrder, given: ColourOrder) -> np.ndarray:
    """Read an image, turn it upright and convert it to one colour order.

    Args:
        image: a file; a Pillow image of any mode; an array [H, W, 3] or a tensor [3, H, W], both uint8 in 0..255.
        wanted: order of the channels to return.
        given: order of the channels of an array or a tensor; files and Pillow images state theirs.

    Returns:
        uint8 [H, W, 3]. All forms of an image give identical pixels; values of more than 8 bits are scaled as
        `dino_d2.data.pictures` describes.

    Raises:
        UserError: there is no such file, it cannot be read, or an array or tensor has another shape or type.
    """
    if isinstance(image, str | os.PathLike):
        return _read(Path(image), wanted)
    if isinstance(image, Image.Image):
        try:
            return to_pixels(image, wanted)
        except PictureError as error:
            raise UserError(f"the Pillow image cannot be read: {error}") from error
    if isinstance(image, Tensor):
        _check(image, "a tensor", "[3, H, W]", image.ndim == 3 and image.shape[0] == 3, str(image.dtype)[6:])
        if image.is_meta or image.layout != torch.strided:
            raise UserError("a tensor must have its pixels in memory: it is on the meta device, or sparse")
        image = image.permute(1, 2, 0).cpu().numpy()
    elif isinstance(image, np.ndarray):
        _check(image, "an array", "[H, W, 3]", image.ndim == 3 and image.shape[2] == 3, str(image.dtype))
    else:
        raise UserError(
            f"an image can be a path, a Pillow image, a NumPy array or a tensor, not {type(image).__name__}"
        )
    return image if given == wanted else np.ascontiguousarray(image[:, :, ::-1])


def _read(path: Path, wanted: ColourOrder) -> np.ndarray:
    if not is_file(path):
        problem = "is not a file" if os.path.exists(path) else f"does not exist (looked from {Path.cwd()})"
        what = "is a folder, not an image" if os.path.isdir(path) else problem
        raise UserError(f"image {str(path)[:300]} {what}")
    try:
        return read_picture(path, wanted)
    except PictureError as error:
        raise UserError(f"image {path} cannot be read: {error}") from error


def _check(image: np.ndarray | Tensor, what: str, shape: str, fits: bool, dtype: str) -> None:
    if not fits:
        raise UserError(f"{what} must be one image {shape}, not {list(image.shape)}")
    if 0 in image.shape:
        raise UserError(f"{what} {list(image.shape)} has no pixels")
    if dtype != "uint8":
        raise UserError(
            f"{what} must hold uint8 values in 0..255, not {dtype}; floats in 0..1 become that by "
            f"(255 * image).round().{'to(torch.uint8)' if isinstance(image, Tensor) else 'astype(np.uint8)'}"
        )
