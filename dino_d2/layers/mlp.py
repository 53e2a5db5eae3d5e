# SPDX-License-Identifier: Apache-2.0
"""The multilayer perceptron of DETR's heads."""

import itertools

from torch import Tensor, nn


class LinearStack(nn.Module):
    """``num_layers`` linear layers with ReLU between them, for modules whose ``forward`` takes other arguments."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        widths = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.activation = nn.ReLU()

    def run_layers(self, x: Tensor) -> Tensor:
        """[..., input_dim] -> [..., output_dim]."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)

    def initialise_xavier(self) -> None:
        """Draw the weights of all layers from Xavier's uniform distribution, as DETR's code does."""
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)


class MLP(LinearStack):
    """``num_layers`` linear layers with ReLU between them; [..., input_dim] -> [..., output_dim]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.run_layers(x)
