# SPDX-License-Identifier: Apache-2.0
"""DetrDatasetMapper and the augmentations of DETR."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.data.augmentation import RandomChoice, detr_augmentation, resize_augmentation
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.detectron2.data import DatasetMapper
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.structures import BoxMode
from dino_d2.errors import UserError

SMALL = detr_augmentation(
    short_edge_lengths=(96, 112, 128), max_size=200, crop_short_edge_lengths=(80, 100, 120), crop_size=(60, 90)
)


def _dataset_dict(folder: Path, size=(90, 70), boxes=((20, 10, 30, 25),), **annotation) -> dict:
    """A black image (width, height) with white boxes (COCO xywh), and its dataset dict."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for x, y, w, h in boxes:
        pixels[y : y + h, x : x + w] = 255
    Image.fromarray(pixels).save(folder / "image.png")
    annotations = [
        {"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": k, "iscrowd": 0, **annotation}
        for k, box in enumerate(boxes)
    ]
    return {
        "file_name": str(folder / "image.png"),
        "image_id": 7,
        "width": size[0],
        "height": size[1],
        "annotations": annotations,
    }


def _find_white(image: torch.Tensor) -> np.ndarray:
    """xyxy around the bright pixels of [3, H, W]."""
    bright = image[0].numpy() > 127
    ys, xs = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    return np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1])


def test_boxes_follow_the_image(tmp_path):
    mapper = DetrDatasetMapper(SMALL)
    dataset_dict = _dataset_dict(tmp_path)
    flips = crops = empty = 0
    for seed in range(120):
        np.random.seed(seed)  # noqa: NPY002
        mapped = mapper(dataset_dict)
        boxes = mapped["instances"].gt_boxes.tensor.numpy()
        height, width = mapped["image"].shape[1:]
        assert mapped["instances"].image_size == (height, width)
        if len(boxes) == 0 or (boxes[:, 2:] - boxes[:, :2]).min() < 3:
            empty += 1
            continue
        np.testing.assert_allclose(boxes[0], _find_white(mapped["image"]), atol=1.5)
        assert (boxes >= 0).all()
        assert (boxes <= (width, height, width, height)).all()
        flips += boxes[0, 0] + boxes[0, 2] > width
        crops += abs(width / height - 90 / 70) > 0.05
    assert flips > 20
    assert crops > 30
    assert empty < 10


def test_same_as_detectron2s_mapper(tmp_path):
    """With the same augmentations and seed: the same pixels, boxes and classes.

    Boxes in a json may be integers; Detectron2 then rounds them down after each transform, we do not.
    """
    dataset_dict = _dataset_dict(tmp_path, boxes=((20, 10, 30, 25), (60, 40, 20, 20), (0, 0, 12, 70)))
    for annotation in dataset_dict["annotations"]:
        annotation["bbox"] = [float(value) for value in annotation["bbox"]]
    ours = DetrDatasetMapper(SMALL)
    theirs = DatasetMapper(is_train=True, augmentations=SMALL, image_format="RGB")
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        a = ours(dataset_dict)
        np.random.seed(seed)  # noqa: NPY002
        b = theirs(dataset_dict)
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
        assert torch.equal(a["instances"].gt_classes, b["instances"].gt_classes)


def test_what_comes_out(tmp_path):
    dataset_dict = _dataset_dict(tmp_path)
    before = repr(dataset_dict)
    mapped = DetrDatasetMapper(resize_augmentation(short_edge_length=140, max_size=300))(dataset_dict)
    assert repr(dataset_dict) == before
    assert mapped["image"].dtype == torch.uint8
    assert mapped["image"].shape == (3, 140, 180)
    assert (mapped["height"], mapped["width"], mapped["image_id"]) == (70, 90, 7)
    assert "annotations" not in mapped
    np.testing.assert_allclose(mapped["instances"].gt_boxes.tensor, [[40, 20, 100, 70]], rtol=1e-6)
    assert mapped["instances"].gt_classes.dtype == torch.int64


def test_image_format(tmp_path):
    Image.new("RGB", (4, 3), (255, 0, 0)).save(tmp_path / "red.png")
    dataset_dict = {"file_name": str(tmp_path / "red.png"), "image_id": 1}
    assert DetrDatasetMapper([])(dataset_dict)["image"][:, 0, 0].tolist() == [255, 0, 0]
    assert DetrDatasetMapper([], image_format="BGR")(dataset_dict)["image"][:, 0, 0].tolist() == [0, 0, 255]
    assert "instances" not in DetrDatasetMapper([])(dataset_dict)


