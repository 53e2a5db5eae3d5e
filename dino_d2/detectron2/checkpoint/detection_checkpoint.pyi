from dino_d2.detectron2.embedded.checkpoint.detection_checkpoint import *
