"""Losses where the encoder proposes objects of no particular class (Deformable DETR's two-stage variant)."""

import torch
from torch import Tensor

from dino_d2.denoising import DenoisingQueries

from .criterion import SetCriterion
from .detector import DetectorOutput


class ObjectnessCriterion(SetCriterion):
    """The proposals of all tokens learn to tell objects of any class, as the first class, from background.

    They are matched for themselves: there are far more of them than queries.
    """

    def forward(
        self,
        output: DetectorOutput,
        labels: list[Tensor],
        boxes: list[Tensor],
        denoising: DenoisingQueries | None = None,
    ) -> dict[str, Tensor]:
        """As in :class:`SetCriterion`; the proposals' losses have the suffix ``_enc`` there too."""
        proposals = output.proposals
        named = super().forward(output._replace(proposals=None), labels, boxes, denoising)
        tokens = DetectorOutput(proposals.logits[None], proposals.boxes[None], output.anchors, proposals=None)
        losses = super().forward(tokens, [torch.zeros_like(x) for x in labels], boxes)
        return named | {f"{name}_enc": value * self.proposal_weight for name, value in losses.items()}
