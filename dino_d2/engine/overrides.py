# SPDX-License-Identifier: Apache-2.0
"""``path.to.key=value`` on the command line, checked before it is set: a misspelt key would have no effect."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dino_d2.detectron2.config import LazyConfig
from dino_d2.errors import UserError

from .kinds import TEXT, Kind, UnfitError, kind_of_value
from .other_words import FLAGS, keys_meant_by
from .values import expected_of_argument, parameters, refusal


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Set values in ``cfg`` in place, as Detectron2's ``LazyConfig.apply_overrides`` does, and return it.

    A key must exist in the config or be an argument of the call that it belongs to; ``+key=value`` adds other keys.
    Sections are merged, except that ``key={}`` empties a section.

    Raises:
        UserError: the text is not ``key=value``, the key is unknown (the message names the nearest one), or the value
            has the wrong type.
    """
    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except (HydraException, ValueError) as error:
            raise UserError(_not_understood(text, error)) from error
        if override.is_delete():
            raise UserError(f"{text}: keys cannot be deleted; set this one to null instead")
        if override.is_sweep_override() or override.package is not None:
            raise UserError(_not_understood(text, "it reads as a choice between several values"))
        key = override.key_or_group
        value = parsed = override.value()
        if not override.is_add():
            check_key(cfg, key)
            value = convert(cfg, key, parsed, text.partition("=")[2])
        try:
            if value == {}:  # Detectron2 merges sections, so that an empty one would change nothing
                OmegaConf.update(cfg, key, value, merge=False)
                continue
            LazyConfig.apply_overrides(cfg, [text])
            if value is not parsed:
                OmegaConf.update(cfg, key, value)
        except (KeyError, AssertionError, OmegaConfBaseException) as error:
            raise UserError(f"{text} could not be applied: {str(error).splitlines()[0]}") from error
    return cfg


def _not_understood(text: str, error: Exception | str) -> str:
    if text.startswith("-"):
        return f"{text} comes after a key=value argument; put all flags before the first key=value"
    if "=" not in text:
        return f"{text!r} is not of the form key=value. Overrides look like train.max_iter=1000"
    key, _, value = text.partition("=")
    return (
        f"{text!r}: the value cannot be parsed ({str(error).splitlines()[0]}). Put a value with spaces or special "
        f"characters in two pairs of quotes, since the shell removes one pair: '{key}=\"{value}\"'"
    )


def check_key(cfg: DictConfig, key: str) -> None:
    """Check that a key exists, or is an argument of the call that it belongs to.

    Raises:
        UserError: it does not exist; the message names the nearest key.
    """
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        above = ".".join(parts[:depth])
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f"{key}: {above} is a list of {len(node)} entries, which are named {above}.0, {above}.1, ..."
                )
            node = node[int(part)]
        elif isinstance(node, DictConfig):
            if part not in node:
                takes = arguments(node)
                if takes is None or part in takes:
                    return  # an argument that the recipe leaves at its default
                suggestion = _in_our_words(cfg, key) or _nearest(cfg, node, above, key)
                raise UserError(f"{key}: the config has no such key. {suggestion} To add a new key, write +{key}=...")
            node = OmegaConf.select(cfg, ".".join(parts[: depth + 1]), throw_on_missing=False)
        elif node is not None:
            raise UserError(f"{key}: {above} is {node!r}, a value without keys. Set {above}=... instead")


def convert(cfg: DictConfig, key: str, value: Any, text: str) -> Any:
    """Convert a value to the type of the argument's annotation or of the recipe's own value.

    Args:
        key: config key; an argument that the recipe leaves at its default need not be in the config.
        value: the value as hydra parses it.
        text: the part of the override after "=". Where text is expected, a number becomes this text, so that
            ``train.output_dir=007`` is the folder 007.

    Raises:
        UserError: the value has the wrong type, such as a fraction for an integer.
    """
    old = OmegaConf.select(cfg, key, throw_on_missing=False)
    try:
        return convert_like(key, old, value, text, expected_of_key(cfg, key))
    except UserError as error:
        question = _in_our_words(cfg, key)
        if not question:
            raise
        raise UserError(f"{error}. {question}") from error


