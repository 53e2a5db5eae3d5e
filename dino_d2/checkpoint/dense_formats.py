"""Checkpoints of the single-scale detectors, whose encoders and decoders attend to every pixel.

Our side of the rules is as in `formats`.
"""

from .formats import BUFFERS, PLAIN_RESNET, Format, below
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

DENSE_FORMATS = (DETR,)
