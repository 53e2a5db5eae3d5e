# SPDX-License-Identifier: Apache-2.0
"""How the door finds its modules: one import hook that gives a module a second name.

`dino_d2.detectron2.data` and `detectron2.data` (or `dino_d2.detectron2.embedded.data`) are one module
object with two entries in `sys.modules`, so identity, `isinstance`, registries and catalogs hold.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from types import ModuleType

DOOR = "dino_d2.detectron2"
EMBEDDED = f"{DOOR}.embedded"
TARGETS = {"detectron2": "detectron2", "embedded": EMBEDDED}
OWN_MODULES = ("_door", "embedded")  # what really lies in this package's folder

WAY_OUT = (
    "Install or repair Detectron2 (docs/detectron2.md says how to install it), "
    "or set DINO_D2_ENGINE=embedded to use the engine that comes with dino_d2."
)


def choose_engine(request: str) -> str:
    """Turn the value of `DINO_D2_ENGINE` into an engine name.

    Args:
        request: `auto`, `detectron2` or `embedded`.

    Returns:
        `"detectron2"` or `"embedded"`.

    Raises:
        ValueError: for any other value.
        ImportError: if `detectron2` is asked for and not installed, or is installed and hidden by a
            folder of the same name on the import path.
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
    # A namespace spec is any folder called "detectron2" on the path, such as a clone beside the script.
    try:
        importlib.metadata.distribution("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return False
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    cause = f"hidden by the folder {folders[0]}" if folders else "without its Python package"
    raise ImportError(f"Detectron2 is installed but {cause}. {WAY_OUT}")


def install_finder(engine: str) -> None:
    """Serve `dino_d2.detectron2.*` from `engine` ("detectron2" or "embedded") in this process."""
    sys.meta_path.insert(0, _DoorFinder(engine))


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
        # The import system takes back from sys.modules what exec_module leaves there.
        sys.modules[module.__name__] = _import_served(module.__name__, self.engine, self.rest)


def _import_served(alias: str, engine: str, rest: str) -> ModuleType:
    served = f"{TARGETS[engine]}.{rest}"
    try:
        return importlib.import_module(served)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != TARGETS[engine] and (served == missing or served.startswith(f"{missing}.")):
            raise ModuleNotFoundError(_no_such_module(engine, rest), name=alias) from None
        raise ImportError(_broken(engine, served, error), name=alias) from error
    except Exception as error:  # whatever it is, the reader must learn which module and what to do
        raise ImportError(_broken(engine, served, error), name=alias) from error


def _no_such_module(engine: str, rest: str) -> str:
    if engine == "detectron2":
        return f"Detectron2 has no module 'detectron2.{rest}'."
    return (
        f"The embedded engine has no module '{rest}': it holds only what dino_d2 calls. "
        f"For 'detectron2.{rest}' install Detectron2 (docs/detectron2.md) and leave DINO_D2_ENGINE unset."
    )


def _broken(engine: str, served: str, error: Exception) -> str:
    cause = f"{type(error).__name__}: {error}"
    if engine == "detectron2":
        return f"Detectron2 is installed but '{served}' cannot be imported ({cause}). {WAY_OUT}"
    return f"The embedded engine's '{served}' cannot be imported ({cause})."
