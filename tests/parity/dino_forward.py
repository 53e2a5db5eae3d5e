# SPDX-License-Identifier: Apache-2.0
"""Comparison of a DINO forward pass, the same in evaluation and training."""

from collections.abc import Callable
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from dino_d2.denoising import DenoisingQueries
from dino_d2.meta_arch import DETR
from dino_d2.modeling import DetectorOutput, TopPairs
from dino_d2.modeling.contracts import Proposals
from dino_d2.modeling.heads import anchor_logits

from .compare import Comparison
from .models import Recorder
from .vectors import Vector

LOGITS, BOXES = 1e-4, 1e-5  # absolute, from the README of the vectors


def run(
    model: DETR,
    vector: Vector,
    denoising: DenoisingQueries | None = None,
    ranked_scores: Callable[[Proposals], Tensor] = lambda proposals: proposals.logits.amax(-1),
) -> tuple[DetectorOutput, Recorder]:
    """Forward the vector's batch; where nearly equal proposals changed places, once more with the stored ones."""
    images, mask = vector.batch
    padding_mask = mask if mask.any() else None
    recorder = Recorder(model)
    output = model.detector(images, padding_mask, denoising)
    if output.proposals is None:
        return output, recorder
    stored = vector["topk_index"].long()
    if not torch.equal(output.proposals.index, stored):
        check_near_ties(ranked_scores(output.proposals), vector["topk_score"])
        recorder.clear()
        with stored_selection(model, stored):
            output = model.detector(images, padding_mask, denoising)
    return output, recorder


def check_near_ties(scores: Tensor, stored: Tensor) -> None:
    """Proposals may change places only where their scores are equal to rounding."""
    off = float((scores - stored).abs().max())
    assert off < 1e-5, f"other proposals were selected than the authors': the ranked scores differ by {off:.2g}"


@contextmanager
def stored_selection(model: DETR, index: Tensor):
    """Make the proposal head select these tokens."""

    def take_stored(scores: Tensor, count: int, dim: int) -> torch.return_types.topk:
        return torch.return_types.topk((scores.gather(1, index), index))

    def patch(*_) -> None:
        patcher.start()

    def restore(*_) -> None:
        patcher.stop()

    patcher = mock.patch.object(Tensor, "topk", take_stored)
    handles = [
        model.detector.queries.register_forward_pre_hook(patch),
        model.detector.queries.register_forward_hook(restore),
    ]
    yield
    for handle in handles:
        handle.remove()


def compare_forward(
    comparison: Comparison, vector: Vector, model: DETR, output: DetectorOutput, recorder: Recorder, num_slots: int
) -> None:
    """Everything a vector stores of a forward pass; ``num_slots`` denoising queries come first in ``output``."""
    compare_geometry(comparison, vector, recorder)
    compare_statistics(comparison, vector, recorder)
    memory = recorder.memory[:, vector["memory_sample_index"]]
    comparison.close("memory_sample", memory, vector["memory_sample"], LOGITS)
    compare_proposals(comparison, vector, output)
    comparison.close("dec.init_ref", output.anchors[:, num_slots:], vector["dec.init_ref"], BOXES)
    compare_references(comparison, vector, model, recorder, num_slots)
    for layer, name in enumerate(vector.layers):
        logits, boxes = output.logits[layer, :, num_slots:], output.boxes[layer, :, num_slots:]
        compare_predictions(comparison, vector, name, logits, boxes)
        if num_slots:
            name = f"dn_{name}"
            compare_predictions(
                comparison, vector, name, output.logits[layer, :, :num_slots], output.boxes[layer, :, :num_slots]
            )
    compare_detections(comparison, vector, output, num_slots)


def compare_geometry(comparison: Comparison, vector: Vector, recorder: Recorder) -> None:
    levels = recorder.levels
    comparison.equal("spatial_shapes", levels.spatial_shapes, vector["spatial_shapes"])
    comparison.close("valid_ratios", levels.valid_ratios, vector["valid_ratios"], 1e-6)
    for i, mask in enumerate(levels.masks):
        comparison.equal(f"level_mask{i}", mask, vector[f"level_mask{i}"].bool())


