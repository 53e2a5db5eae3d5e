# SPDX-License-Identifier: Apache-2.0
"""What all parity tests need of a model: the vector's weights, its parameters by the authors' names, its insides."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dino_d2.checkpoint import load_tensors
from dino_d2.checkpoint.layout import to_model
from dino_d2.checkpoint.load import recognise
from dino_d2.checkpoint.report import LoadReport
from dino_d2.checkpoint.rules import rename
from dino_d2.detectron2.config import instantiate
from dino_d2.meta_arch import DETR

from .vectors import Vector

MODELS = Path(__file__).parents[2] / "configs" / "common" / "models"

#: The authors' backbone name: (our config, timm's name, channels of the four stages).
BACKBONES = {
    "resnet50": ("dino_r50.py", "resnet50.tv_in1k", (256, 512, 1024, 2048)),
    "resnet101": ("dino_r50.py", "resnet101.tv_in1k", (256, 512, 1024, 2048)),
    "swin_T_224_1k": ("dino_swin_large.py", "swin_tiny_patch4_window7_224.ms_in1k", (96, 192, 384, 768)),
    "swin_B_224_22k": ("dino_swin_large.py", "swin_base_patch4_window7_224.ms_in22k", (128, 256, 512, 1024)),
    "swin_B_384_22k": ("dino_swin_large.py", "swin_base_patch4_window12_384.ms_in22k", (128, 256, 512, 1024)),
    "swin_L_224_22k": ("dino_swin_large.py", "swin_large_patch4_window7_224.ms_in22k", (192, 384, 768, 1536)),
    "swin_L_384_22k": ("dino_swin_large.py", "swin_large_patch4_window12_384.ms_in22k", (192, 384, 768, 1536)),
}


def build(config: DictConfig, vector: Vector) -> DETR:
    """The configured model with the vector's weights, every tensor of them used, in evaluation mode."""
    model, report = build_and_report(config, vector)
    assert not report.missing, f"not filled: {report.missing}"
    assert not report.misshapen, f"other shape: {report.misshapen}"
    assert not report.unused, f"not used: {report.unused}"
    return model


def build_and_report(config: DictConfig, vector: Vector) -> tuple[DETR, LoadReport]:
    """The configured model with the vector's weights, in evaluation mode, and what became of the weights."""
    # Swin-L takes 0.9 GB, so there is never a second one: the vector's tensors become the parameters. A ResNet needs
    # its weights while it is built, to trace its batch norms.
    with no_weights() if "swin" in vector.args["backbone"] else contextlib.nullcontext():
        model = instantiate(config)
    with mock.patch.object(model, "load_state_dict", partial(model.load_state_dict, assign=True)):
        report = load_tensors(model, dict(vector.state_dict), vector.path.name)
    return model.eval(), report


@contextlib.contextmanager
def no_weights() -> Iterator[None]:
    """Modules built inside have their parameters on the meta device; their buffers are as ever."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    with mock.patch.object(nn.Module, "register_parameter", register_on_meta):
        yield


def parameters_by_rule_name(vector: Vector, model: DETR) -> dict[str, nn.Parameter]:
    """{the authors' (rule) name: our parameter}."""
    rule_names = {name: rule_name for name, _, rule_name in vector.meta["keys"]}
    their_names: dict[int, str] = {}
    renamed: dict[str, Tensor] = {}
    rules = recognise(vector.state_dict, vector.path.name).rules
    for name, tensor in vector.state_dict.items():
        their_names[id(tensor)] = rule_names[name]
        renamed[rename(name, rules)] = tensor
    own = dict(model.detector.named_parameters())
    placed, _ = to_model(renamed, own)
    return {their_names[id(tensor)]: own[name] for name, tensor in placed.items() if name in own}


class Recorder:
    """Takes down what passes through a model's parts in a forward pass."""

    def __init__(self, model: DETR):
        self.clear()
        detector = model.detector
        detector.backbone.register_forward_hook(lambda _, __, out: self.features.update(out))
        detector.neck.register_forward_hook(lambda _, __, out: self.maps.extend(out))
        self.level_embedding = detector.level_embedding.weight
        detector.encoder.register_forward_hook(self.take_memory)
        for layer in detector.decoder.layers:
            layer.register_forward_hook(self.take_layer)

    def clear(self) -> None:
        """Forget, before another pass."""
        self.features: dict[str, Tensor] = {}
        self.maps: list[Tensor] = []
        self.positions: list[Tensor] = []  # per level [B, h, w, D], without the embedding of the level
        self.memory = torch.empty(0)
        self.levels = None
        self.layer_inputs: list[Tensor] = []  # per layer [B, T, D]
        self.layer_positions: list[Tensor] = []  # per layer [B, T, D]
        self.layer_anchors: list[Tensor] = []  # per layer [B, T, L, 4] in the padded maps
        self.states: list[Tensor] = []  # per layer [B, T, D]

    def take_memory(self, _: nn.Module, inputs: tuple, memory: Tensor) -> None:
        self.memory, self.levels = memory, inputs[2]
        sizes = [h * w for h, w in self.levels.shapes]
        for position, level, shape in zip(
            inputs[1].split(sizes, dim=1), self.level_embedding, self.levels.shapes, strict=True
        ):
            self.positions.append((position - level).unflatten(1, shape))

    def take_layer(self, _: nn.Module, inputs: tuple, state: Tensor) -> None:
        self.layer_inputs.append(inputs[0])
        self.layer_positions.append(inputs[1])
        self.layer_anchors.append(inputs[2])
        self.states.append(state)

    def image_anchors(self) -> list[Tensor]:
        """Anchors that entered each layer, in the image instead of the padded map: [B, T, 4], or [B, T, 2]."""
        scale = self.levels.valid_ratios[:, None, 0]
        return [x[:, :, 0] / scale.repeat(1, 1, x.shape[-1] // 2) for x in self.layer_anchors]
