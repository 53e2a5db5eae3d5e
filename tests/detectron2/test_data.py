# SPDX-License-Identifier: Apache-2.0
"""Catalogs, COCO loading, transforms, samplers and loaders, under either engine."""

import itertools
import json
import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from dino_d2.detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    detection_utils,
    get_detection_dataset_dicts,
)
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.data.common import AspectRatioGroupedDataset
from dino_d2.detectron2.data.datasets import load_coco_json, register_coco_instances
from dino_d2.detectron2.data.samplers import InferenceSampler, TrainingSampler
from dino_d2.detectron2.structures import BoxMode


@pytest.fixture
def coco_file(tmp_path):
    """Four images of different shapes, category ids with a gap, a crowd, an image with only it, one with nothing."""
    images, annotations = [], []
    for i, (width, height) in enumerate([(40, 30), (30, 40), (50, 20), (25, 25)]):
        rng = np.random.default_rng(i)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        images.append({"id": 10 - i, "file_name": f"{i}.png", "width": width, "height": height})

    def annotate(image_id, box, category, **more):
        area = box[2] * box[3]
        annotation = {"image_id": image_id, "bbox": box, "category_id": category, "iscrowd": 0, "area": area}
        annotations.append({"id": len(annotations) + 1, **annotation, **more})

    annotate(10, [1, 2, 10, 12.5], 3)
    annotate(10, [0, 0, 5, 5], 7, iscrowd=1, segmentation={"counts": [0, 25, 1175], "size": [30, 40]})
    annotate(9, [3, 3, 20, 20], 7, segmentation=[[3, 3, 23, 3, 23, 23], [1, 2]])
    annotate(9, [3, 3, 20, 20], 3, segmentation=[[1, 2, 3, 4]])  # malformed: left out
    annotate(8, [5, 5, 5, 5], 3, iscrowd=1)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def dataset(coco_file, request):
    name = f"door_{request.node.name}"
    register_coco_instances(name, {}, str(coco_file), str(coco_file.parent))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_catalogs():
    with pytest.raises(KeyError, match=r"no_such_set.*coco_2017_val"):
        DatasetCatalog.get("no_such_set")
    with pytest.raises(AssertionError):
        DatasetCatalog.register("coco_2017_val", list)
    metadata = MetadataCatalog.get("door_meta")
    metadata.thing_classes = ["a"]
    metadata.thing_classes = ["a"]
    with pytest.raises(AssertionError):
        metadata.thing_classes = ["b"]
    with pytest.raises(AttributeError):
        _ = metadata.nothing
    assert metadata.get("nothing", 5) == 5
    assert MetadataCatalog.get("door_meta") is metadata
    assert pickle.loads(pickle.dumps(metadata)).thing_classes == ["a"]
    MetadataCatalog.remove("door_meta")


def test_coco_2017_is_known():
    metadata = MetadataCatalog.get("coco_2017_val")
    assert len(metadata.thing_classes) == 80
    assert metadata.thing_classes[79] == "toothbrush"
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
    assert metadata.evaluator_type == "coco"
    assert "coco_2017_train" in DatasetCatalog.list()


