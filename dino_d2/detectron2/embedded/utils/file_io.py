# SPDX-License-Identifier: Apache-2.0
"""The path manager through which every file is opened, as in `detectron2.utils.file_io`."""

from iopath.common.file_io import HTTPURLHandler
from iopath.common.file_io import PathManager as _PathManager

__all__ = ["PathManager"]

PathManager = _PathManager()
PathManager.register_handler(HTTPURLHandler())
