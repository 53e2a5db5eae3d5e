# SPDX-License-Identifier: Apache-2.0
"""Sending closures to other processes, as in `detectron2.utils.serialize`."""

from typing import Any

import cloudpickle


class PicklableWrapper:
    """A callable that is pickled with cloudpickle, so that lambdas and closures reach worker processes."""

    _obj: Any

    def __init__(self, obj: Any) -> None:
        self._obj = obj._obj if isinstance(obj, PicklableWrapper) else obj

    def __reduce__(self) -> tuple:
        return cloudpickle.loads, (cloudpickle.dumps(self._obj),)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._obj(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_obj":
            raise AttributeError(name)
        return getattr(self._obj, name)