def test_coco_loading(coco_file, caplog):
    logging.getLogger("detectron2").propagate = True
    with caplog.at_level("WARNING"):
        dicts = load_coco_json(str(coco_file), str(coco_file.parent), "door_loading")
    assert "Category ids" in caplog.text
    assert "Filtered out 1 instances" in caplog.text
    assert [d["image_id"] for d in dicts] == [7, 8, 9, 10]
    metadata = MetadataCatalog.get("door_loading")
    assert metadata.thing_classes == ["dog", "cat"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert dicts[0]["annotations"] == []
    assert [a["category_id"] for a in dicts[3]["annotations"]] == [0, 1]
    first = dicts[3]["annotations"][0]
    assert first["bbox"] == [1, 2, 10, 12.5]
    assert first["bbox_mode"] == BoxMode.XYWH_ABS
    assert [len(d["annotations"]) for d in dicts] == [0, 1, 1, 2]
    assert dicts[2]["annotations"][0]["segmentation"] == [[3, 3, 23, 3, 23, 23]]
    MetadataCatalog.remove("door_loading")


def test_unknown_category(coco_file):
    content = json.loads(coco_file.read_text())
    content["annotations"][0]["category_id"] = 5
    coco_file.write_text(json.dumps(content))
    with pytest.raises(KeyError, match="category_id=5"):
        load_coco_json(str(coco_file), "", "door_unknown")
    MetadataCatalog.remove("door_unknown")


def test_filter_empty(dataset):
    assert [d["image_id"] for d in get_detection_dataset_dicts(dataset)] == [9, 10]
    assert len(get_detection_dataset_dicts([dataset, dataset], filter_empty=False)) == 8


def test_read_image(tmp_path):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (detection_utils.read_image(str(tmp_path / "a.png"), "RGB") == pixels).all()
    assert (detection_utils.read_image(str(tmp_path / "a.png"), "BGR") == pixels[:, :, ::-1]).all()
    assert detection_utils.read_image(str(tmp_path / "a.png"), "L").shape == (2, 3, 1)
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert (detection_utils.read_image(str(tmp_path / "turned.png"), "RGB") == np.rot90(pixels, -1)).all()


def test_image_size():
    image = np.zeros((3, 4, 3))
    record = {}
    detection_utils.check_image_size(record, image)
    assert (record["width"], record["height"]) == (4, 3)
    with pytest.raises(detection_utils.SizeMismatchError, match=r"x\.jpg"):
        detection_utils.check_image_size({"width": 5, "height": 3, "file_name": "x.jpg"}, image)


def test_mapper(dataset):
    record = get_detection_dataset_dicts(dataset)[1]
    before = repr(record)
    mapped = DatasetMapper(True, augmentations=[T.HFlipTransform(40)], image_format="RGB")(record)
    assert repr(record) == before
    assert mapped["image"].shape == (3, 30, 40)
    assert mapped["image"].dtype == torch.uint8
    assert mapped["instances"].gt_classes.tolist() == [0]  # the crowd is left out
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[29, 2, 39, 14.5]]
    assert "annotations" not in DatasetMapper(False, augmentations=[], image_format="RGB")(record)


def test_shortest_edge_and_crop():
    image = np.zeros((30, 60, 3), dtype=np.uint8)
    np.random.seed(0)  # noqa: NPY002
    assert T.ResizeShortestEdge(60, max_size=100).get_transform(image).apply_image(image).shape == (50, 100, 3)
    heights = {T.ResizeShortestEdge([20, 25], sample_style="choice").get_transform(image).new_h for _ in range(30)}
    assert heights == {20, 25}
    for _ in range(30):
        crop = T.RandomCrop("absolute_range", (20, 40)).get_transform(image)
        assert 20 <= crop.h <= 30
        assert 20 <= crop.w <= 40
    with pytest.raises(ValueError, match=r"flip|Flip|horiz"):
        T.RandomFlip(horizontal=True, vertical=True)


def test_augmentation_sees_what_the_one_before_it_made():
    seen = []

    class Look(T.Augmentation):
        def get_transform(self, image, boxes):
            seen.append((image.shape, boxes.tolist()))
            return T.NoOpTransform()

    aug_input = T.AugInput(np.zeros((10, 20, 3), np.uint8), boxes=np.array([[0.0, 0, 4, 4]]))
    transforms = T.AugmentationList([T.ResizeTransform(10, 20, 5, 10), Look()])(aug_input)
    assert seen == [((5, 10, 3), [[0, 0, 2, 2]])]
    assert transforms.apply_box(np.array([[0.0, 0, 20, 10]])).tolist() == [[0, 0, 10, 5]]


def test_training_sampler():
    epochs = list(itertools.islice(TrainingSampler(7, seed=3), 21))
    assert all(sorted(epochs[i : i + 7]) == list(range(7)) for i in (0, 7, 14))
    assert epochs == list(itertools.islice(TrainingSampler(7, seed=3), 21))
    assert epochs != list(itertools.islice(TrainingSampler(7, seed=4), 21))
    assert list(itertools.islice(TrainingSampler(3, shuffle=False, seed=0), 7)) == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(ValueError, match="0"):
        TrainingSampler(0)


