from dino_d2.detectron2.embedded.utils.env import *
