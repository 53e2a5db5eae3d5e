# SPDX-License-Identifier: Apache-2.0
"""The names of ``dino_d2.predict`` under their former path, for scripts that import them from here."""

from dino_d2.predict import Predictor, predictor_cfg

__all__ = ["Predictor", "predictor_cfg"]
