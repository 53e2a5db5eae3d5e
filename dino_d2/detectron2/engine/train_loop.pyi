from dino_d2.detectron2.embedded.engine.train_loop import *
