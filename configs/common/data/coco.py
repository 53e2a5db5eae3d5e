"""COCO 2017 with the training augmentation of DETR, as DINO was trained and evaluated.

Images and annotations lie where Detectron2 looks for them: `$DETECTRON2_DATASETS/coco/{train2017,val2017}`
and `.../coco/annotations/instances_{train,val}2017.json` (`./datasets/coco` if the variable is not set).
"""

from omegaconf import OmegaConf

from dino_d2.data.augmentation import detr_augmentation, resize_augmentation
from dino_d2.data.loader import build_train_loader
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from dino_d2.detectron2.evaluation import COCOEvaluator

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    # The authors train on all 118,287 images; Detectron2's default leaves out the 1,021 without an object.
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_train", filter_empty=False),
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
    aspect_ratio_grouping=True,  # not in the authors' loader; wide with wide, tall with tall: less padding
    num_workers=4,
    seed="${oc.select:train.seed,null}",  # of the order and the augmentation; a random one if there is no train.seed
)

dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
    mapper=L(DetrDatasetMapper)(
        augmentations=L(resize_augmentation)(short_edge_length=800, max_size=1333),
        image_format="${...train.mapper.image_format}",
    ),
    num_workers=4,
)

dataloader.evaluator = L(COCOEvaluator)(
    dataset_name="${dataloader.test.dataset.names}",  # by its whole name: a recipe may put it into a list
)
