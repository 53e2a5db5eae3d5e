# SPDX-License-Identifier: Apache-2.0
"""The meta-architecture: Detectron2's dicts in, losses or ``Instances`` out."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dino_d2.denoising import Denoising, DenoisingQueries, batches_of_step
from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.layers import xyxy_to_cxcywh
from dino_d2.modeling import Detector, DetectorOutput, SetCriterion, TopPairs
from dino_d2.modeling.postprocess import Detections
from dino_d2.speed import optimise_for_training

from .fit import check_fit, freeze_denoising_parts


class QueryPredictions(NamedTuple):
    """Predictions and anchor of each query of one image, read by dino_d2/evaluation; views, not copies."""

    logits: Tensor  # [N, C] of the last layer
    boxes: Tensor  # [N, 4] cxcywh in [0, 1], of the last layer
    anchors: Tensor  # [N, 4] cxcywh in [0, 1] that entered the first layer; some query sources have [N, 2] or [N, D]


class DETR(nn.Module):
    """A detection transformer under Detectron2's model interface.

    Args:
        detector: the tensor core; its plain modules are replaced by faster ones (``dino_d2/speed``).
        criterion: training losses.
        denoising: makes denoising queries in training; None: training without denoising.
        pixel_mean, pixel_std: of the three channels, in 0..255 and in the channel order of the data mapper.
        postprocess: logits and boxes of the last layer -> detections; the 300 best pairs by default.
        inference: runs ``detect`` on a batch in evaluation, as :class:`~dino_d2.meta_arch.tta.OneToOneEnsemble` does;
            None: one plain call.

    Raises:
        ValueError: the detector does not support denoising queries, or its parts do not fit together.
    """

    pixel_mean: Tensor  # [3, 1, 1], as pixel_std
    pixel_std: Tensor

    def __init__(
        self,
        detector: Detector,
        criterion: SetCriterion,
        denoising: Denoising | None = None,
        pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
        pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375),
        postprocess: Callable[[Tensor, Tensor], Detections] | None = None,
        inference: Callable[[Callable[[list[dict]], list[dict]], list[dict]], list[dict]] | None = None,
    ):
        super().__init__()
        check_fit(detector, denoising)
        if denoising is None:
            freeze_denoising_parts(detector)
        optimise_for_training(detector)
        self.detector = detector
        self.criterion = criterion
        self.denoising = denoising
        self.postprocess = postprocess or TopPairs(300)
        self.inference = inference
        self.precision: torch.dtype | None = None  # of autocast in evaluation, set by `for_inference`
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict], part: Any = None) -> dict[str, Tensor] | list[dict]:
        """Train or detect.

        Args:
            batched_inputs: one dict per image with "image" (uint8 [3, H, W]); in training "instances" with
                ``gt_boxes`` and ``gt_classes``; in evaluation "height" and "width" of the output, by default the
                image's own.
            part: in training, the batch as one of several of a step, from :meth:`parts_of_step`; None: it is the only
                one.

        Returns:
            in training the weighted losses by name; otherwise one {"instances": Instances} per image, in the same
            order, with ``pred_boxes`` (xyxy in output pixels), ``scores`` and ``pred_classes``, and the "queries"
            they come from as :class:`QueryPredictions`.
        """
        if self.training:
            return self.losses(batched_inputs, part)
        if self.inference is None:
            return self.detect(batched_inputs)
        return self.inference(self.detect, batched_inputs)

    def parts_of_step(self, batches: list[list[dict]]) -> list[Any]:
        """The argument ``part`` of :meth:`forward` for batches whose gradients are accumulated for one step.

        With it, the mean of the batches' losses equals the loss of one batch of all images; docs/distributed.md lists
        the exceptions.

        Returns:
            a :class:`~dino_d2.denoising.BatchOfStep` for each batch; subclasses return other types.
        """
        return batches_of_step([[len(x["instances"].gt_classes) for x in batch] for batch in batches])

    def losses(self, batched_inputs: list[dict], part: Any = None) -> dict[str, Tensor]:
        """Losses of one batch; see :class:`SetCriterion` for their names."""
        images, padding_mask = self.prepare_images(batched_inputs)
        labels, boxes = self.ground_truth(batched_inputs)
        denoising_queries = None if self.denoising is None else self.denoising(labels, boxes, part=part)
        output = self.detector(images, padding_mask, denoising_queries)
        return self.criterion(output, labels, boxes, denoising_queries, part)

    def prepare_images(self, batched_inputs: list[dict]) -> tuple[Tensor, Tensor | None]:
        """Normalised and padded images [B, 3, H, W] and their padding mask, see :meth:`pad`."""
        return self.pad([self.normalise(x["image"]) for x in batched_inputs])

    def ground_truth(self, batched_inputs: list[dict]) -> tuple[list[Tensor], list[Tensor]]:
        """Labels [n] int64 and boxes [n, 4] (cxcywh in [0, 1]) of each image, on the model's device.

        This does not wait for the device. The only synchronisation of a training step is the copy of matching costs.
        """
        instances = [x["instances"] for x in batched_inputs]
        labels = [x.gt_classes.to(self.device, non_blocking=True) for x in instances]
        boxes = [normalised_boxes(x).to(self.device, non_blocking=True) for x in instances]
        return labels, boxes

    @torch.no_grad()
    def detect(self, batched_inputs: list[dict]) -> list[dict]:
        """Detections of each image, independent of the other images of the batch.

        Only images of one size are batched. In a padded batch the convolutions and group norms of the backbone and
        neck would read the padding, so an image's boxes would depend on the other images.
        """
        by_size = defaultdict(list)
        for i, x in enumerate(batched_inputs):
            by_size[x["image"].shape].append(i)
        results: list[dict] = [{} for _ in batched_inputs]
        for members in by_size.values():
            images = torch.stack([self.normalise(batched_inputs[i]["image"]) for i in members])
            with nullcontext() if self.precision is None else torch.autocast(self.device.type, self.precision):
                output = self.predict(images, [batched_inputs[i] for i in members])
            detections = self.postprocess(output.logits[-1], output.boxes[-1])
            for i, scores, classes, boxes in zip(members, *detections, strict=True):
                height, width = batched_inputs[i]["image"].shape[-2:]
                size = (batched_inputs[i].get("height", height), batched_inputs[i].get("width", width))
                results[i]["instances"] = to_instances(scores, classes, boxes, size)
            for i, *queries in zip(members, output.logits[-1], output.boxes[-1], output.anchors, strict=True):
                results[i]["queries"] = QueryPredictions(*queries)
        return results

    def predict(self, images: Tensor, batched_inputs: list[dict]) -> DetectorOutput:
        """Predictions of the matching queries for images [B, 3, H, W] of one size; subclasses also read the dicts."""
        return self.detector(images)

    def normalise(self, image: Tensor) -> Tensor:
        """[3, H, W] in 0..255 -> zero mean and unit variance, on the model's device."""
        return (image.to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std

    def pad(self, images: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Batch images with zeros at the right and bottom.

        Returns:
            [B, 3, H, W] of the largest height and width, and the mask [B, H, W] (True = padding), None where all
            images have the same size.
        """
        if len({x.shape for x in images}) == 1:
            return torch.stack(images), None
        height = max(x.shape[1] for x in images)
        width = max(x.shape[2] for x in images)
        batch = images[0].new_zeros(len(images), 3, height, width)
        mask = torch.ones(len(images), height, width, dtype=torch.bool, device=batch.device)
        for i, x in enumerate(images):
            batch[i, :, : x.shape[1], : x.shape[2]] = x
            mask[i, : x.shape[1], : x.shape[2]] = False
        return batch, mask


def normalised_boxes(instances: Instances) -> Tensor:
    """Ground truth of one image as [n, 4] cxcywh, divided by the image's own size."""
    height, width = instances.image_size
    boxes = instances.gt_boxes.tensor
    scale = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    return xyxy_to_cxcywh(boxes) / scale


def to_instances(scores: Tensor, classes: Tensor, boxes: Tensor, size: tuple[int, int]) -> Instances:
    """Detections of one image, boxes [K, 4] normalised xyxy, as ``Instances`` of ``size`` (height, width)."""
    height, width = size
    instances = Instances(size)
    instances.pred_boxes = Boxes(boxes)
    instances.pred_boxes.scale(width, height)
    instances.pred_boxes.clip(size)
    instances.scores = scores
    instances.pred_classes = classes
    return instances


def matching_part(output: DetectorOutput, denoising_queries: DenoisingQueries) -> DetectorOutput:
    """Predictions of the matching queries, without those of denoising queries."""
    num_slots = denoising_queries.target.shape[1]
    return DetectorOutput(
        output.logits[:, :, num_slots:], output.boxes[:, :, num_slots:], output.anchors[:, num_slots:], output.proposals
    )
