from dino_d2.detectron2.embedded.evaluation.evaluator import *
