# SPDX-License-Identifier: Apache-2.0
"""Loads checkpoints of this project and published ones, recognised by their tensors, and converts between them."""

from .load import load_checkpoint, load_tensors
from .report import LoadReport
from .write import convert, to_authors, to_ours

__all__ = ["LoadReport", "convert", "load_checkpoint", "load_tensors", "to_authors", "to_ours"]
