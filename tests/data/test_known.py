# SPDX-License-Identifier: Apache-2.0
"""Data of detection with known objects or labels."""

import json

import pytest

from dino_d2.data.known import KnownLabelsMapper, KnownObjectsMapper, only_classes
from dino_d2.data.shapes import shapes
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.meta_arch import KnownClasses
from tests.paths import ROOT


def test_the_mappers_tell_and_the_evaluator_counts_other_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    name = shapes("val", tmp_path / "shapes", train=1, val=6, size=64)
    given = KnownObjectsMapper(KnownClasses([0, 1, 2]), augmentations=[])
    labels = KnownLabelsMapper(augmentations=[])
    for dataset_dict in DatasetCatalog.get(name):
        mapped = given(dataset_dict)
        classes = mapped["instances"].gt_classes.tolist()
        assert mapped["known_objects"].gt_classes.tolist() == [c for c in classes if c < 3]
        assert labels(dataset_dict)["known_labels"] == sorted(set(classes))
    other = only_classes(name, [3, 4])
    metadata = MetadataCatalog.get(other)
    assert metadata.thing_classes == MetadataCatalog.get(name).thing_classes
    with open(MetadataCatalog.get(name).json_file) as file:
        everything = [a["category_id"] for a in json.load(file)["annotations"]]
    with open(metadata.json_file) as file:
        kept = [a["category_id"] for a in json.load(file)["annotations"]]
    assert kept == [c for c in everything if c in (4, 5)]
    assert 0 < len(kept) < len(everything)


@pytest.mark.parametrize(("split", "unknown"), [("70_30", 2), ("50_50", 3)])
def test_the_recipes_of_table_3_learn_and_count_the_same_unknown_classes(tmp_path, monkeypatch, split, unknown):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    counted = []
    for kind in ("known_objects", "unknown_alone"):
        cfg = LazyConfig.load(f"{ROOT}/configs/known/shapes_{kind}_{split}.py")
        names = cfg.dataloader.train.dataset.names
        few = {"train": 12, "val": 12, "size": 64}
        (names if "root" in names else names.dataset).update(root=str(tmp_path / "shapes"), **few)
        cfg.dataloader.test.dataset.names.update(few)
        evaluated = instantiate(cfg.dataloader.evaluator.dataset_name)
        counted.append(classes_in(evaluated))
        learned = classes_in(instantiate(names))
        assert learned == (set(range(5)) if kind == "known_objects" else counted[0])
    assert counted[0] == counted[1]
    assert len(counted[0]) == unknown


def classes_in(dataset: str) -> set[int]:
    return {a["category_id"] for x in DatasetCatalog.get(dataset) for a in x["annotations"]}
