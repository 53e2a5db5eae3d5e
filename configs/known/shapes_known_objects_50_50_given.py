"""The same, evaluated with the objects of known classes given: "AP(Cond)"."""

from .shapes_known_objects_50_50 import train
from .shapes_known_objects_70_30_given import dataloader, lr_multiplier, model, optimizer

model.known.classes.share = 0.5
