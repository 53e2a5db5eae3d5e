# SPDX-License-Identifier: Apache-2.0
"""Dataset dicts, transforms, samplers and batches of both engines."""

import copy
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.paths import COCO_TINY

from .engines import ENGINES, both, module, seed_all
from .test_same_augmentations import AUGMENTATIONS


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    """Twelve images with objects of every kind a COCO file may hold."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(12):
        width, height = (int(x) for x in rng.integers(40, 90, 2))
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
        images.append({"id": 100 - 7 * i, "file_name": f"{i}.jpg", "width": width, "height": height})
        for k in range(i % 4):
            x, y, w, h = rng.uniform(1, 20, 4).round(2).tolist()
            annotation = {"image_id": 100 - 7 * i, "bbox": [x, y, w, h], "area": w * h, "category_id": [3, 8, 5][k]}
            annotation |= {"id": len(annotations) + 1, "iscrowd": int(i == 3)}
            if k == 0:
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h], [1, 2, 3, 4]]
            elif k == 1 and i % 2:
                annotation["segmentation"] = [[1, 2, 3]]
            elif k == 2:
                size = [height, width]
                annotation["segmentation"] = {"counts": [5, 10, height * width - 15], "size": size}
                annotation["keypoints"] = [3, 4, 2, 5, 6, 1]
            annotations.append(annotation)
    categories = [{"id": 8, "name": "b"}, {"id": 3, "name": "a"}, {"id": 5, "name": "c"}]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def dicts(engine, path, images, name):
    data = module(engine, "data")
    if name not in data.DatasetCatalog:
        module(engine, "data.datasets.coco").register_coco_instances(name, {}, str(path), str(images))
    return data.get_detection_dataset_dicts(name, filter_empty=True)


def same_dicts(path, images, name):
    real, embedded = (dicts(engine, path, images, name) for engine in ENGINES)
    assert real == embedded
    for everything in (True, False):
        a, b = (m.get_detection_dataset_dicts([name, name], filter_empty=not everything) for m in both("data"))
        assert a == b
    meta = [m.MetadataCatalog.get(name).as_dict() if hasattr(m.MetadataCatalog.get(name), "as_dict") else
            vars(m.MetadataCatalog.get(name)) for m in both("data")]  # fmt: skip
    assert meta[0] == meta[1]
    return real


def test_dataset_dicts(coco_file):
    assert len(same_dicts(coco_file, coco_file.parent, "door_differential")) > 5


@pytest.mark.skipif(not COCO_TINY.is_dir(), reason="no coco_tiny beside the checkout")
def test_dataset_dicts_of_real_photographs():
    for path in sorted(COCO_TINY.rglob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and "annotations" in content:
            same_dicts(path, path.parent, f"door_{path.stem}")


@pytest.mark.parametrize("with_ids", [True, False])
def test_conversion_to_coco(coco_file, with_ids):
    """A dataset of dicts with polygons, RLE, keypoints, crowds, array and xyxy boxes; with and without dataset ids."""
    converted = []
    for engine in ENGINES:
        data, coco, structures = (module(engine, name) for name in ("data", "data.datasets.coco", "structures"))
        records = copy.deepcopy(dicts(engine, coco_file, coco_file.parent, "door_differential"))
        for number, record in enumerate(records):
            if not with_ids:
                del record["image_id"]
            if number % 2:
                for a in record["annotations"]:
                    x, y, w, h = a["bbox"]
                    a |= {"bbox": np.array([x, y, x + w, y + h]), "bbox_mode": structures.BoxMode.XYXY_ABS}
        name = f"of_a_function_{with_ids}"
        data.DatasetCatalog.register(name, lambda records=records: copy.deepcopy(records))
        data.MetadataCatalog.get(name).thing_classes = ["a", "b", "c"]
        if with_ids:
            data.MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {3: 0, 5: 1, 8: 2}
        result = coco.convert_to_coco_dict(name)
        path = str(coco_file.parent / f"{engine}_{with_ids}.json")
        for _ in range(2):  # the second time the file is there
            module(engine, "data.datasets").convert_to_coco_json(name, path)
        written = json.loads(Path(path).read_text())
        assert written.pop("info").keys() == result.pop("info").keys()
        assert written == result
        converted.append(result)
        data.DatasetCatalog.remove(name)
        data.MetadataCatalog.remove(name)
    assert converted[0] == converted[1]
    assert any("keypoints" in a for a in converted[0]["annotations"])


def test_builtin_coco():
    for split in ("coco_2017_train", "coco_2017_val", "coco_2017_test-dev"):
        real, embedded = (m.MetadataCatalog.get(split) for m in both("data"))
        for key in ("thing_classes", "thing_dataset_id_to_contiguous_id", "json_file", "image_root", "evaluator_type"):
            assert getattr(real, key) == getattr(embedded, key)


@pytest.mark.parametrize("mode", ["RGB", "BGR", "L"])
@pytest.mark.parametrize("orientation", [None, 2, 3, 4, 5, 6, 7, 8])
def test_read_image(tmp_path, mode, orientation):
    exif = Image.Exif()
    if orientation:
        exif[274] = orientation
    pixels = np.random.default_rng(2).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    real, embedded = (m.read_image(str(tmp_path / "a.jpg"), mode) for m in both("data.detection_utils"))
    np.testing.assert_array_equal(real, embedded)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("seed", [None, 3])
def test_batches(coco_file, workers, grouping, seed):
    batches = []
    for engine in ENGINES:
        data, T = module(engine, "data"), module(engine, "data.transforms")
        records = dicts(engine, coco_file, coco_file.parent, "door_differential")
        mapper = data.DatasetMapper(True, augmentations=AUGMENTATIONS["detr"](T), image_format="RGB")
        seed_all(8)
        loader = data.build_detection_train_loader(
            records,
            mapper=mapper,
            sampler=data.samplers.TrainingSampler(len(records), seed=1),
            total_batch_size=2,
            aspect_ratio_grouping=grouping,
            num_workers=workers,
            seed=seed,
        )
        batches.append(list(itertools.islice(loader, 7)))
    for a, b in zip(*batches, strict=True):
        assert [x["image_id"] for x in a] == [x["image_id"] for x in b]
        for x, y in zip(a, b, strict=True):
            assert set(x) == set(y)
            assert torch.equal(x["image"], y["image"])
            assert torch.equal(x["instances"].gt_boxes.tensor, y["instances"].gt_boxes.tensor)
            assert torch.equal(x["instances"].gt_classes, y["instances"].gt_classes)
            assert x["instances"].image_size == y["instances"].image_size


def test_registered_torch_datasets():
    for data in both("data"):
        for name in ("numbers_a", "numbers_b"):
            data.DatasetCatalog.register(name, lambda data=data: data.DatasetFromList([1, 2]))
        assert list(data.get_detection_dataset_dicts("numbers_a")) == [1, 2]
        assert list(data.get_detection_dataset_dicts(["numbers_a", "numbers_b"])) == [1, 2, 1, 2]
        for name in ("numbers_a", "numbers_b"):
            data.DatasetCatalog.remove(name)


def test_metadata_as_a_dict():
    for data in both("data"):
        metadata = data.Metadata(name="a").set(thing_classes=["b"])
        found = metadata.as_dict()
        assert found == {"name": "a", "thing_classes": ["b"]}
        found["more"] = 1
        assert metadata.get("more") is None


def test_filtering_of_instances():
    outcomes = []

    class Masks(list):
        def nonempty(self):
            return torch.tensor([True, False, True, False])

        def __getitem__(self, item):
            return Masks(itertools.compress(self, item.tolist()))

    for structures, utils in zip(both("structures"), both("data.detection_utils"), strict=True):
        boxes = structures.Boxes([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 0, 3], [1, 1, 1, 1]])
        instances = structures.Instances((9, 9), gt_boxes=boxes, gt_classes=torch.arange(4))
        some = ({}, {"by_box": False}, {"by_mask": False}, {"box_threshold": 1.5})
        kept = [utils.filter_empty_instances(instances, **options).gt_classes.tolist() for options in some]
        kept.append(utils.filter_empty_instances(instances, True, True, 1e-5, True)[1].tolist())
        instances = structures.Instances((9, 9), gt_boxes=boxes, gt_masks=Masks(range(4)))
        kept += [utils.filter_empty_instances(instances, return_mask=True, **options)[1].tolist() for options in some]
        with pytest.raises(AssertionError):
            utils.filter_empty_instances(instances, by_box=False, by_mask=False)
        outcomes.append(kept)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("mode", "channels"), [("BGR", 3), ("RGB", 3), ("L", 1)])
def test_conversion_to_rgb(mode, channels):
    image = np.random.default_rng(3).integers(0, 255, (4, 6, channels), dtype=np.uint8)
    real, embedded = (m.convert_image_to_rgb(image, mode) for m in both("data.detection_utils"))
    np.testing.assert_array_equal(real, embedded)
    assert embedded.shape == (4, 6, 3)


def test_mapper_with_semantic_segmentation(coco_file):
    rng = np.random.default_rng(4)
    mapped = []
    for engine in ENGINES:
        data, T = module(engine, "data"), module(engine, "data.transforms")
        record = dict(dicts(engine, coco_file, coco_file.parent, "door_differential")[0])
        if engine == ENGINES[0]:
            classes = rng.integers(0, 9, (record["height"], record["width"]), dtype=np.uint8)
            Image.fromarray(classes).save(coco_file.parent / "classes.png")
        record["sem_seg_file_name"] = str(coco_file.parent / "classes.png")
        seed_all(2)
        augmentations = [T.RandomCrop("absolute", (20, 21)), T.Resize(33)]
        mapper = data.DatasetMapper(True, augmentations=augmentations, image_format="RGB")
        mapped.append(mapper(record))
    assert mapped[0].keys() == mapped[1].keys()
    for key in ("image", "sem_seg"):
        assert torch.equal(mapped[0][key], mapped[1][key])
        assert mapped[0][key].dtype == mapped[1][key].dtype


def test_test_loader(coco_file):
    batches = []
    for engine in ENGINES:
        data = module(engine, "data")
        records = dicts(engine, coco_file, coco_file.parent, "door_differential")
        mapper = data.DatasetMapper(False, augmentations=[], image_format="BGR")
        batches.append(list(data.build_detection_test_loader(records, mapper=mapper, batch_size=4)))
    for a, b in zip(*batches, strict=True):
        assert [x["file_name"] for x in a] == [x["file_name"] for x in b]
        assert all(torch.equal(x["image"], y["image"]) and set(x) == set(y) for x, y in zip(a, b, strict=True))


def test_structures():
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randint(-10, 60, (n, 4), generator=generator).float() for n in (30, 20)]
    outcomes = []
    for m in both("structures"):
        a, b = m.Boxes(numbers[0].clone()), m.Boxes(numbers[1].clone())
        iou = m.pairwise_iou(a, b)
        area, nonempty = a.area(), a.nonempty(2)
        a.clip((40, 50))
        a.scale(0.3, 1.7)
        inside = [a.inside_box((40, 50), threshold) for threshold in (0, 3)]
        xywh = m.BoxMode.convert(numbers[0], m.BoxMode.XYXY_ABS, m.BoxMode.XYWH_ABS)
        single = m.BoxMode.convert([0.1, 0.2, 0.3, 0.7], m.BoxMode.XYWH_ABS, m.BoxMode.XYXY_ABS)
        outcomes.append(
            (*inside, a.get_centers(), iou, area, nonempty, a.tensor, xywh, torch.tensor(single, dtype=torch.float64))
        )
    for x, y in zip(*outcomes, strict=True):
        assert torch.equal(x, y)
