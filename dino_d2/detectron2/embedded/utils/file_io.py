# SPDX-License-Identifier: Apache-2.0
"""The path manager that opens all files, as in `detectron2.utils.file_io`."""

from typing import Any, NoReturn

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

from ..._refusal import needs_detectron2

__all__ = ["PathManager"]

PathManager = _PathManager()


class _ModelZooHandler(PathHandler):
    """Refuses files of Detectron2's model zoo, which fit only Detectron2's models."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["detectron2://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> NoReturn:
        raise FileNotFoundError(needs_detectron2(f"{path}, a file of Detectron2's model zoo"))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> NoReturn:
        self._get_local_path(path)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return False

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return False


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(_ModelZooHandler())
