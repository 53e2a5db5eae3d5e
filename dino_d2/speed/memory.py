# SPDX-License-Identifier: Apache-2.0
"""Memory of a process that computes on a CPU: the C library's allocator and the caches of oneDNN."""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of malloc.h
_NEVER = -1  # the largest possible threshold
_TOP_PAD = 64 * 2**20

#: Environment variables of oneDNN's cache of compiled primitives and of PyTorch's own cache in front of it, and our
#: bound: entries, not bytes. A training step of DINO needs about two hundred; a smaller bound would cost time.
ONEDNN_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}


def bound_onednn_caches() -> None:
    """Limit oneDNN's caches, so that new image sizes do not add memory; the default is 1024 primitives each.

    Takes effect before the process's first convolution or linear layer; values that the user has set are kept.
    docs/performance.md has the memory and the time with and without the bound.
    """
    for name, capacity in ONEDNN_CACHES.items():
        os.environ.setdefault(name, capacity)


def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors in the process for new ones, instead of returning it to the system.

    By default glibc requests every large block from the system and returns it when it is freed, and the system clears
    the pages on their next use. A model that allocates the same sizes in every step repeats this in every step
    (docs/performance.md has the figures). Other C libraries are not changed.

    Returns:
        whether the allocator was changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _NEVER), mallopt(_M_TOP_PAD, _TOP_PAD)])
