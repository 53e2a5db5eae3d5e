"""An image in whatever form a script has it, as the pixels a data mapper would read."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from dino_d2.detectron2.data.detection_utils import convert_PIL_to_numpy, read_image
from dino_d2.errors import UserError

AnyImage = str | os.PathLike | Image.Image | np.ndarray | Tensor
ColourOrder = Literal["RGB", "BGR"]


def pixels(image: AnyImage, wanted: ColourOrder, given: ColourOrder) -> np.ndarray:
    """Read, turn upright and bring to one colour order.

    Args:
        image: a file; a Pillow image of any mode; an array [H, W, 3] or a tensor [3, H, W], both uint8 in 0..255.
        wanted: order of the channels to return.
        given: order of the channels of an array or a tensor; files and Pillow images know theirs.

    Returns:
        uint8 [H, W, 3]. The same pixels, bit for bit, whichever of the forms an image came in.

    Raises:
        UserError: no such file, not an image, or an array or a tensor of another shape or type.
    """
    if isinstance(image, str | os.PathLike):
        return _read(Path(image), wanted)
    if isinstance(image, Image.Image):
        return convert_PIL_to_numpy(ImageOps.exif_transpose(image), wanted)
    if isinstance(image, Tensor):
        _check(image, "a tensor", "[3, H, W]", image.ndim == 3 and image.shape[0] == 3, str(image.dtype)[6:])
        image = image.permute(1, 2, 0).cpu().numpy()
    elif isinstance(image, np.ndarray):
        _check(image, "an array", "[H, W, 3]", image.ndim == 3 and image.shape[2] == 3, str(image.dtype))
    else:
        raise UserError(
            f"an image can be a path, a Pillow image, a NumPy array or a tensor, not {type(image).__name__}"
        )
    return image if given == wanted else np.ascontiguousarray(image[:, :, ::-1])


def _read(path: Path, wanted: ColourOrder) -> np.ndarray:
    if not path.is_file():
        what = "is a folder, not an image" if path.is_dir() else f"does not exist (looked from {Path.cwd()})"
        raise UserError(f"image {path} {what}")
    try:
        return read_image(str(path), format=wanted)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three for broken files
        raise UserError(f"image {path} cannot be read: {error}") from error


def _check(image: np.ndarray | Tensor, what: str, shape: str, fits: bool, dtype: str) -> None:
    if not fits:
        raise UserError(f"{what} must be one image {shape}, not {list(image.shape)}")
    if dtype != "uint8":
        raise UserError(
            f"{what} must hold uint8 values in 0..255, not {dtype}; floats in 0..1 become that by "
            f"(255 * image).round().{'to(torch.uint8)' if isinstance(image, Tensor) else 'astype(np.uint8)'}"
        )
