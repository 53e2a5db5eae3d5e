# SPDX-License-Identifier: Apache-2.0
"""Builds parts of a config; values that a part does not accept are reported with the config's key."""

import contextlib
import os
import traceback
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dino_d2.detectron2.config import instantiate
from dino_d2.errors import UserError

#: Errors that constructors raise for values that they do not accept.
FAULTS = (
    AttributeError,
    ValueError,
    TypeError,
    AssertionError,
    RuntimeError,
    ArithmeticError,
    LookupError,
    OmegaConfBaseException,
)


def build(cfg: DictConfig, key: str) -> Any:
    """The object that the calls at a key of the config describe; None if there is nothing at that key.

    Raises:
        UserError: it cannot be built of these values. The cause is chained, with its traceback.
    """
    try:
        return instantiate(OmegaConf.select(cfg, key))
    except UserError:
        raise
    except FAULTS as error:
        raise UserError(f"{key}: cannot be built: {fault(error)}") from error


@contextlib.contextmanager
def values_of(key: str) -> Iterator[None]:
    """
    Raises:
        UserError: in place of the error of a constructor that does not accept the values of a section of the config.
    """
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: cannot be used: {fault(error)}") from error


def fault(error: BaseException) -> str:
    """Kind, first line and place of an error, such as "ValueError: Invalid epsilon value: -1 (adamw.py, line 53)"."""
    lines = str(error).splitlines() or ["no message"]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {lines[0][:300]}{where}"
