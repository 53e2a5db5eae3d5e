# SPDX-License-Identifier: Apache-2.0
"""The feed-forward network of a transformer layer."""

import copy

from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, added to the input and normalised; [B, T, D] -> [B, T, D].

    Args:
        embed_dim: D.
        feedforward_dim: hidden width.
        dropout: probability of dropping a hidden or an output value in training.
        activation: copied, so that an activation with parameters has its own in each layer; ReLU by default.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
    ):
        super().__init__()
        self.activation = copy.deepcopy(activation) or nn.ReLU()
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.norm(x + self.dropout(self.linear2(hidden)))
