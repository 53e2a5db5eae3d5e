# SPDX-License-Identifier: Apache-2.0
"""Our model for a DINO vector: the project's config, with the sizes of the vector's arguments."""

import pytest
from torch import nn

from dino_d2.denoising import DenoisingQueries, DynamicGroups, FixedGroups
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.meta_arch import DETR
from dino_d2.modeling import FocalClasses, LookForwardOnce, LookForwardTwice, PureQuerySelection, StaticQueries

from .models import BACKBONES, MODELS, build
from .vectors import Vector

#: Arguments that name parts this project does not have; another value skips the vector.
ONLY = {
    "dilation": False,
    "pre_norm": False,
    "num_patterns": 0,
    "query_dim": 4,
    "two_stage_pat_embed": 0,
    "two_stage_add_query_num": 0,
    "two_stage_bbox_embed_share": False,
    "two_stage_class_embed_share": False,
    "two_stage_learn_wh": False,
    "two_stage_keep_all_tokens": False,
    "dec_layer_number": None,
    "decoder_layer_noise": False,
    "add_channel_attention": False,
    "add_pos_value": False,
    "use_deformable_box_attn": False,
    "decoder_sa_type": "sa",
    "decoder_module_seq": ["sa", "ca", "ffn"],
    "transformer_activation": "relu",
    "batch_norm_type": "FrozenBatchNorm2d",
    "matcher_type": "HungarianMatcher",
    "no_interm_box_loss": False,
    "backbone_freeze_keywords": None,
}


def build_model(vector: Vector) -> DETR:
    """The configured model with the vector's weights, in evaluation mode."""
    return build(model_config(vector), vector)


def model_config(vector: Vector):
    """The project's model config with the vector's arguments in it."""
    args = vector.args
    skip_unsupported(args)
    file, timm_name, channels = BACKBONES[args["backbone"]]
    model = LazyConfig.load(str(MODELS / file)).model
    detector = model.detector
    detector.num_classes = args["num_classes"]
    detector.embed_dim = args["hidden_dim"]
    detector.num_levels = args["num_feature_levels"]
    stages = [f"res{i + 2}" for i in args["return_interm_indices"]]
    detector.backbone.name = timm_name
    detector.backbone.pretrained = False
    detector.backbone.out_features = stages
    if "options" in detector.backbone:
        detector.backbone.options.drop_path_rate = 0.0  # the vectors are made without dropout of any kind
    detector.neck.in_channels = {stage: channels[int(stage[3]) - 2] for stage in stages}
    detector.position_encoding.temperature = args["pe_temperatureH"]
    for part, name in ((detector.encoder, "enc"), (detector.decoder, "dec")):
        part.num_layers = args[f"{name}_layers"]
        part.num_points = args[f"{name}_n_points"]
        part.feedforward_dim = args["dim_feedforward"]
        part.num_heads = args["nheads"]
        part.dropout = args["dropout"]
    set_queries(detector, args)
    detector.decoder.box_update = L(LookForwardOnce if args["use_detached_boxes_dec_out"] else LookForwardTwice)()
    model.criterion = criterion_config(args, model.criterion)
    model.postprocess.top_k = args["num_select"]
    return model


def set_queries(detector, args: dict) -> None:
    """Static, pure or mixed selection, as the arguments say."""
    detector.queries.num_queries = args["num_queries"]
    if args["two_stage_type"] == "no":
        detector.queries = L(StaticQueries)(num_queries=args["num_queries"], embed_dim=args["hidden_dim"])
    elif not args["embed_init_tgt"]:
        detector.queries = L(PureQuerySelection)(
            num_queries=args["num_queries"], proposal_head=detector.queries.proposal_head
        )


def criterion_config(args: dict, criterion):
    """The criterion with the vector's coefficients."""
    criterion.matcher.class_cost = args["set_cost_class"]
    criterion.matcher.bbox_cost = args["set_cost_bbox"]
    criterion.matcher.giou_cost = args["set_cost_giou"]
    criterion.matcher.classes = criterion.classes = L(FocalClasses)(alpha=args["focal_alpha"])
    criterion.class_weight = args["cls_loss_coef"]
    criterion.bbox_weight = args["bbox_loss_coef"]
    criterion.giou_weight = args["giou_loss_coef"]
    criterion.proposal_weight = args["interm_loss_coef"]
    return criterion


def build_criterion(args: dict) -> nn.Module:
    return instantiate(criterion_config(args, LazyConfig.load(str(MODELS / "dino_r50.py")).model.criterion))


def skip_unsupported(args: dict) -> None:
    for name, value in ONLY.items():
        if args.get(name, value) != value:
            pytest.skip(f"the authors' option {name}={args[name]!r} has no counterpart here")
    if args["pe_temperatureH"] != args["pe_temperatureW"]:
        pytest.skip("one temperature for both axes here")
    if args["backbone"] not in BACKBONES:
        pytest.skip(f"no timm name for the backbone {args['backbone']!r}")
    if not (args["dec_pred_bbox_embed_share"] and args["dec_pred_class_embed_share"]):
        pytest.skip("DINO's decoder shares its heads here")


def group_rule(dn_number: int):
    """The released code's rule: doubled, and from 100 on a budget, below that a number of groups."""
    return DynamicGroups(dn_number) if dn_number >= 50 else FixedGroups(max(1, 2 * dn_number))


def stored_denoising(vector: Vector) -> DenoisingQueries:
    """The noised queries that the authors' code made."""
    target = vector["dn.slot_gt"].long()
    labels = vector["dn.slot_label"].long()
    positive = vector["dn.slot_positive"] == 1
    return DenoisingQueries(
        labels=labels,
        boxes=vector["dn.slot_box"].masked_fill((labels < 0)[..., None], 0.5),
        target=target,
        positive=positive,
        group=vector["dn.slot_group"].long(),
        num_positives=int(positive.sum()),
    )
