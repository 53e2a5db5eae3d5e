# SPDX-License-Identifier: Apache-2.0
"""Losses for class-agnostic proposals of the encoder (Deformable DETR's two-stage variant)."""

import torch
from torch import Tensor

from dino_d2.denoising import BatchOfStep, DenoisingQueries
from dino_d2.modeling.contracts import DetectorOutput

from .criterion import SetCriterion


class ObjectnessCriterion(SetCriterion):
    """The proposals of all tokens learn to separate objects of any class (as the first class) from background.

    They are matched separately, since there are far more of them than queries.
    """

    def forward(
        self,
        output: DetectorOutput,
        labels: list[Tensor],
        boxes: list[Tensor],
        denoising_queries: DenoisingQueries | None = None,
        part: BatchOfStep | None = None,
    ) -> dict[str, Tensor]:
        """As in :class:`SetCriterion`; the proposals' losses have the suffix ``_enc`` there too."""
        proposals = output.proposals
        assert proposals is not None  # the query source of a two-stage detector makes them
        named = super().forward(output._replace(proposals=None), labels, boxes, denoising_queries, part)
        tokens = DetectorOutput(proposals.logits[None], proposals.boxes[None], output.anchors, proposals=None)
        losses = super().forward(tokens, [torch.zeros_like(x) for x in labels], boxes, part=part)
        return named | {f"{name}_enc": value * self.proposal_weight for name, value in losses.items()}
