from dino_d2.detectron2.embedded.structures.instances import *
