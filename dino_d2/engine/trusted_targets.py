# SPDX-License-Identifier: Apache-2.0
"""Allow-list of the classes and functions that a config.yaml or an override may call.

A recipe is a program, and users know not to run a stranger's program. A config.yaml looks like data, but it names the
functions that are called to build the model. The file is therefore checked before any object is built: it may name
only parts of detectors, data loaders and optimizers.
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

#: The override that lets a config.yaml call anything. It is read from the command line only, never from the file.
TRUST = "train.trust_config"

#: Packages whose public classes and functions may be called. Detectron2's names also cover the embedded engine.
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
#: Short names of objects that are defined in these packages.
ALIASES = ("dino_d2.engine.LearningRateFactors",)
#: Parts of these packages that write files to a path given as an argument.
EXCLUDED = ("dino_d2.data.convert", "detectron2.data.datasets")

#: YAML tags of plain values; every other tag creates an object or calls a function.
TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge", "timestamp", "python/tuple")
)
#: A reference to another value, or a plain default, such as ``${oc.select:train.seed,null}`` in the recipes.
SELECT = re.compile(r"\$\{oc\.select:[\w.]+(,[\w.-]+)?\}")
MAX_BYTES = 2**20
MAX_VALUES = 100_000  # after expanding all aliases; the largest recipe has 500


def check_trust(path: str, overrides: Sequence[str]) -> list[str]:
    """Refuse a config.yaml or overrides that call anything outside `PACKAGES`, unless `TRUST` is set.

    Args:
        path: config file; a Python recipe is not checked, because it is a program anyway.
        overrides: ``key=value`` arguments of the command line.

    Returns:
        the overrides without `TRUST`.

    Raises:
        UserError: a call is not allowed; the message has its name, its place and the remedy.
    """
    trust = [text for text in overrides if text.partition("=")[0] == TRUST]
    others = [text for text in overrides if text not in trust]
    if trust:
        value = trust[-1].partition("=")[2].lower()
        if value not in ("true", "false"):
            raise UserError(f"{trust[-1]}: must be True or False")
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
    """Check that a name belongs to `PACKAGES`.

    Raises:
        UserError: it does not, or the object that it refers to is defined elsewhere.
    """
    if not _is_allowed(name):
        raise UserError(
            f"{where}: calls {name!r}, which is not a known part of a detector and could run arbitrary code. "
            f"If you trust the source of this config, add {TRUST}=True to the command"
        )


def _is_allowed(name: str) -> bool:
    name = _plain_name(name)
    if not (_is_below(name, PACKAGES) or name in ALIASES) or not name.replace(".", "_").isidentifier():
        return False
    try:
        found = locate(name)
    except ImportError:
        return True  # nothing can be called; check_calls reports the missing name
    # Modules have the modules that they import, such as os, as attributes. The place of definition decides.
    qualname = getattr(found, "__qualname__", ".")
    home = _plain_name(f"{getattr(found, '__module__', None)}.{qualname}")
    is_public = not any(part.startswith("_") for part in name.split("."))
    is_call = (inspect.isclass(found) or inspect.isfunction(found)) and "." not in qualname  # no method of a class
    return is_call and is_public and _is_below(home, PACKAGES) and not _is_below(home, EXCLUDED)


def _plain_name(name: str) -> str:
    """Detectron2's name of an object of the embedded engine; other names are returned unchanged."""
    for prefix in ("dino_d2.detectron2.embedded.", "dino_d2.detectron2."):
        if name.startswith(prefix):
            return "detectron2." + name.removeprefix(prefix)
    return name


def _is_below(name: str, packages: Iterable[str]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages)


def targets_of_override(text: str) -> Iterator[str]:
    """Names that an override makes the config call; none if it cannot be parsed, which `apply_overrides` reports."""
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
    """Whether a text calls an OmegaConf resolver other than a plain reference, such as ``${oc.create:...}``."""
    _, found, rest = SELECT.sub("", text).partition("${")
    return bool(found) and ":" in rest


def targets_of_yaml(path: str) -> Iterator[tuple[str, str]]:
    """All calls in a YAML file, as ("line 3", name) pairs.

    Raises:
        UserError: the file is not valid YAML in UTF-8, is too large, or expands to too many values.
    """
    with PathManager.open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"config file {path} is larger than {MAX_BYTES:,} bytes. Is it the config.yaml of a run?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"config file {path} is not UTF-8: {error}. Save it as UTF-8") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # the syntax tree only; no object is built
        nodes = {} if root is None else _measured(root)
    except yaml.YAMLError as error:
        raise UserError(
            f"config file {path} is not valid YAML: {' '.join(str(error).split())}. Correct this line"
        ) from error
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
    """Raised when aliases expand to more values than a config can have."""


def _measured(root: yaml.Node) -> dict[int, yaml.Node]:
    """Every node once, by its id.

    Raises:
        _Expands: there are more than `MAX_VALUES` values after expanding all aliases.
    """
    nodes: dict[int, yaml.Node] = {}
    sizes: dict[int, float] = {}

    def size(node: yaml.Node) -> float:
        if id(node) not in nodes:
            nodes[id(node)] = node
            sizes[id(node)] = float("inf")  # until it is known: an alias may refer to a node that contains it
            parts = node.value if isinstance(node, yaml.SequenceNode) else ()
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(size(part) for part in parts)
        if sizes[id(node)] > MAX_VALUES:
            raise _Expands(f"its aliases expand to more than {MAX_VALUES:,} values")
        return sizes[id(node)]

    size(root)
    return nodes
