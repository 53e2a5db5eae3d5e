# SPDX-License-Identifier: Apache-2.0
"""Maps a dataset dict, Detectron2's description of an image, to the input of the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dino_d2.data.check import DatasetError
from dino_d2.data.pictures import PictureError, read_picture
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.structures import Boxes, BoxMode, Instances
from dino_d2.errors import UserError

# A box side of this many pixels or less is rounding noise of a box that the crop has cut off.
_SMALLEST_SIDE = 1e-5


class DetrDatasetMapper:
    """Reads an image and augments it together with its boxes.

    Training and evaluation differ only in their augmentations. `instances` is given in both, so that a
    metric or a picture can have the ground truth; a model in evaluation mode does not look at it.

    Args:
        augmentations: Detectron2 augmentations or transforms, applied in order; see `data/augmentation.py`.
        image_format: "RGB" (what timm's backbones were trained on) or "BGR".

    Raises:
        UserError: ``image_format`` is neither.
    """

    def __init__(self, augmentations: Sequence[T.Augmentation], image_format: str = "RGB"):
        if image_format not in ("RGB", "BGR"):
            raise UserError(f'image_format of the mapper must be "RGB" or "BGR", not {image_format!r}')
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one dataset dict, which is not changed.

        Returns:
            the entries of `dataset_dict` without "annotations", and

            * "image": uint8 tensor [3, H, W], the augmented image;
            * "height", "width": of the image file, in pixels (predictions go back to this size);
            * "instances", where the dataset dict has annotations: `gt_boxes` (absolute xyxy in the
              augmented image, clipped to it) and `gt_classes` (int64, from 0). Crowd regions are left
              out: they are no single object to learn. Boxes that the crop cut off are left out too.

        Raises:
            DatasetError: the image cannot be read, or its size is not the one in the annotations.
        """
        mapped = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        image = self._read(dataset_dict)
        mapped["height"], mapped["width"] = image.shape[:2]

        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        mapped["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if "annotations" in dataset_dict:
            mapped["instances"] = _instances(dataset_dict["annotations"], transforms, image.shape[:2])
        return mapped

    def _read(self, dataset_dict: dict[str, Any]) -> np.ndarray:
        """Returns the image as uint8 [H, W, 3]."""
        where = f"{dataset_dict['file_name']} (image id {dataset_dict.get('image_id', 'unknown')})"
        try:
            image = read_picture(dataset_dict["file_name"], format=self.image_format)
        except FileNotFoundError as error:
            raise DatasetError(f"Image {where} does not exist. Put it there, or take it out of the json.") from error
        except PictureError as error:
            raise DatasetError(
                f"Image {where} cannot be read: {error}. Replace the file, take the image out "
                "of the json, or leave out all such images with data.skip_bad_images=true."
            ) from error
        height, width = image.shape[:2]
        expected = dataset_dict.get("width", width), dataset_dict.get("height", height)
        if (width, height) != expected:
            raise DatasetError(
                f"Image {where} is {width} x {height} pixels (width x height), but its annotations say "
                f"{expected[0]} x {expected[1]}. Correct width and height in the json; if they are swapped, the "
                "file has an EXIF rotation that the annotations do not know of: save the image without it."
            )
        return image


def _instances(annotations: list[dict], transforms: T.TransformList, image_size: tuple[int, int]) -> Instances:
    """Boxes and classes of the objects (crowds left out) after `transforms`; `image_size` is (H, W) then."""
    objects = [a for a in annotations if a.get("iscrowd", 0) == 0]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    boxes = transforms.apply_box(np.asarray(boxes, dtype=np.float64).reshape(-1, 4))
    height, width = image_size
    boxes = np.clip(boxes, 0, (width, height, width, height))
    keep = ((boxes[:, 2:] - boxes[:, :2]) > _SMALLEST_SIDE).all(axis=1)

    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes[keep]).to(torch.float32))
    classes = np.asarray([a["category_id"] for a in objects], dtype=np.int64)
    instances.gt_classes = torch.from_numpy(classes[keep])
    return instances
