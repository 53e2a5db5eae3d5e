# SPDX-License-Identifier: Apache-2.0
"""timm's ResNet for inference: each convolution applies the ReLU and the shortcut addition that follow it."""

import timm.models
import timm.models.resnet
from torch import Tensor, nn

from .frozen_batch_norm import FusedNorm
from .prepacked import PrepackedConv2d


class FusedBottleneck(timm.models.resnet.Bottleneck):
    """1×1, 3×3 and 1×1 convolution; the last one adds the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.conv3(self.conv2(self.conv1(x)), plus=shortcut)


class FusedBasicBlock(timm.models.resnet.BasicBlock):
    """Two 3×3 convolutions; the second one adds the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.conv2(self.conv1(x), plus=shortcut)


FUSED = {timm.models.resnet.Bottleneck: FusedBottleneck, timm.models.resnet.BasicBlock: FusedBasicBlock}
STEM = [PrepackedConv2d, FusedNorm, nn.ReLU]
#: Modules that a block may contain and still be fused.
FOLLOWERS = (PrepackedConv2d, FusedNorm, nn.ReLU, nn.Identity)


def fuse_resnet_blocks(backbone: nn.Module) -> None:
    """Fuse the stem and the blocks whose convolutions are prepacked and whose norms are fused, in place."""
    for block in backbone.modules():
        children = [child for name, child in block.named_children() if name != "downsample"]
        if type(block) in FUSED and all(isinstance(child, FOLLOWERS) for child in children):
            block.__class__ = FUSED[type(block)]
            for child in children:
                if isinstance(child, PrepackedConv2d):
                    child.activation = "relu"
        # The stem: its first three modules are convolution, norm and activation.
        if isinstance(block, timm.models.FeatureListNet) and [type(child) for child in children[:3]] == STEM:
            convolution = children[0]
            assert isinstance(convolution, PrepackedConv2d)
            convolution.activation = "relu"
