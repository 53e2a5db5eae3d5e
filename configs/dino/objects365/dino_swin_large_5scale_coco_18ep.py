# SPDX-License-Identifier: Apache-2.0
"""The Objects365 model fine-tuned on COCO for 18 epochs at 1.5 times the size: 63.1 AP on val2017 (Table 3).

16 GPUs, one image each (appendix D.2). The class heads go over by name first:

    python -m dino_d2.checkpoint.transfer output/dino_swin_large_5scale_26ep/model_final.pth o365_to_coco.pth
    python train_net.py --config-file ... --num-gpus 16 train.init_checkpoint=o365_to_coco.pth
"""

from ...common.data.coco import dataloader
from ...common.optim import optimizer
from ...common.schedule import drop_at
from ...common.train import train
from .dino_swin_large_5scale_26ep import model

model.detector.num_classes = 80

# Shorter side 720 to 1200, longer side at most 2000; the crop grows with them (appendix D.3, "Training augmentation").
dataloader.train.mapper.augmentations.update(
    short_edge_lengths=[720, 768, 816, 864, 912, 960, 1008, 1056, 1104, 1152, 1200],
    max_size=2000,
    crop_short_edge_lengths=[600, 750, 900],
    crop_size=[576, 900],
)
dataloader.test.mapper.augmentations.update(short_edge_length=1200, max_size=2000)

lr_multiplier = drop_at(16, 18)  # the paper gives the number of epochs alone

train.amp.enabled = True
train.max_iter = 135000  # 18 epochs of 7500 iterations of 16 images
