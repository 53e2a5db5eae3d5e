# SPDX-License-Identifier: Apache-2.0
"""The registry of meta-architectures, as in `detectron2.modeling`."""
# ruff: noqa: F401

from .meta_arch import META_ARCH_REGISTRY, build_model
