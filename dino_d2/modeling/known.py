"""Detection that is told something of the image: objects or labels that are known (DN-DETR section 5.7.1).

A denoising query is a label and a box. So an object that is known can enter the decoder as one, in sight of the
matching queries, and a label that is known can enter the content of all of them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dino_d2.denoising import Denoising, DenoisingQueries, FixedGroups
from dino_d2.detectron2.structures import Boxes, Instances

from .criterion import mean_over_ranks
from .detector import DetectorOutput, Encoded
from .detr import DETR, normalised_boxes


class KnownClasses:
    """Rule of Table 3: objects of these classes are known, all others are not."""

    def __init__(self, classes: Sequence[int]):
        self.classes = list(classes)

    def __call__(self, labels: Tensor) -> Tensor:
        """[n] int64 -> [n] bool, True = known."""
        return torch.isin(labels, torch.tensor(self.classes, dtype=labels.dtype).to(labels.device))


class KnownAtRandom:
    """Any part of an image's objects may be known, from none to all: what progressive inference has to be ready for."""

    def __call__(self, labels: Tensor) -> Tensor:
        """[n] int64 -> [n] bool, True = known; the share is drawn uniformly for each image."""
        return torch.rand(len(labels), device=labels.device) < torch.rand((), device=labels.device)


def known_classes(num_classes: int, share: float, seed: int = 0) -> list[int]:
    """The known ones of a random split: floor(share · num_classes) classes (Table 3: 0.7 and 0.5 of COCO's 80)."""
    order = np.random.default_rng(seed).permutation(num_classes)
    return sorted(order[: int(share * num_classes + 1e-9)].tolist())


def unknown_classes(num_classes: int, share: float, seed: int = 0) -> list[int]:
    """The other classes of the same split."""
    known = known_classes(num_classes, share, seed)
    return [c for c in range(num_classes) if c not in known]


class VisibleQueries(DenoisingQueries):
    """Denoising queries that the matching queries see: "we do not use an attention mask". Padding slots nobody sees."""

    def attention_mask(self, num_matching: int) -> Tensor:
        """Bool [B, Q + N, Q + N], True = may not attend."""
        num_slots = self.target.shape[1]
        blocked = super().attention_mask(num_matching).expand(len(self.target), -1, -1).clone()
        blocked[:, num_slots:, :num_slots] = False
        blocked[:, :, :num_slots] |= (self.target < 0)[:, None]
        return blocked


class KnownObjectDETR(DETR):
    """Known objects enter the denoising part without the mask, and the matching part finds the others.

    In training, objects that are ``known`` are noised and rebuilt, as ever, but take no part in the matching. In
    evaluation an input may have "known_objects": ``Instances`` of the size of "image" with ``gt_boxes`` and
    ``gt_classes``. Without it the model detects as any other.

    Args:
        known: which objects are known in training, :class:`KnownClasses` or :class:`KnownAtRandom`.
        kwargs: of :class:`DETR`; with ``denoising``, of one group for objects to be in sight once.
    """

    def __init__(self, known: Callable[[Tensor], Tensor], **kwargs):
        super().__init__(**kwargs)
        if self.denoising is None:
            raise ValueError("known objects enter by the denoising part: give model.denoising one")
        self.known = known
        # No noise: what is known is known exactly.
        self.exact = Denoising(self.detector.num_classes, FixedGroups(1), 0, 0, 0, max_queries=None)

    def losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """The matching part's losses on unknown objects, the denoising part's on known ones; names as ever."""
        images, padding_mask = self.pad([self.normalise(x["image"]) for x in batched_inputs])
        instances = [x["instances"].to(self.device) for x in batched_inputs]
        labels = [x.gt_classes for x in instances]
        boxes = [normalised_boxes(x) for x in instances]
        known = [self.known(x) for x in labels]
        unknown_labels = [x[~k] for x, k in zip(labels, known, strict=True)]
        unknown_boxes = [x[~k] for x, k in zip(boxes, known, strict=True)]
        known_labels = [x[k] for x, k in zip(labels, known, strict=True)]
        known_boxes = [x[k] for x, k in zip(boxes, known, strict=True)]
        denoising = VisibleQueries(*self.denoising(known_labels, known_boxes))
        output = self.detector(images, padding_mask, denoising)
        losses = self.criterion(matching_part(output, denoising), unknown_labels, unknown_boxes)
        num_boxes = mean_over_ranks(sum(map(len, known_labels)), self.device)
        return losses | self.criterion.denoising_losses(output, known_labels, known_boxes, denoising, num_boxes)

    def predict(self, images: Tensor, batched_inputs: list[dict]) -> DetectorOutput:
        """Predictions of the matching queries, in sight of each input's "known_objects"."""
        known = [x["known_objects"].to(self.device) if "known_objects" in x else None for x in batched_inputs]
        if not any(known):
            return self.detector(images)
        labels = [images.new_zeros(0, dtype=torch.int64) if x is None else x.gt_classes for x in known]
        boxes = [images.new_zeros(0, 4) if x is None else normalised_boxes(x) for x in known]
        denoising = VisibleQueries(*self.exact(labels, boxes))
        return matching_part(self.detector(images, None, denoising), denoising)


