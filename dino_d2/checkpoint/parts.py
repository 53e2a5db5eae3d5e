# SPDX-License-Identifier: Apache-2.0
"""Shared by the checkpoint formats: the `Format` type, and name rules of parts that several formats have."""

from typing import NamedTuple

from .rules import Rule


class Format(NamedTuple):
    """One kind of checkpoint."""

    name: str
    signature: tuple[str, ...]  # tensors whose presence identifies the format
    rules: tuple[Rule, ...]
    not_needed: dict[str, str]  # {regular expression: why tensors of such names are not loaded}
    settings: dict[str, float]  # of our detector, that the weights were trained with
    unknown_class: bool = False  # the label embedding's last row, after the classes, is used


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


DEFORMABLE_TRANSFORMER: tuple[Rule, ...] = (  # Deformable DETR's names, which its descendants kept
    ("transformer.level_embed", "level_embedding.weight"),
    ("transformer.encoder.layers.{}.self_attn.", "encoder.layers.{}.self_attention."),
    ("transformer.encoder.layers.{}.norm1.", "encoder.layers.{}.norm."),
    ("transformer.encoder.layers.{}.linear1.", "encoder.layers.{}.feed_forward.linear1."),
    ("transformer.encoder.layers.{}.linear2.", "encoder.layers.{}.feed_forward.linear2."),
    ("transformer.encoder.layers.{}.norm2.", "encoder.layers.{}.feed_forward.norm."),
    ("transformer.enc_output.", "queries.proposal_head.project."),
    ("transformer.enc_output_norm.", "queries.proposal_head.norm."),
    ("transformer.decoder.layers.{}.self_attn.", "decoder.layers.{}.self_attention."),
    ("transformer.decoder.layers.{}.norm2.", "decoder.layers.{}.self_norm."),
    ("transformer.decoder.layers.{}.cross_attn.", "decoder.layers.{}.cross_attention."),
    ("transformer.decoder.layers.{}.norm1.", "decoder.layers.{}.cross_norm."),
    ("transformer.decoder.layers.{}.linear1.", "decoder.layers.{}.feed_forward.linear1."),
    ("transformer.decoder.layers.{}.linear2.", "decoder.layers.{}.feed_forward.linear2."),
    ("transformer.decoder.layers.{}.norm3.", "decoder.layers.{}.feed_forward.norm."),
    ("class_embed.{}.", "decoder.class_head.{}."),
    ("bbox_embed.{}.", "decoder.box_head.{}."),
    ("transformer.decoder.class_embed.{}.", "decoder.class_head.{}."),
    ("transformer.decoder.bbox_embed.{}.", "decoder.box_head.{}."),
    ("input_proj.{}.", "neck.levels.{}."),
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
