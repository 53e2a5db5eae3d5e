# SPDX-License-Identifier: Apache-2.0
"""Images and annotations, as in `detectron2.data.detection_utils`, for boxes."""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from dino_d2.bit_depth import eight_bits

from ..not_served import NeedsDetectron2
from ..structures import Boxes, BoxMode, Instances
from ..utils.file_io import PathManager
from . import transforms as T
from .catalog import MetadataCatalog


class SizeMismatchError(ValueError):
    """The size of an image differs from its dataset dict."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """`[H, W, C]` uint8 in a mode of Pillow or in "BGR"; None keeps the image's own mode.

    Values of more than 8 bits are scaled, where Detectron2 clips them at 255.
    """
    if format is not None:
        image = eight_bits(image).convert("RGB" if format == "BGR" else format)
    array = np.asarray(image)
    if format == "BGR":
        return array[:, :, ::-1]
    return array[:, :, None] if format == "L" else array


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str) -> np.ndarray:
    """An image `[H, W, C]` of one of `read_image`'s formats as RGB `[H, W, 3]`."""
    image = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    pixels = (image[:, :, 0] if format == "L" else image).astype(np.uint8)
    size = pixels.shape[1::-1]
    return np.asarray(Image.frombytes(format, size, np.ascontiguousarray(pixels).tobytes()).convert("RGB"))


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image and rotate it upright according to its EXIF data; see `convert_PIL_to_numpy`."""
    with PathManager.open(file_name, "rb") as file:
        image = Image.open(file)
        return convert_PIL_to_numpy(ImageOps.exif_transpose(image), format)


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare the image with "width" and "height" of its dict, or add them if they are missing.

    Raises:
        SizeMismatchError: if they differ.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.get("width", width), dataset_dict.get("height", height))
    if expected != (width, height):
        raise SizeMismatchError(
            f"Image {dataset_dict.get('file_name', '')} is {width}x{height} pixels, but its annotation "
            f"says {expected[0]}x{expected[1]}. Check width and height in the annotation file."
        )
    dataset_dict["width"], dataset_dict["height"] = expected


def transform_instance_annotations(
    annotation: dict[str, Any],
    transforms: T.TransformList | list,
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: np.ndarray | None = None,
) -> dict[str, Any]:
    """Transform the box of one object and clip it to the new image, in place.

    Args:
        annotation: has "bbox" and "bbox_mode", and neither masks nor keypoints.
        image_size: (height, width) after the transforms.
        keypoint_hflip_indices: has no effect without keypoints.

    Returns:
        The same dict, the box as an array in `BoxMode.XYXY_ABS`.

    Raises:
        NeedsDetectron2: the annotation has a mask or keypoints.
    """
    _refuse_masks_and_keypoints(annotation)
    if isinstance(transforms, tuple | list):
        transforms = T.TransformList(transforms)
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    box = transforms.apply_box(np.array([box]))[0].clip(min=0)
    height, width = image_size
    annotation["bbox"] = np.minimum(box, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    return annotation


def annotations_to_instances(annos: list[dict], image_size: tuple[int, int], mask_format: str = "polygon") -> Instances:
    """`Instances` with `gt_boxes` and `gt_classes` (int64) from annotations with box and category.

    Args:
        mask_format: has no effect without masks.

    Raises:
        NeedsDetectron2: the first annotation has a mask or keypoints.
    """
    if annos:
        _refuse_masks_and_keypoints(annos[0])
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
    classes = [int(a["category_id"]) for a in annos]
    return Instances(
        image_size,
        gt_boxes=Boxes(np.stack(boxes) if boxes else np.zeros((0, 4))),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
    )


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """The instances that are not empty; with `return_mask` also a mask of the kept ones, bool `[n]`.

    Args:
        by_box: remove instances whose `gt_boxes` are not wider and higher than `box_threshold` pixels.
        by_mask: remove instances with empty `gt_masks`, if there are masks.
    """
    if not (by_box or by_mask):
        raise AssertionError("filter_empty_instances needs by_box or by_mask.")
    masks = [instances.gt_boxes.nonempty(threshold=box_threshold)] if by_box else []
    if by_mask and instances.has("gt_masks"):
        masks.append(instances.gt_masks.nonempty())
    if not masks:
        return instances
    mask = torch.stack(masks).all(dim=0)
    return (instances[mask], mask) if return_mask else instances[mask]


def _refuse_masks_and_keypoints(annotation: dict[str, Any]) -> None:
    for key in ("segmentation", "keypoints"):
        if key in annotation:
            raise NeedsDetectron2(f"an annotation with {key!r} (remove it from the dict to use only the box)")


def check_metadata_consistency(key: str, dataset_names: list[str]) -> None:
    """
    Raises:
        AttributeError: if a dataset's metadata has no such key.
        ValueError: if two datasets have different values for it.
    """
    if not dataset_names:
        return
    first, *others = (getattr(MetadataCatalog.get(name), key) for name in dataset_names)
    for name, value in zip(dataset_names[1:], others, strict=True):
        if value != first:
            raise ValueError(f"Datasets '{dataset_names[0]}' and '{name}' have different '{key}': {first} and {value}.")