@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 3), (2, 3), (9, 3)])
def test_samplers_share_the_data_among_ranks(size, world, monkeypatch):
    from dino_d2.detectron2.utils import comm

    monkeypatch.setattr(comm, "get_world_size", lambda: world)
    inference, training = [], []
    for rank in range(world):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        sampler = InferenceSampler(size)
        assert len(list(sampler)) == len(sampler)
        inference += list(sampler)
        training.append(list(itertools.islice(TrainingSampler(size, seed=1), 4)))
    assert inference == list(range(size))
    monkeypatch.setattr(comm, "get_world_size", lambda: 1)
    monkeypatch.setattr(comm, "get_rank", lambda: 0)
    merged = [index for indices in zip(*training, strict=True) for index in indices]
    assert merged == list(itertools.islice(TrainingSampler(size, seed=1), 4 * world))


class Numbers(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, idx):
        return {"width": 2 if idx % 3 else 1, "height": 1, "idx": idx, "noise": None}


def with_noise(item):
    return {**item, "noise": (np.random.rand(), torch.rand(1).item())}  # noqa: NPY002


@pytest.mark.parametrize("grouping", [True, False])
def test_batches_do_not_depend_on_the_number_of_workers(grouping):
    def ids(workers):
        loader = build_detection_train_loader(
            Numbers(),
            mapper=lambda item: item,
            sampler=TrainingSampler(20, seed=5),
            total_batch_size=3,
            aspect_ratio_grouping=grouping,
            num_workers=workers,
        )
        return [[item["idx"] for item in batch] for batch in itertools.islice(loader, 8)]

    alone = ids(0)
    assert all(len(batch) == 3 for batch in alone)
    if grouping:
        assert all(len({i % 3 == 0 for i in batch}) == 1 for batch in alone)
    else:
        assert alone == ids(2)


def test_workers_have_different_noise_and_the_same_each_time():
    def noise():
        torch.manual_seed(11)
        loader = build_detection_train_loader(
            Numbers(),
            mapper=with_noise,
            sampler=TrainingSampler(20, seed=5),
            total_batch_size=2,
            aspect_ratio_grouping=False,
            num_workers=2,
        )
        return [item["noise"] for batch in itertools.islice(loader, 4) for item in batch]

    first = noise()
    assert len({n for n, _ in first}) == len({t for _, t in first}) == 8
    assert first == noise()

    torch.manual_seed(11)
    base = torch.empty((), dtype=torch.int64).random_().item()  # as the loader draws it; worker w has seed base + w
    for worker in (0, 1):
        expected = np.random.RandomState((base + worker) % 2**31 + worker).rand()
        assert first[2 * worker][0] == expected


def test_aspect_ratio_groups_are_given_out_when_full():
    wide, high = {"width": 2, "height": 1}, {"width": 1, "height": 2}
    order = [wide, high, wide, high, high, wide]
    batches = list(AspectRatioGroupedDataset(order, 2))
    assert batches == [[wide, wide], [high, high]]


def test_map_dataset_replaces_bad_elements():
    mapped = MapDataset(DatasetFromList(list(range(5))), lambda x: None if x == 2 else x)
    assert mapped[1] == 1
    assert mapped[2] in {0, 1, 3, 4}
    assert pickle.loads(pickle.dumps(mapped))[3] == 3


def test_dataset_from_list_gives_copies():
    dataset = DatasetFromList([{"a": [1]}, {"a": [2]}])
    dataset[1]["a"].append(3)
    assert [item["a"] for item in (dataset[0], dataset[1])] == [[1], [2]]
    assert len(dataset) == 2


def test_test_loader():
    loader = build_detection_test_loader(Numbers(), mapper=None, batch_size=6)
    batches = [[item["idx"] for item in batch] for batch in loader]
    assert [len(batch) for batch in batches] == [6, 6, 6, 2]
    assert [index for batch in batches for index in batch] == list(range(20))
