# SPDX-License-Identifier: Apache-2.0
"""The speed wing: faster modules that replace the plain ones of the core, in one visible place each.

:func:`optimise_for_training` is called where a model is built (``meta_arch/detr.py``), :func:`for_inference` where one
is evaluated or deployed.
"""

from .inference import for_inference
from .memory import bound_onednn_caches, keep_freed_memory
from .training import optimise_for_training

bound_onednn_caches()  # called at import, because oneDNN reads its settings on first use

__all__ = ["bound_onednn_caches", "for_inference", "keep_freed_memory", "optimise_for_training"]
