# SPDX-License-Identifier: Apache-2.0
"""The known checkpoint formats, each with the tensors that identify it and its name rules.

Our names in the rules are those within the detector, without the prefix "detector.". Two parts depend on the model and
are resolved by `layout`: ``neck.levels.i`` is feature level i, whether projected or made by the neck, and
``decoder.class_head.i`` and ``decoder.box_head.i`` are the heads of layer i, whether shared or not.
"""

from .deformable_formats import (
    DAB_DEFORMABLE_DETR,
    DEFORMABLE_DETR,
    DN_DEFORMABLE_DETR,
    DN_DEFORMABLE_ENCODER,
    TWO_STAGE_DEFORMABLE_DETR,
)
from .dense_formats import DENSE_FORMATS
from .parts import (
    BUFFERS,
    CLASSIFIER,
    DEFORMABLE_TRANSFORMER,
    DETECTRON2_RESNET,
    PLAIN_RESNET,
    SWIN_BLOCKS,
    SWIN_NORMS,
    Format,
    below,
)
from .rules import Rule

DINO = Format(
    name="IDEA-Research/DINO",
    signature=("transformer.level_embed", "input_proj.0.0.weight", "label_enc.weight"),
    rules=(
        *DEFORMABLE_TRANSFORMER,
        ("transformer.enc_out_class_embed.", "queries.proposal_head.class_head."),
        ("transformer.enc_out_bbox_embed.", "queries.proposal_head.box_head."),
        ("transformer.tgt_embed.weight", "queries.content.weight"),
        ("transformer.refpoint_embed.weight", "queries.anchor_logits.weight"),
        ("transformer.decoder.norm.", "decoder.norm."),
        ("transformer.decoder.ref_point_head.", "decoder.position_head."),
        ("label_enc.weight", "label_embedding.weight"),
        *below("backbone.0.body.", PLAIN_RESNET),
        *below("backbone.0.", SWIN_BLOCKS),
        *below("backbone.0.", SWIN_NORMS),
    ),
    not_needed=BUFFERS,
    settings={"position_encoding.temperature": 20, "position_encoding.offset": 0},
)

DETREX = Format(
    name="detrex DINO",
    signature=("transformer.level_embeds", "neck.convs.0.conv.weight", "label_enc.weight"),
    rules=(
        ("transformer.level_embeds", "level_embedding.weight"),
        ("transformer.encoder.layers.{}.attentions.0.", "encoder.layers.{}.self_attention."),
        ("transformer.encoder.layers.{}.norms.0.", "encoder.layers.{}.norm."),
        ("transformer.encoder.layers.{}.ffns.0.layers.0.0.", "encoder.layers.{}.feed_forward.linear1."),
        ("transformer.encoder.layers.{}.ffns.0.layers.1.", "encoder.layers.{}.feed_forward.linear2."),
        ("transformer.encoder.layers.{}.norms.1.", "encoder.layers.{}.feed_forward.norm."),
        ("transformer.enc_output.", "queries.proposal_head.project."),
        ("transformer.enc_output_norm.", "queries.proposal_head.norm."),
        ("transformer.tgt_embed.weight", "queries.content.weight"),
        ("transformer.decoder.layers.{}.attentions.0.attn.", "decoder.layers.{}.self_attention."),
        ("transformer.decoder.layers.{}.norms.0.", "decoder.layers.{}.self_norm."),
        ("transformer.decoder.layers.{}.attentions.1.", "decoder.layers.{}.cross_attention."),
        ("transformer.decoder.layers.{}.norms.1.", "decoder.layers.{}.cross_norm."),
        ("transformer.decoder.layers.{}.ffns.0.layers.0.0.", "decoder.layers.{}.feed_forward.linear1."),
        ("transformer.decoder.layers.{}.ffns.0.layers.1.", "decoder.layers.{}.feed_forward.linear2."),
        ("transformer.decoder.layers.{}.norms.2.", "decoder.layers.{}.feed_forward.norm."),
        ("transformer.decoder.norm.", "decoder.norm."),
        ("transformer.decoder.ref_point_head.", "decoder.position_head."),
        ("class_embed.{}.", "decoder.class_head.{}."),
        ("bbox_embed.{}.", "decoder.box_head.{}."),
        ("transformer.decoder.class_embed.{}.", "decoder.class_head.{}."),
        ("transformer.decoder.bbox_embed.{}.", "decoder.box_head.{}."),
        ("label_enc.weight", "label_embedding.weight"),
        ("neck.convs.{}.conv.", "neck.projections.{}.0."),
        ("neck.convs.{}.norm.", "neck.projections.{}.1."),
        ("neck.extra_convs.{}.conv.", "neck.extra_levels.{}.0."),
        ("neck.extra_convs.{}.norm.", "neck.extra_levels.{}.1."),
        *below("backbone.", DETECTRON2_RESNET),
        *below("backbone.", SWIN_BLOCKS),
        *below("backbone.", SWIN_NORMS),
    ),
    not_needed=BUFFERS,
    settings={"position_encoding.temperature": 10000, "position_encoding.offset": -0.5},
)


def backbone(name: str, signature: tuple[str, ...], rules: tuple[Rule, ...]) -> Format:
    """Format of a file that holds only an ImageNet model."""
    return Format(name, signature, rules, BUFFERS | CLASSIFIER, settings={})


RELATIVE_BIAS = "layers.0.blocks.0.attn.relative_position_bias_table"

BACKBONES = (
    backbone("Detectron2 ResNet", ("stem.conv1.weight", "res2.0.conv1.weight"), DETECTRON2_RESNET),
    backbone("torchvision or timm ResNet", ("conv1.weight", "layer1.0.conv1.weight"), PLAIN_RESNET),
    backbone("Swin as published", (RELATIVE_BIAS, "layers.0.downsample.reduction.weight"), SWIN_BLOCKS),
    backbone(
        "timm Swin",
        (RELATIVE_BIAS, "layers.1.downsample.reduction.weight"),
        (("patch_embed.", "backbone.body.patch_embed."), ("layers.{}.", "backbone.body.layers_{}.")),
    ),
    backbone(
        "timm ConvNeXt",
        ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),
        (("stem.{}.", "backbone.body.stem_{}."), ("stages.{}.", "backbone.body.stages_{}.")),
    ),
)

#: Recognised but not supported: {tensor: why}.
REFUSED = {
    "res2_0_branch2a_w": (
        "a Caffe2 ResNet (Detectron2's ImageNetPretrained/MSRA), trained on BGR pixels of unit scale and with its "
        "strides in other convolutions than timm's ResNets. Use Detectron2's ImageNetPretrained/torchvision/R-50.pkl"
    ),
}

#: In order of precedence: a format comes after those whose tensors include its signature.
FORMATS = (
    DN_DEFORMABLE_ENCODER,
    DN_DEFORMABLE_DETR,
    DAB_DEFORMABLE_DETR,
    TWO_STAGE_DEFORMABLE_DETR,
    DEFORMABLE_DETR,
    DINO,
    DETREX,
    *DENSE_FORMATS,
    *BACKBONES,
)
