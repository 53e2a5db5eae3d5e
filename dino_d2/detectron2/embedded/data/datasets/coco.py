# SPDX-License-Identifier: Apache-2.0
"""COCO json files, as in `detectron2.data.datasets.coco`."""

import contextlib
import datetime
import io
import json
import logging
import os
import shutil
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import file_lock
from pycocotools.coco import COCO

from ...not_served import NeedsDetectron2
from ...structures import Boxes, BoxMode
from ...utils.file_io import PathManager
from ..catalog import DatasetCatalog, MetadataCatalog

logger = logging.getLogger("detectron2.data.datasets.coco")


def register_coco_instances(
    name: str, metadata: dict[str, Any], json_file: str | os.PathLike, image_root: str | os.PathLike
) -> None:
    """Register a COCO json file and its image folder as a dataset; the file is read on first use.

    Args:
        metadata: further metadata of the dataset; may be empty.
    """
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)


def load_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset_name: str | None = None,
    extra_annotation_keys: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Read a COCO json file into Detectron2's dataset dicts, in the order of the image ids.

    With a `dataset_name`, category ids become 0, 1, 2, … in the order of the ids in the file, and the names
    and this mapping go into the dataset's metadata. Objects whose polygons are all malformed are left out.

    Args:
        extra_annotation_keys: further keys of annotations to keep, in addition to the usual ones.
    """
    json_file = PathManager.get_local_path(json_file)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(json_file)

    id_map = None
    if dataset_name is not None:
        metadata = MetadataCatalog.get(dataset_name)
        ids = sorted(coco.getCatIds())
        metadata.thing_classes = [category["name"] for category in coco.loadCats(ids)]
        if ids != list(range(1, len(ids) + 1)) and "coco" not in dataset_name:
            logger.warning("Category ids in %s are not 1..%d; they are mapped to 0..%d in their order.",
                           json_file, len(ids), len(ids) - 1)  # fmt: skip
        id_map = {coco_id: i for i, coco_id in enumerate(ids)}
        metadata.thing_dataset_id_to_contiguous_id = id_map

    image_ids = sorted(coco.imgs)
    annotations = [coco.imgToAnns[image_id] for image_id in image_ids]
    annotation_ids = [a["id"] for per_image in annotations for a in per_image]
    if len(annotation_ids) < len(coco.anns):
        logger.warning("%s contains %d annotations, but only %d of them match to images in the file.",
                       json_file, len(coco.anns), len(annotation_ids))  # fmt: skip
    if len(set(annotation_ids)) != len(annotation_ids):
        raise AssertionError(f"Annotation ids in '{json_file}' are not unique.")
    logger.info("Loaded %d images in COCO format from %s", len(image_ids), json_file)

    keys = ["iscrowd", "bbox", "category_id", *(extra_annotation_keys or [])]
    dataset_dicts, malformed = [], 0
    for image, per_image in zip(coco.loadImgs(image_ids), annotations, strict=True):
        objects = [_to_object(annotation, keys, id_map, json_file) for annotation in per_image]
        malformed += objects.count(None)
        dataset_dicts.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": [obj for obj in objects if obj is not None],
            }
        )
    if malformed:
        logger.warning("Filtered out %d instances without valid segmentation in %s.", malformed, json_file)
    return dataset_dicts


def _to_object(
    annotation: dict[str, Any], keys: list[str], id_map: dict[int, int] | None, json_file: str | os.PathLike
) -> dict[str, Any] | None:
    """One annotation in Detectron2's form, or None if its polygons are malformed."""
    where = f"Annotation {annotation['id']} of image {annotation['image_id']} in {json_file}"
    if annotation.get("ignore", 0):
        raise AssertionError(f"{where} has 'ignore' set, which is not supported.")
    obj = {key: annotation[key] for key in keys if key in annotation}
    if "bbox" in obj and len(obj["bbox"]) == 0:
        raise ValueError(f"{where} has an empty 'bbox'.")

    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        obj["segmentation"] = segmentation
    elif segmentation:
        polygons = [p for p in segmentation if len(p) % 2 == 0 and len(p) >= 6]
        if not polygons:
            return None
        obj["segmentation"] = polygons
    if annotation.get("keypoints"):  # from pixel indices to coordinates
        obj["keypoints"] = [v + 0.5 if i % 3 != 2 else v for i, v in enumerate(annotation["keypoints"])]

    obj["bbox_mode"] = BoxMode.XYWH_ABS
    if id_map is not None:
        if obj["category_id"] not in id_map:
            raise KeyError(f"{where} has category_id={obj['category_id']}, which is not in 'categories'.")
        obj["category_id"] = id_map[obj["category_id"]]
    return obj


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write a registered dataset to a COCO json file; see `convert_to_coco_dict`.

    Args:
        allow_cached: use an existing `output_file`.
    """
    PathManager.mkdirs(os.path.dirname(output_file))
    with file_lock(output_file):  # all ranks call this and share the file
        if PathManager.exists(output_file) and allow_cached:
            logger.warning(
                "Using the COCO annotations cached in '%s'. Delete the file if the dataset has changed since.",
                output_file,
            )
            return
        logger.info("Converting the annotations of dataset '%s' to COCO format in '%s'", dataset_name, output_file)
        unfinished = f"{output_file}.tmp"
        with PathManager.open(unfinished, "w") as file:
            json.dump(convert_to_coco_dict(dataset_name), file)
        shutil.move(unfinished, output_file)


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """The content of a COCO json file for a registered dataset whose metadata has `thing_classes`.

    Images without "image_id" are numbered from 0, annotations from 1. The area is that of the mask if there is one,
    otherwise that of the box. Without any annotation the file has no "annotations".
    """
    dataset_dicts, metadata = DatasetCatalog.get(dataset_name), MetadataCatalog.get(dataset_name)
    classes = metadata.thing_classes
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {k: k for k in range(len(classes))}
    dataset_ids = {index: dataset_id for dataset_id, index in to_contiguous.items()}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(dataset_dicts):
        image_id = image.get("image_id", number)
        images.append(
            {
                "id": image_id,
                "width": int(image["width"]),
                "height": int(image["height"]),
                "file_name": str(image["file_name"]),
            }
        )
        for obj in image.get("annotations", []):
            numbers = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(numbers | _to_coco_annotation(obj, dataset_ids))
    coco = {
        "info": {"date_created": str(datetime.datetime.now()), "description": f"Dataset {dataset_name} of Detectron2"},
        "images": images,
        "categories": [{"id": dataset_ids[index], "name": name} for index, name in enumerate(classes)],
        "licenses": None,
    }
    return coco | {"annotations": annotations} if annotations else coco


def _to_coco_annotation(obj: dict[str, Any], dataset_ids: dict[int, int]) -> dict[str, Any]:
    """One object without its ids; the given dict is not changed."""
    box = np.asarray(obj["bbox"]).tolist()
    if len(box) != 4:
        raise NeedsDetectron2(f"a bbox of {len(box)} numbers")
    box = BoxMode.convert(box, obj["bbox_mode"], BoxMode.XYWH_ABS)
    annotation: dict[str, Any] = {
        "bbox": [round(float(number), 3) for number in box],
        "area": Boxes([BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)]).area().item(),
        "iscrowd": int(obj.get("iscrowd", 0)),
        "category_id": int(dataset_ids[obj["category_id"]]),
    }
    if "keypoints" in obj:  # back from coordinates to pixel indices
        keypoints = [v - 0.5 if i % 3 != 2 else v for i, v in enumerate(obj["keypoints"])]
        visible = obj.get("num_keypoints", sum(v > 0 for v in keypoints[2::3]))
        annotation |= {"keypoints": keypoints, "num_keypoints": visible}
    if isinstance(segmentation := obj.get("segmentation"), list):
        annotation |= {"segmentation": segmentation, "area": sum(map(_polygon_area, segmentation))}
    elif isinstance(segmentation, dict):
        counts = segmentation["counts"]
        text = counts if isinstance(counts, str) else counts.decode("ascii")  # json has no bytes
        annotation |= {"segmentation": segmentation | {"counts": text}, "area": mask_util.area(segmentation).item()}
    elif "segmentation" in obj:
        raise TypeError(f"A segmentation is polygons (a list) or RLE (a dict), not {type(segmentation).__name__}.")
    return annotation


def _polygon_area(polygon: list[float]) -> float:
    x, y = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T
    return float(0.5 * np.abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
