"""The small perceptron that DETR's heads are made of."""

import itertools

from torch import Tensor, nn

from .linear import Linear


class MLP(nn.Module):
    """``num_layers`` linear layers with ReLU between them; [..., input_dim] -> [..., output_dim]."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        widths = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(
            Linear(width_in, width_out, activation="relu" if i < num_layers - 1 else "none")
            for i, (width_in, width_out) in enumerate(itertools.pairwise(widths))
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
