"""The path manager through which every file is opened, as in `detectron2.utils.file_io`."""

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

__all__ = ["PathHandler", "PathManager"]

PathManager = _PathManager()
PathManager.register_handler(HTTPURLHandler())
