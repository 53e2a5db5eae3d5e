# SPDX-License-Identifier: Apache-2.0
"""The import hooks behind `dino_d2.detectron2`.

The first one gives the modules of the selected engine a second name. `dino_d2.detectron2.data` and `detectron2.data`
(or `dino_d2.detectron2.embedded.data`) are the same module object with two entries in `sys.modules`, so there is one
copy of each class, registry and catalog.

The second one loads the embedded engine's modules. A name that is missing there raises an error that refers to
Detectron2. Where the error is raised depends on how the name is used:

| use | raised by |
|---|---|
| `import dino_d2.detectron2.projects`, `from dino_d2.detectron2 import model_zoo` | the hook, which finds no module |
| `from dino_d2.detectron2.engine.hooks import X` | the hook: every module has a `__path__`, so X may be a submodule |
| `T.X` | the module's `__getattr__` |
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from ._refusal import EMBEDDED, detectron2_name, needs_detectron2

DOOR = "dino_d2.detectron2"
TARGETS = {"detectron2": "detectron2", "embedded": EMBEDDED}
OWN_MODULES = ("_door", "_refusal", "embedded")  # the modules in this package's folder

WAY_OUT = (
    "Install or repair Detectron2 (see docs/detectron2.md), "
    "or set DINO_D2_ENGINE=embedded to use the engine that comes with dino_d2."
)


def choose_engine(request: str) -> str:
    """Turn the value of `DINO_D2_ENGINE` into an engine name.

    Args:
        request: `auto`, `detectron2` or `embedded`.

    Returns:
        `"detectron2"` or `"embedded"`.

    Raises:
        ValueError: `request` has another value.
        ImportError: Detectron2 is requested and not installed, or a folder of the same name on the import path hides
            the installed one.
    """
    if request not in ("auto", *TARGETS):
        raise ValueError(f"DINO_D2_ENGINE={request!r} is unknown: use auto, detectron2 or embedded.")
    if request == "embedded":
        return "embedded"
    installed = _detectron2_is_installed()
    if request == "detectron2" and not installed:
        raise ImportError(f"DINO_D2_ENGINE=detectron2, but no Detectron2 is installed. {WAY_OUT}")
    return "detectron2" if installed else "embedded"


def _detectron2_is_installed() -> bool:
    spec = importlib.util.find_spec("detectron2")
    if spec is not None and spec.origin is not None:
        return True
    # Any folder called "detectron2" on the import path has a namespace spec, such as a clone next to the script.
    try:
        importlib.metadata.distribution("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return False
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    cause = f"hidden by the folder {folders[0]}" if folders else "without its Python package"
    raise ImportError(f"Detectron2 is installed but {cause}. {WAY_OUT}")


def install_finders(engine: str) -> None:
    """Serve `dino_d2.detectron2.*` from `engine` ("detectron2" or "embedded") in this process."""
    sys.meta_path[:0] = [_DoorFinder(engine), _EmbeddedFinder()]


def refuse_attribute(module: ModuleType, name: str) -> NoReturn:
    """The `__getattr__` of the modules of the embedded engine."""
    message = f"module '{module.__name__}' has no attribute '{name}'"
    if not name.startswith("_") and not _is_served_in(module.__name__, name):
        message = needs_detectron2(f"'{detectron2_name(module.__name__)}.{name}'")
    raise AttributeError(message, name=name, obj=module)


def _is_served_in(package: str, name: str) -> bool:
    """Whether a loaded package of the embedded engine, or a loaded module in it, has `name`."""
    return any(
        name in vars(module)
        for key, module in list(sys.modules.items())
        if module is not None and f"{key}.".startswith(f"{package}.")
    )


class NotServedError(ModuleNotFoundError):
    """The embedded engine lacks a module, or a name that was imported from a module.

    Its `name` is Detectron2's name. With the name that is being imported, `from ... import` would replace this error by
    a generic one.
    """


class _DoorFinder(importlib.abc.MetaPathFinder):
    def __init__(self, engine: str) -> None:
        self.engine = engine

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{DOOR}."):
            return None
        rest = fullname[len(DOOR) + 1 :]
        if rest.split(".")[0] in OWN_MODULES:
            return None
        return importlib.machinery.ModuleSpec(fullname, _AliasLoader(self.engine, rest))


class _AliasLoader(importlib.abc.Loader):
    def __init__(self, engine: str, rest: str) -> None:
        self.engine = engine
        self.rest = rest

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        # The import system returns the module that it finds in sys.modules after this.
        sys.modules[module.__name__] = _import_served(module.__name__, self.engine, self.rest)


class _EmbeddedFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{EMBEDDED}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            assert isinstance(spec.loader, importlib.abc.FileLoader)
            spec.loader = _EmbeddedLoader(spec.loader.name, spec.loader.path)
            return spec
        parent, _, name = fullname.rpartition(".")
        if _is_served_in(parent, name):
            return None  # Detectron2 has no such module either
        name = detectron2_name(fullname)
        raise NotServedError(needs_detectron2(f"'{name}'"), name=name)


class _EmbeddedLoader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__getattr__"] = functools.partial(refuse_attribute, module)
        if "__path__" not in vars(module):
            module.__path__ = []  # for names that the module lacks, `from ... import` then calls the finder
        super().exec_module(module)


def _import_served(alias: str, engine: str, rest: str) -> ModuleType:
    served = f"{TARGETS[engine]}.{rest}"
    try:
        return importlib.import_module(served)
    except NotServedError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != TARGETS[engine] and (served == missing or served.startswith(f"{missing}.")):
            raise ModuleNotFoundError(f"There is no module '{served}'.", name=alias) from None
        raise ImportError(_broken(engine, served, error), name=alias) from error
    except Exception as error:  # importing Detectron2 may fail in any way; the message must name it
        raise ImportError(_broken(engine, served, error), name=alias) from error


def _broken(engine: str, served: str, error: Exception) -> str:
    cause = f"{type(error).__name__}: {error}"
    if engine == "detectron2":
        return f"Detectron2 is installed but '{served}' cannot be imported ({cause}). {WAY_OUT}"
    return f"The embedded engine's '{served}' cannot be imported ({cause})."
