# SPDX-License-Identifier: Apache-2.0
"""Anchor refinement from layer to layer, shared by all decoders with refinement (DINO section 3.5, figure 6)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dino_d2.modeling.contracts import LayerPredictions
from dino_d2.modeling.heads import anchor_logits, head_of_layer


class LookForwardOnce:
    """Box update of Deformable DETR (figure 6a): a layer's box loss trains only that layer."""

    def __call__(self, refined: Tensor) -> Tensor:
        """Boxes [B, T, 4] that the next layer starts from, without gradient."""
        return refined.detach()


class LookForwardTwice:
    """DINO's box update (section 3.5, figure 6b): the next layer's box loss also trains this layer."""

    def __call__(self, refined: Tensor) -> Tensor:
        """Boxes [B, T, 4] that the next layer starts from, with gradient."""
        return refined


BoxUpdate = LookForwardOnce | LookForwardTwice


def refine_layer_by_layer(
    content: Tensor,
    anchors: Tensor,
    run_layer: Callable[[int, Tensor, Tensor], Tensor],
    num_layers: int,
    box_update: BoxUpdate | None,
    norm: nn.Module,
    class_head: nn.Module,
    box_head: nn.Module,
    anchor_eps: float,
) -> LayerPredictions:
    """Run decoder layers, each on the anchors that the previous one refined.

    Args:
        content: [B, T, D].
        anchors: [B, T, 4] cxcywh in [0, 1], or [B, T, 2] xy.
        run_layer: layer number, content [B, T, D] and anchors -> content [B, T, D].
        num_layers: L.
        box_update: gradient rule between layers; None: all layers start from the first anchors.
        norm: applied to the content before the heads, not before the next layer.
        class_head: [L, B, T, D] -> [L, B, T, C].
        box_head: [L, B, T, D] -> corrections [L, B, T, 4] of the anchors' logits; shared or one for each layer.
        anchor_eps: anchors are clamped to this distance from 0 and 1 before the logit.
    """
    bases, layer_states = [], []
    base = anchors
    for i in range(num_layers):
        if i > 0 and box_update is not None:
            # Anchors are refined from the content before the norm; predictions use the content after it.
            refined = (head_of_layer(box_head, i - 1)(content) + anchor_logits(anchors, anchor_eps)).sigmoid()
            base, anchors = box_update(refined), refined.detach()
        content = run_layer(i, content, anchors)
        bases.append(anchor_logits(base, anchor_eps))
        layer_states.append(norm(content))
    states = torch.stack(layer_states)  # [L, B, T, D]
    boxes = (box_head(states) + torch.stack(bases)).sigmoid()
    return LayerPredictions(class_head(states), boxes)
