# SPDX-License-Identifier: Apache-2.0
"""The command line of `dino_d2 predict` and `demo/demo.py`."""

import argparse
import contextlib
import itertools
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dino_d2.data.pixels import pixels
from dino_d2.detectron2.evaluation.coco_evaluation import instances_to_coco_json
from dino_d2.detectron2.structures import Instances
from dino_d2.errors import UserError
from dino_d2.files import write_atomically
from dino_d2.signals import Interrupted, interruptible
from dino_d2.visualize import draw_detections

from .inputs import Input, gather
from .label_files import WRITERS, LabelWriter, check_names
from .predictor import Predictor
from .tiles import Tiling
from .video import VideoReader, VideoWriter
from .weights import best_thresholds

RESULTS = "coco_instances_results.json"
DESCRIPTION = """Detect objects in images, folders, videos or a webcam.

  {prog} --config-file dino/dino_tiny_shapes.py \\
      --weights output/dino_tiny_shapes/model_final.pth --input images/*.jpg --output found

Each image and video is drawn into the output folder under its own name; all detections are written there in COCO's
results format, coco_instances_results.json.
"""

logger = logging.getLogger(__name__)


class PredictionWriter:
    """Draws detections and collects them for the results file.

    Args:
        predictor: runs the model.
        folder: output folder for pictures and json; created if necessary.
        score_threshold: detections with a lower score are neither drawn nor labelled; the json contains all.
        labels: writes the labels of each picture; None to write none.
    """

    def __init__(self, predictor: Predictor, folder: Path, score_threshold: float, labels: LabelWriter | None = None):
        self.predictor, self.folder, self.score_threshold, self.labels = predictor, folder, score_threshold, labels
        self.results: list[dict] = []
        self.written: set[Path] = set()
        self.unreadable = 0
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, inputs: list[Input]) -> None:
        """Process all inputs. After a signal such as Ctrl-C, the results so far are written.

        Raises:
            Interrupted: after such a signal.
        """
        numbers = image_ids(inputs)
        try:
            with interruptible():
                for one in tqdm(inputs, "predict", disable=None, unit="file"):
                    if one.is_video:
                        self.video(one, numbers)
                    else:
                        self.picture(one, next(numbers))
        finally:
            content = json.dumps(self.results).encode()
            write_atomically(self.folder / RESULTS, lambda file: file.write(content))
            if self.labels:
                self.labels.close()

    def picture(self, one: Input, image_id: int) -> None:
        assert one.path is not None  # only a webcam has none, and that is a video
        try:
            image = Image.fromarray(pixels(one.path, "RGB", "RGB"))
        except UserError as error:  # one broken file must not stop the others
            logger.error("%s", error)
            self.unreadable += 1
            return
        instances = self.predictor(image)
        suffix = one.path.suffix if one.path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp") else ".png"
        self.draw(image, instances).save(self.free_path(one, suffix), quality=92)
        self.collect(instances, image_id, {"file_name": one.name})
        if self.labels:
            self.labels.write(one, instances[instances.scores >= self.score_threshold])

    def video(self, one: Input, numbers: Iterator[int]) -> None:
        reader = VideoReader(one.camera if one.path is None else one.path)
        path = self.free_path(one, ".mp4")
        with contextlib.closing(VideoWriter(path, reader.frames_per_second, reader.live)) as writer:
            frames = tqdm(reader, one.name, total=reader.length, disable=None, unit="frame", leave=False)
            for number, frame in enumerate(frames):
                instances = self.predictor(frame, colour_order="BGR")
                assert isinstance(instances, Instances)  # of one frame
                drawn = self.draw(Image.fromarray(frame[:, :, ::-1]), instances)
                writer.write(np.ascontiguousarray(np.asarray(drawn)[:, :, ::-1]))
                self.collect(instances, next(numbers), {"file_name": one.name, "frame": number})

    def draw(self, image: Image.Image, instances: Instances) -> Image.Image:
        return draw_detections(image, instances, self.predictor.class_names, self.score_threshold)

    def collect(self, instances: Instances, image_id: int, origin: dict) -> None:
        for detection in instances_to_coco_json(instances, image_id):
            category = self.predictor.categories[detection["category_id"]]
            names = {"category_id": category["id"], "category_name": category["name"]}
            self.results.append({**detection, **names, **origin})

    def free_path(self, one: Input, suffix: str) -> Path:
        """A path in the output folder with the input's file name; repeated names get a number."""
        folder = (self.folder / one.name).parent
        stem = Path(one.name).stem if one.path else one.name
        path, number = folder / f"{stem}{suffix}", 1
        while path in self.written:
            number += 1
            path = folder / f"{stem}_{number}{suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        if one.path and path.exists() and path.samefile(one.path):
            raise UserError(f"--output {self.folder}: {path.name} would overwrite the input. Choose another folder")
        self.written.add(path)
        return path


