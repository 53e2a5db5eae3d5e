# SPDX-License-Identifier: Apache-2.0
"""From backbone stages to feature levels of one width."""

import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """One level: the last backbone stage, mapped to D channels by a 1×1 convolution (DETR section 3.2).

    Args:
        in_channels: channels of the one stage used, by its name.
        embed_dim: D.
    """

    def __init__(self, in_channels: dict[str, int], embed_dim: int = 256):
        super().__init__()
        ((self.stage, channels),) = in_channels.items()
        self.projection = nn.Conv2d(channels, embed_dim, kernel_size=1)

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        """{stage: [B, C, h, w]} -> [[B, D, h, w]]."""
        return [self.projection(features[self.stage])]


class ChannelMapper(nn.Module):
    """Map every backbone stage to D channels and add coarser levels (Deformable DETR section 4.1, DINO section D.3).

    Each stage passes a 1×1 convolution and a GroupNorm. The first extra level is a 3×3 convolution of stride 2 on the
    last backbone stage itself; further ones follow on the extra level before.

    Args:
        in_channels: channels of each stage used, by name and in order, finest first.
        embed_dim: D.
        num_levels: levels in all, at least as many as stages.
        norm_groups: groups of the GroupNorm.
    """

    def __init__(self, in_channels: dict[str, int], embed_dim: int = 256, num_levels: int = 4, norm_groups: int = 32):
        super().__init__()
        if num_levels < len(in_channels):
            raise ValueError(f"num_levels {num_levels} is below the number of backbone stages {len(in_channels)}")
        self.stages = tuple(in_channels)
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, embed_dim, kernel_size=1), nn.GroupNorm(norm_groups, embed_dim))
            for channels in in_channels.values()
        )
        channels = in_channels[self.stages[-1]]
        self.extra_levels = nn.ModuleList()
        for _ in range(num_levels - len(self.stages)):
            conv = nn.Conv2d(channels, embed_dim, kernel_size=3, stride=2, padding=1)
            self.extra_levels.append(nn.Sequential(conv, nn.GroupNorm(norm_groups, embed_dim)))
            channels = embed_dim
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)  # as the backbone's maps

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        """{stage: [B, C, h, w]} -> one [B, D, h, w] per level, finest first."""
        levels = [project(features[stage]) for stage, project in zip(self.stages, self.projections, strict=True)]
        x = features[self.stages[-1]]
        for downsample in self.extra_levels:
            x = downsample(x)
            levels.append(x)
        return levels
