# SPDX-License-Identifier: Apache-2.0
"""Our model for a vector of Deformable DETR and its descendants: the project's config, with the vector's sizes."""

import pytest

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import LazyConfig
from dino_d2.meta_arch import DETR
from dino_d2.modeling import AnchorBoxQueries, FocalClasses, PatternQueries

from .models import BACKBONES, MODELS, build
from .vectors import Vector

ENCODER_ONLY = "dn_dab_deformable_detr_deformable_encoder_only"

#: Arguments that name parts this project does not have; another value skips the vector.
ONLY = {
    "masks": False,
    "position_embedding": "sine",
    "pre_norm": False,
    "batch_norm_type": "FrozenBatchNorm2d",
    "backbone_freeze_keywords": None,
}


def build_model(vector: Vector) -> DETR:
    """The configured model with the vector's weights, in evaluation mode."""
    for name, value in ONLY.items():
        if vector.args.get(name, value) != value:
            pytest.skip(f"the authors' option {name}={vector.args[name]!r} has no counterpart here")
    if vector.system != "Deformable-DETR" and vector.args["two_stage"]:
        pytest.skip("DAB- and DN-Deformable-DETR have learned anchors here")
    if vector.system == ENCODER_ONLY:
        if vector.args["transformer_activation"] != "relu":
            pytest.skip("the deformable encoder has ReLU here")
        if vector.args["pe_temperatureH"] != vector.args["pe_temperatureW"]:
            pytest.skip("one temperature for both axes here")
    if vector.args["backbone"] not in BACKBONES:
        pytest.skip(f"no timm name for the backbone {vector.args['backbone']!r}")
    return build(model_config(vector), vector)


def model_config(vector: Vector):
    """The project's model config with the vector's arguments in it."""
    args = vector.args
    model = LazyConfig.load(str(MODELS / config_file(vector))).model
    detector = model.detector
    detector.num_classes = vector.meta["num_classes"]
    detector.embed_dim = args["hidden_dim"]
    detector.num_levels = args["num_feature_levels"]
    _, timm_name, channels = BACKBONES[args["backbone"]]
    stages = ["res5"] if args["num_feature_levels"] == 1 else ["res3", "res4", "res5"]
    detector.backbone.update(name=timm_name, pretrained=False, out_features=stages)
    detector.backbone.options = {"output_stride": 16} if args["dilation"] else {}
    detector.neck.in_channels = {stage: channels[int(stage[3]) - 2] for stage in stages}
    for part, name in ((detector.encoder, "enc"), (detector.decoder, "dec")):
        part.num_layers = args[f"{name}_layers"]
        if "num_points" in part:
            part.num_points = args[f"{name}_n_points"]
        part.feedforward_dim = args["dim_feedforward"]
        part.num_heads = args["nheads"]
        part.dropout = args["dropout"]
    set_queries(vector, model)
    if "denoising" in model:
        model.denoising.update(
            label_flip_probability=args["label_noise_scale"],
            centre_noise_scale=args["box_noise_scale"],
            size_noise_scale=args["box_noise_scale"],
        )
        model.denoising.groups.groups = args["scalar"]
    criterion = model.criterion
    criterion.matcher.update(
        class_cost=args["set_cost_class"], bbox_cost=args["set_cost_bbox"], giou_cost=args["set_cost_giou"]
    )
    criterion.update(
        class_weight=args["cls_loss_coef"],
        bbox_weight=args["bbox_loss_coef"],
        giou_weight=args["giou_loss_coef"],
        classes=L(FocalClasses)(alpha=args["focal_alpha"]),
    )
    return model


def config_file(vector: Vector) -> str:
    """The file in configs/common/models that the vector's system and variant have."""
    system = vector.meta["system"]
    if system == "Deformable-DETR":
        refine, two_stage = vector.args["with_box_refine"], vector.args["two_stage"]
        return f"deformable_detr_r50{'_two_stage' if two_stage else '_refine' if refine else ''}.py"
    return {
        "dab_deformable_detr": "dab_deformable_detr_r50.py",
        "dn_dab_deformable_detr": "dn_deformable_detr_r50.py",
        ENCODER_ONLY: "dn_deformable_encoder_r50.py",
    }[system]


def set_queries(vector: Vector, model) -> None:
    """Number of queries and patterns, and what the encoder-only model alone has options for."""
    args, detector = vector.args, model.detector
    patterns = args.get("num_patterns", 0)
    if vector.system == ENCODER_ONLY:
        detector.position_encoding.temperature = args["pe_temperatureH"]
        model.postprocess.top_k = args["num_select"]
        detector.queries.num_patterns = patterns
        if not patterns:
            detector.queries = L(AnchorBoxQueries)(embed_dim=args["hidden_dim"])
    else:
        if "label_embedding" in detector:
            detector.queries.embed_dim = args["hidden_dim"] - 1
        if patterns:
            detector.queries.update(_target_=PatternQueries, num_patterns=patterns)
    detector.queries.num_queries = args["num_queries"]
