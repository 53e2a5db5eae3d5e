# SPDX-License-Identifier: Apache-2.0
"""The embedded engine: Detectron2's names and behaviour for the parts that dino_d2 calls.

Module layout, names, arguments, log messages' places, file formats and random-number use follow Detectron2
(https://detectron2.readthedocs.io), whose documentation is the reference for every public name here.
It stands on fvcore, iopath, omegaconf, hydra-core, pycocotools and tensorboard, as Detectron2 does.
Inside this package modules import each other relatively, never through the door.
"""
