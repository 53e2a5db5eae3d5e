# SPDX-License-Identifier: Apache-2.0
"""DINO (DETR with Improved DeNoising Anchor Boxes) and the detectors it grew from, for Detectron2 users.

    from dino_d2 import Predictor, build_model, get_config

These names are imported on first use, so that ``import dino_d2`` alone stays quick.

Letters of shapes, the same in the whole package:

    B  images of a batch               S  tokens of all levels
    N  matching queries                D  embedding
    Q  denoising queries               C  classes
    T  decoder queries, Q + N          K  proposals or detections that are selected
    L  decoder layers                  M  ground-truth objects (of the fullest image, where padded)
    V  feature levels                  P  matched pairs
    R  sampling points                 G  denoising groups
    H  height of an image              W  width of an image

Small letters and words are sizes of one place: ``h`` and ``w`` of a feature map, ``n`` objects of one image,
``heads`` of an attention and ``d`` channels of a head.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dino_d2.model_zoo import build_model as build_model
    from dino_d2.model_zoo import get_config as get_config
    from dino_d2.predict import Predictor as Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "build_model", "get_config"]

_MODULES = {
    "Predictor": "dino_d2.predict",
    "build_model": "dino_d2.model_zoo",
    "get_config": "dino_d2.model_zoo",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
