# SPDX-License-Identifier: Apache-2.0
"""Parameter names in the published checkpoints of Deformable DETR, DAB-Deformable-DETR and DN-Deformable-DETR(++)."""

from .dense_formats import CONDITIONAL_ATTENTION
from .parts import BUFFERS, DEFORMABLE_TRANSFORMER, PLAIN_RESNET, Format, below
from .rules import Rule

DEFORMABLE_RULES: tuple[Rule, ...] = (
    *DEFORMABLE_TRANSFORMER,
    ("transformer.reference_points.", "queries.reference_point."),
    ("query_embed.weight", "queries.embedding.weight"),
    ("transformer.pos_trans.", "queries.project."),
    ("transformer.pos_trans_norm.", "queries.norm."),
    *below("backbone.0.body.", PLAIN_RESNET),
)
DAB_RULES: tuple[Rule, ...] = (
    *DEFORMABLE_TRANSFORMER,
    ("transformer.decoder.ref_point_head.", "decoder.position_head."),
    ("transformer.decoder.query_scale.", "decoder.position_head.scale."),
    ("tgt_embed.weight", "queries.content.weight"),
    ("refpoint_embed.weight", "queries.anchor_logits.weight"),
    ("patterns_embed.weight", "queries.patterns.weight"),
    ("label_enc.weight", "label_embedding.weight"),
    *below("backbone.0.body.", PLAIN_RESNET),
)
POSITIONS: dict[str, float] = {"position_encoding.temperature": 10000, "position_encoding.offset": -0.5}

DEFORMABLE_DETR = Format(
    name="fundamentalvision/Deformable-DETR",
    signature=("transformer.level_embed", "transformer.reference_points.weight", "query_embed.weight"),
    rules=DEFORMABLE_RULES,
    not_needed=BUFFERS,
    settings=POSITIONS | {"decoder.anchor_eps": 1e-5},
)
TWO_STAGE_DEFORMABLE_DETR = DEFORMABLE_DETR._replace(
    name="fundamentalvision/Deformable-DETR, two-stage",
    signature=("transformer.level_embed", "transformer.pos_trans.weight"),
)
DAB_DEFORMABLE_DETR = Format(
    name="IDEA-Research/DAB-DETR, DAB-Deformable-DETR",
    signature=("transformer.level_embed", "refpoint_embed.weight", "tgt_embed.weight"),
    rules=DAB_RULES,
    not_needed=BUFFERS,
    settings=POSITIONS | {"decoder.anchor_eps": 1e-3},
)
DN_DEFORMABLE_DETR = DAB_DEFORMABLE_DETR._replace(
    name="IDEA-Research/DN-DETR, DN-Deformable-DETR",
    signature=("label_enc.weight", *DAB_DEFORMABLE_DETR.signature),
)

ENCODER_ONLY_RULES: tuple[Rule, ...] = (
    *CONDITIONAL_ATTENTION,
    ("transformer.decoder.layers.{}.ca_out_v_proj.", "decoder.layers.{}.cross_attention.out_proj."),
    ("transformer.decoder.layers.{}.lvl_attn.", "decoder.layers.{}.level_weights."),
    *DEFORMABLE_TRANSFORMER,
    ("transformer.decoder.norm.", "decoder.norm."),
    ("transformer.decoder.query_scale.", "decoder.position_scale."),
    ("transformer.decoder.ref_point_head.", "decoder.position_head."),
    ("transformer.decoder.ref_anchor_head.", "decoder.size_modulation."),
    ("transformer.decoder.bbox_embed.", "decoder.box_head."),
    ("class_embed.", "decoder.class_head."),
    ("bbox_embed.", "decoder.box_head."),
    ("refpoint_embed.weight", "queries.anchor_logits.weight"),
    ("transformer.patterns.weight", "queries.patterns.weight"),
    ("label_enc.weight", "label_embedding.weight"),
    *below("backbone.0.body.", PLAIN_RESNET),
)
DN_DEFORMABLE_ENCODER = Format(
    name="IDEA-Research/DN-DETR, DN-Deformable-DETR with deformable encoder only",
    signature=("label_enc.weight", "refpoint_embed.weight", "transformer.decoder.layers.0.lvl_attn.weight"),
    rules=ENCODER_ONLY_RULES,
    not_needed=BUFFERS,
    settings={"position_encoding.temperature": 20, "position_encoding.offset": 0},
    unknown_class=True,
)
