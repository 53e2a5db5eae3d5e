# SPDX-License-Identifier: Apache-2.0
"""Comparison of a single-scale detector's forward pass with everything that a vector stores of it."""

import torch
from torch import Tensor, nn

from dino_d2.denoising import DenoisingQueries
from dino_d2.meta_arch import DETR
from dino_d2.modeling import DetectorOutput

from .compare import Comparison
from .vectors import Vector

LOGITS, BOXES, INNER = 2e-5, 1e-6, 5e-5  # absolute, from the README of the vectors


class Recorder:
    """Takes down what passes through a model's parts in a forward pass."""

    def __init__(self, model: DETR):
        detector = model.detector
        self.handles = [
            detector.backbone.register_forward_hook(self.take_features),
            detector.neck.register_forward_hook(self.take_maps),
            detector.position_encoding.register_forward_hook(self.take_positions),
            detector.encoder.register_forward_hook(self.take_memory),
            detector.decoder.register_forward_pre_hook(self.take_content),
            detector.decoder.class_head.register_forward_hook(self.take_states),
            detector.decoder.box_head.register_forward_hook(self.take_corrections),
        ]

    def take_features(self, _: nn.Module, __: tuple, features: dict[str, Tensor]) -> None:
        self.features = list(features.values())

    def take_maps(self, _: nn.Module, __: tuple, maps: list[Tensor]) -> None:
        self.maps = maps

    def take_positions(self, _: nn.Module, inputs: tuple, positions: Tensor) -> None:
        self.mask, self.positions = inputs[0], positions

    def take_memory(self, _: nn.Module, __: tuple, memory: Tensor) -> None:
        self.memory = memory

    def take_content(self, _: nn.Module, inputs: tuple) -> None:
        self.content = inputs[0].content

    def take_states(self, _: nn.Module, inputs: tuple, __: Tensor) -> None:
        self.states = inputs[0]

    def take_corrections(self, _: nn.Module, __: tuple, corrections: Tensor) -> None:
        self.corrections = corrections  # of all layers: the call that comes last


def run(model: DETR, vector: Vector, denoising: DenoisingQueries | None = None) -> tuple[DetectorOutput, Recorder]:
    """Forward the vector's batch."""
    images, mask = vector.batch
    recorder = Recorder(model)
    output = model.detector(images, mask if mask.any() else None, denoising)
    for handle in recorder.handles:
        handle.remove()
    return output, recorder


def compare_parts(comparison: Comparison, vector: Vector, recorder: Recorder) -> None:
    """Backbone, neck, positions, encoder and decoder states."""
    comparison.equal("level_mask0", recorder.mask, vector["level_mask0"].bool())
    for name, x in (("backbone0", recorder.features[0]), ("proj0", recorder.maps[0])):
        comparison.close(f"{name}.l2", x.double().norm(dim=1), vector[f"{name}.l2"], INNER)
        comparison.close(f"{name}.mean", x.mean(1), vector[f"{name}.mean"], INNER)
    if "pos0" in vector:
        comparison.close("pos0", recorder.positions.permute(0, 3, 1, 2), vector["pos0"], INNER)
    comparison.close("memory.l2", recorder.memory.double().norm(dim=-1), vector["memory.l2"], INNER)
    comparison.close("memory.first8", recorder.memory[..., :8], vector["memory.first8"], INNER)
    comparison.close("dec.hs", recorder.states, vector["dec.hs"], INNER)


def compare_predictions(
    comparison: Comparison, vector: Vector, output: DetectorOutput, num_slots: int = 0, prefix: str = ""
) -> None:
    """Logits and boxes of every layer; ``num_slots`` denoising queries come first in ``output``."""
    for layer, name in enumerate(vector.layers):
        for part, got, tolerance in (("pred_logits", output.logits, LOGITS), ("pred_boxes", output.boxes, BOXES)):
            stored = f"{prefix}{name}.{part}"
            comparison.close(stored, got[layer, :, num_slots:], vector[stored], tolerance)
            if num_slots:
                comparison.close(f"dn_{name}.{part}", got[layer, :, :num_slots], vector[f"dn_{name}.{part}"], tolerance)


def compare_references(comparison: Comparison, vector: Vector, output: DetectorOutput, recorder: Recorder) -> None:
    """What the heads add their corrections to, worked out from the boxes."""
    if "dec.refs" not in vector:
        return
    stored = vector["dec.refs"]
    references = (output.boxes.double().logit() - recorder.corrections.double()).sigmoid()[..., : stored.shape[-1]]
    comparison.close("dec.refs", references, stored.expand_as(references), 5e-6)


def compare_query_content(comparison: Comparison, vector: Vector, model: DETR, content: Tensor) -> None:
    """What all queries start with; the authors' is stored before the patterns are added."""
    stored = vector["dn.query_label"].clone()
    if patterns := getattr(model.detector.queries, "patterns", None):
        num_matching = stored.shape[1] - vector.meta["dn_pad_size"]
        stored[:, -num_matching:] += patterns.weight.repeat_interleave(num_matching // len(patterns.weight), dim=0)
    comparison.close("dn.query_label", content, stored, 1e-6)


def compare_detections(comparison: Comparison, vector: Vector, model: DETR) -> None:
    """Post-processing, fed with the stored predictions; equal scores may come in either order."""
    stored = vector["post.scores"]
    detections = model.postprocess(vector["out.pred_logits"], vector["out.pred_boxes"])
    count = stored.shape[1]
    order = stored.argsort(dim=1, descending=True, stable=True)  # DETR's authors keep the order of the queries
    comparison.close("post.scores", detections.scores[:, :count], stored.gather(1, order), 1e-6)
    height, width = torch.tensor(vector.meta["image_sizes"], dtype=torch.float32).unbind(1)
    scale = torch.stack([width, height, width, height], dim=-1)[:, None]
    labels = vector["post.labels"].long().gather(1, order)
    boxes = (vector["post.boxes"] / scale).gather(1, order[..., None].expand(-1, -1, 4))
    gap = stored.gather(1, order).diff(dim=1).abs()
    clear = torch.nn.functional.pad(gap, (1, 0), value=1).minimum(torch.nn.functional.pad(gap, (0, 1), value=1)) > 1e-6
    comparison.equal("post.labels", detections.classes[:, :count][clear], labels[clear])
    comparison.close("post.boxes", detections.boxes[:, :count][clear], boxes[clear], 1e-5)
