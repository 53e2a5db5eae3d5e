from dino_d2.detectron2.embedded.not_served import *
