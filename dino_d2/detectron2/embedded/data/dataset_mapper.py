# SPDX-License-Identifier: Apache-2.0
"""Maps dataset dicts to inputs of a detector, as in `detectron2.data.dataset_mapper`, for boxes."""

import copy
import logging
from typing import Any

import numpy as np
import torch

from ..not_served import NeedsDetectron2, refuse_yacs_config
from . import detection_utils as utils
from . import transforms as T


class DatasetMapper:
    """Read the image, augment it and its boxes, and make tensors and `Instances` of them."""

    @refuse_yacs_config
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ) -> None:
        """
        Args:
            is_train: annotations are kept in training and dropped otherwise.
            image_format: see `detection_utils.read_image`.
            use_instance_mask, use_keypoint, precomputed_proposal_topk, recompute_boxes: must be at their defaults.
            instance_mask_format, keypoint_hflip_indices: have no effect without masks and keypoints.

        Raises:
            NeedsDetectron2: for masks, keypoints and proposals.
        """
        wanted = {
            "use_instance_mask": use_instance_mask,
            "use_keypoint": use_keypoint,
            "precomputed_proposal_topk": precomputed_proposal_topk is not None,
            "recompute_boxes": recompute_boxes,
        }
        if any(wanted.values()):
            raise NeedsDetectron2(
                f"DatasetMapper with {' and '.join(name for name, is_set in wanted.items() if is_set)}"
            )
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        mode = "training" if is_train else "inference"
        logging.getLogger("detectron2.data.dataset_mapper").info(
            "[DatasetMapper] Augmentations used in %s: %s", mode, augmentations
        )

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """A copy of the dict with "image" (uint8 `[C, H, W]`); "sem_seg" (int64 `[H, W]`) in place of
        "sem_seg_file_name"; and, in training, "instances" without crowds in place of "annotations"."""
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        sem_seg = None
        if "sem_seg_file_name" in dataset_dict:
            sem_seg = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L").squeeze(2)
        aug_input = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(aug_input)
        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))

        if aug_input.sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype("long"))

        annotations = dataset_dict.pop("annotations", None)
        if not self.is_train or annotations is None:
            return dataset_dict
        size = aug_input.image.shape[:2]
        boxes_only = [
            {k: v for k, v in annotation.items() if k not in ("segmentation", "keypoints")}
            for annotation in annotations
            if annotation.get("iscrowd", 0) == 0
        ]
        transformed = [utils.transform_instance_annotations(a, transforms, size) for a in boxes_only]
        instances = utils.annotations_to_instances(transformed, size)
        dataset_dict["instances"] = utils.filter_empty_instances(instances)
        return dataset_dict
