# SPDX-License-Identifier: Apache-2.0
"""What a config.yaml, or an override, may call without the user's word for it.

A recipe is a program, and nobody runs a stranger's program unseen. A config.yaml looks like data, but it names what is
called when the model is built. So the file is looked at before anything is made of it: it may name the parts of which
detectors, data loaders and optimizers are built, and nothing else.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from dino_d2.detectron2.utils.file_io import PathManager
from dino_d2.detectron2.utils.registry import locate
from dino_d2.errors import UserError

#: The override that lets a config.yaml name anything. It counts on the command line alone, not in the file itself.
TRUST = "train.trust_config"

#: Packages whose public classes and functions may be called. Detectron2's stand for the embedded engine's too.
PACKAGES = (
    "dino_d2.data",
    "dino_d2.denoising",
    "dino_d2.engine.optim",
    "dino_d2.evaluation",
    "dino_d2.layers",
    "dino_d2.meta_arch",
    "dino_d2.modeling",
    "detectron2.data",
    "detectron2.evaluation",
    "detectron2.layers",
    "detectron2.modeling",
    "detectron2.solver",
    "fvcore.common.param_scheduler",
    "fvcore.nn",
    "timm.layers",
    "torch.nn",
    "torch.optim",
)
#: Short names of what lies in these packages.
ALIASES = ("dino_d2.engine.LearningRateFactors",)
#: Parts of these packages that write files where they are told to.
EXCLUDED = ("dino_d2.data.convert", "detectron2.data.datasets")

#: The values of a config.yaml; every other tag makes an object or calls a function.
TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge", "timestamp", "python/tuple")
)
#: Another value, or a plain default; the recipes have ``${oc.select:train.seed,null}``.
SELECT = re.compile(r"\$\{oc\.select:[\w.]+(,[\w.-]+)?\}")
MAX_BYTES = 2**20
MAX_VALUES = 100_000  # with every alias replaced by what it stands for; the largest recipe has 500


def check_trust(path: str, overrides: Sequence[str]) -> list[str]:
    """Refuse a config.yaml, and overrides, that name what no detector is built of, unless `TRUST` is among them.

    Args:
        path: config file; a recipe, which is a program, is not looked at.
        overrides: of the command line.

    Returns:
        the overrides without `TRUST`.

    Raises:
        UserError: what is named, where, and what to do.
    """
    word = [text for text in overrides if text.partition("=")[0] == TRUST]
    others = [text for text in overrides if text not in word]
    if word:
        value = word[-1].partition("=")[2].lower()
        if value not in ("true", "false"):
            raise UserError(f"{word[-1]}: must be True or False")
        if value == "true":
            return others
    if Path(path).suffix in (".yaml", ".yml"):
        for where, name in targets_of_yaml(path):
            check_target(f"config file {path}, {where}", name)
    for text in others:
        for name in targets_of_override(text):
            check_target(text, name)
    return others


def check_target(where: str, name: str) -> None:
    """
    Raises:
        UserError: the name is not of `PACKAGES`, or stands for something that is not defined there.
    """
    if not _is_allowed(name):
        raise UserError(
            f"{where}: calls {name!r}, which is no part of a detector that this project knows, and could run anything. "
            f"If you know where this comes from and trust it, add {TRUST}=True to the command"
        )


def _is_allowed(name: str) -> bool:
    name = _plain_name(name)
    if not (_is_below(name, PACKAGES) or name in ALIASES) or not name.replace(".", "_").isidentifier():
        return False
    try:
        found = locate(name)
    except ImportError:
        return True  # there is nothing to call; the check of calls says so
    # A module of these packages has other modules as attributes, such as os. What counts is where a thing is defined.
    qualname = getattr(found, "__qualname__", ".")
    home = _plain_name(f"{getattr(found, '__module__', None)}.{qualname}")
    is_public = not any(part.startswith("_") for part in name.split("."))
    is_call = (inspect.isclass(found) or inspect.isfunction(found)) and "." not in qualname  # no method of a class
    return is_call and is_public and _is_below(home, PACKAGES) and not _is_below(home, EXCLUDED)


def _plain_name(name: str) -> str:
    """The name in Detectron2 of what the embedded engine serves; any other name as it is."""
    for prefix in ("dino_d2.detectron2.embedded.", "dino_d2.detectron2."):
        if name.startswith(prefix):
            return "detectron2." + name.removeprefix(prefix)
    return name


def _is_below(name: str, packages: Iterable[str]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages)


def targets_of_override(text: str) -> Iterator[str]:
    """Names that an override lets the config call; none where it cannot be parsed, which is said elsewhere."""
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
        value = override.value()
    except (HydraException, ValueError):
        return
    if override.key_or_group and override.key_or_group.split(".")[-1] == "_target_":
        yield str(value)
    yield from _targets_of_value(value)


def _targets_of_value(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if str(key) == "_target_":
                yield str(item)
            yield from _targets_of_value(item)
    elif isinstance(value, list):
        for item in value:
            yield from _targets_of_value(item)
    elif isinstance(value, str) and _calls_resolver(value):
        yield value


def _calls_resolver(text: str) -> bool:
    """Whether a text asks OmegaConf for more than another value: ``${oc.create:...}`` makes a config out of text."""
    _, found, rest = SELECT.sub("", text).partition("${")
    return bool(found) and ":" in rest


def targets_of_yaml(path: str) -> Iterator[tuple[str, str]]:
    """("line 3", name) of everything that a YAML file asks to call.

    Raises:
        UserError: it is no YAML, too large once its aliases are replaced, or has tags of Python.
    """
    with PathManager.open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"config file {path} has more than {MAX_BYTES:,} bytes. Is it the config.yaml of a run?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"config file {path} is not UTF-8: {error}. Save it in UTF-8") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # the syntax tree: nothing is made of it
        nodes = {} if root is None else _measured(root)
    except yaml.YAMLError as error:
        raise UserError(f"config file {path} is no YAML: {' '.join(str(error).split())}. Correct it there") from error
    except RecursionError as error:
        raise UserError(f"config file {path} is nested too deeply. Is it the config.yaml of a run?") from error
    except _Expands as error:
        raise UserError(f"config file {path}: {error}. Is it the config.yaml of a run?") from error
    for node in nodes.values():
        where = f"line {node.start_mark.line + 1}"
        if node.tag not in TAGS:
            yield where, node.tag
        if isinstance(node, yaml.ScalarNode) and _calls_resolver(node.value):
            yield where, node.value
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value == "_target_":
                yield where, value.value if isinstance(value, yaml.ScalarNode) else "the result of another call"


class _Expands(ValueError):
    """Aliases that stand for more values than a config can have."""


def _measured(root: yaml.Node) -> dict[int, yaml.Node]:
    """Every node once, by its id.

    Raises:
        _Expands: with every alias replaced by what it stands for there are more than `MAX_VALUES`.
    """
    nodes: dict[int, yaml.Node] = {}
    sizes: dict[int, float] = {}

    def size(node: yaml.Node) -> float:
        if id(node) not in nodes:
            nodes[id(node)] = node
            sizes[id(node)] = float("inf")  # until it is known: an alias inside of what it stands for
            parts = node.value if isinstance(node, yaml.SequenceNode) else ()
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(size(part) for part in parts)
        if sizes[id(node)] > MAX_VALUES:
            raise _Expands(f"its aliases stand for more than {MAX_VALUES:,} values")
        return sizes[id(node)]

    size(root)
    return nodes