class KnownLabelDETR(DETR):
    """All matching queries are told one class that is known to be in the image, and find its objects.

    How they are told is the label embedding's matter (`content`). With an indicator, as in the paper, the class takes
    the place of their content. DINO's queries keep what they have learned, and the class is added: fine-tuned on shapes
    for 600 iterations, AP was 71.6 that way and 65.5 with theirs replaced (docs/evaluation.md).

    In training an image is asked for one of its classes, drawn at random. In evaluation an input may have
    "known_labels", the classes in the image: the decoder runs once for each, and the outputs are put together. Without
    it the model detects as any other. The paper fine-tunes a trained DN-DETR this way for 1 or 10 epochs (Table 4).
    """

    def losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """The matching part's losses on the objects of the class asked for, the denoising part's on all."""
        images, padding_mask = self.pad([self.normalise(x["image"]) for x in batched_inputs])
        instances = [x["instances"].to(self.device) for x in batched_inputs]
        labels = [x.gt_classes for x in instances]
        boxes = [normalised_boxes(x) for x in instances]
        asked = torch.stack([one_of(x, self.detector.num_classes) for x in labels])
        chosen = [x == c for x, c in zip(labels, asked, strict=True)]
        encoded = self.detector.encode(images, padding_mask)
        denoising = None if self.denoising is None else self.denoising(labels, boxes)
        output = self.detector.decode(self.asking_for(encoded, asked), denoising)
        matching = output if denoising is None else matching_part(output, denoising)
        chosen_boxes = [x[c] for x, c in zip(boxes, chosen, strict=True)]
        # The proposals are made before the question is put: they learn all objects.
        losses = self.criterion(
            matching._replace(proposals=None), [x[c] for x, c in zip(labels, chosen, strict=True)], chosen_boxes
        )
        if output.proposals is not None:
            proposals = DetectorOutput(
                output.proposals.logits[None], output.proposals.boxes[None], matching.anchors, proposals=None
            )
            of_proposals = self.criterion(proposals, labels, boxes)
            losses |= {f"{name}_enc": value * self.criterion.proposal_weight for name, value in of_proposals.items()}
        if denoising is not None:
            num_boxes = mean_over_ranks(sum(map(len, labels)), self.device)
            losses |= self.criterion.denoising_losses(output, labels, boxes, denoising, num_boxes)
        return losses

    def predict(self, images: Tensor, batched_inputs: list[dict]) -> DetectorOutput:
        """Predictions for each of the input's "known_labels" in turn, side by side: N queries a label."""
        known = [x.get("known_labels") for x in batched_inputs]
        if all(x is None for x in known):
            return self.detector(images)
        encoded = self.detector.encode(images)
        outputs = []
        for turn in range(max(1, *(len(x or ()) for x in known))):
            asked = torch.tensor([x[turn] if x is not None and turn < len(x) else -1 for x in known])
            output = self.detector.decode(self.asking_for(encoded, asked.to(images.device)))
            classes = torch.arange(output.logits.shape[-1])
            # Of each answer, only the class that was asked for, and what a softmax has behind the classes.
            other = (classes != asked[:, None]) & (classes < self.detector.num_classes)  # [B, C]
            if turn == 0:
                other[[i for i, x in enumerate(known) if x is None]] = False  # of no question, all that is found
            other = other.to(images.device)
            outputs.append(output._replace(logits=output.logits.masked_fill(other[None, :, None], float("-inf"))))
        return DetectorOutput(
            torch.cat([output.logits for output in outputs], dim=2),
            torch.cat([output.boxes for output in outputs], dim=2),
            torch.cat([output.anchors for output in outputs], dim=1),
            None,
        )

    def asking_for(self, encoded: Encoded, labels: Tensor) -> Encoded:
        """The same images, their matching queries looking for known labels [B]; for any object where it is -1."""
        content = self.detector.label_embedding.known(labels, encoded.queries.content)
        return encoded._replace(queries=encoded.queries._replace(content=content))


