# SPDX-License-Identifier: Apache-2.0
"""Detectron2's COCO evaluator with AP50 by class."""

import itertools
import logging
from typing import Any

import numpy as np
from tabulate import tabulate

from dino_d2.detectron2.evaluation import COCOEvaluator

#: Classes in a row of the table.
_COLUMNS = 4

logger = logging.getLogger(__name__)


class PerClassCOCOEvaluator(COCOEvaluator):
    """Detectron2's ``COCOEvaluator``; of several classes it also logs the AP50 of each, and adds it as ``AP50-NAME``.

    AP at an IoU of 0.5 shows earlier than AP which classes a model learns. In percent; NaN for classes without objects.
    """

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if coco_eval is None or class_names is None or len(class_names) <= 1:
            return results
        precision = coco_eval.eval["precision"][0, :, :, 0, -1]  # [recalls, classes] at IoU 0.5, all sizes
        ap50 = {}
        for name, values in zip(class_names, precision.T, strict=True):
            defined = values[values > -1]
            ap50[name] = float(100 * defined.mean()) if defined.size else float("nan")
        logger.info("AP50 by class (%s):\n%s", iou_type, _table(ap50))
        return results | {f"AP50-{name}": value for name, value in ap50.items()}


def _table(ap50: dict[str, float]) -> str:
    cells = [(name, "-" if np.isnan(value) else f"{value:.1f}") for name, value in ap50.items()]
    rows = [list(itertools.chain(*cells[i : i + _COLUMNS])) for i in range(0, len(cells), _COLUMNS)]
    columns = min(_COLUMNS, len(cells))
    return tabulate(rows, ["class", "AP50"] * columns, colalign=("left", "right") * columns, disable_numparse=True)
