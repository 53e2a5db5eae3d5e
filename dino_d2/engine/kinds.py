# SPDX-License-Identifier: Apache-2.0
"""Types of config values, such as integers and text: conversion to each type, and the type that is expected."""

import collections.abc
import math
import numbers
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig


class UnfitError(ValueError):
    """A value does not have the expected type."""


class Kind(NamedTuple):
    """An expected type of a value."""

    words: str  # "must be {words}"
    convert: Callable[[Any], Any]  # to the value that is used; raises UnfitError


def _whole(value: Any) -> Any:
    if not isinstance(value, bool) and isinstance(value, numbers.Integral):
        return value
    if isinstance(value, float) and value.is_integer():  # 1e3
        return int(value)
    raise UnfitError


def _number(value: Any) -> Any:
    if not isinstance(value, bool) and isinstance(value, numbers.Real) and not math.isnan(value):
        return value
    raise UnfitError


def _is_a(*accepted: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, accepted):
            raise UnfitError
        return value

    return check


WHOLE = Kind("a whole number", _whole)
NUMBER = Kind("a number", _number)
SWITCH = Kind("True or False", _is_a(bool))
TEXT = Kind("text", _is_a(str))
LIST = Kind("a list, [a,b]", _is_a(list, tuple, ListConfig))
SECTION = Kind("a section, {a: 1}", _is_a(dict, DictConfig))

_SIMPLE = {bool: SWITCH, int: WHOLE, float: NUMBER, str: TEXT}
_SEQUENCES = (list, tuple, collections.abc.Sequence)


class Expected(NamedTuple):
    """The types that the annotation of an argument allows."""

    kind: Kind
    item: Kind | None = None  # of the entries of a list
    optional: bool = False  # whether None is allowed


def expected_of_annotation(annotation: Any) -> Expected | None:
    """What an annotation expects: int, float, bool, str, lists of them, or one of these and None; None if it is
    another, which is not checked."""
    optional = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = typing.get_args(annotation)
        others = [member for member in members if member is not types.NoneType]
        if len(others) != 1:
            return None
        (annotation,), optional = others, len(others) < len(members)
    if isinstance(annotation, type) and annotation in _SIMPLE:
        return Expected(_SIMPLE[annotation], None, optional)
    if typing.get_origin(annotation) not in _SEQUENCES:
        return None
    first, *others = (item for item in typing.get_args(annotation) if item is not ...)
    if not isinstance(first, type) or first not in _SIMPLE or any(other is not first for other in others):
        return None
    return Expected(LIST, _SIMPLE[first], optional)


def kind_of_value(value: Any) -> Kind | None:
    """The kind of a value that a recipe has; None if any value may take its place."""
    if isinstance(value, DictConfig):
        return None if "_target_" in value else SECTION
    if isinstance(value, ListConfig):
        return LIST
    return _SIMPLE.get(type(value))
