# SPDX-License-Identifier: Apache-2.0
"""Draw the anchors and the objects they are matched with, or the measures of the matching during training.

    python tools/draw_matching.py arrows --config-file configs/dino/dino_tiny_shapes.py \\
        --weights output/dino_tiny_shapes/model_final.pth --output arrows.png
    python tools/draw_matching.py curves output/dino_tiny_shapes_instruments --output matching.png

docs/evaluation.md describes the measures.
"""

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dino_d2.data.check import DatasetError
from dino_d2.detectron2.data import DatasetCatalog
from dino_d2.errors import UserError
from dino_d2.predict import Predictor
from dino_d2.visualize.matching import arrows, curves


def arrows_of(options: argparse.Namespace) -> Figure:
    predictor = Predictor(options.config_file, options.weights, options.opts)
    annotated = [one for one in DatasetCatalog.get(predictor.test_set()) if one.get("annotations")]
    picks = np.linspace(0, len(annotated) - 1, min(options.count, len(annotated))).round().astype(int)
    mapped = [predictor.mapper(annotated[i]) for i in picks]
    return arrows(predictor.model, mapped, predictor.mapper.image_format, options.longest)


def curves_of(options: argparse.Namespace) -> Figure:
    for run in options.runs:
        if not (run / "metrics.json").is_file():
            raise UserError(f"there is no {run / 'metrics.json'}: give the output folder of a run")
    try:
        return curves({run.name: run for run in options.runs})
    except ValueError as error:
        raise UserError(str(error)) from error


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("arrows", help="draw arrows from anchors to the objects they are matched with")
    one.add_argument("--config-file", required=True, help="a recipe, or the config.yaml of a run")
    one.add_argument("--weights", required=True, help="a checkpoint")
    one.add_argument(
        "--count", type=int, default=4, help="number of images, evenly spaced in the config's test set (4)"
    )
    one.add_argument(
        "--longest", type=float, default=0.3, help="L1 distance at the upper end of the colour scale (0.3)"
    )
    one.add_argument("--output", type=Path, default=Path("arrows.png"))
    one.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="changes to the config, path.key=value")
    one.set_defaults(draw=arrows_of)
    two = kinds.add_parser("curves", help="plot IS, ATD(100) and other measures over training")
    two.add_argument("runs", nargs="+", type=Path, help="output folders of runs with instruments")
    two.add_argument("--output", type=Path, default=Path("matching.png"))
    two.set_defaults(draw=curves_of)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        figure = options.draw(options)
    except (UserError, DatasetError) as error:
        sys.exit(f"error: {error}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=90)
    print(options.output)


if __name__ == "__main__":
    main()