def test_crowds_and_empty_images(tmp_path):
    crowd = DetrDatasetMapper(SMALL)(_dataset_dict(tmp_path, iscrowd=1))
    empty = DetrDatasetMapper(SMALL)(_dataset_dict(tmp_path, boxes=()))
    for mapped in (crowd, empty):
        assert len(mapped["instances"]) == 0
        assert mapped["instances"].gt_boxes.tensor.shape == (0, 4)
        assert mapped["instances"].gt_classes.shape == (0,)


def test_boxes_that_the_crop_cuts_off_are_dropped_with_their_class(tmp_path):
    dataset_dict = _dataset_dict(tmp_path, boxes=((0, 0, 20, 20), (50, 30, 30, 30), (40, 10, 10, 10)))
    mapped = DetrDatasetMapper([T.CropTransform(50, 20, 40, 50)])(dataset_dict)
    np.testing.assert_allclose(mapped["instances"].gt_boxes.tensor, [[0, 10, 30, 40]])
    assert mapped["instances"].gt_classes.tolist() == [1]


def test_detr_sizes():
    """The sizes of DETR's augmentation on a COCO-sized image, and how often it crops."""
    augmentation = T.AugmentationList(detr_augmentation())
    np.random.seed(0)  # noqa: NPY002
    short, cropped, crop_sides, before_crop = set(), 0, [], set()
    for _ in range(400):
        aug_input = T.AugInput(np.zeros((480, 640, 3), dtype=np.uint8))
        transforms = augmentation(aug_input)
        height, width = aug_input.image.shape[:2]
        assert max(height, width) <= 1333
        if max(height, width) < 1333:
            short.add(min(height, width))
        steps = list(_flat(transforms))
        crops = [t for t in steps if isinstance(t, T.CropTransform)]
        before_crop |= {min(a.new_h, a.new_w) for a, b in pairwise(steps) if isinstance(b, T.CropTransform)}
        cropped += len(crops)
        crop_sides += [side for crop in crops for side in (crop.w, crop.h)]
    assert short == set(range(480, 801, 32))
    assert 160 < cropped < 240
    assert before_crop == {400, 500, 600}
    assert 384 <= min(crop_sides) < 390
    assert 590 < max(crop_sides) <= 600


def _flat(transforms):
    for transform in transforms.transforms:
        yield from _flat(transform) if isinstance(transform, T.TransformList) else [transform]


def test_random_choice_draws_from_the_seeded_generator():
    choice = RandomChoice([[T.NoOpTransform()], [T.HFlipTransform(4)]])
    image = np.arange(4, dtype=np.uint8)[None]

    def draw():
        np.random.seed(3)  # noqa: NPY002
        inputs = [T.AugInput(image) for _ in range(20)]
        for aug_input in inputs:
            choice(aug_input)
        return [int(aug_input.image[0, 0]) for aug_input in inputs]

    assert draw() == draw()
    assert set(draw()) == {0, 3}


def test_unreadable_images_are_named(tmp_path):
    dataset_dict = _dataset_dict(tmp_path)
    mapper = DetrDatasetMapper([])
    path = Path(dataset_dict["file_name"])
    whole = path.read_bytes()

    for content in (whole[: len(whole) // 2], b"not an image", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"image\.png \(image id 7\) cannot be read"):
            mapper(dataset_dict)
    path.unlink()
    with pytest.raises(ValueError, match=r"image\.png \(image id 7\) does not exist"):
        mapper(dataset_dict)


def test_wrong_size_is_named(tmp_path):
    dataset_dict = {**_dataset_dict(tmp_path), "width": 70, "height": 90}
    with pytest.raises(ValueError, match=r"image\.png \(image id 7\) is 90 x 70 .* say 70 x 90"):
        DetrDatasetMapper([])(dataset_dict)


@pytest.mark.parametrize("image_format", ["rgb", "BRG", "L", None])
def test_an_unknown_colour_order_is_refused(image_format):
    with pytest.raises(UserError, match=r'must be "RGB" or "BGR"'):
        DetrDatasetMapper([], image_format)
