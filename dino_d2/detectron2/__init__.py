# SPDX-License-Identifier: Apache-2.0
"""The door to Detectron2: `dino_d2.detectron2.<module>` is `detectron2.<module>`, or this project's substitute for it.

An import of Detectron2 gets the prefix `dino_d2.` and is otherwise the same as in any Detectron2 project:

    from dino_d2.detectron2.config import LazyCall as L
    from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog

The environment variable `DINO_D2_ENGINE` selects the engine that provides the modules:

* `auto` (or unset): Detectron2 if it is installed, otherwise the embedded engine;
* `detectron2`: Detectron2. Its modules are not wrapped, so `isinstance` and registries work across both names;
* `embedded`: `dino_d2.detectron2.embedded`, which implements the parts of Detectron2 that this project uses.

`ENGINE` is the selected one, `"detectron2"` or `"embedded"`, for the whole process.
"""

import os
import sys

from ._door import choose_engine, install_finders, refuse_attribute

ENGINE: str = choose_engine(os.environ.get("DINO_D2_ENGINE") or "auto")
install_finders(ENGINE)

__all__ = ["ENGINE"]


def __getattr__(name: str) -> object:
    if ENGINE == "embedded":
        refuse_attribute(sys.modules[__name__], name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
