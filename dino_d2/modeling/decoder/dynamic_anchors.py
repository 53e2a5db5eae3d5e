# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR's decoder: queries are boxes that are refined layer by layer (section 4)."""

from torch import Tensor, nn

from dino_d2.layers import SizeModulation, anchor_embedding
from dino_d2.modeling.contracts import DecoderInputs, LayerPredictions

from .conditional import ConditionalDecoder
from .query_position import AnchorPosition
from .refinement import BoxUpdate, refine_layer_by_layer


class DynamicAnchorDecoder(ConditionalDecoder):
    """DAB-DETR's decoder: the size of each anchor modulates the attention of its query (section 4).

    Args:
        class_head, box_head: as in :class:`ConditionalDecoder`; the box head may also be a :class:`PerLayer`.
        box_update: :class:`LookForwardTwice`, which the authors' code used before DINO introduced the name, or
            :class:`LookForwardOnce`.
        num_layers, embed_dim, feedforward_dim, num_heads, dropout, activation, activation_checkpointing: as in
            :class:`ConditionalDecoder`.
    """

    def __init__(
        self,
        class_head: nn.Module,
        box_head: nn.Module,
        box_update: BoxUpdate,
        num_layers: int = 6,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
        activation_checkpointing: bool = False,
    ):
        super().__init__(
            class_head,
            box_head,
            num_layers,
            embed_dim,
            feedforward_dim,
            num_heads,
            dropout,
            activation,
            activation_checkpointing,
        )
        self.box_update = box_update
        self.size_modulation = SizeModulation(embed_dim)

    def make_position_head(self) -> nn.Module:
        """From sine features of anchors [B, T, 2 * D] to their position encodings [B, T, D]."""
        return AnchorPosition(self.embed_dim)

    def forward(self, inputs: DecoderInputs) -> LayerPredictions:
        """Decode.

        Args:
            inputs: with anchors that are boxes [B, T, 4], cxcywh in [0, 1].
        """

        def run_layer(i: int, x: Tensor, anchors: Tensor) -> Tensor:
            sine = anchor_embedding(anchors[..., :2], self.embed_dim // 2)
            if i > 0:
                sine = sine * self.position_scale(x)
            sine = self.size_modulation(sine, x, anchors)
            return self.run_layer(i, x, self.position_head(anchors, None, None), sine, inputs)

        return refine_layer_by_layer(
            inputs.content,
            inputs.anchors,
            run_layer,
            len(self.layers),
            self.box_update,
            self.norm,
            self.class_head,
            self.box_head,
            anchor_eps=1e-3,
        )
