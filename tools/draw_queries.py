# SPDX-License-Identifier: Apache-2.0
"""Draw the sampling points of a trained model's query, and its denoising queries around the ground truth.

    python tools/draw_queries.py --config-file configs/dino/dino_tiny_shapes.py \\
        --weights output/dino_tiny_shapes/model_final.pth --input datasets/shapes/val/000002.png --output pictures

writes ``{name}_sampling_points.png`` and, if the picture is in the config's test set and the model is trained with
denoising queries, ``{name}_denoising.png``. docs/pictures.md explains them.
"""

import argparse
import logging
import sys
from pathlib import Path

from dino_d2.data.check import DatasetError
from dino_d2.detectron2.data import DatasetCatalog
from dino_d2.errors import UserError
from dino_d2.predict import Predictor
from dino_d2.visualize import panel_of_denoising, panel_of_sampling_points
from dino_d2.visualize.predictions import save


def ground_truth(predictor: Predictor, path: Path) -> dict | None:
    """Dataset dict of the picture; None if it is not in the config's test set or has no objects."""
    dataset_dicts = DatasetCatalog.get(predictor.test_set())
    same = (one for one in dataset_dicts if Path(one["file_name"]).resolve() == path.resolve())
    return next((one for one in same if one["annotations"]), None)


def draw(predictor: Predictor, path: Path, folder: Path, query: int | None, groups: int, seed: int) -> list[Path]:
    """Write the pictures and return their paths."""
    if not path.is_file():
        raise UserError(f"image {path} does not exist (looked from {Path.cwd()})")
    model, mapper, names = predictor.model, predictor.mapper, predictor.class_names
    mapped = mapper({"file_name": str(path)})
    written = [folder / f"{path.stem}_sampling_points.png"]
    save(panel_of_sampling_points(model, mapped, mapper.image_format, names, query), written[0])
    if model.denoising is not None and (annotated := ground_truth(predictor, path)):
        written.append(folder / f"{path.stem}_denoising.png")
        panel = panel_of_denoising(model, mapper(annotated), mapper.image_format, names, groups, seed)
        save(panel, written[1])
    return written


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="a recipe, or the config.yaml of a run")
    parser.add_argument("--weights", required=True, help="a checkpoint")
    parser.add_argument("--input", required=True, type=Path, help="a picture")
    parser.add_argument("--output", type=Path, default=Path("."), help="a folder (the current one)")
    parser.add_argument("--query", type=int, help="index of the query; default: that of the best detection")
    parser.add_argument("--groups", type=int, default=2, help="number of denoising groups to draw (2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the denoising queries' noise (0)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="changes to the config, path.key=value")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        predictor = Predictor(options.config_file, options.weights, options.opts)
        written = draw(predictor, options.input, options.output, options.query, options.groups, options.seed)
    except (UserError, DatasetError) as error:
        sys.exit(f"error: {error}")
    print("\n".join(map(str, written)))
    if len(written) == 1:
        print("no denoising queries: the picture is not in the config's test set, or the model has no denoising")


if __name__ == "__main__":
    main()
