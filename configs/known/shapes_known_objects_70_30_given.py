"""The same, evaluated with the objects of known classes given ("AP(Cond)"): --eval-only, weights of the other."""

from dino_d2.data.known import KnownObjectsMapper

from .shapes_known_objects_70_30 import dataloader, lr_multiplier, model, optimizer, train

dataloader.test.mapper.update(_target_=KnownObjectsMapper, known="${model.known}")
