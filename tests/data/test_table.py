# SPDX-License-Identifier: Apache-2.0
"""Large jsons as tables: equal to the general reader in data and words, read once, never stale."""

import fcntl
import json
import logging
import os
import pickle
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dino_d2.data.coco_format as coco_format_module
from dino_d2.data.check import DatasetError, check, load
from dino_d2.data.coco_format import coco_format
from dino_d2.data.dataset_dicts import JoinedDicts, dataset_dicts
from dino_d2.data.evaluation_loader import build_evaluation_loader
from dino_d2.data.loader import build_train_loader
from dino_d2.data.table import as_json, cache, json_parts, plain_entries
from dino_d2.data.table.annotation_table import TableDicts
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from dino_d2.detectron2.utils.file_io import PathManager
from dino_d2.engine.datasets import _check_coco_format
from dino_d2.engine.training_data import TrainingData
from tests.data import fuzz


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Tables of their own for each test, whose files are closed behind it."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_opened", {})
    monkeypatch.setattr(coco_format_module, "_tables", {})
    monkeypatch.setattr(as_json, "_registered", {})
    names = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


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


@pytest.fixture(params=["fast", "without msgspec"])
def reader(request, monkeypatch):
    """How the entries are decoded."""
    if request.param == "fast":
        pytest.importorskip("msgspec")
    else:
        monkeypatch.setattr(plain_entries, "msgspec", None)


def register(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, large: bool) -> str:
    """The name of the dataset, with a table or without."""
    monkeypatch.setattr(cache, "LARGE_JSON", 0 if large else 2**60)
    name = f"coco_{'large' if large else 'small'}_{paths['json']}"
    return coco_format(**paths, name=name.replace("/", "_"))


def evaluated(name: str) -> list[dict]:
    """The annotations of the json that an evaluator is given."""
    with PathManager.open(MetadataCatalog.get(name).json_file) as file:
        coco = json.load(file)
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    return sorted(({key: a[key] for key in keys} for a in coco["annotations"]), key=lambda a: a["id"])


@pytest.mark.usefixtures("large", "reader")
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("keys", [("images", "annotations", "categories"), ("categories", "annotations", "images")])
def test_equal_to_the_general_reader(tmp_path, monkeypatch, shuffled, keys):
    coco = random_coco(np.random.default_rng(0), shuffled=shuffled)
    paths = write(tmp_path, {"info": coco["info"], "licenses": [], **{key: coco[key] for key in keys}, "last": 1})
    large, small = (register(paths, monkeypatch, is_large) for is_large in (True, False))
    assert isinstance(DatasetCatalog.get(large), TableDicts)
    assert isinstance(DatasetCatalog.get(small), list)
    assert list(DatasetCatalog.get(large)) == list(DatasetCatalog.get(small))
    assert evaluated(large) == evaluated(small)
    a, b = (MetadataCatalog.get(name) for name in (large, small))
    for key in ("image_root", "evaluator_type", "thing_classes", "thing_dataset_id_to_contiguous_id", "num_images"):
        assert a.get(key) == b.get(key)
    for filter_empty in (False, True):
        expected = get_detection_dataset_dicts(small, filter_empty=filter_empty)
        assert list(dataset_dicts(large, filter_empty=filter_empty)) == expected
        assert list(get_detection_dataset_dicts(large, filter_empty=filter_empty)) == expected  # Detectron2's own


