# SPDX-License-Identifier: Apache-2.0
"""Visualizer as scripts use it, under either engine. What it looks like is each engine's own."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from dino_d2.detectron2.data import MetadataCatalog
from dino_d2.detectron2.structures import Boxes, BoxMode, Instances
from dino_d2.detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

HEIGHT, WIDTH = 120, 160
SQUARE = (slice(30, 90), slice(40, 110))  # rows, columns of the object
BOX = [40, 30, 110, 90]
FAR = (slice(100, 120), slice(130, 160))


@pytest.fixture
def image() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), (60, 120, 180), dtype=np.uint8)


@pytest.fixture
def metadata():
    yield MetadataCatalog.get("drawn").set(thing_classes=["cat", "dog"], thing_colors=[(250, 0, 0), (0, 0, 250)])
    MetadataCatalog.remove("drawn")


def bitmap() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[SQUARE] = 1
    return mask


def polygon() -> list:
    x0, y0, x1, y1 = BOX
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def rle() -> dict:
    return mask_util.encode(np.asfortranarray(bitmap()))


def predictions(masks: bool = False) -> Instances:
    found = Instances((HEIGHT, WIDTH), pred_boxes=Boxes([BOX]), scores=torch.tensor([0.87]))
    found.pred_classes = torch.tensor([1])
    if masks:
        found.pred_masks = torch.from_numpy(bitmap())[None].bool()
    return found


def changed(picture: np.ndarray, image: np.ndarray) -> np.ndarray:
    return (picture != image).any(axis=2)


def test_predictions(image, metadata, tmp_path):
    output = Visualizer(image, metadata).draw_instance_predictions(predictions())
    picture = output.get_image()
    assert picture.dtype == np.uint8
    assert picture.shape == image.shape
    differs = changed(picture, image)
    assert differs[30, 40:110].mean() > 0.9, "the box's upper side"
    assert not differs[FAR].any()
    assert (image == (60, 120, 180)).all(), "the image must not change"
    output.save(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png").convert("RGB")), picture)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.37, 2.0])
def test_scale(image, scale):
    picture = Visualizer(image, scale=scale).draw_instance_predictions(predictions()).get_image()
    assert picture.shape == (int(HEIGHT * scale + 1e-2), int(WIDTH * scale + 1e-2), 3)


@pytest.mark.parametrize("mask", [bitmap, polygon, rle])
@pytest.mark.parametrize("boxes", [True, False])
def test_masks(image, mask, boxes):
    visualizer = Visualizer(image)
    options = {"boxes": np.array([BOX])} if boxes else {}
    output = visualizer.overlay_instances(masks=[mask()], assigned_colors=["red"], alpha=0.5, **options)
    picture = output.get_image()
    np.testing.assert_allclose(picture[60, 80], (157, 60, 90), atol=2)  # half of red, half of the image
    assert not changed(picture, image)[FAR].any()
    assert visualizer.get_output() is output


def test_several_calls_draw_on_one_picture(image):
    visualizer = Visualizer(image)
    visualizer.overlay_instances(boxes=[BOX])
    other = visualizer.overlay_instances(boxes=Boxes([[120, 95, 150, 115]]), labels=["a"]).get_image()
    assert changed(other, image)[30, 60]
    assert changed(other, image)[95, 135]


def test_nothing_to_draw(image):
    empty = Instances((HEIGHT, WIDTH), pred_boxes=Boxes([]), scores=torch.zeros(0), pred_classes=torch.zeros(0).long())
    for output in (
        Visualizer(image).draw_instance_predictions(empty),
        Visualizer(image).draw_dataset_dict({"file_name": "a.jpg"}),
        Visualizer(image).overlay_instances(),
        VisImage(image),
    ):
        np.testing.assert_array_equal(output.get_image(), image)


def test_black_and_white_outside_of_masks(image, metadata):
    visualizer = Visualizer(image, metadata, instance_mode=ColorMode.IMAGE_BW)
    picture = visualizer.draw_instance_predictions(predictions(masks=True)).get_image()
    assert len(set(picture[110, 150].tolist())) == 1
    assert len(set(picture[60, 80].tolist())) > 1


def test_colours_of_classes(image, metadata):
    visualizer = Visualizer(image, metadata, instance_mode=ColorMode.SEGMENTATION)
    picture = visualizer.draw_instance_predictions(predictions(masks=True), jittering=False).get_image()
    np.testing.assert_allclose(picture[80, 100], 0.2 * image[0, 0] + 0.8 * np.array([0, 0, 250]), atol=2)
    jittered = Visualizer(image, metadata, instance_mode=ColorMode.SEGMENTATION)
    picture = jittered.draw_instance_predictions(predictions(masks=True)).get_image()
    assert picture[80, 100].argmax() == 2


@pytest.mark.parametrize("segmentation", [None, polygon, rle])
def test_dataset_dict(image, metadata, segmentation):
    annotation = {"bbox": [40, 30, 70, 60], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1}
    if segmentation:
        annotation["segmentation"] = segmentation()
    picture = Visualizer(image, metadata).draw_dataset_dict({"annotations": [annotation]}).get_image()
    differs = changed(picture, image)
    assert differs[30, 50:110].mean() > 0.9
    assert differs[80, 100] == bool(segmentation)


def test_numbers_must_agree(image):
    with pytest.raises(AssertionError):
        Visualizer(image).overlay_instances(boxes=np.array([BOX]), labels=["a", "b"])
    with pytest.raises(AssertionError):
        Visualizer(image).overlay_instances(boxes=np.array([BOX]), masks=[bitmap(), bitmap()])
