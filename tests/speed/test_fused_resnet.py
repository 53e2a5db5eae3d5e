# SPDX-License-Identifier: Apache-2.0
"""ResNet blocks whose convolutions apply the ReLU and the shortcut addition."""

import pytest
import torch
from torch import nn

from dino_d2.modeling import TimmBackbone
from dino_d2.speed.frozen_batch_norm import NormedConv2d, fuse_frozen_batch_norms
from dino_d2.speed.fused_resnet import FusedBasicBlock, FusedBottleneck, fuse_resnet_blocks
from dino_d2.speed.prepacked import prepack

with_bfloat16 = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="oneDNN has no bfloat16 for this processor",
)


@with_bfloat16
@pytest.mark.parametrize(  # basic blocks and bottlenecks, behind a stem of one layer
    ("name", "block"), [("resnet18", FusedBasicBlock), ("resnet26", FusedBottleneck)]
)
def test_fused_resnets_give_the_same_maps(name, block):
    backbone = TimmBackbone(name, out_features=("stem", "res2", "res5"), pretrained=False).eval()
    fuse_frozen_batch_norms(backbone.body)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, NormedConv2d):
                (norm,) = module.next_norm
                nn.init.uniform_(norm.weight, 0.5, 1.0)  # timm's zeros would switch off what is fused
                nn.init.normal_(norm.bias, std=0.1)
                module.fuse_permanently()
        expected = backbone.bfloat16()(images)
        prepack(backbone)
        fuse_resnet_blocks(backbone)
        found = backbone(images)
    assert not any(type(module) is nn.Conv2d for module in backbone.modules())
    assert any(isinstance(module, block) for module in backbone.modules())
    assert backbone.body.conv1.activation == "relu"
    for stage in expected:  # fused, a sum is rounded once instead of twice
        torch.testing.assert_close(found[stage], expected[stage], rtol=0.05, atol=0.05)
