"""DINO (DETR with Improved DeNoising Anchor Boxes) and the detectors it grew from, for Detectron2 users."""

import os

__version__ = "0.1.0"

# PyTorch then asks Linux for pages of 2 MiB instead of 4 KiB where a tensor on the CPU is large. It reads this when it
# first allocates one. Touching 165 MiB for the first time took 11 ms instead of 65 (docs/performance.md); where the
# system has no such pages nothing changes.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
