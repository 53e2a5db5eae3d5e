"""Random policies that choose transforms, as in `detectron2.data.transforms.augmentation`."""

import inspect
import pprint
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = ["AugInput", "Augmentation", "AugmentationList"]


class AugInput:
    """What an augmentation looks at and changes: an image and, optionally, boxes and a label map.

    Attributes:
        image: `[H, W]` or `[H, W, C]`, uint8 or floating point.
        boxes: float32 `[n, 4]`, (x1, y1, x2, y2) in pixels, or None.
        sem_seg: uint8 `[H, W]`, or None.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply a transform to everything in here, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)


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
        if not isinstance(tfm, Transform):
            raise AssertionError(f"{type(self).__name__}.get_transform gave no Transform but {tfm!r}.")
        aug_input.transform(tfm)
        return tfm

    def _rand_range(self, low: float = 1.0, high: float | None = None) -> float:
        low, high = (0, low) if high is None else (low, high)
        return np.random.uniform(low, high)  # noqa: NPY002 each worker seeds the global generator

    def __repr__(self) -> str:
        shown = []
        for name, parameter in inspect.signature(self.__init__).parameters.items():
            value = getattr(self, name, None)
            if value is not parameter.default:
                text = pprint.pformat(value)
                shown.append(f"{name}={'...' if chr(10) in text else text}")
        return f"{type(self).__name__}({', '.join(shown)})"


class _TransformToAug(Augmentation):
    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self, image: np.ndarray) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


def _transform_to_aug(tfm_or_aug: Transform | Augmentation) -> Augmentation:
    return tfm_or_aug if isinstance(tfm_or_aug, Augmentation) else _TransformToAug(tfm_or_aug)


class AugmentationList(Augmentation):
    """Augmentations one after the other, each seeing what the ones before it made."""

    def __init__(self, augs: list[Transform | Augmentation]) -> None:
        self.augs = [_transform_to_aug(aug) for aug in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"
