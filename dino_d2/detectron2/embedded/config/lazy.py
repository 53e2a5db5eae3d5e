# SPDX-License-Identifier: Apache-2.0
"""Configs written as Python files, as in `detectron2.config.lazy`."""

import ast
import builtins
import copy
import logging
import os
import types
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, NoReturn

import cloudpickle
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from ..._refusal import needs_detectron2
from ..utils.file_io import PathManager
from ..utils.registry import _convert_target_to_string

_ALLOW_OBJECTS = {"allow_objects": True}


class LazyCall:
    """`LazyCall(f)(a=1)` describes the call `f(a=1)`, which can be edited before `instantiate` makes it.

    The description is a `DictConfig` with the keyword arguments and `_target_`.
    """

    def __init__(self, target: Callable | str | Mapping) -> None:
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(f"LazyCall needs a callable, its name, or a config of one, not {target!r}.")
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
        # omegaconf treats a dataclass as a schema, so it is given by name
        target = _convert_target_to_string(self._target) if is_dataclass(self._target) else self._target
        content: dict[Any, Any] = {**kwargs, "_target_": target}
        return DictConfig(content=content, flags=_ALLOW_OBJECTS)


def _to_config(value: Any) -> Any:
    return DictConfig(value, flags=_ALLOW_OBJECTS) if isinstance(value, dict) else value


def _run_config_file(filename: str) -> dict[str, Any]:
    """Execute one config file and return its namespace.

    A relative import in the file imports from other config files, which need not form a package. They are executed for
    each import, so that editing an imported config has no effect elsewhere, and their dicts become `DictConfig`s. Other
    modules import as usual.
    """
    with PathManager.open(filename, "rb") as file:
        content = file.read().decode("utf-8-sig")
    try:
        code = compile(ast.parse(content, filename), filename, "exec")
    except SyntaxError as error:
        raise SyntaxError(f"Config file {filename} has a syntax error: {error}") from error

    def import_(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> types.ModuleType:
        if level == 0:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = types.ModuleType(name)
        vars(module).update(_run_config_file(_relative_file(filename, name, level)))
        for wanted in fromlist:
            if not hasattr(module, wanted):
                raise ImportError(f"Cannot import '{wanted}' in {filename}: {module.__file__} has no such name.")
            setattr(module, wanted, _to_config(getattr(module, wanted)))
        return module

    namespace = {
        "__builtins__": {**vars(builtins), "__import__": import_},
        "__file__": filename,
        # No module has this name, so functions and classes of the file are pickled by value.
        "__name__": f"_lazy_config_{uuid.uuid4().hex}",
    }
    exec(code, namespace)
    return namespace


def _relative_file(importer: str, name: str, level: int) -> str:
    folder = os.path.normpath(os.path.join(os.path.dirname(importer), *[os.pardir] * (level - 1)))
    path = os.path.join(folder, *name.split("."))
    if not name or (PathManager.isdir(path) and not PathManager.isfile(f"{path}.py")):
        raise ImportError(f"In config {importer}: a relative import must name a config file, not a folder.")
    if not PathManager.isfile(f"{path}.py"):
        raise ImportError(f"In config {importer}: cannot import from {'.' * level}{name}: {path}.py does not exist.")
    return f"{path}.py"


def _name_the_targets(cfg: Any) -> None:
    if isinstance(cfg, DictConfig):
        if "_target_" in cfg and callable(cfg._target_) and hasattr(cfg._target_, "__qualname__"):
            cfg._target_ = _convert_target_to_string(cfg._target_)
        for key in cfg:
            _name_the_targets(cfg._get_node(key))
    elif isinstance(cfg, ListConfig):
        for index in range(len(cfg)):
            _name_the_targets(cfg._get_node(index))


class _RefusesOtherNames(type):
    def __getattr__(cls, name: str) -> NoReturn:
        raise AttributeError(needs_detectron2(f"'detectron2.config.{cls.__name__}.{name}'"), name=name, obj=cls)


class LazyConfig(metaclass=_RefusesOtherNames):
    """Load, edit and save configs."""

    @staticmethod
    def load(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """Load a config from a `.py`, `.yaml` or `.yml` file.

        Args:
            filename: a path, absolute or relative to the working directory.
            keys: the name of a value to return, or several for a tuple of values; by default a `DictConfig` with all
                configs and dicts of the file whose names do not start with an underscore.
        """
        filename = filename.replace("/./", "/")
        suffix = os.path.splitext(filename)[1]
        if suffix not in (".py", ".yaml", ".yml"):
            raise ValueError(f"Config file {filename} must be a .py, .yaml or .yml file.")
        if not PathManager.isfile(filename):
            raise FileNotFoundError(f"Config file {filename} does not exist.")
        if suffix == ".py":
            content: Any = _run_config_file(filename)
        else:
            with PathManager.open(filename, "rb") as file:
                content = OmegaConf.create(yaml.unsafe_load(file), flags=_ALLOW_OBJECTS)

        if isinstance(keys, str):
            return _to_config(content[keys])
        if keys is not None:
            return tuple(_to_config(content[key]) for key in keys)
        if suffix != ".py":
            return content
        public = {
            name: _to_config(value)
            for name, value in content.items()
            if isinstance(value, DictConfig | ListConfig | dict) and not name.startswith("_")
        }
        return DictConfig(public, flags=_ALLOW_OBJECTS)

    @staticmethod
    def save(cfg: Any, filename: str) -> None:
        """Write `cfg` as yaml. If yaml cannot represent it, `filename + ".pkl"` is written too, with a warning."""
        logger = logging.getLogger("detectron2.config.lazy")
        cfg = copy.deepcopy(cfg)
        _name_the_targets(cfg)
        try:
            content = OmegaConf.to_container(cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE)
            text = yaml.dump(content, default_flow_style=None, allow_unicode=True, width=9999)
            text = text.replace("dino_d2.detectron2.embedded.", "dino_d2.detectron2.")  # for either engine
            with PathManager.open(filename, "w", encoding="utf-8") as file:
                file.write(text)
            yaml.unsafe_load(text)
        except Exception as error:  # a config may hold any object, which may fail in any way
            with PathManager.open(f"{filename}.pkl", "wb") as file:
                cloudpickle.dump(cfg, file)
            logger.warning(
                "%s cannot be loaded again as yaml (%s: %s); the config is saved with cloudpickle at %s.pkl.",
                filename, type(error).__name__, error, filename,
            )  # fmt: skip

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: list[str]) -> DictConfig:
        """Set `key.path=value` in `cfg` in place, by hydra's override grammar, and return it.

        Raises:
            KeyError: a part of the path exists and is not a config.
            NotImplementedError: an override deletes a key (`~key`).
        """
        for override in OverridesParser.create().parse_overrides(overrides):
            if override.is_delete():
                raise NotImplementedError(f"Override '{override.input_line}': deletion is not supported.")
            key = override.key_or_group
            parts = key.split(".")
            for length in range(1, len(parts)):
                prefix = ".".join(parts[:length])
                node = OmegaConf.select(cfg, prefix, default=None)
                if node is None:
                    break
                if not OmegaConf.is_config(node):
                    raise KeyError(f"Cannot set {key}: {prefix} is a {type(node).__name__}, not a config.")
            OmegaConf.update(cfg, key, override.value(), merge=True)
        return cfg
