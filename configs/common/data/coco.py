# SPDX-License-Identifier: Apache-2.0
"""COCO 2017 with the training augmentation of DETR, which DINO uses too.

Images and annotations are expected where Detectron2 looks for them: `$DETECTRON2_DATASETS/coco/{train2017,val2017}`
and `.../coco/annotations/instances_{train,val}2017.json` (`./datasets/coco` if the variable is not set).
"""

from omegaconf import OmegaConf

from dino_d2.data.augmentation import detr_augmentation, resize_augmentation
from dino_d2.data.dataset_dicts import dataset_dicts
from dino_d2.data.evaluation_loader import build_evaluation_loader
from dino_d2.data.loader import build_train_loader
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.evaluation import PerClassCOCOEvaluator

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    # The authors train on all 118,287 images; Detectron2's default excludes the 1,021 images without objects.
    dataset=L(dataset_dicts)(names="coco_2017_train", filter_empty=False),
    mapper=L(DetrDatasetMapper)(
        # Shorter side 480 to 800 in steps of 32, longer side at most 1333, half of the images cropped:
        # the defaults of DETR, kept by DINO (appendix D.3).
        augmentations=L(detr_augmentation)(
            short_edge_lengths=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
            max_size=1333,
        ),
        image_format="RGB",  # timm's backbones were trained on RGB
    ),
    total_batch_size=16,  # over all GPUs (appendix D.3)
    aspect_ratio_grouping=True,  # batches of wide or of tall images need less padding; the authors do not group
    num_workers=4,
    seed="${oc.select:train.seed,null}",  # for order and augmentation; random without train.seed
)

dataloader.test = L(build_evaluation_loader)(
    dataset=L(dataset_dicts)(names="coco_2017_val", filter_empty=False),
    mapper=L(DetrDatasetMapper)(
        augmentations=L(resize_augmentation)(short_edge_length=800, max_size=1333),
        image_format="${...train.mapper.image_format}",
    ),
    num_workers=4,
)

dataloader.evaluator = L(PerClassCOCOEvaluator)(
    dataset_name="${dataloader.test.dataset.names}",  # absolute, because a recipe may move this evaluator into a list
    output_dir="${oc.select:train.output_dir,null}",  # detections, and a dataset converted to COCO format
    allow_cached_coco=False,  # a dataset may have changed since the last run in this folder
)
