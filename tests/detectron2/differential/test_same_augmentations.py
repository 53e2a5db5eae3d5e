# SPDX-License-Identifier: Apache-2.0
"""Augmentations and transforms of both engines."""

import numpy as np
import pytest
from PIL import Image

from .engines import ENGINES, both, module, seed_all

AUGMENTATIONS = {
    "flip": lambda T: [T.RandomFlip(prob=0.5)],
    "flip down": lambda T: [T.RandomFlip(prob=0.7, horizontal=False, vertical=True)],
    "shortest edge of some": lambda T: [T.ResizeShortestEdge((30, 45, 70), max_size=90, sample_style="choice")],
    "shortest edge in a range": lambda T: [T.ResizeShortestEdge((30, 70), 75)],
    "crop": lambda T: [T.RandomCrop("absolute_range", (20, 50))],
    "crop of a size": lambda T: [T.RandomCrop("absolute", (35, 200))],
    "crop by share": lambda T: [T.RandomCrop("relative", (0.5, 0.7))],
    "crop by drawn share": lambda T: [T.RandomCrop("relative_range", (0.3, 0.6))],
    "resize": lambda T: [T.Resize((33, 61)), T.Resize(40)],
    "brightness": lambda T: [T.RandomBrightness(0.5, 1.8)],
    "contrast": lambda T: [T.RandomContrast(0.5, 1.8)],
    "saturation": lambda T: [T.RandomSaturation(0.2, 1.8)],
    "rotation": lambda T: [T.RandomRotation([-40, 70])],
    "rotation of some": lambda T: [T.RandomRotation([0, 90, 17], sample_style="choice")],
    "rotation around a centre": lambda T: [T.RandomRotation(20, expand=False, center=[[0.2, 0.3], [0.6, 0.7]])],
    "rotation around a point": lambda T: [T.RandomRotation([5, 9], expand=False, center=(0.4, 0.1), interp=0)],
    "apply": lambda T: [T.RandomApply(T.RandomFlip(prob=0.5), 0.6), T.RandomApply(T.HFlipTransform(50), 0.5)],
    "detr": lambda T: [
        T.RandomFlip(),
        T.ResizeShortestEdge((40, 60), sample_style="choice"),
        T.RandomCrop("absolute_range", (20, 50)),
        T.ResizeShortestEdge((30, 45, 70), max_size=90, sample_style="choice"),
        T.NoOpTransform(),
    ],
}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation(name, dtype):
    rng = np.random.default_rng(1)
    for seed in range(15):
        height, width = (int(x) for x in rng.integers(51, 120, 2))
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8).astype(dtype)
        sem_seg = rng.integers(0, 9, (height, width), dtype=np.uint8)
        boxes = rng.uniform(0, 50, (4, 4))
        results = []
        for T in both("data.transforms"):
            seed_all(seed)
            aug_input = T.AugInput(image.copy(), boxes=boxes.copy(), sem_seg=sem_seg.copy())
            transforms = T.AugmentationList(AUGMENTATIONS[name](T))(aug_input)
            boxes_again = transforms.apply_box(boxes.copy())
            results.append((aug_input.image, aug_input.sem_seg, aug_input.boxes, boxes_again, np.random.rand()))  # noqa: NPY002
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype if hasattr(a, "dtype") else type(a) is type(b)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_printed_the_same(name):
    real, embedded = (T.AugmentationList(AUGMENTATIONS[name](T)) for T in both("data.transforms"))
    if not any(" object at " in str(aug) or " at 0x" in str(aug) for aug in real.augs):  # with an address
        assert str(real) == str(embedded)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 2, 2)])
@pytest.mark.parametrize("interp", [None, Image.NEAREST, Image.BICUBIC])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_resizing_of_floats(shape, interp, dtype):
    image = np.random.default_rng(3).normal(size=shape).astype(dtype)[::-1]
    results = []
    for T in both("data.transforms"):
        transform = T.ResizeTransform(20, 30, 33, 17, interp)
        results.append((transform.apply_image(image), transform.inverse().apply_image(transform.apply_image(image))))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_rotation_and_back():
    image = np.random.default_rng(3).integers(0, 255, (40, 61, 3), dtype=np.uint8)
    results = []
    for T in both("data.transforms.transform"):
        rotation = T.RotationTransform(40, 61, 33)
        results.append((rotation.apply_image(image), rotation.inverse().apply_image(rotation.apply_image(image))))
        with pytest.raises(NotImplementedError):
            T.RotationTransform(40, 61, 33, expand=False).inverse()
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("engine", ENGINES)
def test_augmentations_of_a_user(engine):
    """Inputs by name, and what both engines refuse."""
    T = module(engine, "data.transforms")

    class OfBoth(T.Augmentation):
        def get_transform(self, image, sem_seg):
            return T.NoOpTransform() if sem_seg is None else T.HFlipTransform(image.shape[1])

    class OfNothing(T.Augmentation):
        def get_transform(self, *args, **kwargs):
            return T.NoOpTransform()

    class OfText(T.Augmentation):
        def get_transform(self, image, text):
            return T.NoOpTransform()

    class Wrong(T.Augmentation):
        input_args = ("image",)

        def get_transform(self, picture):
            return picture

    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    aug = OfBoth()
    inputs = T.AugInput(image, sem_seg=image)
    aug(inputs)
    assert aug.input_args == ("image", "sem_seg")
    assert (inputs.sem_seg == image[:, ::-1]).all()
    for bad, error in ((OfNothing(), TypeError), (OfText(), AttributeError), (Wrong(), AssertionError)):
        with pytest.raises(error):
            bad(T.AugInput(image))
    for image in ([[1]], np.zeros(3, dtype=np.uint8)):
        with pytest.raises(AssertionError):
            T.AugInput(image)
    flipped, transforms = T.apply_augmentations([T.HFlipTransform(4)], np.arange(4, dtype=np.uint8)[None])
    assert flipped.tolist() == [[3, 2, 1, 0]]
    assert len(transforms.transforms) == 1
    with pytest.raises(AssertionError):
        T.AugmentationList(["flip"])
