# SPDX-License-Identifier: Apache-2.0
"""Meta-architectures."""

from .build import META_ARCH_REGISTRY, build_model

__all__ = ["META_ARCH_REGISTRY", "build_model"]
