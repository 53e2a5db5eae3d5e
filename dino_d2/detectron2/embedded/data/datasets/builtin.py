# SPDX-License-Identifier: Apache-2.0
"""COCO 2017 under Detectron2's names and folders, as in `detectron2.data.datasets.builtin`.

`$DETECTRON2_DATASETS` (by default `datasets`) holds `coco/{train,val,test}2017` and `coco/annotations`.
"""

import os

from .coco import register_coco_instances

COCO_CLASSES = (  # noqa: SIM905
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
    "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,"
    "tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
    "tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,"
    "hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,"
    "keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,"
    "hair drier,toothbrush"
).split(",")
_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = [i for i in range(1, 91) if i not in _UNUSED_IDS]


def register_all_coco(root: str) -> None:
    """Register `coco_2017_{train,val,test-dev}` with files under `root`."""
    metadata = {
        "thing_classes": COCO_CLASSES,
        "thing_dataset_id_to_contiguous_id": {coco_id: i for i, coco_id in enumerate(COCO_IDS)},
    }
    for name, annotations, images in (
        ("coco_2017_train", "instances_train2017.json", "train2017"),
        ("coco_2017_val", "instances_val2017.json", "val2017"),
        ("coco_2017_test-dev", "image_info_test-dev2017.json", "test2017"),
    ):
        json_file = os.path.join(root, "coco/annotations", annotations)
        register_coco_instances(name, metadata, json_file, os.path.join(root, "coco", images))


register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
