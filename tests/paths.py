# SPDX-License-Identifier: Apache-2.0
"""Folders that tests read from."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
VECTORS = ROOT / "tests" / "vectors"
#: Vectors and images beside the checkout; tests that need them are skipped where they are missing.
SHARED = ROOT.parent / "shared"
COCO_TINY = SHARED / "data" / "coco_tiny"
