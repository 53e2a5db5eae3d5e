from dino_d2.detectron2.embedded.evaluation.testing import *
