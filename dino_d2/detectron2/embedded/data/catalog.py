# SPDX-License-Identifier: Apache-2.0
"""Datasets by name, as in `detectron2.data.catalog`."""

import types
from collections import UserDict
from collections.abc import Callable
from typing import Any


class _Catalog(UserDict):
    def list(self) -> list[str]:
        return list(self)

    def remove(self, name: str) -> None:
        self.pop(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({', '.join(self)})"


class _DatasetCatalog(_Catalog):
    """Maps names of datasets to the functions that load them."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Register a function that returns the dataset's dicts, the same ones each time."""
        if not callable(func):
            raise AssertionError(f"Dataset '{name}' must be registered with a function that loads it.")
        if name in self:
            raise AssertionError(f"A dataset called '{name}' is registered already.")
        self[name] = func

    def get(self, name: str) -> list[dict]:  # type: ignore[override]  # as in Detectron2, no default
        """Load a dataset.

        Raises:
            KeyError: no dataset has this name; the message lists the registered ones.
        """
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered. Registered are: {', '.join(self)}.")
        return self[name]()


class Metadata(types.SimpleNamespace):
    """Metadata of a dataset in addition to its dicts: `thing_classes`, `json_file` and so on.

    An attribute can be set again only to an equal value, so that all parts of a program agree.
    """

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        known = ", ".join(self.__dict__) or "nothing"
        raise AttributeError(f"The metadata of dataset '{self.name}' has no '{key}'; it has {known}.")

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.__dict__ and self.__dict__[key] != value:
            raise AssertionError(
                f"'{key}' in the metadata of dataset '{self.name}' is already set and cannot be changed: "
                f"{self.__dict__[key]} != {value}"
            )
        self.__dict__.setdefault(key, value)

    def set(self, **kwargs: Any) -> "Metadata":
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return self.__dict__.get(key, default)

    def as_dict(self) -> dict[str, Any]:
        """All metadata as a new dict."""
        return dict(self.__dict__)


class _MetadataCatalog(_Catalog):
    """Maps names of datasets to their metadata, which is empty at first."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]  # as in Detectron2, no default
        if not name:
            raise AssertionError("A dataset must have a name.")
        return self.data.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
