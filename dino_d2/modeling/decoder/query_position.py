# SPDX-License-Identifier: Apache-2.0
"""Position encodings of the deformable decoder's queries.

Each class gets the anchors on the finest map [B, T, 4], the content [B, T, D] of the previous layer (None in the first
layer) and the positions [B, T, D] of the query source (or None), and returns positions [B, T, D].
"""

from torch import Tensor, nn

from dino_d2.layers import MLP, LinearStack, anchor_embedding


class AnchorPosition(LinearStack):
    """Computed from the sine features of the anchors (DAB-DETR section 4), as in DINO."""

    def __init__(self, embed_dim: int = 256):
        super().__init__(2 * embed_dim, embed_dim, embed_dim, num_layers=2)
        self.sine_dim = embed_dim // 2
        self.initialise_xavier()

    def forward(self, anchors: Tensor, content: Tensor | None, positions: Tensor | None) -> Tensor:
        return self.run_layers(anchor_embedding(anchors, self.sine_dim))


class ScaledAnchorPosition(AnchorPosition):
    """Anchor positions, from the second layer on scaled by a function of the content (DAB-DETR section 4)."""

    def __init__(self, embed_dim: int = 256):
        super().__init__(embed_dim)
        self.scale = MLP(embed_dim, embed_dim, embed_dim, num_layers=2)

    def forward(self, anchors: Tensor, content: Tensor | None, positions: Tensor | None) -> Tensor:
        encoded = super().forward(anchors, content, positions)
        return encoded if content is None else self.scale(content) * encoded


class OwnPosition(nn.Module):
    """The positions of the query source, equal in all layers (Deformable DETR)."""

    def forward(self, anchors: Tensor, content: Tensor | None, positions: Tensor) -> Tensor:
        return positions
