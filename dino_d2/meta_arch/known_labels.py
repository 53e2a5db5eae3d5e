# SPDX-License-Identifier: Apache-2.0
"""Detection given the classes that are in the image (DN-DETR section 5.7.1)."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dino_d2.denoising import BatchOfStep, batches_of_step
from dino_d2.modeling import DetectorOutput
from dino_d2.modeling.contracts import LabelContent
from dino_d2.modeling.detector import Encoded

from .detr import DETR, matching_part


@runtime_checkable
class KnownLabelContent(LabelContent, Protocol):
    """A label embedding that tells matching queries which class they search for."""

    def known(self, labels: Tensor, content: Tensor) -> Tensor:
        """Classes [B], -1 for any, and content [B, N, D] of matching queries -> [B, N, D]."""
        ...


class LabelPart(NamedTuple):
    """A batch of a step: the class chosen for each image, and object counts of these classes and of all classes."""

    asked: Tensor  # [B] int64
    of_chosen: BatchOfStep
    of_all: BatchOfStep


class KnownLabelDETR(DETR):
    """All matching queries search for the objects of one class that is known to be in the image.

    The label embedding puts the class into their content (``modeling/queries/content.py``). With an indicator, as in
    the paper, it replaces their content. DINO's queries keep their learned content, and the class is added
    (docs/evaluation.md compares the two).

    In training one class of each image is drawn at random. In evaluation an input may have "known_labels", the classes
    in the image: the decoder runs once for each of them, and the outputs are concatenated. Inputs without it are
    processed as by any other model. The paper fine-tunes a trained DN-DETR this way for 1 or 10 epochs (Table 4).
    """

    def parts_of_step(self, batches: list[list[dict]]) -> list[LabelPart]:
        labels = [self.ground_truth(batch)[0] for batch in batches]
        asked = [self.choose_labels(batch) for batch in labels]
        chosen = [
            [int((x == c).sum()) for x, c in zip(batch, of_batch, strict=True)]
            for batch, of_batch in zip(labels, asked, strict=True)
        ]
        of_all = super().parts_of_step(batches)
        return [LabelPart(*part) for part in zip(asked, batches_of_step(chosen), of_all, strict=True)]

    def choose_labels(self, labels: list[Tensor]) -> Tensor:
        """A class [B] for each image of a batch, drawn from its labels."""
        return torch.stack([one_of(x, self.detector.num_classes) for x in labels])

    def losses(self, batched_inputs: list[dict], part: LabelPart | None = None) -> dict[str, Tensor]:
        """Matching losses of the objects of the chosen class, reconstruction losses of all objects."""
        images, padding_mask = self.prepare_images(batched_inputs)
        labels, boxes = self.ground_truth(batched_inputs)
        if part is None:
            asked, of_chosen, of_all = self.choose_labels(labels), None, None
        else:
            asked, of_chosen, of_all = part
        chosen = [x == c for x, c in zip(labels, asked, strict=True)]
        encoded = self.detector.encode(images, padding_mask)
        denoising_queries = None if self.denoising is None else self.denoising(labels, boxes, part=of_all)
        output = self.detector.decode(self.with_known_labels(encoded, asked), denoising_queries)
        matching = output if denoising_queries is None else matching_part(output, denoising_queries)
        chosen_boxes = [x[c] for x, c in zip(boxes, chosen, strict=True)]
        # Proposals do not depend on the chosen class, so they are trained on all objects.
        losses = self.criterion(
            matching._replace(proposals=None),
            [x[c] for x, c in zip(labels, chosen, strict=True)],
            chosen_boxes,
            part=of_chosen,
        )
        if output.proposals is not None:
            proposals = DetectorOutput(
                output.proposals.logits[None], output.proposals.boxes[None], matching.anchors, proposals=None
            )
            of_proposals = self.criterion(proposals, labels, boxes, part=of_all)
            losses |= {f"{name}_enc": value * self.criterion.proposal_weight for name, value in of_proposals.items()}
        if denoising_queries is not None:
            losses |= self.criterion.reconstruction_losses(output, labels, boxes, denoising_queries, of_all)
        return losses

    def predict(self, images: Tensor, batched_inputs: list[dict]) -> DetectorOutput:
        """Predictions for each of the input's "known_labels", concatenated: N queries per label."""
        known = [x.get("known_labels") for x in batched_inputs]
        if all(x is None for x in known):
            return self.detector(images)
        encoded = self.detector.encode(images)
        outputs = []
        for turn in range(max(1, *(len(x or ()) for x in known))):
            asked = torch.tensor([x[turn] if x is not None and turn < len(x) else -1 for x in known])
            output = self.detector.decode(self.with_known_labels(encoded, asked.to(images.device)))
            classes = torch.arange(output.logits.shape[-1])
            # Keep the logits of the known class and of "no object", which a softmax head has after the classes.
            other = (classes != asked[:, None]) & (classes < self.detector.num_classes)  # [B, C]
            if turn == 0:
                other[[i for i, x in enumerate(known) if x is None]] = (
                    False  # images without known labels keep all classes
                )
            other = other.to(images.device)
            outputs.append(output._replace(logits=output.logits.masked_fill(other[None, :, None], float("-inf"))))
        return DetectorOutput(
            torch.cat([output.logits for output in outputs], dim=2),
            torch.cat([output.boxes for output in outputs], dim=2),
            torch.cat([output.anchors for output in outputs], dim=1),
            None,
        )

    def with_known_labels(self, encoded: Encoded, labels: Tensor) -> Encoded:
        """The same images with matching queries that search for one label [B] each; -1: for any object."""
        label_embedding = self.detector.label_embedding
        if not isinstance(label_embedding, KnownLabelContent):
            raise TypeError(f"model.detector.label_embedding has no content for known labels: {label_embedding}")
        content = label_embedding.known(labels, encoded.queries.content)
        return encoded._replace(queries=encoded.queries._replace(content=content))


def one_of(labels: Tensor, num_classes: int) -> Tensor:
    """A random class among an image's labels [n], or among all classes if n is 0; a scalar."""
    if len(labels) == 0:
        return torch.randint(num_classes, (), device=labels.device)
    classes = labels.unique()
    return classes[torch.randint(len(classes), (), device=labels.device)]
