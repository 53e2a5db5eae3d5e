# SPDX-License-Identifier: Apache-2.0
"""COCO box AP, as in `detectron2.evaluation.coco_evaluation`, computed by pycocotools."""

import contextlib
import copy
import io
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from ..data import MetadataCatalog
from ..data.datasets import convert_to_coco_json
from ..not_served import NeedsDetectron2
from ..structures import BoxMode, Instances
from ..utils import comm
from ..utils.file_io import PathManager
from ..utils.logger import create_small_table
from .evaluator import DatasetEvaluator

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

#: Detections of an image and class, best first, that COCO's AP counts.
_COCO_LIMIT = 100


class COCOEvaluator(DatasetEvaluator):
    """Average precision of boxes on a dataset, by COCO's rules, in percent; NaN where it is not defined."""

    def __init__(
        self,
        dataset_name: str,
        tasks: tuple[str, ...] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: its metadata has "json_file", a COCO json file. A dataset without one is converted to
                `<output_dir>/<dataset_name>_coco_format.json`, which becomes its "json_file".
            tasks: `("bbox",)` or None.
            distributed: whether to gather the predictions of all ranks on rank 0.
            output_dir: if given, `coco_instances_results.json` and `instances_predictions.pth` go there.
            max_dets_per_image: number of best detections per image and class that count; COCO's 100 by default.
            use_fast_impl: has no effect; pycocotools is always used, and gives the same results.
            kpt_oks_sigmas: must be empty, since keypoints are not evaluated.
            allow_cached_coco: use a converted file that already exists in `output_dir`.

        Raises:
            ValueError: the dataset must be converted and `output_dir` is missing.
            NeedsDetectron2: `tasks` has anything other than boxes.
        """
        unserved = {*(tasks or ()), *(["keypoints"] if kpt_oks_sigmas else [])} - {"bbox"}
        if unserved:
            raise NeedsDetectron2(f"evaluation of {' and '.join(sorted(unserved))}")
        if max_dets_per_image is not None and not isinstance(max_dets_per_image, int):
            raise TypeError(
                f"max_dets_per_image must be a whole number, such as 300, as in Detectron2; not {max_dets_per_image!r}."
            )
        self._logger = logging.getLogger("detectron2.evaluation.coco_evaluation")
        self._limit = _COCO_LIMIT if max_dets_per_image is None else max_dets_per_image
        self._distributed = distributed
        self._output_dir = output_dir
        self._metadata = MetadataCatalog.get(dataset_name)
        if "json_file" not in vars(self._metadata):
            if output_dir is None:
                raise ValueError(
                    f"Dataset '{dataset_name}' has no COCO json file and must be converted: give COCOEvaluator "
                    "an output_dir to write it to."
                )
            self._logger.info("Trying to convert '%s' to COCO format ...", dataset_name)
            converted = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, converted, allow_cached=allow_cached_coco)
            self._metadata.json_file = converted
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = COCO(PathManager.get_local_path(self._metadata.json_file))

    def reset(self) -> None:
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collect the "image_id" of each input and the "instances" of each output.

        Raises:
            NeedsDetectron2: an output has proposals, masks or keypoints.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if "proposals" in output:
                raise NeedsDetectron2("evaluation of proposals")
            if "instances" in output:
                detections = instances_to_coco_json(output["instances"].to("cpu"), image["image_id"])
                self._predictions.append({"image_id": image["image_id"], "instances": detections})

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, dict[str, float]]:
        """`{"bbox": {"AP": ..., "AP50": ..., ..., "AP-<class>": ...}}`; empty on ranks above 0.

        Args:
            img_ids: ids of the images to evaluate, by default all.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain.from_iterable(comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            self._logger.warning("[COCOEvaluator] Did not receive valid predictions.")
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "instances_predictions.pth"), "wb") as file:
                torch.save(predictions, file)

        detections = copy.deepcopy([d for image in predictions for d in image["instances"]])
        self._to_dataset_ids(detections)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info("Saving results to %s", path)
            with PathManager.open(path, "w") as file:
                json.dump(detections, file)
        if "annotations" not in self._coco_api.dataset:
            self._logger.info("Annotations are not available for evaluation.")
            return {}
        return {"bbox": self._box_metrics(detections, img_ids)}

    def _to_dataset_ids(self, detections: list[dict[str, Any]]) -> None:
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if id_map is None:
            return
        dataset_ids = {index: dataset_id for dataset_id, index in id_map.items()}
        for detection in detections:
            if detection["category_id"] not in dataset_ids:
                raise AssertionError(
                    f"A detection in image {detection['image_id']} has class {detection['category_id']}, but "
                    f"the dataset's classes are 0..{len(dataset_ids) - 1}."
                )
            detection["category_id"] = dataset_ids[detection["category_id"]]

    def _box_metrics(self, detections: list[dict[str, Any]], img_ids: list[int] | None) -> dict[str, float]:
        if not detections:
            return self._derive_coco_results(None, "bbox")
        judge = COCOeval(self._coco_api, self._coco_api.loadRes(detections), "bbox")
        if img_ids is not None:
            judge.params.imgIds = img_ids
        judge.params.maxDets = [1, 10, self._limit]
        judge.evaluate()
        judge.accumulate()
        if self._limit == _COCO_LIMIT:  # pycocotools prints its table for this limit only
            judge.summarize()

        self._warn_of_uncounted_objects()
        return self._derive_coco_results(judge, "bbox", self._metadata.get("thing_classes"))

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        """The metrics of an accumulated evaluation; subclasses override it, as Detectron2's.

        Args:
            coco_eval: None if the model has detected nothing.
            iou_type: "bbox".
            class_names: for AP by class; None to leave it out.
        """
        if coco_eval is None:
            self._logger.warning("No predictions from the model!")
            return dict.fromkeys(_METRICS, float("nan"))
        results = _box_ap(coco_eval)
        self._logger.info("Evaluation results for bbox: \n%s", create_small_table(results))
        if not np.isfinite(list(results.values())).all():
            self._logger.info("Some metrics cannot be computed and is shown as NaN.")
        if class_names is None or len(class_names) <= 1:
            return results
        per_class = dict(zip(class_names, _class_ap(coco_eval.eval["precision"]), strict=True))
        self._logger.info("Per-category bbox AP: \n%s", _table(per_class))
        return results | {f"AP-{name}": value for name, value in per_class.items()}

    def _warn_of_uncounted_objects(self) -> None:
        objects = Counter(
            (annotation["image_id"], annotation["category_id"])
            for annotation in self._coco_api.dataset["annotations"]
            if not annotation.get("iscrowd")
        )
        over = {pair: count for pair, count in objects.items() if count > self._limit}
        if over:
            (image, category), most = max(over.items(), key=lambda item: item[1])
            self._logger.warning(
                "%d images have more than %d objects of one class (image id %s has %d of category id %s), but AP "
                "counts the %d best detections per image and class, so even a perfect detector stays below 100. Set "
                "dataloader.evaluator.max_dets_per_image=%d and model.postprocess.top_k to as many or more.",
                len({image for image, _ in over}), self._limit, image, most, category, self._limit, most,
            )  # fmt: skip


