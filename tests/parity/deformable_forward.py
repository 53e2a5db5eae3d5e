# SPDX-License-Identifier: Apache-2.0
"""Comparison of a multi-scale forward pass in the format that the vectors from DETR to DN-DETR share."""

from torch import Tensor

from dino_d2.denoising import DenoisingQueries
from dino_d2.meta_arch import DETR
from dino_d2.modeling import DetectorOutput

from .compare import Comparison
from .dense_forward import INNER
from .models import Recorder
from .vectors import Vector


def run(model: DETR, vector: Vector, denoising: DenoisingQueries | None = None) -> tuple[DetectorOutput, Recorder]:
    """Forward the vector's batch."""
    images, mask = vector.batch
    recorder = Recorder(model)
    return model.detector(images, mask if mask.any() else None, denoising), recorder


def compare_maps(comparison: Comparison, vector: Vector, recorder: Recorder) -> None:
    """Backbone, neck, masks and position encodings, per level; the encoder's memory."""
    for level, feature in enumerate(recorder.features.values()):
        compare_summary(comparison, vector, f"backbone{level}", feature)
    for level, feature in enumerate(recorder.maps):
        compare_summary(comparison, vector, f"proj{level}", feature)
    for level, mask in enumerate(recorder.levels.masks):
        comparison.equal(f"level_mask{level}", mask, vector[f"level_mask{level}"].bool())
    for level, position in enumerate(recorder.positions):
        if f"pos{level}" in vector:  # of small maps alone
            comparison.close(f"pos{level}", position.permute(0, 3, 1, 2), vector[f"pos{level}"], INNER)
    comparison.close("memory.l2", recorder.memory.double().norm(dim=-1), vector["memory.l2"], INNER)
    comparison.close("memory.first8", recorder.memory[..., :8], vector["memory.first8"], INNER)


def compare_summary(comparison: Comparison, vector: Vector, name: str, feature: Tensor) -> None:
    """Norm and mean over the channels of [B, C, H, W]."""
    feature = feature.double()
    comparison.close(f"{name}.l2", feature.norm(dim=1), vector[f"{name}.l2"], INNER)
    comparison.close(f"{name}.mean", feature.mean(1), vector[f"{name}.mean"], INNER)
