# SPDX-License-Identifier: Apache-2.0
"""DN-DETR Table 3, "AP(Cond)": evaluated with the objects of known classes given.

For --eval-only with weights of the recipe of the same name without _given.
"""

from dino_d2.data.known import KnownObjectsMapper

from .coco_known_objects_70_30 import dataloader, lr_multiplier, model, optimizer, train

dataloader.test.mapper.update(_target_=KnownObjectsMapper, known="${model.known}")
