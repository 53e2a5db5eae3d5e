# SPDX-License-Identifier: Apache-2.0
"""Compute the AP of each class and plot precision over recall, for detections in the format of COCO results.

    python tools/plot_precision_recall.py found/coco_instances_results.json datasets/shapes/annotations/shapes_val.json

demo/demo.py writes such a file, and so does an evaluation, to ``train.output_dir``. The table is
printed; ``per_class_ap.csv`` and ``precision_recall.png`` are written to the folder of the results, or to ``--output``.
"""

import argparse
import contextlib
import csv
import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from dino_d2.errors import UserError
from dino_d2.visualize.style import colour_of

COLUMNS = ("class", "AP", "AP50", "AP75", "objects", "detections")
_SHOWN = 10  # number of classes with their own curve: those with the most objects


def evaluate(results: Path, annotations: Path, max_dets_per_image: int = 100) -> COCOeval:
    """Evaluate boxes with pycocotools.

    Args:
        results, annotations: COCO results and ground truth.
        max_dets_per_image: detections that count in each image for each class, best first.

    Raises:
        UserError: a file is missing or has another format, or the files belong to different datasets.
    """
    for path in (results, annotations):
        if not path.is_file():
            raise UserError(f"there is no {path} (looked from {Path.cwd()})")
    detections, truths = read_json(results), read_json(annotations)
    if not isinstance(detections, list) or not detections:
        raise UserError(f"{results} is not a list of detections, or it is empty")
    if not isinstance(truths, dict) or not {"images", "annotations", "categories"} <= truths.keys():
        raise UserError(f"{annotations} is not ground truth in COCO format")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = truths
        truth.createIndex()
        unknown = {d["image_id"] for d in detections} - set(truth.getImgIds())
        if unknown:
            raise UserError(
                f"{results} has detections in {len(unknown)} images that are not in {annotations}; the first is image "
                f"id {min(unknown)}. Do the detections belong to another dataset?"
            )
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.params.maxDets = [1, 10, max_dets_per_image]
        evaluation.evaluate()
        evaluation.accumulate()
    objects = Counter((a["image_id"], a["category_id"]) for a in truths["annotations"] if not a.get("iscrowd"))
    if objects and (most := max(objects.values())) > max_dets_per_image:
        print(
            f"warning: an image has {most} objects of one class, but AP counts {max_dets_per_image} detections of an "
            f"image and class. Add --max-dets-per-image {most}",
            file=sys.stderr,
        )
    return evaluation


def read_json(path: Path) -> Any:
    """
    Raises:
        UserError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not even text
        raise UserError(f"{path} is not a JSON file: {error}") from error


def table(evaluation: COCOeval) -> list[list]:
    """Rows of `COLUMNS` for each class and, last, the mean; AP in percent, NaN for classes without objects."""
    precision = curves(evaluation)  # [IoU thresholds, recalls, C]
    thresholds = evaluation.params.iouThrs
    at = {name: [int(np.argmin(np.abs(thresholds - iou)))] for name, iou in (("AP50", 0.5), ("AP75", 0.75))}
    at["AP"] = list(range(len(thresholds)))
    rows = []
    for k, category in enumerate(evaluation.params.catIds):
        scores = [100 * precision[at[name], :, k].mean() for name in ("AP", "AP50", "AP75")]
        name = evaluation.cocoGt.cats[category]["name"]
        rows.append([name, *scores, count(evaluation.cocoGt, category), count(evaluation.cocoDt, category)])
    means = [float(np.nanmean([row[i] for row in rows])) for i in (1, 2, 3)]
    return [*rows, ["mean", *means, sum(row[4] for row in rows), sum(row[5] for row in rows)]]


def curves(evaluation: COCOeval) -> np.ndarray:
    """Precision in 0..1 for objects of all sizes, [IoU thresholds, recalls, C]; NaN for classes without objects."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return np.where(precision < 0, np.nan, precision)


def count(coco: COCO, category: int) -> int:
    return sum(not a.get("iscrowd", 0) for a in coco.loadAnns(coco.getAnnIds(catIds=[category])))


def plot(evaluation: COCOeval) -> Figure:
    """Plot the mean over classes at each IoU threshold (left), and single classes at IoU 0.5 (right)."""
    precision, recalls = curves(evaluation), evaluation.params.recThrs
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    mean, single = figure.subplots(1, 2)
    for t, threshold in enumerate(evaluation.params.iouThrs):
        colour = colormaps["viridis"](t / len(evaluation.params.iouThrs))
        values = np.nanmean(precision[t], axis=1)
        mean.plot(recalls, values, color=colour, label=f"IoU {threshold:.2f}: {100 * values.mean():.1f}")
    rows = table(evaluation)[:-1]
    shown = sorted(range(len(rows)), key=lambda k: -rows[k][4])[:_SHOWN]
    for k in sorted(shown):
        colour = tuple(channel / 255 for channel in colour_of(k))
        single.plot(recalls, precision[0, :, k], color=colour, label=f"{rows[k][0]}: {rows[k][2]:.1f}")
    mean.set_title("mean of all classes, and AP")
    single.set_title("IoU 0.50" + (f", the {_SHOWN} classes with the most objects" if len(rows) > _SHOWN else ""))
    for axes in (mean, single):
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower left")
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="coco_instances_results.json")
    parser.add_argument("annotations", type=Path, help="ground truth, a COCO json")
    parser.add_argument("--output", type=Path, help="output folder (the folder of the results)")
    parser.add_argument(
        "--max-dets-per-image", type=int, default=100, help="detections counted in each image for each class (100)"
    )
    options = parser.parse_args(arguments)
    folder = options.output or options.results.parent
    try:
        evaluation = evaluate(options.results, options.annotations, options.max_dets_per_image)
    except UserError as error:
        sys.exit(f"error: {error}")
    folder.mkdir(parents=True, exist_ok=True)
    rows = table(evaluation)
    with open(folder / "per_class_ap.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    plot(evaluation).savefig(folder / "precision_recall.png", dpi=80)
    print(tabulate(rows, COLUMNS, floatfmt=".1f"))


if __name__ == "__main__":
    main()
