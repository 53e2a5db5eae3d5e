"""The checkpoint formats that are known, each with the tensors it is recognised by and its name rules.

Our side of the rules are names within the detector, with no "detector." in front. Two things depend on the model and
are settled by `layout`: ``neck.levels.i`` is feature level i, whether projected or made by the neck, and
``decoder.class_head.i`` and ``decoder.box_head.i`` are the heads of layer i, whether shared or not.
"""

from typing import NamedTuple

from .rules import Rule


class Format(NamedTuple):
    """One kind of checkpoint."""

    name: str
    signature: tuple[str, ...]  # recognised where every one of these tensors is there
    rules: tuple[Rule, ...]
    not_needed: dict[str, str]  # regular expression: why its tensors have no place here
    settings: dict[str, float]  # of our detector, which the weights were trained with and no tensor tells


SWIN_BLOCKS: tuple[Rule, ...] = (  # the original Swin layout; timm merges patches at the start of the next stage
    ("patch_embed.", "backbone.body.patch_embed."),
    ("layers.0.downsample.", "backbone.body.layers_1.downsample."),
    ("layers.1.downsample.", "backbone.body.layers_2.downsample."),
    ("layers.2.downsample.", "backbone.body.layers_3.downsample."),
    ("layers.{}.blocks.", "backbone.body.layers_{}.blocks."),
)
SWIN_NORMS: tuple[Rule, ...] = (  # one LayerNorm per stage that is returned
    ("norm0.", "backbone.norms.res2."),
    ("norm1.", "backbone.norms.res3."),
    ("norm2.", "backbone.norms.res4."),
    ("norm3.", "backbone.norms.res5."),
)
DETECTRON2_RESNET: tuple[Rule, ...] = (
    ("stem.conv1.norm.", "backbone.body.bn1."),
    ("stem.conv1.", "backbone.body.conv1."),
    *(
        (f"res{stage}.{{}}.{theirs}.", f"backbone.body.layer{stage - 1}.{{}}.{ours}.")
        for stage in (2, 3, 4, 5)
        for theirs, ours in (
            ("shortcut.norm", "downsample.1"),
            ("shortcut", "downsample.0"),
            ("conv1.norm", "bn1"),
            ("conv1", "conv1"),
            ("conv2.norm", "bn2"),
            ("conv2", "conv2"),
            ("conv3.norm", "bn3"),
            ("conv3", "conv3"),
        )
    ),
)
PLAIN_RESNET: tuple[Rule, ...] = (
    ("conv1.", "backbone.body.conv1."),
    ("bn1.", "backbone.body.bn1."),
    ("layer{}.", "backbone.body.layer{}."),
)


def below(prefix: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The same rules for names that have ``prefix`` in front."""
    return tuple((prefix + theirs, ours) for theirs, ours in rules)


BUFFERS = {
    r"(.*\.)?num_batches_tracked": "the batch norms are fixed",
    r"(.*\.)?relative_position_index": "computed from the window size",
    r"(.*\.)?attn_mask": "computed from the image size",
}
CLASSIFIER = {r"(stem\.)?fc\..*|head\..*|norm\..*": "of the ImageNet classifier"}

DINO = Format(
    name="IDEA-Research/DINO",
    signature=("transformer.level_embed", "input_proj.0.0.weight", "label_enc.weight"),
    rules=(
        ("transformer.level_embed", "level_embedding.weight"),
        ("transformer.encoder.layers.{}.self_attn.", "encoder.layers.{}.self_attention."),
        ("transformer.encoder.layers.{}.norm1.", "encoder.layers.{}.norm."),
        ("transformer.encoder.layers.{}.linear1.", "encoder.layers.{}.feed_forward.linear1."),
        ("transformer.encoder.layers.{}.linear2.", "encoder.layers.{}.feed_forward.linear2."),
        ("transformer.encoder.layers.{}.norm2.", "encoder.layers.{}.feed_forward.norm."),
        ("transformer.enc_output.", "queries.proposal_head.project."),
        ("transformer.enc_output_norm.", "queries.proposal_head.norm."),
        ("transformer.enc_out_class_embed.", "queries.proposal_head.class_head."),
        ("transformer.enc_out_bbox_embed.", "queries.proposal_head.box_head."),
        ("transformer.tgt_embed.weight", "queries.content.weight"),
        ("transformer.refpoint_embed.weight", "queries.anchor_logits.weight"),
        ("transformer.decoder.layers.{}.self_attn.", "decoder.layers.{}.self_attention."),
        ("transformer.decoder.layers.{}.norm2.", "decoder.layers.{}.self_norm."),
        ("transformer.decoder.layers.{}.cross_attn.", "decoder.layers.{}.cross_attention."),
        ("transformer.decoder.layers.{}.norm1.", "decoder.layers.{}.cross_norm."),
        ("transformer.decoder.layers.{}.linear1.", "decoder.layers.{}.feed_forward.linear1."),
        ("transformer.decoder.layers.{}.linear2.", "decoder.layers.{}.feed_forward.linear2."),
        ("transformer.decoder.layers.{}.norm3.", "decoder.layers.{}.feed_forward.norm."),
        ("transformer.decoder.norm.", "decoder.norm."),
        ("transformer.decoder.ref_point_head.", "decoder.position_head."),
        ("class_embed.{}.", "decoder.class_head.{}."),
        ("bbox_embed.{}.", "decoder.box_head.{}."),
        ("transformer.decoder.class_embed.{}.", "decoder.class_head.{}."),
        ("transformer.decoder.bbox_embed.{}.", "decoder.box_head.{}."),
        ("label_enc.weight", "label_embedding.weight"),
        ("input_proj.{}.", "neck.levels.{}."),
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
    """Format of a file that holds an ImageNet model alone."""
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

#: Recognised, and not read: {tensor: why}.
REFUSED = {
    "res2_0_branch2a_w": (
        "a Caffe2 ResNet (Detectron2's ImageNetPretrained/MSRA), trained on BGR pixels of unit scale and with its "
        "strides in other convolutions than timm's ResNets. Use Detectron2's ImageNetPretrained/torchvision/R-50.pkl"
    ),
}

FORMATS = (DINO, DETREX, *BACKBONES)
