# SPDX-License-Identifier: Apache-2.0
"""The augmentations of the DETR family, as in `detectron2.data.transforms.augmentation_impl`.

All draw from NumPy's global generator in Detectron2's order, so that a seed gives the same images in both engines.
"""
# ruff: noqa: NPY002

import sys

import numpy as np
from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    VFlipTransform,
)
from PIL import Image

from .augmentation import AugInput, Augmentation, _transform_to_aug
from .transform import ResizeTransform, RotationTransform

_SAMPLE_STYLES = ("range", "choice")


class RandomApply(Augmentation):
    """Apply an augmentation or a transform with probability `prob`."""

    def __init__(self, tfm_or_aug: Transform | Augmentation, prob: float = 0.5) -> None:
        self.aug = _transform_to_aug(tfm_or_aug)
        if not 0 <= prob <= 1:
            raise AssertionError(f"prob={prob} must be in [0, 1].")
        self.prob = prob

    def get_transform(self, *args: np.ndarray) -> Transform:
        return self.aug.get_transform(*args) if self._rand_range() < self.prob else NoOpTransform()

    def __call__(self, aug_input: AugInput) -> Transform:
        return self.aug(aug_input) if self._rand_range() < self.prob else NoOpTransform()


class RandomFlip(Augmentation):
    """Mirror the image with probability `prob`, either left to right or top to bottom."""

    prob: float
    horizontal: bool
    vertical: bool

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        if horizontal == vertical:
            raise ValueError("RandomFlip flips in one direction: set either horizontal or vertical.")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resize to (height, width) `shape`, or to a square with sides `shape`."""

    shape: tuple[int, int]
    interp: int

    def __init__(self, shape: int | tuple[int, int], interp: int = Image.Resampling.BILINEAR.value) -> None:
        shape = (shape, shape) if isinstance(shape, int) else (shape[0], shape[1])
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(image.shape[0], image.shape[1], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Resize the shorter edge to a random length, with at most `max_size` pixels on the longer edge."""

    short_edge_length: list[int] | tuple[int, ...]
    max_size: int
    sample_style: str
    interp: int

    def __init__(
        self,
        short_edge_length: int | list[int] | tuple[int, ...],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.Resampling.BILINEAR.value,
    ) -> None:
        """
        Args:
            short_edge_length: smallest and largest length for "range", all lengths for "choice".
            sample_style: "range" or "choice".
        """
        self.is_range = _is_range(sample_style)
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        if self.is_range and len(short_edge_length) != 2:
            raise AssertionError(f"sample_style 'range' takes two lengths, not {short_edge_length}.")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self.is_range:
            size = np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return NoOpTransform()
        new_height, new_width = self.get_output_shape(height, width, size, self.max_size)
        return ResizeTransform(height, width, new_height, new_width, self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """(height, width) after resizing."""
        # The order of rounding, which can change the size by a pixel, is that of Detectron2.
        size = short_edge_length * 1.0
        scale = size / min(oldh, oldw)
        newh, neww = (size, scale * oldw) if oldh < oldw else (scale * oldh, size)
        if max(newh, neww) > max_size:
            scale = max_size * 1.0 / max(newh, neww)
            newh, neww = newh * scale, neww * scale
        return int(newh + 0.5), int(neww + 0.5)


class RandomCrop(Augmentation):
    """Crop a random region of a random size."""

    crop_type: str
    crop_size: tuple[float, float]

    def __init__(self, crop_type: str, crop_size: tuple[float, float]) -> None:
        """
        Args:
            crop_type: meaning of `crop_size` for an image of height H and width W:
                "relative": (a, b) gives a·H × b·W;
                "relative_range": the same, with fractions drawn from [a, 1] and [b, 1];
                "absolute": (a, b) gives at most a × b pixels;
                "absolute_range": height drawn from [a, min(H, b)] pixels, width from [a, min(W, b)].
        """
        if crop_type not in ("relative_range", "relative", "absolute", "absolute_range"):
            raise AssertionError(f"Unknown crop_type {crop_type!r}.")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        crop_height, crop_width = self.get_crop_size((height, width))
        top = np.random.randint(height - crop_height + 1)
        left = np.random.randint(width - crop_width + 1)
        return CropTransform(left, top, crop_width, crop_height)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of a crop, in pixels."""
        if self.crop_type == "absolute":
            return int(min(self.crop_size[0], image_size[0])), int(min(self.crop_size[1], image_size[1]))
        if self.crop_type == "absolute_range":
            low, high = self.crop_size
            if low > high:
                raise AssertionError(f"crop_size={self.crop_size}: the first must not be larger than the second.")
            height, width = (np.random.randint(int(min(s, low)), int(min(s, high)) + 1) for s in image_size)
            return height, width
        fractions = np.asarray(self.crop_size)
        if self.crop_type == "relative_range":
            least = np.asarray(self.crop_size, dtype=np.float32)
            fractions = least + np.random.rand(2) * (1 - least)
        height, width = (int(side * fraction + 0.5) for side, fraction in zip(image_size, fractions, strict=True))
        return height, width


class RandomRotation(Augmentation):
    """Rotate counterclockwise by a random angle around a random centre; see `RotationTransform`."""

    angle: list[float] | tuple[float, ...]
    expand: bool
    center: tuple | list | None
    interp: int | None

    def __init__(
        self,
        angle: float | list[float] | tuple[float, ...],
        expand: bool = True,
        center: tuple | list | None = None,
        sample_style: str = "range",
        interp: int | None = None,
    ) -> None:
        """
        Args:
            angle: in degrees; smallest and largest angle for "range", all angles for "choice".
            expand, interp: see `RotationTransform`.
            center: smallest and largest (x, y) for "range", all of them for "choice", as fractions of the image's
                width and height. By default the middle of the image.
            sample_style: "range" or "choice".
        """
        self.is_range = _is_range(sample_style)
        if isinstance(angle, float | int):
            angle = (angle, angle)
        if center is not None and isinstance(center[0], float | int):
            center = (center, center)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        angle = np.random.uniform(*self.angle[:2]) if self.is_range else np.random.choice(self.angle)
        center = self._draw_center()
        if angle % 360 == 0:
            return NoOpTransform()
        if center is not None:
            center = (width * center[0], height * center[1])
        return RotationTransform(height, width, angle, expand=self.expand, center=center, interp=self.interp)

    def _draw_center(self) -> tuple[float, float] | None:
        if self.center is None:
            return None
        if not self.is_range:
            return self.center[np.random.randint(len(self.center))]
        low, high = self.center[:2]
        return np.random.uniform(low[0], high[0]), np.random.uniform(low[1], high[1])


class RandomContrast(Augmentation):
    """Multiply the distance of each value from the image's mean by a random intensity; 1 changes nothing."""

    intensity_min: float
    intensity_max: float

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return _blend(image.mean(), self.intensity_min, self.intensity_max)


class RandomBrightness(Augmentation):
    """Multiply all values by a random intensity; 1 changes nothing."""

    intensity_min: float
    intensity_max: float

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return _blend(0, self.intensity_min, self.intensity_max)


class RandomSaturation(Augmentation):
    """Multiply the distance of each RGB pixel from its grey value by a random intensity; 1 changes nothing."""

    intensity_min: float
    intensity_max: float

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        if image.shape[-1] != 3:
            raise AssertionError(f"RandomSaturation takes RGB images, not images of shape {image.shape}.")
        grey = image.dot([0.299, 0.587, 0.114])[:, :, np.newaxis]
        return _blend(grey, self.intensity_min, self.intensity_max)


def _blend(source: float | np.ndarray, low: float, high: float) -> Transform:
    weight = np.random.uniform(low, high)
    return BlendTransform(src_image=source, src_weight=1 - weight, dst_weight=weight)


def _is_range(sample_style: str) -> bool:
    if sample_style not in _SAMPLE_STYLES:
        raise AssertionError(f"sample_style must be one of {_SAMPLE_STYLES}, not {sample_style!r}.")
    return sample_style == "range"
