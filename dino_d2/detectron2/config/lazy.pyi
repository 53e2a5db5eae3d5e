from dino_d2.detectron2.embedded.config.lazy import *