class ProgressiveInference:
    """Takes the best detection for known and detects again, so that later objects are seen beside it (section 5.7.2).

    `model.inference` of a :class:`KnownObjectDETR` takes one; it should be trained with :class:`KnownAtRandom`.

    Args:
        steps: objects that become known, one at a time.
        score_threshold: a detection below it does not become known, and ends the steps of its image.
    """

    def __init__(self, steps: int = 5, score_threshold: float = 0.5):
        self.steps = steps
        self.score_threshold = score_threshold

    def __call__(self, detect: Callable[[list[dict]], list[dict]], batched_inputs: list[dict]) -> list[dict]:
        """Detect under Detectron2's model interface: the known objects with the scores they had, and all of the
        last step's detections, best first."""
        return [self.detect_one(detect, x) for x in batched_inputs]

    def detect_one(self, detect: Callable[[list[dict]], list[dict]], image: dict) -> dict:
        """The same for one image; objects that it knows from the start stay known."""
        size = tuple(image["image"].shape[-2:])
        given = image.get("known_objects")
        output = detect([image])[0]
        taken: list[Instances] = []
        while len(taken) < self.steps:
            instances = output["instances"]
            if len(instances) == 0 or instances.scores.max() < self.score_threshold:
                break
            best = int(instances.scores.argmax())
            taken.append(instances[best : best + 1])
            known = as_known(taken, size)
            output = detect([{**image, "known_objects": known if given is None else both(given, known)}])[0]
        everything = Instances.cat([*taken, output["instances"]])
        return {**output, "instances": everything[everything.scores.argsort(descending=True, stable=True)]}


def as_known(detections: Sequence[Instances], size: tuple[int, int]) -> Instances:
    """Detections in output pixels as known objects in the pixels of the model's image, ``size`` (height, width)."""
    known = Instances(size)
    boxes = Boxes(torch.cat([x.pred_boxes.tensor for x in detections]))
    height, width = detections[0].image_size
    boxes.scale(size[1] / width, size[0] / height)
    known.gt_boxes = boxes
    known.gt_classes = torch.cat([x.pred_classes for x in detections])
    return known


def both(first: Instances, second: Instances) -> Instances:
    """Known objects of two sources, in the pixels of one image."""
    known = Instances(second.image_size)
    known.gt_boxes = Boxes.cat([first.gt_boxes.to(second.gt_boxes.device), second.gt_boxes])
    known.gt_classes = torch.cat([first.gt_classes.to(second.gt_classes.device), second.gt_classes])
    return known


def matching_part(output: DetectorOutput, denoising: DenoisingQueries) -> DetectorOutput:
    """Output without its denoising slots."""
    num_slots = denoising.target.shape[1]
    return DetectorOutput(
        output.logits[:, :, num_slots:], output.boxes[:, :, num_slots:], output.anchors[:, num_slots:], output.proposals
    )


def one_of(labels: Tensor, num_classes: int) -> Tensor:
    """A class among an image's labels [n], any class of all where it has none: a scalar."""
    if len(labels) == 0:
        return torch.randint(num_classes, (), device=labels.device)
    classes = labels.unique()
    return classes[torch.randint(len(classes), (), device=labels.device)]
