from dino_d2.detectron2.embedded.data.transforms.augmentation_impl import *