def convert_like(key: str, old: Any, value: Any, text: str, annotated: Kind | None = None) -> Any:
    """Convert a value to the type of the annotation or of the old value; any value may replace None or a call.

    Raises:
        UserError: the value has the wrong type.
    """
    kinds = [kind for kind in (annotated, kind_of_value(old)) if kind is not None]
    is_call = isinstance(value, dict) and isinstance(old, DictConfig | None)
    if value is None or not kinds or is_call or (isinstance(value, str) and "${" in value):
        return value
    for kind in kinds:
        with contextlib.suppress(UnfitError):
            return kind.convert(value)
    if TEXT in kinds and isinstance(value, int | float):
        return text
    raise UserError(f"{refusal(key, value, kinds[0].words)}; the value in the recipe is {_short(old)}")


def expected_of_key(cfg: DictConfig, key: str) -> Kind | None:
    """The annotated type of an argument, or of the entries of a list argument; None if there is no annotation."""
    above, _, last = key.rpartition(".")
    holder = OmegaConf.select(cfg, above) if above else cfg
    if not isinstance(holder, ListConfig):
        expected = expected_of_argument(holder, last)
        return expected and expected.kind
    above, _, last = above.rpartition(".")
    expected = expected_of_argument(OmegaConf.select(cfg, above) if above else cfg, last)
    return expected and expected.item


def check_calls(cfg: Any, path: str = "") -> None:
    """Check that every call in the config names an existing function or class and only arguments that it takes.

    Raises:
        UserError: the message has the key, the fault and the nearest name.
    """
    if isinstance(cfg, ListConfig):
        for index in range(len(cfg)):
            check_calls(cfg._get_node(index), f"{path}.{index}")
    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing() or cfg._is_interpolation():
        return
    if "_target_" in cfg:
        takes = arguments(cfg, path)
        unknown = [] if takes is None else [str(name) for name in cfg if name != "_target_" and name not in takes]
        if takes is not None and unknown:
            near = difflib.get_close_matches(unknown[0], takes, n=1)
            raise UserError(
                f"{path}.{unknown[0]}: {_name(cfg._target_)} takes no such argument. "
                + (f"Did you mean {path}.{near[0]}?" if near else f"Its arguments are {', '.join(takes)}.")
            )
    for name in cfg:
        key = str(name)
        check_calls(cfg._get_node(name), f"{path}.{key}" if path else key)


def arguments(call: DictConfig, path: str = "") -> list[str] | None:
    """Names of a call's arguments; None if it takes any argument, an empty list if ``call`` is a plain section.

    Raises:
        UserError: the called function or class does not exist.
    """
    if "_target_" not in call:
        return []
    takes = parameters(call, path)
    if not takes or any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return None
    return [p.name for p in takes.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _nearest(cfg: DictConfig, node: DictConfig, above: str, key: str) -> str:
    key = key.lower()  # Detectron2's yacs configs have upper case: SOLVER.MAX_ITER
    last = key.split(".")[-1]
    below = [f"{above}.{name}".lstrip(".") for name in dict.fromkeys([*node, *(arguments(node) or [])])]
    everywhere = list(_keys(cfg))
    near = (
        difflib.get_close_matches(key, below, n=1, cutoff=0.8)
        or [other for other in everywhere if other.split(".")[-1] == last][:3]
        or difflib.get_close_matches(key, below, n=1)
        or difflib.get_close_matches(key, everywhere, n=1)
    )
    return f"Did you mean {' or '.join(near)}?" if near else f"Its keys are {', '.join(_plain(node))}."


def _in_our_words(cfg: DictConfig, key: str) -> str:
    """A suggestion of the key that corresponds to a key of another program; empty if this config has none."""
    meant = next((other for other in keys_meant_by(key) if other != key and _has(cfg, other)), None)
    if meant:
        return f"Did you mean {meant}?"
    flags = keys_meant_by(key, FLAGS)
    return f"Did you mean the flag {flags[0]}, before all key=value?" if flags else ""


def _has(cfg: DictConfig, key: str) -> bool:
    try:
        check_key(cfg, key)
    except UserError:
        return False
    return True


def _keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """All dotted keys except ``_target_``."""
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
