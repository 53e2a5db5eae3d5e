# SPDX-License-Identifier: Apache-2.0
"""Ground truth and detections of a few images, as COCO files."""

import json
from pathlib import Path

import numpy as np

from dino_d2.evaluation.ground_truth import GroundTruth, read_ground_truth
from dino_d2.evaluation.results import Detections, read_results


def truth_of(
    objects: list[tuple], classes: tuple[str, ...] = ("ant", "bee", "cat"), images: int = 2, size: int = 200
) -> dict:
    """Objects are (image id, category id, xywh) or (..., 1) for a crowd region; category ids are 3, 4, ..."""
    return {
        "images": [{"id": i, "width": size, "height": size, "file_name": f"{i}.png"} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, start=3)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": sum(crowd)}
            for n, (image, k, box, *crowd) in enumerate(objects, start=1)
        ],
    }


def results_of(found: list[tuple]) -> list[dict]:
    """Detections are (image id, category id, xywh, score)."""
    return [{"image_id": i, "category_id": k, "bbox": box, "score": score} for i, k, box, score in found]


def write(folder: Path, truth: dict, results: object) -> tuple[Path, Path]:
    """Write both files; returns the paths of the results and of the ground truth."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "found.json", folder / "truth.json"
    for path, content in zip(paths, (results, truth), strict=True):
        path.write_text(json.dumps(content))
    return paths


def read(folder: Path, truth: dict, results: object) -> tuple[GroundTruth, Detections]:
    """Write and read both files; nothing may be left out or joined by name."""
    found, annotations = write(folder, truth, results)
    said: list[str] = []
    ground_truth = read_ground_truth(annotations, said.append)
    detections = read_results(found, ground_truth, said.append)
    assert not said
    return ground_truth, detections


def random_data(seed: int, images: int = 12, classes: int = 4) -> tuple[dict, list[dict]]:
    """Objects, crowd regions among them, and detections near and far; scores have ties."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 8)):
            corner, size = rng.uniform(0, 100, 2), rng.uniform(8, 100, 2) * rng.choice([0.5, 1.6])
            k = int(rng.integers(3, 3 + classes - 1))  # the last class has no objects
            objects.append((image, k, [*corner, *size], int(rng.random() < 0.1)))
            for _ in range(rng.integers(0, 4)):
                near = np.concatenate([corner + rng.normal(0, 4, 2), size * rng.uniform(0.8, 1.2, 2)])
                label = k if rng.random() < 0.8 else int(rng.integers(3, 3 + classes))
                found.append((image, label, near.tolist(), round(float(rng.random()), 2)))
    names = tuple(f"class {k}" for k in range(classes))
    return truth_of([(i, k, list(map(float, box)), crowd) for i, k, box, crowd in objects], names, images), results_of(
        found
    )