def compare_statistics(comparison: Comparison, vector: Vector, recorder: Recorder) -> None:
    """Mean and mean absolute value of whole maps."""
    shapes = recorder.levels.shapes
    memory = recorder.memory.split([h * w for h, w in shapes], dim=1)
    valid = [~mask.flatten(1) for mask in recorder.levels.masks]
    got = {
        "stat.backbone": [summarise(x) for x in recorder.features.values()],
        "stat.input_proj": [summarise(x) for x in recorder.maps],
        "stat.pos": [summarise(x) for x in recorder.positions],
        "stat.memory_all": [summarise(x) for x in memory],
        "stat.memory_valid": [
            torch.stack([summarise(x[i][keep[i]][None])[0] for i in range(len(x))])
            for x, keep in zip(memory, valid, strict=True)
        ],
    }
    for name, values in got.items():
        comparison.close(name, torch.stack(values, dim=1), vector[name], 1e-5, 1e-4)


def summarise(x: Tensor) -> Tensor:
    """[B, ...] -> [B, 2]."""
    x = x.flatten(1)
    return torch.stack([x.mean(1), x.abs().mean(1)], dim=-1)


def compare_proposals(comparison: Comparison, vector: Vector, output: DetectorOutput) -> None:
    proposals = output.proposals
    if proposals is None:
        return
    comparison.close("topk_score", proposals.logits.amax(-1), vector["topk_score"], LOGITS)
    comparison.equal("topk_index", proposals.index, vector["topk_index"].long())
    comparison.close("interm.init_proposals", proposals.anchors, vector["interm.init_proposals"], BOXES)
    compare_predictions(comparison, vector, "interm", proposals.logits, proposals.boxes)


def compare_references(comparison: Comparison, vector: Vector, model: DETR, recorder: Recorder, num_slots: int) -> None:
    """Anchors between the layers: what entered each layer, and what the last one would hand on."""
    anchors = recorder.image_anchors()
    anchors.append((model.detector.decoder.box_head(recorder.states[-1]) + anchor_logits(anchors[-1])).sigmoid())
    comparison.close("dec.refs", torch.stack(anchors)[:, :, num_slots:], vector["dec.refs"], BOXES)


def compare_predictions(comparison: Comparison, vector: Vector, name: str, logits: Tensor, boxes: Tensor) -> None:
    if f"{name}.top_query" in vector:
        comparison.close(f"{name}.all_max_logit", logits.amax(-1), vector[f"{name}.all_max_logit"], LOGITS)
        comparison.close(f"{name}.all_pred_boxes", boxes, vector[f"{name}.all_pred_boxes"], BOXES)
        image = torch.arange(len(logits))[:, None]
        best = vector[f"{name}.top_query"].long()
        logits, boxes = logits[image, best], boxes[image, best]
    for part, got, tolerance in (("pred_logits", logits, LOGITS), ("pred_boxes", boxes, BOXES)):
        if f"{name}.{part}" in vector:  # full-size files leave out the middle layers
            comparison.close(f"{name}.{part}", got, vector[f"{name}.{part}"], tolerance)


def compare_detections(comparison: Comparison, vector: Vector, output: DetectorOutput, num_slots: int) -> None:
    """Post-processing, fed with the stored predictions where all of them are stored."""
    if "post.scores" not in vector:
        return
    logits, boxes = output.logits[-1, :, num_slots:], output.boxes[-1, :, num_slots:]
    if "out.top_query" not in vector:
        logits, boxes = vector["out.pred_logits"], vector["out.pred_boxes"]
    stored = vector["post.scores"]
    detections = TopPairs(stored.shape[1])(logits, boxes)
    comparison.close("post.scores", detections.scores, stored, 1e-5)
    # Where two scores are equal to rounding, either may come first.
    gap = (stored[:, :-1] - stored[:, 1:]).abs()
    clear = torch.nn.functional.pad(gap, (1, 0), value=1).minimum(torch.nn.functional.pad(gap, (0, 1), value=1)) > 1e-6
    comparison.equal("post.labels", detections.classes[clear], vector["post.labels"].long()[clear])
    height, width = torch.tensor(vector.meta["image_sizes"], dtype=torch.float32).unbind(1)
    scale = torch.stack([width, height, width, height], dim=-1)[:, None]
    comparison.close("post.boxes", detections.boxes[clear], (vector["post.boxes"] / scale)[clear], BOXES)
