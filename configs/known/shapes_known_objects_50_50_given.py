# SPDX-License-Identifier: Apache-2.0
"""DN-DETR Table 3, "AP(Cond)": evaluated with the objects of known classes given.

For --eval-only with weights of the recipe of the same name without _given.
"""

from .shapes_known_objects_50_50 import train
from .shapes_known_objects_70_30_given import dataloader, lr_multiplier, model, optimizer

model.known.classes.share = 0.5