def image_ids(inputs: list[Input]) -> Iterator[int]:
    """An id for each picture and each frame: the numbers in the names, if all have one as in COCO, else 1, 2, 3, ..."""
    stems = [one.path.stem if one.path and not one.is_video else "" for one in inputs]
    if all(stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return (int(stem) for stem in stems)
    return itertools.count(1)


def tiling(tile: int | None, overlap: int | None) -> Tiling | None:
    """What --tile and --overlap ask for."""
    if tile is None:
        if overlap is not None:
            raise UserError("--overlap is the overlap of tiles: give their size too, such as --tile 640")
        return None
    return Tiling(tile, tile // 5 if overlap is None else overlap)


def threshold(word: str) -> float | str:
    """The value of --confidence-threshold."""
    return word if word == "best" else float(word)


def lowest_score(word: float | str, predictor: Predictor, weights: str) -> float:
    """What --confidence-threshold asks for.

    Raises:
        UserError: nothing is stored in the weights.
    """
    return best_thresholds(predictor.score_thresholds, weights).overall if isinstance(word, str) else word


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION.format(prog=prog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="a recipe, by path or name, or the config.yaml of a run")
    parser.add_argument("--weights", required=True, help="a checkpoint")
    parser.add_argument("--input", required=True, nargs="+", help="images, folders, videos, 'webcam' or 'webcam:1'")
    parser.add_argument("--output", required=True, type=Path, help="a folder")
    parser.add_argument(
        "--confidence-threshold",
        type=threshold,
        default=0.3,
        metavar="SCORE",
        help='lowest score to draw (0.3); "best" for the one that `dino_d2 report` has stored in the weights',
    )
    parser.add_argument("--recursive", action="store_true", help="search the folders inside folders too")
    parser.add_argument("--save-labels", choices=WRITERS, help="also write the drawn detections as label files")
    parser.add_argument("--nms-iou", type=float, help="remove the weaker of two boxes of one class above this IoU")
    parser.add_argument("--tile", type=int, help="detect in square tiles of so many pixels too, for large images")
    parser.add_argument("--overlap", type=int, help="least overlap of the tiles in pixels (a fifth of a tile)")
    parser.add_argument("--device", help="for example cuda:1 or cpu; the default is CUDA if available")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="changes to the config, path.key=value")
    return parser


def main(arguments: list[str] | None = None, prog: str = "dino_d2 predict") -> None:
    """Run the command. A user error exits with a one-line message."""
    options = parser(prog).parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        if options.output.is_file():
            raise UserError(f"--output {options.output} is a file; a folder is needed")
        if not (options.confidence_threshold == "best" or 0 <= options.confidence_threshold <= 1):
            raise UserError(f"--confidence-threshold {options.confidence_threshold} must be between 0 and 1, or best")
        inputs = gather(options.input, options.recursive, options.output)
        if options.save_labels:
            check_names(inputs, options.save_labels)
            if videos := sum(one.is_video for one in inputs):
                logger.warning("--save-labels is for pictures; no labels are written for %d videos", videos)
        predictor = Predictor(
            options.config_file,
            options.weights,
            options.opts,
            options.device,
            nms_iou=options.nms_iou,
            tiling=tiling(options.tile, options.overlap),
        )
        labels = WRITERS[options.save_labels](options.output, predictor.class_names) if options.save_labels else None
        lowest = lowest_score(options.confidence_threshold, predictor, options.weights)
        writer = PredictionWriter(predictor, options.output, lowest, labels)
        with logging_redirect_tqdm():
            writer.run(inputs)
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interrupted as interrupted:
        print(f"Stopped by {interrupted}; the results so far are saved in {options.output}", file=sys.stderr)
        sys.exit(128 + interrupted.number)
    except OSError as error:
        sys.exit(f"error: {options.output} cannot be written to: {error}")
    drawn = sum(result["score"] >= lowest for result in writer.results)
    print(
        f"{len(writer.written)} files with {drawn} detections drawn in {options.output}; all detections are in "
        f"{options.output / RESULTS}"
    )
    if writer.unreadable:
        sys.exit(f"error: {writer.unreadable} of {len(inputs)} inputs could not be read")
