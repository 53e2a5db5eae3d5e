# SPDX-License-Identifier: Apache-2.0
"""The registry of meta-architectures, as in `detectron2.modeling`."""

from .meta_arch import META_ARCH_REGISTRY, build_model

__all__ = ["META_ARCH_REGISTRY", "build_model"]
