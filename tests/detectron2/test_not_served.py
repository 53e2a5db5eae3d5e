# SPDX-License-Identifier: Apache-2.0
"""What Detectron2's data, structures, evaluation and visualizer can do and the embedded engine cannot says so."""

import sys

import numpy as np
import pytest
import torch

from dino_d2.detectron2.embedded.config import get_cfg
from dino_d2.detectron2.embedded.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    detection_utils,
    get_detection_dataset_dicts,
)
from dino_d2.detectron2.embedded.data import transforms as T
from dino_d2.detectron2.embedded.data.datasets.coco import convert_to_coco_dict
from dino_d2.detectron2.embedded.evaluation import COCOEvaluator
from dino_d2.detectron2.embedded.evaluation.coco_evaluation import instances_to_coco_json
from dino_d2.detectron2.embedded.not_served import NeedsDetectron2
from dino_d2.detectron2.embedded.structures import Boxes, BoxMode, Instances
from dino_d2.detectron2.embedded.utils.visualizer import Visualizer
from dino_d2.errors import UserError

BOX = {"bbox": [0, 0, 1, 1], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
IMAGE = np.zeros((8, 8, 3), dtype=np.uint8)


def with_field(field: str) -> Instances:
    return Instances((8, 8), pred_boxes=Boxes([[0, 0, 1, 1]]), **{field: [1]})


def mapper(**options) -> DatasetMapper:
    return DatasetMapper(True, augmentations=[], image_format="RGB", **options)


def convert_rotated() -> None:
    from dino_d2.detectron2.embedded.data import DatasetCatalog

    image = {"file_name": "a", "height": 8, "width": 8, "annotations": [BOX | {"bbox": [1, 2, 3, 4, 5]}]}
    DatasetCatalog.register("rotated", lambda: [image])
    MetadataCatalog.get("rotated").thing_classes = ["a"]
    try:
        convert_to_coco_dict("rotated")
    finally:
        DatasetCatalog.remove("rotated")
        MetadataCatalog.remove("rotated")


CALLS = {
    "use_instance_mask": lambda: mapper(use_instance_mask=True),
    "use_keypoint": lambda: mapper(use_keypoint=True),
    "precomputed_proposal_topk": lambda: mapper(precomputed_proposal_topk=3),
    "use_instance_mask and recompute_boxes": lambda: mapper(use_instance_mask=True, recompute_boxes=True),
    "DatasetMapper with a yacs config": lambda: DatasetMapper(get_cfg(), is_train=True, augmentations=[]),
    "build_detection_train_loader with a yacs": lambda: build_detection_train_loader(get_cfg(), mapper=None),
    "build_detection_test_loader with a yacs": lambda: build_detection_test_loader(get_cfg(), "coco_2017_val"),
    "min_keypoints": lambda: get_detection_dataset_dicts("coco_2017_val", True, 1),
    "proposal_files": lambda: get_detection_dataset_dicts("coco_2017_val", proposal_files=["a.pkl"]),
    "'segmentation'": lambda: detection_utils.transform_instance_annotations(
        BOX | {"segmentation": [[1, 2, 3, 4, 5, 6]]}, T.TransformList([]), (8, 8)
    ),
    "'keypoints'": lambda: detection_utils.annotations_to_instances([BOX | {"keypoints": [1, 2, 2]}], (8, 8)),
    "converting boxes": lambda: BoxMode.convert([1, 2, 3, 4, 5], BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS),
    "a bbox of 5 numbers": convert_rotated,
    "evaluation of segm": lambda: COCOEvaluator("coco_2017_val", tasks=("bbox", "segm")),
    "evaluation of keypoints": lambda: COCOEvaluator("coco_2017_val", kpt_oks_sigmas=[0.1]),
    "evaluation of pred_masks": lambda: instances_to_coco_json(with_field("pred_masks"), 1),
    "drawing pred_keypoints": lambda: Visualizer(IMAGE).draw_instance_predictions(with_field("pred_keypoints")),
    "drawing keypoints": lambda: Visualizer(IMAGE).overlay_instances(keypoints=torch.zeros(1, 2, 3)),
    "drawing rotated boxes": lambda: Visualizer(IMAGE).overlay_instances(boxes=np.zeros((1, 5))),
    "drawing sem_seg_file_name": lambda: Visualizer(IMAGE).draw_dataset_dict({"sem_seg_file_name": "a.png"}),
}


@pytest.mark.parametrize("words", CALLS)
def test_a_call_that_is_not_served_says_so(words):
    with pytest.raises(NeedsDetectron2) as refused:
        CALLS[words]()
    assert words in str(refused.value)
    assert "needs Detectron2 itself" in str(refused.value)
    assert "docs/detectron2.md" in str(refused.value)
    assert isinstance(refused.value, UserError)


def test_a_method_that_is_not_served_says_so():
    visualizer = Visualizer(IMAGE)
    assert not hasattr(visualizer, "draw_panoptic_seg")
    with pytest.raises(
        AttributeError, match=r"'detectron2.utils.visualizer.Visualizer.draw_panoptic_seg'. This needs Detectron2"
    ):
        visualizer.draw_panoptic_seg()


def test_rotation_without_opencv_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    rotation = T.RandomRotation([10, 20])
    with pytest.raises(UserError, match="pip install opencv-python-headless"):
        rotation(T.AugInput(IMAGE))
