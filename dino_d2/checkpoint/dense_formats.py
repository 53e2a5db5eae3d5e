# SPDX-License-Identifier: Apache-2.0
"""Parameter names in the published checkpoints of detectors with dense attention and one scale.

Each rule maps a piece of the authors' name to our name, as in `formats`.
"""

from .parts import BUFFERS, PLAIN_RESNET, Format, below
from .rules import Rule

DENSE_ENCODER: tuple[Rule, ...] = (
    ("transformer.encoder.layers.{}.self_attn.", "encoder.layers.{}.self_attention."),
    ("transformer.encoder.layers.{}.norm1.", "encoder.layers.{}.norm."),
    ("transformer.encoder.layers.{}.linear1.", "encoder.layers.{}.feed_forward.linear1."),
    ("transformer.encoder.layers.{}.linear2.", "encoder.layers.{}.feed_forward.linear2."),
    ("transformer.encoder.layers.{}.norm2.", "encoder.layers.{}.feed_forward.norm."),
)
DECODER_FEED_FORWARD: tuple[Rule, ...] = (
    ("transformer.decoder.layers.{}.linear1.", "decoder.layers.{}.feed_forward.linear1."),
    ("transformer.decoder.layers.{}.linear2.", "decoder.layers.{}.feed_forward.linear2."),
    ("transformer.decoder.layers.{}.norm3.", "decoder.layers.{}.feed_forward.norm."),
    ("transformer.decoder.norm.", "decoder.norm."),
)
HEADS_AND_BODY: tuple[Rule, ...] = (
    ("class_embed.", "decoder.class_head."),
    ("bbox_embed.", "decoder.box_head."),
    ("input_proj.", "neck.projection."),
    *below("backbone.0.body.", PLAIN_RESNET),
)

DETR = Format(
    name="facebookresearch/detr",
    signature=("query_embed.weight", "transformer.decoder.layers.0.multihead_attn.in_proj_weight", "input_proj.bias"),
    rules=(
        *DENSE_ENCODER,
        ("transformer.decoder.layers.{}.self_attn.", "decoder.layers.{}.self_attention."),
        ("transformer.decoder.layers.{}.norm1.", "decoder.layers.{}.self_norm."),
        ("transformer.decoder.layers.{}.multihead_attn.", "decoder.layers.{}.cross_attention."),
        ("transformer.decoder.layers.{}.norm2.", "decoder.layers.{}.cross_norm."),
        *DECODER_FEED_FORWARD,
        ("query_embed.weight", "queries.position.weight"),
        *HEADS_AND_BODY,
    ),
    not_needed=BUFFERS,
    settings={"position_encoding.temperature": 10000, "position_encoding.offset": 0},
)

CONDITIONAL_ATTENTION: tuple[Rule, ...] = tuple(
    (f"transformer.decoder.layers.{{}}.{theirs}.", f"decoder.layers.{{}}.{ours}.")
    for theirs, ours in (
        ("sa_qcontent_proj", "self_attention.query_content"),
        ("sa_qpos_proj", "self_attention.query_position"),
        ("sa_kcontent_proj", "self_attention.key_content"),
        ("sa_kpos_proj", "self_attention.key_position"),
        ("sa_v_proj", "self_attention.value"),
        ("self_attn.out_proj", "self_attention.out_proj"),
        ("norm1", "self_norm"),
        ("ca_qcontent_proj", "cross_attention.query_content"),
        ("ca_qpos_proj", "cross_attention.query_position"),
        ("ca_qpos_sine_proj", "cross_attention.query_sine"),
        ("ca_kcontent_proj", "cross_attention.key_content"),
        ("ca_kpos_proj", "cross_attention.key_position"),
        ("ca_v_proj", "cross_attention.value"),
        ("cross_attn.out_proj", "cross_attention.out_proj"),
        ("norm2", "cross_norm"),
    )
)

CONDITIONAL_DETR = Format(
    name="Atten4Vis/ConditionalDETR",
    signature=("query_embed.weight", "transformer.decoder.layers.0.ca_qpos_sine_proj.weight", "input_proj.bias"),
    rules=(
        *DENSE_ENCODER,
        *CONDITIONAL_ATTENTION,
        *DECODER_FEED_FORWARD,
        ("transformer.decoder.query_scale.", "decoder.position_scale."),
        ("transformer.decoder.ref_point_head.", "decoder.position_head."),
        ("query_embed.weight", "queries.position.weight"),
        *HEADS_AND_BODY,
    ),
    not_needed=BUFFERS,
    settings={"position_encoding.temperature": 10000, "position_encoding.offset": 0},
)

