# SPDX-License-Identifier: Apache-2.0
"""A trained model on images, folders, videos and webcams: detections as objects, pictures and files."""

from .default_predictor import predictor_cfg
from .predictor import Predictor

__all__ = ["Predictor", "predictor_cfg"]
