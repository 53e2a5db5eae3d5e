# SPDX-License-Identifier: Apache-2.0
"""The yacs config, as far as `DefaultPredictor` needs it, as in `detectron2.config.config`."""

from typing import IO, Any

from fvcore.common.config import CfgNode as _CfgNode

from ..utils.file_io import PathManager


class CfgNode(_CfgNode):
    """fvcore's `CfgNode`, reading its files through the path manager."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[Any]:
        return PathManager.open(filename, "r")


def get_cfg() -> CfgNode:
    """A new config with Detectron2's keys and default values for building and running a predictor."""
    return CfgNode(
        {
            "VERSION": 2,
            "MODEL": {
                "DEVICE": "cuda",
                "META_ARCHITECTURE": "GeneralizedRCNN",
                "WEIGHTS": "",
                "PIXEL_MEAN": [103.530, 116.280, 123.675],
                "PIXEL_STD": [1.0, 1.0, 1.0],
            },
            "INPUT": {"MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333, "FORMAT": "BGR"},
            "DATASETS": {"TRAIN": (), "TEST": ()},
            "OUTPUT_DIR": "./output",
            "SEED": -1,
        }
    )