DAB_DETR = Format(
    name="IDEA-Research/DAB-DETR",
    signature=("refpoint_embed.weight", "transformer.decoder.ref_anchor_head.layers.0.weight", "input_proj.bias"),
    rules=(
        *DENSE_ENCODER,
        ("transformer.encoder.layers.{}.activation.", "encoder.layers.{}.feed_forward.activation."),
        ("transformer.encoder.query_scale.", "encoder.position_scale."),
        *CONDITIONAL_ATTENTION,
        *DECODER_FEED_FORWARD,
        ("transformer.decoder.layers.{}.activation.", "decoder.layers.{}.feed_forward.activation."),
        ("transformer.decoder.query_scale.", "decoder.position_scale."),
        ("transformer.decoder.ref_point_head.", "decoder.position_head."),
        ("transformer.decoder.ref_anchor_head.", "decoder.size_modulation."),
        ("refpoint_embed.weight", "queries.anchor_logits.weight"),
        ("transformer.patterns.weight", "queries.patterns.weight"),
        ("bbox_embed.{}.", "decoder.box_head.{}."),
        ("transformer.decoder.bbox_embed.{}.", "decoder.box_head.{}."),
        ("transformer.decoder.bbox_embed.", "decoder.box_head."),
        *HEADS_AND_BODY,
    ),
    not_needed=BUFFERS,
    settings={"position_encoding.temperature": 20, "position_encoding.offset": 0},
)

ANCHOR_DETR = Format(
    name="megvii-research/AnchorDETR",
    signature=("transformer.pattern.weight", "transformer.adapt_pos2d.0.weight", "input_proj.0.0.weight"),
    rules=(
        ("transformer.encoder_layers.{}.self_attn.", "encoder.layers.{}.self_attention."),
        ("transformer.encoder_layers.{}.norm1.", "encoder.layers.{}.norm."),
        ("transformer.encoder_layers.{}.ffn.norm2.", "encoder.layers.{}.feed_forward.norm."),
        ("transformer.encoder_layers.{}.ffn.", "encoder.layers.{}.feed_forward."),
        ("transformer.decoder_layers.{}.self_attn.", "decoder.layers.{}.self_attention."),
        ("transformer.decoder_layers.{}.norm2.", "decoder.layers.{}.self_norm."),
        ("transformer.decoder_layers.{}.cross_attn.", "decoder.layers.{}.cross_attention."),
        ("transformer.decoder_layers.{}.norm1.", "decoder.layers.{}.cross_norm."),
        ("transformer.decoder_layers.{}.ffn.norm2.", "decoder.layers.{}.feed_forward.norm."),
        ("transformer.decoder_layers.{}.ffn.", "decoder.layers.{}.feed_forward."),
        ("transformer.class_embed.{}.", "decoder.class_head.{}."),
        ("transformer.bbox_embed.{}.", "decoder.box_head.{}."),
        ("transformer.pattern.weight", "queries.patterns.weight"),
        ("transformer.position.weight", "queries.points.weight"),
        ("transformer.adapt_pos2d.0.", "position_encoding.embedding.layers.0."),
        ("transformer.adapt_pos2d.2.", "position_encoding.embedding.layers.1."),
        ("transformer.adapt_pos1d.0.", "position_encoding.axis_embedding.layers.0."),
        ("transformer.adapt_pos1d.2.", "position_encoding.axis_embedding.layers.1."),
        ("input_proj.{}.", "neck.levels.{}."),
        *below("backbone.body.", PLAIN_RESNET),
    ),
    not_needed=BUFFERS,
    settings={},
)

DN_DETR = DAB_DETR._replace(
    name="IDEA-Research/DN-DETR",
    signature=("label_enc.weight", *DAB_DETR.signature),
    rules=(("label_enc.weight", "label_embedding.weight"), *DAB_DETR.rules),
    unknown_class=True,
)

DENSE_FORMATS = (DETR, CONDITIONAL_DETR, ANCHOR_DETR, DN_DETR, DAB_DETR)
