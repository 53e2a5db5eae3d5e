# SPDX-License-Identifier: Apache-2.0
"""Axis-aligned boxes, as in `detectron2.structures.boxes`."""

from collections.abc import Iterator
from enum import IntEnum, unique
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..not_served import NeedsDetectron2


@unique
class BoxMode(IntEnum):
    """Format of the four numbers of a box, in absolute pixels."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    # Detectron2 assigns the other numbers to formats that dino_d2 does not use.
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: Any, from_mode: "BoxMode", to_mode: "BoxMode") -> Any:
        """Convert a list, tuple, array or tensor `[4]`, or an array or tensor `[..., 4]`, keeping its type."""
        if from_mode == to_mode:
            return box
        if {from_mode, to_mode} & {BoxMode.XYXY_REL, BoxMode.XYWH_REL}:
            raise AssertionError("Boxes in relative coordinates cannot be converted.")
        if {from_mode, to_mode} != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            raise NeedsDetectron2(f"converting boxes from {from_mode!r} to {to_mode!r}")
        single = isinstance(box, list | tuple)
        if single and len(box) != 4:
            raise ValueError(f"A box has 4 numbers, not {len(box)}: {box}.")
        values = box.clone() if isinstance(box, Tensor) else torch.tensor(np.asarray(box) if not single else box)
        sign = 1 if to_mode == BoxMode.XYXY_ABS else -1
        values[..., 2:] += sign * values[..., :2]
        if single:
            return type(box)(values.tolist())
        return values.numpy() if isinstance(box, np.ndarray) else values


class Boxes:
    """A list of n boxes: `tensor` is float32 `[n, 4]`, each row (x1, y1, x2, y2) in pixels."""

    def __init__(self, tensor: Any) -> None:
        if isinstance(tensor, Tensor):
            tensor = tensor.to(torch.float32)
        else:
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device="cpu")
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.shape[1] != 4:
            raise AssertionError(f"Boxes need shape [n, 4], not {list(tensor.shape)}.")
        self.tensor = tensor

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> "Boxes":
        return Boxes(self.tensor.to(device=device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def area(self) -> Tensor:
        """Areas in square pixels, `[n]`."""
        x1, y1, x2, y2 = self.tensor.unbind(dim=1)
        return (x2 - x1) * (y2 - y1)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip all corners to an image of `box_size` (height, width), in place."""
        if not torch.isfinite(self.tensor).all():
            raise AssertionError("A box has a coordinate that is infinite or NaN.")
        height, width = box_size
        x = self.tensor[:, 0::2].clamp(min=0, max=width)
        y = self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack((x, y), dim=2).flatten(1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Boxes that are wider and higher than `threshold`, bool `[n]`."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """Boxes that exceed an image of `box_size` (height, width) by at most `boundary_threshold` pixels, bool `[n]`.

        At the right and lower border they must exceed it by less than the threshold.
        """
        height, width = box_size
        above = (self.tensor[:, :2] >= -boundary_threshold).all(dim=1)
        return above & (self.tensor[:, 2:] < self.tensor.new_tensor([width, height]) + boundary_threshold).all(dim=1)

    def get_centers(self) -> Tensor:
        """Centres (x, y), `[n, 2]`."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates by factors, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    def __getitem__(self, item: Any) -> "Boxes":
        selected = self.tensor[item]
        if isinstance(item, int):
            selected = selected.view(1, -1)
        if selected.dim() != 2:
            raise AssertionError(f"Indexing Boxes with {item} does not give a list of boxes.")
        return Boxes(selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    @classmethod
    def cat(cls, boxes_list: "list[Boxes]") -> "Boxes":
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]) if boxes_list else torch.empty(0))


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over union of all pairs, `[n1, n2]`; 0 for a pair that does not overlap."""
    top_left = torch.max(boxes1.tensor[:, None, :2], boxes2.tensor[:, :2])
    bottom_right = torch.min(boxes1.tensor[:, None, 2:], boxes2.tensor[:, 2:])
    intersection = (bottom_right - top_left).clamp_(min=0).prod(dim=2)
    union = boxes1.area()[:, None] + boxes2.area() - intersection
    return torch.where(intersection > 0, intersection / union, torch.zeros_like(intersection))
