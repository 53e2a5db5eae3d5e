"""The same, evaluated with the objects of known classes given ("AP(Cond)"): --eval-only, weights of the other."""

from dino_d2.data.known import KnownObjectsMapper

from .coco_known_objects_50_50 import dataloader, lr_multiplier, model, optimizer, train

dataloader.test.mapper.update(_target_=KnownObjectsMapper, known="${model.known}")
