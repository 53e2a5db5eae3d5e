# SPDX-License-Identifier: Apache-2.0
"""timm's models as backbones: stages, what is frozen, and what a wrong name is answered with."""

import pytest
import torch

from dino_d2.modeling import TimmBackbone
from dino_d2.modeling.backbone import BackboneError

THIN = {"channels": [8, 16, 24, 32]}


def thin_resnet(**options):
    return TimmBackbone("resnet10t", pretrained=False, options=THIN, **options)


def test_maps_have_the_strides_of_their_names_with_sizes_rounded_up():
    backbone = thin_resnet(out_features=("res2", "res3", "res4", "res5"))
    maps = backbone(torch.rand(1, 3, 70, 97))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        "res2": (1, 8, 18, 25),
        "res3": (1, 16, 9, 13),
        "res4": (1, 24, 5, 7),
        "res5": (1, 32, 3, 4),
    }
    assert backbone.out_channels == {"res2": 8, "res3": 16, "res4": 24, "res5": 32}


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_the_stem_and_the_first_stages_are_frozen(stages):
    backbone = thin_resnet(freeze_stages=stages)
    trained = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    frozen = {f"layer{i + 1}" for i in range(stages)}
    assert trained >= {"layer1", "layer2", "layer3", "layer4"} - frozen
    assert not trained & frozen
    assert ("conv1" in trained) == (stages == 0)


def test_transformers_get_a_norm_for_each_map():
    options = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "strict_img_size": False}
    backbone = TimmBackbone(
        "swin_tiny_patch4_window7_224", pretrained=False, freeze_stages=0, norm_outputs=True, options=options
    )
    maps = backbone(torch.rand(1, 3, 64, 96))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        "res3": (1, 16, 8, 12),
        "res4": (1, 32, 4, 6),
        "res5": (1, 64, 2, 3),
    }
    for x in maps.values():
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var(1, correction=0), torch.ones_like(x[:, 0]), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet10x"}, ["no model 'resnet10x'", "resnet10t"]),
        ({"name": "resnet50.nothing"}, ["no weights 'resnet50.nothing'", "resnet50.tv_in1k"]),
        ({"out_features": ("res6",)}, ["'res6'", "'res5'"]),
        ({"freeze_stages": 5}, ["freeze_stages=5", "0 freezes none"]),
        ({"options": {"no_such": 1}}, ["resnet10t", "no_such"]),
    ],
)
def test_what_timm_does_not_have_is_said(arguments, words):
    defaults = {"name": "resnet10t", "pretrained": False, "options": THIN}
    with pytest.raises(BackboneError) as error:
        TimmBackbone(**(defaults | arguments))
    assert [word for word in words if word not in str(error.value)] == []
