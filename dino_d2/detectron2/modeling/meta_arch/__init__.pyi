from dino_d2.detectron2.embedded.modeling.meta_arch import *
