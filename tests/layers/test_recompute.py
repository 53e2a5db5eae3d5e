# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing: the same step with less kept."""

import pytest
import torch

from dino_d2.layers import MultiScaleDeformableAttention
from dino_d2.modeling import BoxHead, ClassHead, DeformableDecoder, DeformableEncoder, LookForwardTwice, TimmBackbone
from dino_d2.modeling.backbone.swin import PaddedSwinBlock

DIM, CLASSES = 32, 5
SIZES = {"embed_dim": DIM, "feedforward_dim": 64, "num_heads": 4, "num_levels": 4, "num_points": 2, "dropout": 0.3}


@pytest.fixture
def run(make_model, make_input):
    """A training step's losses and gradients, and how often deformable attention was computed."""

    def run(activation_checkpointing: bool):
        torch.manual_seed(0)
        model = make_model(
            encoder=DeformableEncoder(2, **SIZES, activation_checkpointing=activation_checkpointing),
            decoder=DeformableDecoder(
                ClassHead(DIM, CLASSES),
                BoxHead(DIM),
                LookForwardTwice(),
                2,
                **SIZES,
                activation_checkpointing=activation_checkpointing,
            ),
        )
        calls = []
        for module in model.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.register_forward_hook(lambda *_: calls.append(1))
        torch.manual_seed(1)  # dropout and noise
        losses = model.train()([make_input(64, 96, seed=1), make_input(96, 64, seed=2)])
        sum(losses.values()).backward()
        return losses, {name: p.grad for name, p in model.named_parameters()}, len(calls), torch.rand(())

    return run


def test_losses_gradients_and_random_numbers_are_those_of_a_plain_step(run):
    losses, gradients, calls, draw = run(activation_checkpointing=False)
    again_losses, again_gradients, again_calls, again_draw = run(activation_checkpointing=True)
    assert calls == 4  # two layers each in encoder and decoder
    assert again_calls == 8  # ... and once more in the backward pass
    assert all(torch.equal(losses[name], again_losses[name]) for name in losses)
    for name, gradient in gradients.items():
        assert (gradient is None) == (again_gradients[name] is None), name
        assert gradient is None or torch.equal(gradient, again_gradients[name]), name
    assert torch.equal(draw, again_draw)


def test_inference_computes_each_layer_once(make_detector):
    detector = make_detector(encoder=DeformableEncoder(2, **SIZES, activation_checkpointing=True)).eval()
    calls = []
    detector.encoder.layers[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        detector(torch.rand(1, 3, 64, 64))
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet10t"])
def test_a_backbone_computes_its_blocks_once_more(name):
    def run(activation_checkpointing: bool):
        torch.manual_seed(0)
        swin = {"strict_img_size": False, "always_partition": True, "drop_path_rate": 0.3}
        backbone = TimmBackbone(
            name,
            out_features=("res3", "res5"),
            pretrained=False,
            freeze_stages=0,
            options=swin if "swin" in name else None,
            activation_checkpointing=activation_checkpointing,
        )
        calls = []
        for module in backbone.modules():
            if isinstance(module, PaddedSwinBlock) or module.__class__.__name__ == "BasicBlock":
                module.register_forward_pre_hook(lambda *_: calls.append(1))
        torch.manual_seed(1)  # dropped paths
        maps = backbone(torch.rand(1, 3, 61, 75))
        sum(x.square().sum() for x in maps.values()).backward()
        return maps, [p.grad for p in backbone.parameters() if p.requires_grad], len(calls)

    maps, gradients, calls = run(activation_checkpointing=False)
    again_maps, again_gradients, again_calls = run(activation_checkpointing=True)
    assert calls > 0
    assert again_calls > calls
    assert again_calls == 2 * calls or "resnet" in name  # timm leaves the last stage of a ResNet as it is
    assert all(torch.equal(maps[name], again_maps[name]) for name in maps)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again_gradients, strict=True))
