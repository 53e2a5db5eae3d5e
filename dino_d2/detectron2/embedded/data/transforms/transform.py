"""Resizing, as in `detectron2.data.transforms.transform`; the other transforms are fvcore's."""

import numpy as np
import torch
from fvcore.transforms.transform import Transform
from PIL import Image
from torch.nn import functional as F

__all__ = ["ResizeTransform"]

_TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}


class ResizeTransform(Transform):
    """Resize an image `[H, W]` or `[H, W, C]`: uint8 with Pillow, which smooths, other types with torch."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """
        Args:
            h, w, new_h, new_w: the sizes before and after, in pixels.
            interp: Pillow's interpolation method, by default bilinear.
        """
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(f"Image is {img.shape[:2]}, but the resizing is for {(self.h, self.w)}.")
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            one_channel = img.ndim == 3 and img.shape[2] == 1
            resized = Image.fromarray(img[:, :, 0] if one_channel else img).resize((self.new_w, self.new_h), interp)
            return np.asarray(resized)[:, :, None] if one_channel else np.asarray(resized)
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(self.h, self.w, -1).permute(2, 0, 1)
        mode = _TORCH_MODES[interp]
        align = None if mode == "nearest" else False
        planes = F.interpolate(planes[None], (self.new_h, self.new_w), mode=mode, align_corners=align)[0]
        return planes.permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> "ResizeTransform":
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
