# SPDX-License-Identifier: Apache-2.0
"""Resizing and rotation, as in `detectron2.data.transforms.transform`; the other transforms are fvcore's."""

from types import ModuleType

import numpy as np
import torch
from fvcore.transforms.transform import CropTransform, Transform, TransformList
from PIL import Image

from dino_d2.errors import UserError

#: PyTorch's names of Pillow's interpolation methods, for images that are not uint8.
_TORCH_MODES: dict[int, str] = {
    Image.Resampling.NEAREST.value: "nearest",
    Image.Resampling.BILINEAR.value: "bilinear",
    Image.Resampling.BICUBIC.value: "bicubic",
}


class ResizeTransform(Transform):
    """Resize an image `[H, W]` or `[H, W, C]`.

    Images of uint8 are resized with Pillow, which antialiases, other images with PyTorch, which does not.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """
        Args:
            h, w, new_h, new_w: the sizes before and after, in pixels.
            interp: Pillow's interpolation method, by default bilinear.
        """
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.Resampling.BILINEAR.value if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if img.shape[:2] != (self.h, self.w) or img.ndim > 4:
            raise AssertionError(f"The image has shape {img.shape}, but must have height and width {(self.h, self.w)}.")
        interp = self.interp if interp is None else interp
        if img.dtype != np.uint8:
            return self._resize_with_torch(img, _TORCH_MODES[interp])
        one_channel = img.ndim == 3 and img.shape[2] == 1
        image = Image.fromarray(img[:, :, 0] if one_channel else img)
        resized = np.asarray(image.resize((self.new_w, self.new_h), interp))
        return resized[:, :, None] if one_channel else resized

    def _resize_with_torch(self, img: np.ndarray, mode: str) -> np.ndarray:
        others = img.shape[2:]
        four_axes = (self.h, self.w, *[1] * (2 - len(others)), *others)
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(four_axes).permute(2, 3, 0, 1)
        align_corners = None if mode == "nearest" else False
        size = (self.new_h, self.new_w)
        resized = torch.nn.functional.interpolate(planes, size, mode=mode, align_corners=align_corners)
        return resized.permute(2, 3, 0, 1).reshape(*size, *others).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST.value)

    def inverse(self) -> "ResizeTransform":
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class RotationTransform(Transform):
    """Rotate an image counterclockwise with OpenCV; pixels from outside the image are 0."""

    def __init__(
        self,
        h: int,
        w: int,
        angle: float,
        expand: bool = True,
        center: tuple[float, float] | None = None,
        interp: int | None = None,
    ) -> None:
        """
        Args:
            h, w: size of the image, in pixels.
            angle: in degrees.
            expand: enlarge the image until the rotated one fits into it; otherwise it keeps its size.
            center: fixed point (x, y) of the rotation, by default the middle; has no effect if `expand`.
            interp: OpenCV's interpolation method, by default linear.

        Raises:
            UserError: OpenCV is not installed.
        """
        super().__init__()
        cv2 = _opencv()
        self.h, self.w, self.angle, self.expand = h, w, angle, expand
        self.image_center = np.array((w / 2, h / 2))
        self.center = self.image_center if center is None else center
        self.interp = cv2.INTER_LINEAR if interp is None else interp
        self.bound_w, self.bound_h = w, h
        if expand:
            cos, sin = abs(np.cos(np.deg2rad(angle))), abs(np.sin(np.deg2rad(angle)))
            self.bound_w, self.bound_h = np.rint([h * sin + w * cos, h * cos + w * sin]).astype(int)
        self.rm_coords = self.create_rotation_matrix()
        # The origin is the centre of the first pixel for OpenCV, and its corner for coordinates.
        self.rm_image = self.create_rotation_matrix(offset=-0.5)

    def create_rotation_matrix(self, offset: float = 0) -> np.ndarray:
        """The affine matrix `[2, 3]` for coordinates that are shifted by `offset`."""
        cv2 = _opencv()
        matrix = cv2.getRotationMatrix2D((self.center[0] + offset, self.center[1] + offset), self.angle, 1)
        if self.expand:
            rotated = cv2.transform(self.image_center[None, None, :] + offset, matrix)[0, 0, :]
            matrix[:, 2] += np.array([self.bound_w / 2, self.bound_h / 2]) + offset - rotated
        return matrix

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if len(img) == 0 or self.angle % 360 == 0:
            return img
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(f"The image has shape {img.shape}, but must have height and width {(self.h, self.w)}.")
        flags = self.interp if interp is None else interp
        return _opencv().warpAffine(img, self.rm_image, (self.bound_w, self.bound_h), flags=flags)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords = np.asarray(coords, dtype=float)
        if len(coords) == 0 or self.angle % 360 == 0:
            return coords
        return _opencv().transform(coords[:, np.newaxis, :], self.rm_coords)[:, 0, :]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=_opencv().INTER_NEAREST)

    def inverse(self) -> TransformList:
        """Rotate back and crop to the original size.

        Raises:
            NotImplementedError: the rotation cropped corners of the image.
        """
        if not self.expand:
            raise NotImplementedError("A rotation with expand=False crops corners of the image and has no inverse.")
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        x, y = (back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2
        return TransformList([back, CropTransform(x, y, self.w, self.h)])


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise UserError("Rotation needs OpenCV: pip install opencv-python-headless") from error
    return cv2
