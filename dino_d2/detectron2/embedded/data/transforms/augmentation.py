# SPDX-License-Identifier: Apache-2.0
"""Random policies that choose transforms, as in `detectron2.data.transforms.augmentation`."""

import inspect
import pprint
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class AugInput:
    """Input of augmentations, which they change in place.

    Attributes:
        image: `[H, W]` or `[H, W, C]`, uint8 or floating point.
        boxes: float32 `[n, 4]`, (x1, y1, x2, y2) in pixels, or None.
        sem_seg: a class for each pixel, uint8 `[H, W]`, or None.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            raise AssertionError(
                "An augmentation takes an image as an array [H, W] or [H, W, C], not "
                + (f"of shape {list(image.shape)}." if isinstance(image, np.ndarray) else f"{type(image).__name__}.")
            )
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply a transform to all attributes, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: "list[Transform | Augmentation]") -> TransformList:
        """Apply augmentations one after the other, in place, and return the transforms."""
        return AugmentationList(augmentations)(self)


class Augmentation:
    """A random policy: `get_transform` draws a transform for an input; calling the policy also applies it.

    The parameters of `get_transform` are names of attributes of the `AugInput`; a single parameter is always the image.

    Attributes:
        input_args: these names; determined on the first call unless a subclass sets them.
    """

    input_args: tuple[str, ...] | None = None

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Store the constructor's arguments (its `locals()`) as attributes."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args: Any) -> Transform:
        raise NotImplementedError

    def __call__(self, aug_input: AugInput) -> Transform:
        """Transform the input in place and return the transform."""
        if self.input_args is None:
            self.input_args = self._parameters()
        tfm = self.get_transform(*(self._attribute(aug_input, name) for name in self.input_args))
        if not isinstance(tfm, Transform | TransformList):
            raise AssertionError(f"{type(self)}.get_transform must return a Transform, not a {type(tfm)}.")
        aug_input.transform(tfm)
        return tfm

    def _parameters(self) -> tuple[str, ...]:
        parameters = inspect.signature(self.get_transform).parameters
        if len(parameters) == 1:
            return ("image",)
        if any(
            parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters.values()
        ):
            raise TypeError(
                f"{type(self)}.get_transform takes *args or **kwargs, so its inputs have no names: write a __call__."
            )
        return tuple(parameters)

    def _attribute(self, aug_input: AugInput, name: str) -> Any:
        try:
            return getattr(aug_input, name)
        except AttributeError as error:
            raise AttributeError(
                f"{type(self)}.get_transform takes {name!r}, which {type(aug_input)} does not have."
            ) from error

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: Any = ()) -> Any:
        low, high = (0, low) if high is None else (low, high)
        return np.random.uniform(low, high, () if size is None else size)  # noqa: NPY002 as in augmentation_impl

    def __repr__(self) -> str:
        """The constructor call, without arguments that have their default values."""
        arguments = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if is_variadic or not hasattr(self, name):
                return super().__repr__()
            value = getattr(self, name)
            if value is not parameter.default:
                text = pprint.pformat(value)
                arguments.append(f"{name}={'...' if chr(10) in text else text}")
        return f"{type(self).__name__}({', '.join(arguments)})"


class _TransformToAug(Augmentation):
    """A policy that always draws the same transform."""

    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self, *args: Any) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


def _transform_to_aug(aug: Transform | Augmentation) -> Augmentation:
    """An augmentation unchanged; a transform as an augmentation that always returns it."""
    if not isinstance(aug, Transform | Augmentation):
        raise AssertionError(f"{aug!r} is neither a Transform nor an Augmentation.")
    return aug if isinstance(aug, Augmentation) else _TransformToAug(aug)


def apply_augmentations(augmentations: list[Transform | Augmentation], inputs: AugInput | np.ndarray) -> tuple:
    """Apply augmentations one after the other.

    Returns:
        (inputs, transforms) for an `AugInput`; (image, transforms) for an image.
    """
    aug_input = AugInput(inputs) if isinstance(inputs, np.ndarray) else inputs
    transforms = aug_input.apply_augmentations(augmentations)
    return (aug_input.image if isinstance(inputs, np.ndarray) else aug_input), transforms


class AugmentationList(Augmentation):
    """Augmentations one after the other, each applied to the result of the previous one."""

    def __init__(self, augs: list[Transform | Augmentation]) -> None:
        self.augs = [_transform_to_aug(aug) for aug in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"
