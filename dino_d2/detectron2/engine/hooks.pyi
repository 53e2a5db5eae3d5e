from dino_d2.detectron2.embedded.engine.hooks import *
