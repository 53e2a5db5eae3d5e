# SPDX-License-Identifier: Apache-2.0
"""The door to Detectron2: `dino_d2.detectron2.<module>` is Detectron2's `<module>`, whoever serves it.

Put the prefix `dino_d2.` before any Detectron2 import and the line reads as in every Detectron2 project:

    from dino_d2.detectron2.config import LazyCall as L
    from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog

The environment variable `DINO_D2_ENGINE` says who serves the names:

* `auto` (or unset): Detectron2 where it is installed, else the embedded engine;
* `detectron2`: Detectron2's own modules, the very same objects (`isinstance` and registries agree);
* `embedded`: `dino_d2.detectron2.embedded`, the parts of Detectron2 that this project calls.

`ENGINE` tells which one was taken: `"detectron2"` or `"embedded"`. The choice holds for the whole process.
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
