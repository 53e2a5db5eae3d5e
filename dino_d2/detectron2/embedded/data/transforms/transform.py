# SPDX-License-Identifier: Apache-2.0
"""Resizing, as in `detectron2.data.transforms.transform`; the other transforms are fvcore's."""

import numpy as np
from fvcore.transforms.transform import Transform
from PIL import Image


class ResizeTransform(Transform):
    """Resize a uint8 image `[H, W]` or `[H, W, C]` with Pillow, which smooths when it makes smaller."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """
        Args:
            h, w, new_h, new_w: the sizes before and after, in pixels.
            interp: Pillow's interpolation method, by default bilinear.
        """
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.Resampling.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if img.shape[:2] != (self.h, self.w) or img.dtype != np.uint8:
            raise AssertionError(f"{img.dtype} image of size {img.shape[:2]}, expected uint8 of {(self.h, self.w)}.")
        one_channel = img.ndim == 3 and img.shape[2] == 1
        image = Image.fromarray(img[:, :, 0] if one_channel else img)
        resized = np.asarray(image.resize((self.new_w, self.new_h), self.interp if interp is None else interp))
        return resized[:, :, None] if one_channel else resized

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self) -> "ResizeTransform":
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
