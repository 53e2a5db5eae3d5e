# SPDX-License-Identifier: Apache-2.0
"""Image features from timm models, under Detectron2's stage names."""

import difflib

import timm
import torch
from timm.layers import Format, freeze_batch_norm_2d
from timm.models import FeatureInfo, is_model_in_modules
from timm.models.hrnet import HighResolutionNetFeatures
from torch import Tensor, nn

from .families import BackboneError, pixel_multiple
from .padded import pad_to_multiple
from .swin import admit_any_size

STRIDES = {"stem": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}  # less where the last ones are dilated

#: HRNet's stages exchange their maps, so no map belongs to one stage. Its stage k is frozen in place of the k-th map's.
HRNET_STAGES = {"res2": "layer1", "res3": "stage2", "res4": "stage3", "res5": "incre_modules"}


class TimmBackbone(nn.Module):
    """Feature maps of a timm model of the families in :mod:`.families` (ResNet, Swin, ConvNeXt, ...).

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
        BackboneError: there is no such model or stage, the model does not work as a backbone, it cannot checkpoint
            activations, or its published weights could not be downloaded.
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
        self.multiple = pixel_multiple(name)
        options = dict(options or {})
        if is_model_in_modules(name, ("swin_transformer", "swin_transformer_v2")):
            options.setdefault("strict_img_size", False)
        body = create(name, pretrained, options)
        admit_any_size(body)
        assert isinstance(body.feature_info, FeatureInfo)
        stages = find_stages(name, body.feature_info.reduction(), options.get("output_stride", 32))
        for feature in out_features:
            if feature not in stages:
                raise BackboneError(
                    f"timm model {name!r} has the stages {list(stages)}; there is no {feature!r} to return"
                )
        self.stage_index = {feature: stages[feature] for feature in out_features}
        self.strides = {f: body.feature_info.reduction()[i] for f, i in self.stage_index.items()}
        self.out_channels = {f: body.feature_info.channels()[i] for f, i in self.stage_index.items()}
        if freeze_stages > 0:
            last = f"res{freeze_stages + 1}"
            if last not in stages:
                raise BackboneError(
                    f"freeze_stages={freeze_stages}: {name!r} has the stages {list(stages)}; 0 freezes none"
                )
            if isinstance(body, HighResolutionNetFeatures):
                freeze_up_to(body, HRNET_STAGES[last])
            else:
                freeze_up_to(body, body.feature_info.module_name()[stages[last]])
        body = freeze_batch_norm_2d(body) if freeze_batch_norm else body
        if activation_checkpointing:
            checkpoint_blocks(name, body)
        # Convolutions of channels-last weights give channels-last maps, whatever the layout of the images.
        self.body = body.to(memory_format=torch.channels_last)
        self.norms = nn.ModuleDict(
            {f: nn.LayerNorm(channels) for f, channels in self.out_channels.items()} if norm_outputs else {}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] normalised images -> {"res3": [B, C, H/8, W/8], ...}, sizes rounded up."""
        height, width = images.shape[-2:]
        maps = self.body(pad_to_multiple(images, self.multiple) if self.multiple > 1 else images)
        channels_last = getattr(self.body, "output_fmt", Format.NCHW) == Format.NHWC
        outputs = {}
        for feature, index in self.stage_index.items():
            x = maps[index]
            if not channels_last:
                x = x.permute(0, 2, 3, 1)
            if self.multiple > 1:
                stride = self.strides[feature]
                x = x[:, : -(-height // stride), : -(-width // stride)]
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


def find_stages(name: str, reductions: list[int], output_stride: int) -> dict[str, int]:
    """Index of each stage among the maps of a timm model.

    Args:
        name: of the model, for the error.
        reductions: strides of the maps, finest first; a map of full resolution (VGG, DarkNet) belongs to no stage.
        output_stride: the largest stride; later stages are dilated instead.

    Raises:
        BackboneError: the maps are not those of consecutive stages.
    """
    first = sum(stride == 1 for stride in reductions)
    names = [stage for stage in STRIDES if stage != "stem" or 2 in reductions]
    stages = {stage: first + i for i, stage in enumerate(names[: len(reductions) - first])}
    if reductions[first:] != [min(STRIDES[stage], output_stride) for stage in stages]:
        raise BackboneError(f"timm model {name!r} has maps of strides {reductions}; a backbone needs 4, 8, 16 and 32")
    return stages


def checkpoint_blocks(name: str, body: nn.Module) -> None:
    """Enable timm's activation checkpointing: per block where the stages support it, otherwise per stage.

    Raises:
        BackboneError: timm has no activation checkpointing for this model.
    """
    stages = [module for module in body.modules() if module is not body and hasattr(module, "grad_checkpointing")]
    if not stages and not hasattr(body, "grad_checkpointing"):
        raise BackboneError(f"activation_checkpointing: timm cannot checkpoint the activations of {name!r}")
    for module in stages or [body]:
        module.grad_checkpointing = True  # type: ignore[assignment]  # PyTorch declares only tensors and modules


def freeze_up_to(body: nn.Module, last: str) -> None:
    """Stop training every module up to and including ``last``, in the order of the children.

    Args:
        body: a timm extractor; some keep the module "stages.0" under its own path, others as a child "stages_0".
        last: dotted path of a module, as in timm's ``feature_info``.
    """
    for name, module in body.named_children():
        if last.startswith(f"{name}."):
            freeze_up_to(module, last.removeprefix(f"{name}."))
            return
        module.requires_grad_(False)
        if name == last.replace(".", "_"):
            return
    raise ValueError(f"no module {last!r} to freeze among {[name for name, _ in body.named_children()]}")
