# SPDX-License-Identifier: Apache-2.0
"""The error for parts of Detectron2 that the embedded engine lacks."""

import functools
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode

from dino_d2.errors import UserError

from .._refusal import needs_detectron2


class NeedsDetectron2(UserError, NotImplementedError):
    """A call needs a part of Detectron2 that the embedded engine lacks."""

    def __init__(self, what: str) -> None:
        """
        Args:
            what: the missing part, such as "evaluation of masks".
        """
        super().__init__(needs_detectron2(what))


def refuse_yacs_config(function: Callable) -> Callable:
    """Make a function raise :class:`NeedsDetectron2` for a yacs config, which Detectron2's function accepts."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(argument, CfgNode) for argument in (*args, kwargs.get("cfg"))):
            raise NeedsDetectron2(f"{function.__qualname__.removesuffix('.__init__')} with a yacs config")
        return function(*args, **kwargs)

    return checked
