"""A batch of images of different sizes, as in `detectron2.structures.image_list`."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class ImageList:
    """Images padded at the right and the bottom to one size.

    Attributes:
        tensor: `[B, ..., H, W]`.
        image_sizes: each image's own (height, width).
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """The image `idx` without its padding."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(tensors: list[Tensor], size_divisibility: int = 0, pad_value: float = 0.0) -> "ImageList":
        """Pad images `[..., h, w]` to the largest height and width among them.

        Args:
            tensors: at least one image; all have the same leading dimensions.
            size_divisibility: if above 1, the common height and width are rounded up to a multiple of it.
            pad_value: the value of the padding.
        """
        image_sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = (max(sizes) for sizes in zip(*image_sizes, strict=True))
        if size_divisibility > 1:
            height, width = (-(-size // size_divisibility) * size_divisibility for size in (height, width))
        padded = [F.pad(im, (0, width - im.shape[-1], 0, height - im.shape[-2]), value=pad_value) for im in tensors]
        return ImageList(torch.stack(padded), image_sizes)
