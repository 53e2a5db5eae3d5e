# SPDX-License-Identifier: Apache-2.0
"""Image features from any timm model, under Detectron2's stage names."""

import difflib

import timm
import torch
from timm.layers import Format, freeze_batch_norm_2d
from timm.models import FeatureInfo
from torch import Tensor, nn

from .swin import admit_any_size

STAGES = ("stem", "res2", "res3", "res4", "res5")  # strides 2 .. 32; less where the last ones are dilated


class BackboneError(RuntimeError):
    """timm cannot create the requested backbone; the message names the alternatives."""


class TimmBackbone(nn.Module):
    """Feature maps of a timm model (ResNet, Swin, ConvNeXt, ...).

    Args:
        name: timm model name with its weights tag, e.g. "resnet50.tv_in1k".
        out_features: stages to return; "res2" has stride 4, "res3" 8, "res4" 16, "res5" 32.
        pretrained: load the weights that timm publishes under this name.
        freeze_stages: 1 freezes the stem and res2 (DETR, DINO), 2 also res3, and so on; 0 trains everything.
        freeze_batch_norm: replace batch norms by frozen ones (Table 8, "FrozenBatchNorm2d").
        norm_outputs: a separate LayerNorm on every map returned, which Swin needs.
        options: further arguments of the timm model, e.g. ``drop_path_rate``; ``output_stride=16`` dilates the last
            stage of a ResNet in place of its stride ("DC5").
        activation_checkpointing: store only the input of each block (Swin, ConvNeXt) or each stage (ResNet) and
            recompute the rest in the backward pass. Batch norms that are not frozen would count each batch twice.

    Raises:
        BackboneError: there is no such model or no such stage, or its published weights could not be downloaded.
    """

    def __init__(
        self,
        name: str = "resnet50.tv_in1k",
        out_features: tuple[str, ...] = ("res3", "res4", "res5"),
        pretrained: bool = True,
        freeze_stages: int = 1,
        freeze_batch_norm: bool = True,
        norm_outputs: bool = False,
        options: dict | None = None,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        body = create(name, pretrained, options or {})
        admit_any_size(body)
        assert isinstance(body.feature_info, FeatureInfo)
        reductions = body.feature_info.reduction()
        stages = list(STAGES[STAGES.index("stem" if reductions[0] == 2 else "res2") :][: len(reductions)])
        for feature in out_features:
            if feature not in stages:
                raise BackboneError(f"timm model {name!r} has the stages {stages}; there is no {feature!r} to return")
        self.stage_index = {feature: stages.index(feature) for feature in out_features}
        self.out_channels = {f: body.feature_info.channels()[i] for f, i in self.stage_index.items()}
        if freeze_stages > 0:
            if f"res{freeze_stages + 1}" not in stages:
                raise BackboneError(f"freeze_stages={freeze_stages}: {name!r} has the stages {stages}; 0 freezes none")
            last = body.feature_info.module_name()[stages.index(f"res{freeze_stages + 1}")]
            freeze_up_to(body, last.replace(".", "_"))
        body = freeze_batch_norm_2d(body) if freeze_batch_norm else body
        if activation_checkpointing:
            checkpoint_blocks(body)
        # Convolutions of channels-last weights give channels-last maps, whatever the layout of the images.
        self.body = body.to(memory_format=torch.channels_last)
        self.norms = nn.ModuleDict(
            {f: nn.LayerNorm(channels) for f, channels in self.out_channels.items()} if norm_outputs else {}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] normalised images -> {"res3": [B, C, H/8, W/8], ...}, sizes rounded up."""
        maps = self.body(images)
        outputs = {}
        for feature, index in self.stage_index.items():
            x = maps[index]
            if self.body.output_fmt == Format.NCHW:
                x = x.permute(0, 2, 3, 1)
            if feature in self.norms:
                x = self.norms[feature](x)
            outputs[feature] = x.permute(0, 3, 1, 2)
        return outputs


def create(name: str, pretrained: bool, options: dict) -> nn.Module:
    """timm's model as an extractor of feature maps.

    Raises:
        BackboneError: as in :class:`TimmBackbone`.
    """
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    except OSError as error:
        raise BackboneError(
            f"the pretrained weights of timm model {name!r} could not be downloaded: {error}\n"
            "Without a network, set model.detector.backbone.pretrained=False and, if you have them as a file, "
            "give the weights with train.init_checkpoint."
        ) from error
    except (RuntimeError, TypeError) as error:
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=3)
            raise BackboneError(
                f"timm has no model {name!r}. "
                + (f"Did you mean {', '.join(near)}?" if near else "timm.list_models('*resnet*') lists such names.")
            ) from error
        if "pretrained tag" in str(error):
            tags = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}.*"))
            raise BackboneError(f"timm has no weights {name!r}; for this model it has {tags}") from error
        raise BackboneError(f"timm cannot make {name!r} with the options {options}: {error}") from error


def checkpoint_blocks(body: nn.Module) -> None:
    """Enable timm's activation checkpointing: per block where the stages support it, otherwise per stage."""
    stages = [module for module in body.modules() if module is not body and hasattr(module, "grad_checkpointing")]
    for module in stages or [body]:
        module.grad_checkpointing = True  # type: ignore[assignment]  # PyTorch declares tensors and modules alone


def freeze_up_to(body: nn.Module, last: str) -> None:
    """Stop training every child module up to and including the one named ``last``."""
    for name, module in body.named_children():
        module.requires_grad_(False)
        if name == last:
            return
    raise ValueError(f"no module {last!r} to freeze among {[name for name, _ in body.named_children()]}")
