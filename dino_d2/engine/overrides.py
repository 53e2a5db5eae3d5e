# SPDX-License-Identifier: Apache-2.0
"""``path.to.key=value`` on the command line: looked at before it is set, since a misspelt key would change nothing."""

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dino_d2.detectron2.config import LazyConfig
from dino_d2.detectron2.utils.registry import locate
from dino_d2.errors import UserError


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Set values in ``cfg`` in place, as Detectron2's ``LazyConfig.apply_overrides`` does, and return it.

    A key must be there, or be an argument of the call that it belongs to; ``+key=value`` adds any other. Sections are
    merged, but for ``{}``, which empties one.

    Raises:
        UserError: no ``key=value``, an unknown key (with the nearest one), or a value of another type.
    """
    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except (HydraException, ValueError) as error:
            raise UserError(_not_understood(text, error)) from error
        if override.is_delete():
            raise UserError(f"{text}: a key cannot be taken out; set it to null instead")
        key, value = override.key_or_group, override.value()
        if not override.is_add():
            check_key(cfg, key)
            above, _, last = key.rpartition(".")
            node = OmegaConf.select(cfg, above) if above else cfg
            old = OmegaConf.select(cfg, key, throw_on_missing=False)
            if type(old) is int and takes_fractions(node, last):
                old = float(old)
            check_type(key, old, value)
        try:
            if value == {}:  # Detectron2 merges sections, so that an empty one would change nothing
                OmegaConf.update(cfg, key, value, merge=False)
                continue
            LazyConfig.apply_overrides(cfg, [text])
        except (KeyError, AssertionError, OmegaConfBaseException) as error:
            raise UserError(f"{text}: cannot be set: {error}") from error
    return cfg


def _not_understood(text: str, error: Exception) -> str:
    if text.startswith("-"):
        return f"{text} stands behind the first key=value; flags go before all of them"
    if "=" not in text:
        return f"{text!r} is no key=value. Changes to the config look like train.max_iter=1000"
    key, _, value = text.partition("=")
    return (
        f"{text!r}: the value cannot be read ({str(error).splitlines()[0]}). Put a value with spaces or special "
        f"characters in quotes, twice because of the shell: '{key}=\"{value}\"'"
    )


def check_key(cfg: DictConfig, key: str) -> None:
    """
    Raises:
        UserError: the config has no such key; the nearest one is named.
    """
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        above = ".".join(parts[:depth])
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(f"{key}: {above} is a list of {len(node)}; its entries are {above}.0, {above}.1, ...")
            node = node[int(part)]
        elif isinstance(node, DictConfig):
            if part not in node:
                takes = arguments(node)
                if takes is None or part in takes:
                    return  # an argument that the recipe leaves at its default
                raise UserError(f"{key}: the config has no such key. {_nearest(cfg, node, above, key)}")
            node = OmegaConf.select(cfg, ".".join(parts[: depth + 1]), throw_on_missing=False)
        elif node is not None:
            raise UserError(f"{key}: {above} is {node!r}, which has no keys of its own. Set {above}=... itself")


def check_type(key: str, old: Any, new: Any) -> None:
    """
    Raises:
        UserError: a value that is no number for a number, and so on. What was None or a call takes anything.
    """
    if old is None or new is None or (isinstance(new, str) and "${" in new):
        return
    for types, words, fits in _TYPES:
        if isinstance(old, types):
            if not fits(old, new):
                raise UserError(f"{key}={new!r}: must be {words}; the recipe has {_short(old)}")
            return


def takes_fractions(call: Any, name: str) -> bool:
    """Whether a call says that an argument is no whole number; a recipe may have written 5 for 5.0."""
    if not isinstance(call, DictConfig) or "_target_" not in call:
        return False
    parameter = _parameters(call, "").get(name)
    return parameter is not None and parameter.annotation not in (parameter.empty, int, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


#: (type, what it is called, whether a new value fits the old one); bool comes before int, which it is one of.
_TYPES = (
    (bool, "True or False", lambda old, new: isinstance(new, bool)),
    (int, "a whole number", lambda old, new: _is_number(new) and float(new).is_integer()),
    (float, "a number", lambda old, new: _is_number(new)),
    (str, "text", lambda old, new: not isinstance(new, list)),
    (ListConfig, "a list, [a,b]", lambda old, new: isinstance(new, list)),
    (DictConfig, "a section, {a: 1}", lambda old, new: "_target_" in old or isinstance(new, dict)),
)


def check_calls(cfg: Any, path: str = "") -> None:
    """Every call in the config names something that is there, and only arguments that it takes.

    Raises:
        UserError: where, what, and the nearest name.
    """
    if isinstance(cfg, ListConfig):
        for index in range(len(cfg)):
            check_calls(cfg._get_node(index), f"{path}.{index}")
    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing() or cfg._is_interpolation():
        return
    if "_target_" in cfg:
        takes = arguments(cfg, path)
        for name in cfg if takes is not None else ():
            if name != "_target_" and name not in takes:
                near = difflib.get_close_matches(str(name), takes, n=1)
                raise UserError(
                    f"{path}.{name}: {_name(cfg._target_)} takes no such argument. "
                    + (f"Did you mean {path}.{near[0]}?" if near else f"It takes {', '.join(takes)}.")
                )
    for name in cfg:
        check_calls(cfg._get_node(name), f"{path}.{name}" if path else str(name))


def arguments(call: DictConfig, path: str = "") -> list[str] | None:
    """Names of the arguments that a call takes; None for any, and none at all where ``call`` is a plain section.

    Raises:
        UserError: what it calls is not there.
    """
    if "_target_" not in call:
        return []
    parameters = _parameters(call, path)
    if not parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _parameters(call: DictConfig, path: str) -> Mapping[str, inspect.Parameter]:
    """Of what ``call`` calls; none where Python does not know them, as of some built-ins."""
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


def _nearest(cfg: DictConfig, node: DictConfig, above: str, key: str) -> str:
    last = key.split(".")[-1]
    below = [f"{above}.{name}".lstrip(".") for name in dict.fromkeys([*node, *(arguments(node) or [])])]
    everywhere = list(_keys(cfg))
    near = (
        difflib.get_close_matches(key, below, n=1, cutoff=0.8)
        or [other for other in everywhere if other.split(".")[-1] == last][:3]
        or difflib.get_close_matches(key, below, n=1)
        or difflib.get_close_matches(key, everywhere, n=1)
    )
    found = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(_plain(node))}."
    return f"{found} To add a key that is not there, write +{key}=..."


def _keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """All dotted keys, calls left out."""
    for name in _plain(cfg):
        yield prefix + name
        child = cfg._get_node(name)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing() or child._is_interpolation()):
            yield from _keys(child, f"{prefix}{name}.")


def _plain(cfg: DictConfig) -> Iterable[str]:
    return [str(name) for name in cfg if name != "_target_"]


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
