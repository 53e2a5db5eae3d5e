# SPDX-License-Identifier: Apache-2.0
"""ATD(k), anchor-target distance and matching instability, as an evaluator that runs together with COCO AP."""

import itertools

import numpy as np

from dino_d2.detectron2.evaluation import DatasetEvaluator
from dino_d2.detectron2.utils import comm
from dino_d2.detectron2.utils.events import get_event_storage
from dino_d2.meta_arch.detr import QueryPredictions, normalised_boxes
from dino_d2.modeling.losses.matcher import HungarianMatcher

from .history import MatchingHistory
from .matching import Image, ImageMatching, average_top_distance, instability, match_images

#: Images matched in one call; for tensors this small, the number of calls decides the time.
BATCH = 16


class MatchingEvaluator(DatasetEvaluator):
    """Distances between anchors and the objects they are matched with, and changes of the matching during training.

    Results, under "matching" (for k = 100; distances of cxcywh boxes in [0, 1]):

    * ``ATD100``, ``ATD100_small``: DINO section 3.3, over all objects and over small ones;
    * ``anchor_distance``: mean L1 distance of the matched objects and initial anchors (DN-DETR section 3.2);
    * ``farther``: percentage of objects whose matched query does not have the nearest anchor, the second problem of
      DINO section 3.3;
    * ``IS``: DN-DETR equations 1 and 2, relative to the previous evaluation of a training run, and ``IS_bound``, twice
      the mean number of objects. Both are missing in the first evaluation and outside training.

    Models without four-dimensional anchors have only the last two. The model must return "queries" together with
    "instances", as ``DETR`` does, and inputs must have the ground truth as "instances".

    Args:
        matcher: the matcher of the training losses, ``"${model.criterion.matcher}"`` in a recipe.
        output_dir: output folder of the run, where matchings are saved; with None there is no ``IS``.
        top_k: k; 100 in the paper.
        small_area: objects with a smaller box, in square pixels of the image file, are small (COCO: 32²). COCO's AP
            compares the area of the mask instead.
    """

    def __init__(
        self, matcher: HungarianMatcher, output_dir: str | None = None, top_k: int = 100, small_area: float = 32.0**2
    ):
        self.matcher = matcher
        self.history = None if output_dir is None else MatchingHistory(output_dir)
        self.top_k = top_k
        self.small_area = small_area
        self.reset()

    def reset(self) -> None:
        self._matchings: dict[object, ImageMatching] = {}
        self._waiting: dict[object, Image] = {}  # images with the same number of queries, not yet matched

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collect one batch; :class:`DETR` describes both lists.

        Raises:
            ValueError: an input has no ground truth, or an output no queries.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if "queries" not in output or "instances" not in image:
                raise ValueError(
                    "MatchingEvaluator needs 'queries' in the model's outputs, which dino_d2.modeling.DETR returns, "
                    f"and ground truth as 'instances' in its inputs; image {image['image_id']} lacks one of them. "
                    "Remove the evaluator from dataloader.evaluator, or annotate the images."
                )
            predictions = QueryPredictions(*(part.float().cpu() for part in output["queries"]))
            if self._waiting:
                earlier = next(iter(self._waiting.values())).predictions
                if len(self._waiting) == BATCH or len(earlier.boxes) != len(predictions.boxes):
                    self._match()
            boxes = normalised_boxes(image["instances"])
            area = boxes[:, 2] * boxes[:, 3] * (image["height"] * image["width"])
            small = area < self.small_area
            labels = image["instances"].gt_classes
            self._waiting[image["image_id"]] = Image(predictions, labels, boxes, small)

    def _match(self) -> None:
        if self._waiting:
            matchings = match_images(self.matcher, list(self._waiting.values()))
            self._matchings.update(zip(self._waiting, matchings, strict=True))
            self._waiting = {}

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Results over all ranks, on rank 0. An image that several ranks have processed counts once."""
        self._match()
        gathered = comm.gather(self._matchings)
        if not comm.is_main_process():
            return {}
        matchings = dict(itertools.chain.from_iterable(part.items() for part in gathered))
        results = self._distances(list(matchings.values()))
        iteration = current_iteration()
        if self.history is not None and iteration is not None:
            now = {image: (matching.queries, matching.targets) for image, matching in matchings.items()}
            before = self.history.before(iteration)
            self.history.save(iteration, now)
            if before is not None:
                results["IS"] = instability(before, now)
                results["IS_bound"] = 2 * float(np.mean([len(matching.targets) for matching in matchings.values()]))
        return {"matching": results}

    def _distances(self, matchings: list[ImageMatching]) -> dict[str, float]:
        if not matchings:
            return {}
        distances, farther, small = (
            np.concatenate([getattr(matching, name) for matching in matchings])
            for name in ("distances", "farther", "small")
        )
        if np.isnan(distances).any():
            return {}
        return {
            f"ATD{self.top_k}": average_top_distance(distances, self.top_k),
            f"ATD{self.top_k}_small": average_top_distance(distances[small], self.top_k),
            "anchor_distance": float(distances.mean(dtype=np.float64)) if len(distances) else float("nan"),
            "farther": 100 * float(farther.mean()) if len(farther) else float("nan"),
        }


def current_iteration() -> int | None:
    """Iteration of the training run that is being evaluated; None outside training."""
    try:
        return get_event_storage().iter
    except AssertionError:  # Detectron2 raises it outside training
        return None
