# SPDX-License-Identifier: Apache-2.0
"""Every family of timm models that the docs name, as a backbone; the others are refused by name."""

import pytest
import torch
from timm.layers import FrozenBatchNormAct2d
from timm.models import is_model_in_modules
from torchvision.ops.misc import FrozenBatchNorm2d

from dino_d2.modeling import TimmBackbone
from dino_d2.modeling.backbone import BackboneError
from dino_d2.modeling.backbone.families import ANY_SIZE, UNSUITABLE_MEMBERS, WHOLE_CELLS
from dino_d2.modeling.levels import make_levels
from tests.modeling.backbone.families import MEMBERS, STRIDES, table
from tests.paths import ROOT

EXPORTED_QUICKLY = ("resnet10t", "mobilenetv3_small_050", "vgg11_bn")  # tracing takes seconds a model

each_member = pytest.mark.parametrize(
    "member", [pytest.param(m, id=m.name, marks=[pytest.mark.slow] * m.slow) for m in MEMBERS]
)


def backbone_of(member, **options):
    torch.manual_seed(0)
    return TimmBackbone(member.name, tuple(STRIDES), pretrained=False, **options)


def trained(backbone):
    return {name for name, p in backbone.named_parameters() if p.requires_grad}


@each_member
def test_strides_channels_masks_and_gradients(member):
    backbone = backbone_of(member, freeze_stages=0).train()
    assert tuple(backbone.out_channels.values()) == member.channels
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.modules())
    for height, width in ((64, 96), (70, 109)):
        maps = backbone(torch.rand(2, 3, height, width))
        assert {name: tuple(x.shape) for name, x in maps.items()} == {
            name: (2, channels, -(-height // stride), -(-width // stride))
            for (name, stride), channels in zip(STRIDES.items(), member.channels, strict=True)
        }
        padding = torch.zeros(2, height, width, dtype=torch.bool)
        padding[1, :, width // 2 :] = True
        levels = make_levels(list(maps.values()), padding)
        for mask, x in zip(levels.masks, maps.values(), strict=True):
            assert mask.shape == (2, *x.shape[-2:])
            assert not mask[0].any()
            assert mask[1, :, -1].all()
    sum(x.square().mean() for x in maps.values()).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@each_member
def test_frozen_stages(member):
    """The maps of frozen stages have no gradient, the next one has; 4 freezes everything."""
    remaining = []
    for stages in (1, 3, 4):
        backbone = backbone_of(member, freeze_stages=stages).eval()
        remaining.append(trained(backbone))
        if member.family not in ("HRNet", "VGG"):  # HRNet's maps come from all stages; VGG's res5 is a pooled res4
            maps = backbone(torch.rand(1, 3, 64, 64))
            assert [x.requires_grad for x in maps.values()] == [False] * stages + [True] * (4 - stages)
    assert remaining[0] > remaining[1] >= remaining[2] == set()


@pytest.mark.parametrize(
    "member",
    [pytest.param(m, id=m.name, marks=[pytest.mark.slow] * (m.name not in EXPORTED_QUICKLY)) for m in MEMBERS],
)
def test_export(member):
    backbone = backbone_of(member).eval()
    images = torch.rand(1, 3, 70, 96)
    with torch.no_grad():
        program = torch.export.export(backbone, (images,)).module()
        for got, want in zip(program(images).values(), backbone(images).values(), strict=True):
            torch.testing.assert_close(got, want)


def test_batch_norms_are_frozen_or_left():
    member = next(m for m in MEMBERS if m.name == "efficientnet_b0")
    frozen = [m for m in backbone_of(member).modules() if isinstance(m, FrozenBatchNorm2d | FrozenBatchNormAct2d)]
    left = [m for m in backbone_of(member, freeze_batch_norm=False).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(frozen) == len(left) > 0


def test_every_family_of_the_package_has_a_member_here():
    for module in ANY_SIZE + WHOLE_CELLS:
        assert any(is_model_in_modules(member.name, module) for member in MEMBERS), module


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "hiera_tiny_224", "maxvit_rmlp_pico_rw_256", "inception_v3", "xcit_nano_12_p8_224",
     "crossvit_tiny_240", "shvit_s1", "nest_tiny", "coatnet_pico_rw_224.nothing", *UNSUITABLE_MEMBERS],
)  # fmt: skip
def test_the_rest_is_refused_by_name(name):
    with pytest.raises(BackboneError, match=rf"'{name}' does not work as a backbone.*efficientnet.*vgg"):
        TimmBackbone(name, pretrained=False)


def test_a_model_that_cannot_checkpoint_activations_is_refused():
    with pytest.raises(BackboneError, match="cannot checkpoint the activations of 'hrnet_w18_small'"):
        TimmBackbone("hrnet_w18_small", pretrained=False, activation_checkpointing=True)


def test_padding_to_whole_cells_does_not_change_whole_images():
    backbone = TimmBackbone("convnext_atto", pretrained=False).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for name, x in backbone(images).items():
            assert torch.equal(x, backbone.body(images)[backbone.stage_index[name]])


def test_the_table_in_the_docs_is_this_list():
    assert table() in (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