def _box_ap(judge: COCOeval) -> dict[str, float]:
    """The metrics at the largest number of detections; pycocotools' own summary supports only 100."""
    precision = judge.eval["precision"]  # [IoU thresholds 0.5, 0.55, ..., recalls, classes, area ranges, detections]
    parts = (precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1])
    parts += tuple(precision[..., area, -1] for area in (1, 2, 3))
    return {name: _mean_in_percent(part) for name, part in zip(_METRICS, parts, strict=True)}


def _mean_in_percent(precision: np.ndarray) -> float:
    defined = precision[precision > -1]
    return float(np.mean(defined) * 100) if defined.size else float("nan")


def _class_ap(precision: np.ndarray) -> list[float]:
    """AP of each class, from pycocotools' array (IoU threshold, recall, class, area range, detections)."""
    return [_mean_in_percent(values) for values in precision[:, :, :, 0, -1].transpose(2, 0, 1)]


def _table(per_class: dict[str, float]) -> str:
    cells = list(itertools.chain.from_iterable(per_class.items()))
    columns = min(6, len(cells))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    headers = ["category", "AP"] * (columns // 2)
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", numalign="left")


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict[str, Any]]:
    """The detections of one image (on the CPU) as COCO results, with the model's class numbers."""
    for field in ("pred_masks", "pred_keypoints"):
        if instances.has(field):
            raise NeedsDetectron2(f"evaluation of {field}")
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    return [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for box, score, category in zip(boxes, scores, classes, strict=True)
    ]
