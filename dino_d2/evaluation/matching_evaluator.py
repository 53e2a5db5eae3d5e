"""ATD(k), anchor-target distance and matching instability as an evaluator beside COCO AP."""

import itertools

import numpy as np

from dino_d2.detectron2.evaluation import DatasetEvaluator
from dino_d2.detectron2.utils import comm
from dino_d2.detectron2.utils.events import get_event_storage
from dino_d2.meta_arch.detr import QueryPredictions, normalised_boxes
from dino_d2.modeling.losses.matcher import HungarianMatcher

from .history import MatchingHistory
from .matching import Image, ImageMatching, average_top_distance, instability, match_images

#: Images matched together: small tensors cost their number of calls more than their size.
BATCH = 16


class MatchingEvaluator(DatasetEvaluator):
    """How far anchors lie from the objects they are matched with, and how the matching changes in training.

    The results, under "matching" (names with a k of 100, boxes as cxcywh):

    * ``ATD100``, ``ATD100_small``: DINO section 3.3, of all objects and of small ones;
    * ``anchor_distance``: mean L1 distance of initial anchors and matched boxes in [0, 1] (DN-DETR section 3.2);
    * ``farther``: percent of objects whose matched query had not the nearest anchor, the second problem of DINO
      section 3.3;
    * ``IS``: DN-DETR equations 1 and 2, against the evaluation before this one; ``IS_bound``: twice the mean number of
      objects. Only in a training run, and not at its first evaluation.

    Without four-dimensional anchors only the last two are there. It needs a model that gives "queries" beside
    "instances" (``DETR``), and inputs with the ground truth as "instances".

    Args:
        matcher: that of the training losses, ``"${model.criterion.matcher}"`` in a recipe.
        output_dir: folder of the run, for the matchings of earlier evaluations; None keeps none and gives no ``IS``.
        top_k: k; the paper shows 100.
        small_area: objects below it, in square pixels of the image file, are small (COCO: 32²). Boxes count, where
            COCO's AP takes the area of the mask.
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
        self._waiting: dict[object, Image] = {}  # images of one number of queries, to be matched together

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Match one batch; see :class:`DETR` for both lists."""
        for image, output in zip(inputs, outputs, strict=True):
            if "queries" not in output or "instances" not in image:
                raise ValueError(
                    "MatchingEvaluator needs 'queries' in the model's outputs, which dino_d2.modeling.DETR gives, and "
                    f"ground truth as 'instances' in its inputs; image {image['image_id']} has not both. Take the "
                    "evaluator out of dataloader.evaluator, or annotate the images."
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
        """The results of all ranks, on rank 0; each image counts once, whoever had it."""
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
    """Of the training run that evaluates; None in an evaluation alone."""
    try:
        return get_event_storage().iter
    except AssertionError:  # how Detectron2 says that nothing is being trained
        return None
