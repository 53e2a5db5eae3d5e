# SPDX-License-Identifier: Apache-2.0
"""Our model for a vector of a single-scale detector: the project's config, with the vector's arguments."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from torch import nn

from dino_d2.checkpoint.dense_formats import ANCHOR_DETR, CONDITIONAL_DETR, DAB_DETR, DN_DETR
from dino_d2.checkpoint.dense_formats import DETR as DETR_FORMAT
from dino_d2.checkpoint.parts import Format
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import LazyConfig
from dino_d2.meta_arch import DETR
from dino_d2.modeling import DenseEncoder, GridPointQueries, PatternBoxQueries, PointDecoder, PointPositions

from .models import MODELS, build_and_report
from .vectors import Vector

#: Arguments that name parts this project does not have; another value skips the vector.
ONLY = {
    "pre_norm": False,
    "position_embedding": "sine",
    "masks": False,
    "aux_loss": True,
    "frozen_weights": None,
    "two_stage": False,
    "eval_set": "val",
    "batch_norm_type": "FrozenBatchNorm2d",
    "backbone_freeze_keywords": None,
}

#: Activations by the authors' names; None is our default, ReLU.
ACTIVATIONS = {"relu": None, "prelu": nn.PReLU, "gelu": nn.GELU, "selu": nn.SELU}


class System(NamedTuple):
    """How vectors of one project are read."""

    config: str
    checkpoint: Format
    set_own: Callable  # puts the arguments that only this project has into the model's config


def set_detr(model, args: dict) -> None:
    model.detector.queries.num_queries = args["num_queries"]
    model.criterion.classes.no_object_weight = args["eos_coef"]


def set_conditional_detr(model, args: dict) -> None:
    model.detector.queries.num_queries = args["num_queries"]


def set_anchor_detr(model, args: dict) -> None:
    if args["num_feature_levels"] != 1:
        pytest.skip("Anchor DETR has one level here")
    detector = model.detector
    detector.queries.num_points = args["num_query_position"]
    detector.queries.num_patterns = args["num_query_pattern"]
    if args["spatial_prior"] == "grid":
        detector.queries._target_ = GridPointQueries
    if args["attention_type"] != "RCDA":
        detector.position_encoding._target_ = PointPositions
        detector.encoder._target_ = DenseEncoder
        detector.decoder._target_ = PointDecoder


def set_dab_detr(model, args: dict) -> None:
    detector = model.detector
    if args["pe_temperatureH"] != args["pe_temperatureW"]:
        pytest.skip("one temperature for both axes here")
    detector.position_encoding.temperature = args["pe_temperatureH"]
    activation = ACTIVATIONS[args["transformer_activation"]]
    detector.encoder.activation = detector.decoder.activation = activation and L(activation)()
    if args["num_patterns"]:
        detector.queries = L(PatternBoxQueries)(num_patterns=args["num_patterns"], embed_dim=args["hidden_dim"])
    detector.queries.num_queries = args["num_queries"]
    model.postprocess.top_k = args["num_select"]


def set_dn_detr(model, args: dict) -> None:
    set_dab_detr(model, args)
    if not args["use_dn"] or args["contrastive"] or args["use_mqs"] or args["use_lft"]:
        pytest.skip("DN-DETR has plain denoising and learned anchors here")
    model.denoising.groups.groups = args["scalar"]
    model.denoising.label_flip_probability = args["label_noise_scale"]
    model.denoising.centre_noise_scale = model.denoising.size_noise_scale = args["box_noise_scale"]


SYSTEMS = {
    "detr": System("detr_r50.py", DETR_FORMAT, set_detr),
    "conditional_detr": System("conditional_detr_r50.py", CONDITIONAL_DETR, set_conditional_detr),
    "anchor_detr": System("anchor_detr_r50.py", ANCHOR_DETR, set_anchor_detr),
    "dab_detr": System("dab_detr_r50.py", DAB_DETR, set_dab_detr),
    "dn_dab_detr": System("dn_detr_r50.py", DN_DETR, set_dn_detr),
}


def build_model(vector: Vector) -> DETR:
    """The configured model with the vector's weights, in evaluation mode."""
    model, report = build_and_report(model_config(vector), vector)
    assert report.format == SYSTEMS[vector.system].checkpoint.name
    assert not report.missing, f"not filled: {report.missing}"
    assert not report.misshapen, f"other shape: {report.misshapen}"
    idle = {name for name in report.unused if name in vector.meta["grad_none"]}
    assert idle == set(report.unused), f"not used: {report.unused}"
    assert not report.settings, f"other settings: {report.settings}"
    return model


def model_config(vector: Vector):
    """The project's model config with the vector's arguments in it."""
    args = vector.args
    for name, value in ONLY.items():
        if args.get(name, value) != value:
            pytest.skip(f"the authors' option {name}={args[name]!r} has no counterpart here")
    system = SYSTEMS[vector.system]
    model = LazyConfig.load(str(MODELS / system.config)).model
    detector = model.detector
    detector.num_classes = vector.num_classes
    detector.embed_dim = args["hidden_dim"]
    detector.backbone.name = f"{args['backbone']}.tv_in1k"
    detector.backbone.pretrained = False
    detector.backbone.options.output_stride = 16 if is_true(args["dilation"]) else 32
    for part, name in ((detector.encoder, "enc"), (detector.decoder, "dec")):
        part.num_layers = args[f"{name}_layers"]
        part.feedforward_dim = args["dim_feedforward"]
        part.num_heads = args["nheads"]
        part.dropout = args["dropout"]
    criterion = model.criterion
    criterion.matcher.class_cost = args["set_cost_class"]
    criterion.matcher.bbox_cost = args["set_cost_bbox"]
    criterion.matcher.giou_cost = args["set_cost_giou"]
    criterion.bbox_weight = args["bbox_loss_coef"]
    criterion.giou_weight = args["giou_loss_coef"]
    if "cls_loss_coef" in args:
        criterion.class_weight = args["cls_loss_coef"]
    if "focal_alpha" in args:
        criterion.classes.alpha = criterion.matcher.classes.alpha = args["focal_alpha"]
    system.set_own(model, args)
    return model


def is_true(option: bool | str) -> bool:
    """Some projects read their switches from the command line as words."""
    return option not in (False, "False", "false", "")