@pytest.mark.usefixtures("large", "reader")
def test_mutated_jsons_are_used_or_refused_in_the_same_words(tmp_path, monkeypatch, caplog):
    """Equal data, warnings and errors; where the json is no JSON at all, both say so."""
    plain = fuzz.valid_coco()
    for annotation in plain["annotations"]:
        annotation.pop("segmentation", None)
        annotation.pop("keypoints", None)
    monkeypatch.setattr(fuzz, "valid_coco", lambda: json.loads(json.dumps(plain)))
    fuzz.write_images(tmp_path / "images")
    rng, tables = random.Random(1), 0
    paths = {"json": tmp_path / "mutated.json", "images": tmp_path / "images"}
    for number in range(100):
        paths["json"].write_bytes(fuzz.mutated_coco(rng))
        os.utime(paths["json"], ns=(number, number))
        results: list[Any] = []
        for is_large in (True, False):
            caplog.clear()
            try:
                name = register(paths, monkeypatch, is_large)
            except DatasetError as error:
                results.append(str(error).split(" is not a JSON file")[0])
                continue
            tables += isinstance(DatasetCatalog.get(name), TableDicts)
            warnings = [r.message for r in caplog.records if r.name == "dino_d2.data.coco_format" and r.levelno > 20]
            results.append((list(DatasetCatalog.get(name)), evaluated(name), warnings))
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        if isinstance(results[1], str):  # files that are missing are looked for when the json itself is right
            assert results[1].startswith(results[0])
        else:
            assert results[0] == results[1], paths["json"].read_bytes()[:2000]
    assert tables > 20


@pytest.mark.usefixtures("large", "reader")
def test_findings_are_those_of_the_check(tmp_path, monkeypatch):
    coco = random_coco(np.random.default_rng(1), images=120, shuffled=True)
    annotations = coco["annotations"]
    annotations[3] = {**annotations[2], "id": 9001}  # a copy
    annotations[7]["bbox"] = [-5, 3, 20, 20]  # partly outside
    annotations += [
        {**annotations[0], "id": 10_000 + k, "bbox": [1, 1, 5 + k / 9, 9], "iscrowd": 0} for k in range(101)
    ]
    coco["categories"] += [{"id": 30, "name": "Dog"}, {"id": 2, "name": "dog"}]
    coco["images"].append({**coco["images"][0], "id": 5000})
    paths = write(tmp_path, coco)
    dicts = DatasetCatalog.get(register(paths, monkeypatch, large=True))
    findings = [f for f in check(load(**paths), paths["images"]) if "cannot be read" not in f.what]
    assert len(findings) == 9
    assert sorted(map(str, dicts.table.findings)) == sorted(map(str, findings))


@pytest.mark.usefixtures("large")
def test_a_table_is_made_once_and_again_when_the_json_changes(tmp_path, monkeypatch):
    coco = random_coco(np.random.default_rng(2))
    paths = write(tmp_path, coco)
    reads = counted_reads(monkeypatch)
    name = register(paths, monkeypatch, large=True)
    assert coco_format(**paths, name=name) == name
    forget(monkeypatch)  # as in another process
    digest = cache.table_of(paths["json"]).digest
    assert len(reads) == 1
    coco["annotations"][0]["bbox"] = [1, 1, 7, 7]
    write(tmp_path, coco)
    name = register(paths, monkeypatch, large=True)
    assert len(reads) == 2
    table = cache.table_of(paths["json"])
    assert [1, 1, 7, 7] in table.bbox.tolist()
    assert table.digest != digest
    assert TrainingData({"train": [name]}).digests == {"train": [table.digest]}
    assert len(list(table.folder.parent.glob("*"))) == 2  # the table and its lock


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list:
    """A list that gets an element for each json that is read."""
    reads: list[Path] = []
    read_table = cache.read_table
    monkeypatch.setattr(cache, "read_table", lambda json, folder: (reads.append(json), read_table(json, folder)))
    return reads


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_opened", {})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("file", ["bbox.npy", "table.json", "complete.json"])
def test_a_damaged_table_is_made_again(tmp_path, monkeypatch, damage: Callable[[Path], None], file):
    paths = write(tmp_path, random_coco(np.random.default_rng(3)))
    table = cache.table_of(paths["json"])
    dicts = list(TableDicts(table, "images"))
    damage(table.folder / file)
    forget(monkeypatch)
    reads = counted_reads(monkeypatch)
    assert list(TableDicts(cache.table_of(paths["json"]), "images")) == dicts
    assert len(reads) == 1


