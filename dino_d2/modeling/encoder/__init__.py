# SPDX-License-Identifier: Apache-2.0
from .deformable import DeformableEncoder
from .dense import DenseEncoder
from .row_column import RowColumnEncoder

__all__ = ["DeformableEncoder", "DenseEncoder", "RowColumnEncoder"]
