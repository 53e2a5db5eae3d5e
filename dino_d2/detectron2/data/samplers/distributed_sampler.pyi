from dino_d2.detectron2.embedded.data.samplers.distributed_sampler import *
