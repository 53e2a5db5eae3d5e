# SPDX-License-Identifier: Apache-2.0
"""Meta-architectures."""
# ruff: noqa: F401

from .build import META_ARCH_REGISTRY, build_model
