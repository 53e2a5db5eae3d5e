# SPDX-License-Identifier: Apache-2.0
"""The error for what Detectron2 has and the embedded engine has not."""

import functools
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode

from dino_d2.errors import UserError

from .._refusal import needs_detectron2


class NeedsDetectron2(UserError, NotImplementedError):
    """A call asks for something that Detectron2 alone can do."""

    def __init__(self, what: str) -> None:
        """
        Args:
            what: the missing part, such as "evaluation of masks".
        """
        super().__init__(needs_detectron2(what))


def refuse_yacs_config(function: Callable) -> Callable:
    """Let a function say so if it is called with a yacs config, `function(cfg, ...)`, as Detectron2's can be."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(argument, CfgNode) for argument in (*args, kwargs.get("cfg"))):
            raise NeedsDetectron2(f"{function.__qualname__.removesuffix('.__init__')} with a yacs config")
        return function(*args, **kwargs)

    return checked
