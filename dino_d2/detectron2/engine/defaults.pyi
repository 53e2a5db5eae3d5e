from dino_d2.detectron2.embedded.engine.defaults import *
