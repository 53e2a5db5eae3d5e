# SPDX-License-Identifier: Apache-2.0
"""The command line of `dino_d2 report` and `python -m dino_d2.report`."""

import argparse
import json
import logging
import math
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
from tabulate import tabulate

from dino_d2.checkpoint.score_thresholds import ScoreThresholds, store_score_thresholds
from dino_d2.errors import UserError
from dino_d2.evaluation.class_ap import mean_ap
from dino_d2.evaluation.ground_truth import GroundTruth, read_ground_truth
from dino_d2.evaluation.results import read_results
from dino_d2.files import write_atomically

from .measures import Measures, Settings, as_json, measure
from .page import page
from .pictures import draw_pictures

#: A run has a metrics.json in its folder already.
PAGE, NUMBERS = "report.html", "report.json"
DESCRIPTION = """Evaluate detections: AP by class, the best score threshold, confusions, and pictures of mistakes.

  {prog} --results output/dino_tiny_shapes/coco_instances_results.json \\
      --annotations datasets/shapes/annotations/shapes_val.json --images datasets/shapes/val --output report
  {prog} --config-file output/dino_tiny_shapes/config.yaml \\
      --weights output/dino_tiny_shapes/model_final.pth --output report

The second form first evaluates the weights on the test set of the config, as `dino_d2 eval` does. The output folder
gets report.html, a page that stands alone, and report.json with the same numbers.
"""

