# SPDX-License-Identifier: Apache-2.0
"""The embedded engine: an implementation of the parts of Detectron2 that dino_d2 uses.

Modules, names, arguments, loggers, file formats and the use of random numbers are those of Detectron2, whose
documentation (https://detectron2.readthedocs.io) is the reference for every public name. Like Detectron2, it is built
on fvcore, iopath, omegaconf, hydra-core, pycocotools and tensorboard. Modules of this package import each other
relatively, not through the door.
"""
