# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the single-scale detectors: each tensor of the authors has its place here."""

import json

import numpy as np
import pytest
import torch

from dino_d2.checkpoint import load_tensors
from dino_d2.checkpoint.classes import COCO_CATEGORY_IDS
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.modeling import PatternBoxQueries
from tests.paths import ROOT, VECTORS

REFERENCE = VECTORS / "reference"

PATTERNS = L(PatternBoxQueries)(num_queries=20, num_patterns=3)

#: {vector whose list of tensors is read: config, options of its detector}
CHECKPOINTS = {
    "detr/detr_r50": ("detr_r50.py", {"embed_dim": 64, "queries.num_queries": 20}),
    "conditional_detr/conditional_detr_r50": ("conditional_detr_r50.py", {"queries.num_queries": 20}),
    "anchor_detr/anchor_detr_r50_dc5_rcda": ("anchor_detr_r50.py", {"queries.num_points": 20}),
    "dab_detr/dab_detr_r50": ("dab_detr_r50.py", {"queries.num_queries": 20}),
    "dab_detr/dab_detr_r50_pat3": ("dab_detr_r50.py", {"queries": PATTERNS}),
    "dn_detr/dn_dab_detr_r50": ("dn_detr_r50.py", {"queries.num_queries": 20}),
    "dn_detr/dn_dab_detr_r50_pat3": ("dn_detr_r50.py", {"queries": PATTERNS}),
}


def authors_tensors(vector):
    """{the authors' name: a tensor of its shape}, all different; what they share is the same here."""
    meta = json.loads(str(np.load(REFERENCE / f"{vector}.npz")["meta"]))
    generator = torch.Generator().manual_seed(0)
    made = {}
    for _, shape, rule_name in meta["keys"]:
        if rule_name not in made:
            made[rule_name] = torch.rand(shape, generator=generator)
    return {name: made[rule_name] for name, _, rule_name in meta["keys"]}


def small_model(config, options, num_classes):
    model = LazyConfig.load(str(ROOT / "configs" / "common" / "models" / config)).model
    model.detector.num_classes = num_classes
    model.detector.backbone.pretrained = False
    for part in (model.detector.encoder, model.detector.decoder):
        part.num_layers, part.feedforward_dim, part.num_heads = 2, 128, 4
    for name, value in options.items():
        part, _, key = name.rpartition(".")
        setattr(model.detector[part] if part else model.detector, key, value)
    return instantiate(model)


@pytest.mark.parametrize("vector", CHECKPOINTS)
def test_every_tensor_has_its_place(vector):
    tensors = authors_tensors(vector)
    model = small_model(*CHECKPOINTS[vector], num_classes=91)
    report = load_tensors(model, tensors)
    assert not report.missing + report.remade
    assert not report.misshapen | report.unused
    assert not report.doubtful
    assert len({t.data_ptr() for t in tensors.values()}) == len(report.loaded)


@pytest.mark.parametrize("vector", CHECKPOINTS)
def test_raw_category_ids_become_80_classes(vector):
    tensors = authors_tensors(vector)
    model = small_model(*CHECKPOINTS[vector], num_classes=80)
    report = load_tensors(model, tensors)
    assert "80 classes" in report.classes
    assert not report.missing + report.remade
    assert not report.misshapen | report.unused
    bias = model.detector.decoder.class_head.bias
    theirs = next(t for name, t in tensors.items() if name.endswith("class_embed.bias") or "class_embed.0.b" in name)
    assert torch.equal(bias[:80], theirs[torch.tensor(COCO_CATEGORY_IDS)])
    assert torch.equal(bias[80:], theirs[91:])
    if "label_enc.weight" in tensors:  # the last row is the class of matching queries
        embedding = model.detector.label_embedding.weight
        assert torch.equal(embedding[:80], tensors["label_enc.weight"][torch.tensor(COCO_CATEGORY_IDS)])
        assert torch.equal(embedding[80], tensors["label_enc.weight"][91])


def test_no_object_is_not_counted_as_a_class():
    vector = next(vector for vector, (config, *_) in CHECKPOINTS.items() if config == "detr_r50.py")
    report = load_tensors(small_model(*CHECKPOINTS[vector], num_classes=5), authors_tensors(vector))
    assert "for 5 classes; the checkpoint has 91" in report.classes