@pytest.mark.usefixtures("large")
def test_a_failed_start_leaves_no_table(tmp_path, monkeypatch):
    paths = write(tmp_path, random_coco(np.random.default_rng(3)))
    monkeypatch.setattr(cache, "read_table", lambda json, folder: (folder / "bbox").write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cache.table_of(paths["json"])
    (lock,) = (tmp_path / "cache" / "dino_d2" / "tables").iterdir()
    assert lock.suffix == ".lock"


@pytest.mark.usefixtures("large")
def test_processes_wait_for_the_one_that_reads(tmp_path, monkeypatch, caplog):
    paths = write(tmp_path, random_coco(np.random.default_rng(4)))
    cache.table_of(paths["json"])
    forget(monkeypatch)
    reads = counted_reads(monkeypatch)
    (lock,) = (tmp_path / "cache" / "dino_d2" / "tables").glob("*.lock")
    tables: list = []
    with caplog.at_level(logging.INFO, logger="dino_d2"):
        with open(lock) as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            thread = threading.Thread(target=lambda: tables.append(cache.table_of(paths["json"])))
            thread.start()
            while "Another process is reading" not in caplog.text:
                time.sleep(0.01)
            assert not tables
        thread.join()
    assert len(tables) == 1
    assert not reads


def test_small_jsons_and_those_with_masks_get_no_table(tmp_path, monkeypatch, caplog):
    coco = random_coco(np.random.default_rng(5))
    paths = write(tmp_path, coco)
    assert isinstance(DatasetCatalog.get(coco_format(**paths)), list)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(cache, "LARGE_JSON", 0)
    for number, change in enumerate([{"segmentation": [[1, 1, 5, 1, 5, 5]]}, {"keypoints": [1, 1, 2]}]):
        changed = {**coco, "annotations": [*coco["annotations"][:-1], coco["annotations"][-1] | change]}
        paths = write(tmp_path, changed, f"masks{number}")
        assert isinstance(DatasetCatalog.get(coco_format(**paths)), list)
    texts = json.loads(json.dumps(coco))
    for image in texts["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in texts["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
    name = coco_format(**write(tmp_path, texts, "texts"))
    assert isinstance(DatasetCatalog.get(name), list)


@pytest.mark.usefixtures("large")
def test_other_processes_map_the_same_files(tmp_path, monkeypatch):
    dicts = DatasetCatalog.get(register(write(tmp_path, random_coco(np.random.default_rng(6))), monkeypatch, True))
    part = dicts[3:]
    sent = pickle.dumps(part)
    assert len(sent) < 2000
    assert list(pickle.loads(sent)) == list(dicts)[3:]
    assert part[-1] == dicts[len(dicts) - 1]
    with pytest.raises(IndexError):
        dicts[len(dicts)]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("grouping", [False, True])
def test_batches_are_those_of_a_list(tmp_path, monkeypatch, grouping):
    """A table, and a table joined with a small dataset, in the same order to the last image."""
    first = write(tmp_path, random_coco(np.random.default_rng(7)))
    second = write(tmp_path, random_coco(np.random.default_rng(8)), "others")
    large = [register(paths, monkeypatch, True) for paths in (first, second)]
    small = [register(paths, monkeypatch, False) for paths in (first, second)]
    for names, expected in (
        (large[0], small[0]),
        (large, small),
        ([small[0], large[1]], small),
    ):
        dataset = dataset_dicts(names)
        assert isinstance(dataset, TableDicts | JoinedDicts)
        batches, states = zip(
            *(first_batches(d, grouping) for d in (dataset, get_detection_dataset_dicts(expected))), strict=True
        )
        assert batches[0] == batches[1]
        assert states[0] == states[1]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_batches_are_those_of_a_list(tmp_path, monkeypatch, workers):
    paths = [write(tmp_path, random_coco(np.random.default_rng(seed)), str(seed)) for seed in (7, 8)]
    large, small = ([register(one, monkeypatch, is_large) for one in paths] for is_large in (True, False))
    for names in (large[0], large):
        dataset = dataset_dicts(names, filter_empty=False)
        assert isinstance(dataset, TableDicts | JoinedDicts)
        expected = get_detection_dataset_dicts(small if names is large else small[0], filter_empty=False)
        found, listed = (
            list(build_evaluation_loader(one, mapper=dict, batch_size=3, num_workers=workers))
            for one in (dataset, expected)
        )
        assert found == listed


def first_batches(dataset: Any, grouping: bool) -> tuple[list, dict]:
    loader = build_train_loader(
        dataset, mapper=dict, total_batch_size=3, aspect_ratio_grouping=grouping, num_workers=0, seed=3
    )
    batches = [batch for batch, _ in zip(loader, range(60), strict=False)]
    return batches, loader.state_dict()


def test_joined_datasets_are_one_sequence():
    joined = JoinedDicts([[{"image_id": 0}], [], [{"image_id": 1}, {"image_id": 2}]])
    assert [image["image_id"] for image in joined] == [0, 1, 2]
    assert [joined[k]["image_id"] for k in (-1, -3)] == [2, 0]
    assert joined[1:] == [{"image_id": 1}, {"image_id": 2}]
    with pytest.raises(IndexError):
        joined[3]


@pytest.mark.usefixtures("large")
def test_the_check_of_a_run_sees_tables(tmp_path, monkeypatch):
    """The words of a small dataset, and images of the same names."""
    coco = random_coco(np.random.default_rng(9))
    coco["images"].sort(key=lambda image: image["id"])
    paths = write(tmp_path, coco)
    messages = []
    for is_large in (True, False):
        name = register(paths, monkeypatch, is_large)
        with pytest.raises(DatasetError) as error:  # the image files are empty
            _check_coco_format(name, paths["json"], paths["images"], paths["images"])
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert list(DatasetCatalog.get(register(paths, monkeypatch, True)).images) == coco["images"]


def test_parts_of_random_jsons(tmp_path, monkeypatch):
    """Whatever is in the strings and nested lists, and wherever the parts end; damaged ones are refused."""
    rng = random.Random(0)
    file = tmp_path / "random.json"
    for _ in range(150):
        monkeypatch.setattr(json_parts, "PART_BYTES", rng.choice([1, 7, 60, 300]))
        monkeypatch.setattr(json_parts, "_TAIL", rng.choice([5, 1000]))
        content = {key: random_value(rng, 0) for key in rng.sample(["images", "é", "annotations", "a"], 3)}
        content["images"] = [{"id": k, "x": random_value(rng, 1)} for k in range(rng.randint(0, 9))]
        text = json.dumps(content, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5).encode()
        file.write_bytes(text)
        assert lists_of(file) == {key: value for key, value in content.items() if isinstance(value, list)}
        file.write_bytes(text[: rng.randrange(len(text))])
        with pytest.raises(DatasetError, match="is not a JSON file"):
            lists_of(file)


def random_value(rng: random.Random, depth: int) -> Any:
    kind = rng.random()
    if depth > 3 or kind < 0.4:
        return rng.choice([1, 2.5, -3e7, "a", "}, {", '"', "\\", "é[]{}", None, True, "],"])
    if kind < 0.7:
        return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    return {str(k): random_value(rng, depth + 1) for k in range(rng.randint(0, 4))}


def lists_of(file: Path) -> dict[str, list]:
    lists: dict[str, list] = {}
    for part in json_parts.json_parts(file, lambda key, text: json.loads(text), lambda block: None):
        if part.entries is not None:
            assert part.number == 0 or part.key in lists
            lists.setdefault(part.key, []).extend(part.entries)
    return lists


@pytest.mark.parametrize("text", ['{"é": [1,\n 2, "ü"3]}', '{"a": 1 "b": 2}', '{"a": [{"x": 1}, {"x": nope}]}', "{} x"])
def test_damaged_jsons_are_refused_at_the_same_place(tmp_path, text):
    file = tmp_path / "damaged.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(DatasetError, match="is not a JSON file") as error:
        lists_of(file)
    place = str(expected.value).rpartition("line")[2]
    assert place in str(error.value)