logger = logging.getLogger(__name__)


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION.format(prog=prog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, help="detections, such as coco_instances_results.json")
    parser.add_argument("--annotations", type=Path, help="ground truth, a COCO json")
    parser.add_argument("--images", type=Path, help="folder of the images; without it there are no pictures")
    parser.add_argument("--config-file", help="a recipe, by path or name, or the config.yaml of a run")
    parser.add_argument("--weights", help="a checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="a folder")
    parser.add_argument("--score-threshold", type=float, help="of confusions and mistakes (that of the highest F1)")
    parser.add_argument("--iou-threshold", type=float, default=0.5, help="of F1, confusions and mistakes (0.5)")
    parser.add_argument(
        "--max-dets-per-image", type=int, default=100, help="detections counted in each image for each class (100)"
    )
    parser.add_argument("--pictures", type=int, default=8, help="number of pictures of each kind (8)")
    parser.add_argument(
        "--store-threshold",
        nargs="?",
        const="",
        metavar="CHECKPOINT",
        help="store the best score thresholds in this checkpoint (that of --weights)",
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="changes to the config, path.key=value")
    return parser


def main(arguments: list[str] | None = None, prog: str = "dino_d2 report") -> None:
    """Run the command. A user error exits with a one-line message."""
    options = parser(prog).parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        run(options)
    except UserError as error:
        sys.exit(f"error: {error}")


def run(options: Namespace) -> None:
    """
    Raises:
        UserError: arguments or files cannot be used.
    """
    settings = Settings(options.iou_threshold, options.score_threshold, options.max_dets_per_image)
    check_arguments(options)
    options.output.mkdir(parents=True, exist_ok=True)
    results, annotations, images = options.results, options.annotations, options.images
    if options.config_file:
        from .detect import detect  # seconds of imports that results do not need

        results, annotations, images = detect(options)
    notes: list[str] = []
    truth = read_ground_truth(annotations, notes.append)
    detections = read_results(results, truth, notes.append)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    measures = measure(truth, detections, settings)
    warn_of_uncounted_objects(truth, settings.max_dets_per_image)
    write(
        measures,
        options.output,
        images,
        options.pictures,
        [f"Detections: {results}. Ground truth: {annotations}.", *notes],
    )

    if options.store_threshold is not None:
        store(measures, options.store_threshold or options.weights)


def store(measures: Measures, checkpoint: str) -> None:
    """Store the best thresholds of measures in a checkpoint.

    Raises:
        UserError: there are none, or the checkpoint is of another model.
    """
    if measures.best is None:
        raise UserError("no detection is right, so there is no best score threshold; nothing is stored")
    names = measures.truth.class_names
    of_class = zip(names, measures.best_of_class, strict=True)
    classes = {name: best.threshold for name, best in of_class if best is not None}
    thresholds = ScoreThresholds(measures.best.threshold, classes, measures.settings.iou_threshold)
    store_score_thresholds(checkpoint, thresholds, names)
    print(
        f'stored   {checkpoint}: Predictor(..., score_threshold="best") keeps detections with score ≥ '
        f"{measures.best.threshold:.3g}"
    )


def check_arguments(options: Namespace) -> None:
    """
    Raises:
        UserError: the arguments are neither results and ground truth nor a config and weights.
    """
    files = {"--results": options.results, "--annotations": options.annotations}
    model = {"--config-file": options.config_file, "--weights": options.weights}
    given = {name for name, value in (files | model).items() if value}
    if given not in (set(files), set(model)):
        raise UserError(
            f"give either {' and '.join(files)}, or {' and '.join(model)}"
            + (f", not {', '.join(sorted(given))}" * bool(given))
        )
    if options.config_file and options.images:
        raise UserError("--images is for --results; with --config-file the images are those of the recipe's test set")
    if options.images and not options.images.is_dir():
        raise UserError(f"--images {options.images}: there is no such folder (looked from {Path.cwd()})")
    if options.store_threshold == "" and not options.weights:
        raise UserError("--store-threshold: name the checkpoint whose detections --results are")
    if options.store_threshold and options.weights and options.store_threshold != options.weights:
        raise UserError("--store-threshold: the thresholds are those of --weights; give it without a file")
    if options.output.is_file():
        raise UserError(f"--output {options.output} is a file; a folder is needed")
    if options.pictures < 0:
        raise UserError(f"--pictures must be 0 or more, not {options.pictures}")


def write(measures: Measures, output: Path, images: Path | None, count: int, notes: list[str]) -> None:
    """Write the page and report.json into a folder, and print AP by class."""
    pictures = draw_pictures(measures, images, count) if images else None
    html = page(measures, pictures, f"Detections in {measures.truth.source.stem}", notes)
    text = json.dumps(as_json(measures), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(output / PAGE, lambda file: file.write(html.encode("utf-8", "replace")))
    write_atomically(output / NUMBERS, lambda file: file.write(text.encode("utf-8", "replace")))
    print(table(measures))
    at = measures.operation
    print(
        f"\nF1 {at.f1:.3f} (precision {at.precision:.3f}, recall {at.recall:.3f}) at score threshold "
        f"{measures.score_threshold:.3g} and IoU {measures.settings.iou_threshold:g}\n"
        f"page     {output / PAGE}\nnumbers  {output / NUMBERS}"
    )


def table(measures: Measures) -> str:
    """AP of each class in percent, numbers of objects and detections, and the best thresholds."""
    rows = []
    for k, name in enumerate(measures.truth.class_names):
        ap = mean_ap(measures.ap.precision[:, :, k])
        best, ranked = measures.best_of_class[k], measures.ranked[k]
        number = int((measures.detections.label == k).sum())
        rows.append([name, *_main(ap), ranked.objects, number, best and best.threshold])
    ap = mean_ap(measures.ap.precision)
    objects = sum(ranked.objects for ranked in measures.ranked)
    number = len(measures.detections.scores)
    threshold = measures.best and measures.best.threshold
    rows.append(["all", *_main(ap), objects, number, threshold])
    headings = ("class", "AP", "AP50", "AP75", "objects", "detections", "best threshold")
    return tabulate(rows, headings, floatfmt=(".1f",) * 6 + (".3g",), missingval="-")


def _main(ap: dict[str, float]) -> list[float | None]:
    return [None if math.isnan(ap[name]) else ap[name] for name in ("AP", "AP50", "AP75")]


def warn_of_uncounted_objects(truth: GroundTruth, limit: int) -> None:
    """Print a warning if AP cannot reach 100 because an image has more objects of a class than detections count."""
    if not (~truth.is_crowd).any():
        return
    pairs = np.stack([truth.image, truth.label])[:, ~truth.is_crowd]
    most = int(np.unique(pairs, axis=1, return_counts=True)[1].max())
    if most > limit:
        print(
            f"warning: an image has {most} objects of one class, but AP counts {limit} detections of an image and "
            f"class. Add --max-dets-per-image {most}",
            file=sys.stderr,
        )
