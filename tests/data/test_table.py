# SPDX-License-Identifier: Apache-2.0
"""Large jsons as tables: equal to Detectron2's dataset dicts, shared, never stale."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dino_d2.data.check import DatasetError
from dino_d2.data.coco_format import coco_format, table_dicts_of
from dino_d2.data.dataset_dicts import JoinedDicts, dataset_dicts
from dino_d2.data.loader import build_train_loader
from dino_d2.data.table import cache, json_parts, plain_entries
from dino_d2.data.table.annotation_table import TableDicts
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

READERS = ["fast", "without msgspec"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def large(monkeypatch):
    """Every json counts as large, and is read in small parts."""
    monkeypatch.setattr(cache, "LARGE_JSON", 0)
    monkeypatch.setattr(json_parts, "PART_BYTES", 1000)


def random_coco(rng: np.random.Generator, images: int = 40, shuffled: bool = False) -> dict[str, Any]:
    """A dataset of images of 64 x 48 or 48 x 64 with up to eight objects each, some of them crowds."""
    sizes = [(64, 48) if rng.random() < 0.7 else (48, 64) for _ in range(images)]
    ids = rng.permutation(1000)[:images].tolist()
    annotations = []
    for image_id, (width, height) in zip(ids, sizes, strict=True):
        for _ in range(rng.integers(0, 8)):
            x, y = rng.uniform(0, width - 5), rng.uniform(0, height - 5)
            bbox = [round(value, 3) for value in (x, y, rng.uniform(2, width - x), rng.uniform(2, height - y))]
            if rng.random() < 0.3:
                bbox = [int(value) for value in bbox]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([4, 9, 17])),
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
    if shuffled:
        rng.shuffle(annotations)
    return {
        "info": {"description": 'a "}, {" within'},
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in zip(ids, sizes, strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": 17, "name": "dog"}, {"id": 4, "name": "cat"}, {"id": 9, "name": "é"}],
    }


def write(folder: Path, coco: dict, name: str = "boxes") -> dict[str, Path]:
    """Write the json and empty files as its images; returns the two paths."""
    (folder / "images").mkdir(exist_ok=True)
    for image in coco["images"]:
        (folder / "images" / image["file_name"]).touch()
    (folder / f"{name}.json").write_text(json.dumps(coco))
    return {"json": folder / f"{name}.json", "images": folder / "images"}


def dicts_of(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, large: bool) -> tuple[list[dict], dict]:
    """The dataset dicts and the metadata, with a table or without."""
    monkeypatch.setattr(cache, "LARGE_JSON", 0 if large else 2**60)
    name = coco_format(**paths, name=f"coco_{'large' if large else 'small'}_{paths['json']}")
    assert (table_dicts_of(name) is not None) == large
    dicts = list(DatasetCatalog.get(name))
    metadata = MetadataCatalog.get(name)
    return dicts, {
        key: metadata.get(key)
        for key in ("image_root", "evaluator_type", "thing_classes", "thing_dataset_id_to_contiguous_id", "num_images")
    }


@pytest.mark.parametrize("msgspec", READERS)
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("keys", [("images", "annotations", "categories"), ("categories", "annotations", "images")])
def test_equal_to_the_general_reader(tmp_path, large, monkeypatch, msgspec, shuffled, keys):
    use_reader(msgspec, monkeypatch)
    coco = random_coco(np.random.default_rng(0), shuffled=shuffled)
    paths = write(tmp_path, {"info": coco["info"], "licenses": [], **{key: coco[key] for key in keys}, "last": 1})
    assert dicts_of(paths, monkeypatch, large=True) == dicts_of(paths, monkeypatch, large=False)


def use_reader(msgspec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if msgspec == "fast":
        pytest.importorskip("msgspec")
    else:
        monkeypatch.setattr(plain_entries, "msgspec", None)
