# SPDX-License-Identifier: Apache-2.0
"""Image size and length of a training from scratch, from the images, their boxes and the device."""

import pytest
import torch

from dino_d2.data.sizing import budget_of, suited_epochs, suited_image_size
from dino_d2.detectron2.data import DatasetCatalog
from dino_d2.detectron2.structures import BoxMode


@pytest.fixture
def register():
    """Registers images of one size with objects of one size; returns the name."""
    names = []

    def do(images: int = 10, shorter: int = 1000, side: float = 100, crowd: bool = False) -> str:
        box = {"bbox": [0, 0, side, side], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": int(crowd)}
        dicts = [
            {"file_name": f"{i}.png", "image_id": i, "width": 2 * shorter, "height": shorter, "annotations": [box]}
            for i in range(images)
        ]
        names.append(f"sizing_{len(names)}")
        DatasetCatalog.register(names[-1], lambda: dicts)
        return names[-1]

    yield do
    for name in names:
        DatasetCatalog.remove(name)


def test_small_objects_get_twenty_pixels(register):
    assert suited_image_size(register(shorter=1000, side=80), "cpu") == 256  # 250, in steps of 16
    assert suited_image_size(register(shorter=1000, side=500), "cpu") == 192
    assert suited_image_size(register(shorter=1000, side=10), "cpu") == 320


def test_images_are_hardly_enlarged(register):
    assert suited_image_size(register(shorter=240, side=10), "cpu") == 240
    assert suited_image_size(register(shorter=64, side=10), "cpu") == 192


def test_crowds_and_boxes_without_area_do_not_decide(register):
    assert suited_image_size(register(side=1, crowd=True), "cpu") == 192
    assert suited_image_size(register(side=0), "cpu") == 320


def test_few_images_are_seen_more_often(register):
    images = budget_of("cpu").images
    assert suited_epochs(register(images=100), "cpu") == images / 100
    assert suited_epochs(register(images=100), "cpu", parts=5) == images / 500
    assert suited_epochs(register(images=2), "cpu") == 300
    assert suited_epochs(register(images=2000), "cpu") == 12


@pytest.mark.parametrize(("memory", "largest"), [(4, 288), (8, 400), (24, 640)])
def test_a_gpu_has_a_larger_budget(memory, largest, register, monkeypatch):
    properties = type("Properties", (), {"total_memory": memory * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert suited_image_size(register(shorter=2000, side=10), "cuda:0") == largest
    assert suited_epochs(register(images=1000), "cuda:0") > suited_epochs(register(images=1000), "cpu")
    assert suited_image_size(register(shorter=2000, side=2000), "cuda:0") == min(320, largest)
