# SPDX-License-Identifier: Apache-2.0
"""Memory that is freed and taken again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from dino_d2.speed.memory import keep_freed_memory

if "keep" in sys.argv:
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(8):
    torch.ones(2**24)  # 64 MiB
before = faults()
for _ in range(16):
    torch.ones(2**24)
print(faults() - before)
"""


@pytest.mark.large_memory
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_kept_memory_is_not_cleared_again():
    """In processes of their own: the setting is for good. The heap may still grow once, by one tensor."""
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, check=True).stdout)
        for arguments in ([], ["keep"])
    )
    assert kept < plain / 10
