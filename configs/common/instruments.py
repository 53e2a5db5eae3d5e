# SPDX-License-Identifier: Apache-2.0
"""The measures of DINO and DN-DETR in addition to AP. Add them last to `dataloader.evaluator` in a recipe:

from ..common.instruments import instruments
dataloader.evaluator = [dataloader.evaluator, *instruments]
"""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.evaluation import DuplicateEvaluator, MatchingEvaluator

instruments = [
    L(MatchingEvaluator)(
        matcher="${model.criterion.matcher}",
        output_dir="${train.output_dir}",
        top_k=100,  # figure 4 of DINO
    ),
    L(DuplicateEvaluator)(score_threshold=0.3, iou_threshold=0.5),
]
