# SPDX-License-Identifier: Apache-2.0
"""The keys of the yacs config that `DefaultPredictor` uses, as in `detectron2.config.config`."""

from typing import IO, Any, NoReturn

from fvcore.common.config import CfgNode as _CfgNode

from ..._refusal import needs_detectron2
from ..utils.file_io import PathManager


class CfgNode(_CfgNode):
    """fvcore's `CfgNode`, reading files through the path manager.

    Other keys of Detectron2's config raise an error that refers to Detectron2.
    """

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[Any]:
        return PathManager.open(filename, "r")

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(needs_detectron2(f"the config key '{name}'") if name.isupper() else name)

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merge a yaml file and its `_BASE_` files.

        Raises:
            KeyError: the file has a key that this config lacks.
        """
        super().merge_from_file(cfg_filename, allow_unsafe)

    def merge_from_other_cfg(self, cfg_other: _CfgNode) -> None:
        """Merge the values of another config.

        Raises:
            KeyError: it has a key that this config lacks.
        """
        try:
            super().merge_from_other_cfg(cfg_other)
        except KeyError as error:
            _explain(error)

    def merge_from_list(self, cfg_list: list) -> None:
        """Merge `[key, value, key, value, ...]`.

        Raises:
            AssertionError: a key is not in this config.
        """
        try:
            super().merge_from_list(cfg_list)
        except AssertionError as error:
            _explain(error)


def _explain(error: KeyError | AssertionError) -> NoReturn:
    """Turn yacs' error about an unknown key into one that refers to Detectron2."""
    what, _, key = str(error.args[0]).partition(" key: ")
    if not what.startswith("Non-existent"):
        raise error
    raise type(error)(needs_detectron2(f"the config key '{key}'")) from None


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
