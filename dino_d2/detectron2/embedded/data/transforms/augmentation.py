# SPDX-License-Identifier: Apache-2.0
"""Random policies that choose transforms, as in `detectron2.data.transforms.augmentation`."""

import inspect
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class AugInput:
    """What an augmentation looks at and changes.

    Attributes:
        image: `[H, W]` or `[H, W, C]`, uint8.
        boxes: float32 `[n, 4]`, (x1, y1, x2, y2) in pixels, or None.
    """

    def __init__(self, image: np.ndarray, *, boxes: np.ndarray | None = None) -> None:
        self.image = image
        self.boxes = boxes

    def transform(self, tfm: Transform) -> None:
        """Apply a transform to everything in here, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)


class Augmentation:
    """A policy: `get_transform` looks at the input and draws a transform, calling it also applies that.

    The parameters of `get_transform` name the attributes of the `AugInput` that it wants; a single
    parameter always means the image.
    """

    def _init(self, params: dict[str, Any]) -> None:
        """Keep the constructor's arguments (its `locals()`) as attributes."""
        for name, value in params.items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args: Any) -> Transform:
        raise NotImplementedError

    def __call__(self, aug_input: AugInput) -> Transform:
        """Transform the input in place and return the transform."""
        wanted = list(inspect.signature(self.get_transform).parameters)
        wanted = ["image"] if len(wanted) == 1 else wanted
        tfm = self.get_transform(*(getattr(aug_input, name) for name in wanted))
        aug_input.transform(tfm)
        return tfm

    def _rand_range(self, low: float = 1.0, high: float | None = None) -> float:
        low, high = (0, low) if high is None else (low, high)
        return np.random.uniform(low, high)  # noqa: NPY002 each worker seeds the global generator

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


class _TransformToAug(Augmentation):
    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self, image: np.ndarray) -> Transform:
        return self.tfm


class AugmentationList(Augmentation):
    """Augmentations one after the other, each seeing what the ones before it made."""

    def __init__(self, augs: list[Transform | Augmentation]) -> None:
        self.augs = [aug if isinstance(aug, Augmentation) else _TransformToAug(aug) for aug in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])
