# SPDX-License-Identifier: Apache-2.0
"""Converts the values of a config to the types that the program expects, or refuses them.

The rules are the same for recipe files, config.yaml files and overrides. The expected type follows from `SETTINGS`,
from the annotation of the argument that a value is passed to, and from `BOUNDS` on arguments of that name.
"""

import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dino_d2.detectron2.utils.registry import locate
from dino_d2.errors import UserError

from .kinds import NUMBER, SWITCH, TEXT, WHOLE, Expected, UnfitError, expected_of_annotation
from .ranges import BOUNDS, PATHS, SETTINGS, Setting


def parameters(call: DictConfig, path: str = "") -> Mapping[str, inspect.Parameter]:
    """The parameters of the called function or class; empty if Python does not know them, as for some built-ins.

    Raises:
        UserError: nothing of that name exists.
    """
    target = call._target_
    if isinstance(target, str):
        try:
            target = locate(target)
        except ImportError as error:
            raise UserError(f"{path}: there is nothing of the name {target!r} ({error}). Is it spelt right?") from error
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}


def expected_of_argument(call: Any, name: str) -> Expected | None:
    """The expected type of an argument of a call; None if it is not known or ``call`` is a plain section."""
    if not isinstance(call, DictConfig) or "_target_" not in call:
        return None
    parameter = parameters(call).get(name)
    return None if parameter is None else expected_of_annotation(parameter.annotation)


def is_own(call: DictConfig) -> bool:
    """Whether a call is of this project, whose annotations are exact; those of other libraries are often too narrow."""
    target = call._target_
    module = target if isinstance(target, str) else getattr(target, "__module__", "")
    return module.startswith("dino_d2.") and not module.startswith("dino_d2.detectron2.")


def convert_values(cfg: DictConfig) -> None:
    """Convert the values of a config in place: 1e3 to 1000 where a whole number is expected, for example.

    Raises:
        UserError: a value has the wrong type or is out of range; the message names the key and the allowed values.
    """
    _check_interpolations(cfg, "")
    for key, setting in SETTINGS.items():  # first: arguments that refer to a setting must not be named in its place
        _convert_setting(cfg, key, setting)
    for path, call in calls(cfg):
        for name in map(str, call):
            if name != "_target_":
                _convert_argument(call, name, f"{path}.{name}" if path else name)


def calls(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """All calls of a config with their dotted keys."""
    if isinstance(node, ListConfig | DictConfig) and not (
        node._is_none() or node._is_missing() or node._is_interpolation()
    ):
        if isinstance(node, DictConfig) and "_target_" in node:
            yield path, node
        for name in range(len(node)) if isinstance(node, ListConfig) else list(node):
            key = str(name)
            yield from calls(node._get_node(name), f"{path}.{key}" if path else key)


def _check_interpolations(cfg: DictConfig | ListConfig, path: str) -> None:
    for name in range(len(cfg)) if isinstance(cfg, ListConfig) else list(cfg):
        node: Any = cfg._get_node(name)
        key = f"{path}.{name}" if path else str(name)
        if node._is_interpolation():
            try:
                cfg[name]
            except (OmegaConfBaseException, RecursionError) as error:
                raise UserError(f"{key}={node._value()}: cannot be resolved: {str(error).splitlines()[0]}") from error
        elif isinstance(node, ListConfig | DictConfig) and not node._is_none() and not node._is_missing():
            _check_interpolations(node, key)


def _convert_argument(call: DictConfig, name: str, path: str) -> None:
    node: Any = call._get_node(name)
    expected = expected_of_argument(call, name)
    own = is_own(call)
    if expected is None or node._is_missing():
        return
    if node._is_interpolation():
        node = node._maybe_dereference_node()
    if isinstance(node, DictConfig) and not node._is_none():
        if own and "_target_" not in node:
            raise UserError(refusal(path, node, expected.kind.words))
        return
    if isinstance(node, ListConfig) and not node._is_none():
        if expected.item is None:
            if own:
                raise UserError(f"{path}={_short(node)}: must be {expected.kind.words}")
            return
        for index in range(len(node)):
            entry = node._get_node(index)
            if isinstance(entry, AnyNode) and not entry._is_interpolation() and not entry._is_missing():
                _convert_node(node, index, f"{path}.{index}", Expected(expected.item), name if own else None, own)
        return
    _convert_node(call, name, path, expected, name if own else None, own)


def _convert_node(
    holder: Any, key: str | int, path: str, expected: Expected, bounded_as: str | None, strict: bool
) -> None:
    node = holder._get_node(key)
    value = holder[key]
    if value is None and (expected.optional or not strict):
        return
    try:
        converted = expected.kind.convert(value)
    except UnfitError as error:
        if strict:
            raise UserError(refusal(path, value, expected.kind.words)) from error
        return
    if bounded_as in BOUNDS:
        allowed, words = BOUNDS[bounded_as]
        if not allowed(converted):
            raise UserError(refusal(path, value, words))
    if type(converted) is not type(value) and not node._is_interpolation():
        holder[key] = converted


def refusal(key: str, value: Any, words: str) -> str:
    """The message for a value that is not allowed."""
    shown = "null" if value is None else _short(value) if OmegaConf.is_config(value) else repr(value)
    hint = ""
    if isinstance(value, str) and "number" in words and _reads_as_number(value):
        hint = ". It is text here: leave the quotes out; in a YAML file write a number with a point, 1.0e-4"
    elif words == TEXT.words:
        hint = f". Put it in quotes, on the command line twice because of the shell: '{key}=\"{shown}\"'"
    return f"{key}={shown}: must be {words}{hint}"


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _convert_setting(cfg: DictConfig, key: str, setting: Setting) -> None:
    section, _, name = key.rpartition(".")
    holder = OmegaConf.select(cfg, section, throw_on_missing=False)
    node: Any = holder._get_node(name) if isinstance(holder, DictConfig) else None
    if node is None:
        return
    if node._is_missing():
        raise UserError(f"{key} has no value: give one, {key}=...; it must be {setting.words}")
    value = holder[name]
    if isinstance(value, DictConfig):
        if "_target_" in value:
            return  # computed when the run starts
        raise UserError(refusal(key, value, setting.words))
    if value is None:
        if not setting.optional:
            raise UserError(refusal(key, None, setting.words))
        return
    try:
        converted = setting.kind.convert(value)
    except UnfitError as error:
        words = setting.kind.words if setting.kind in (WHOLE, NUMBER, SWITCH, TEXT) else setting.words
        raise UserError(refusal(key, value, words)) from error
    if not setting.allowed(converted):
        raise UserError(refusal(key, value, setting.words))
    if key in PATHS and converted.startswith("~"):  # a shell expands it at the beginning of a word alone
        holder[name] = os.path.expanduser(converted)
        return
    if type(converted) is not type(value) and not node._is_interpolation():
        holder[name] = converted
