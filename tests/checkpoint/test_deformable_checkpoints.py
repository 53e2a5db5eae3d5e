# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the deformable family: recognised by their tensors, every one of which has a name here."""

import json

import numpy as np
import pytest
import torch

from dino_d2.checkpoint.classes import COCO_CATEGORY_IDS, fit_classes
from dino_d2.checkpoint.load import recognise, to_our_names, trim_label_embedding
from dino_d2.checkpoint.write import to_ours
from tests.paths import VECTORS

REFERENCE = VECTORS / "reference"
ENCODER_ONLY = "dn_detr/dn_dab_deformable_detr_deformable_encoder_only_r50_pat3"

#: {vector whose list of tensors is read: name of its format}
FORMATS = {
    "deformable_detr/ddetr_tiny_plain": "fundamentalvision/Deformable-DETR",
    "deformable_detr/ddetr_tiny_refine": "fundamentalvision/Deformable-DETR",
    "deformable_detr/ddetr_tiny_refine_two_stage": "fundamentalvision/Deformable-DETR, two-stage",
    "dab_detr/dab_deformable_detr_r50": "IDEA-Research/DAB-DETR, DAB-Deformable-DETR",
    "dab_detr/dab_deformable_detr_r50_pat3": "IDEA-Research/DAB-DETR, DAB-Deformable-DETR",
    "dn_detr/dn_dab_deformable_detr_r50": "IDEA-Research/DN-DETR, DN-Deformable-DETR",
    ENCODER_ONLY: "IDEA-Research/DN-DETR, DN-Deformable-DETR with deformable encoder only",
    "dino/dino_tiny_train": "IDEA-Research/DINO",  # whose names are nearly the same
}


def authors_tensors(vector):
    """{the authors' name: a tensor of its shape}, what they share being the same here; the backbone left out."""
    meta = json.loads(str(np.load(REFERENCE / f"{vector}.npz")["meta"]))
    made = {}
    for index, (_, shape, rule_name) in enumerate(meta["keys"]):
        made.setdefault(rule_name, torch.full(shape, float(index)))
    return {n: made[rule_name] for n, _, rule_name in meta["keys"] if not n.startswith("backbone")}


@pytest.mark.parametrize("vector", FORMATS)
def test_format_is_recognised_and_every_tensor_named(vector):
    tensors = authors_tensors(vector)
    found = recognise(tensors, vector)
    assert found.name == FORMATS[vector]
    renamed, _, unused = to_our_names(tensors, found)
    assert not unused
    assert "level_embedding.weight" in renamed


def test_the_head_beyond_the_layers_is_the_proposals():
    ours, unused = to_ours(authors_tensors("deformable_detr/ddetr_tiny_refine_two_stage"))
    assert not unused
    assert ours["detector.queries.proposal_head.class_head.weight"].shape == (91, 64)
    assert "detector.decoder.class_head.1.weight" in ours
    assert "detector.decoder.class_head.2.weight" not in ours


@pytest.mark.parametrize(("vector", "rows"), [(ENCODER_ONLY, 92), ("dn_detr/dn_dab_deformable_detr_r50", 91)])
def test_the_unknown_class_is_kept_where_it_is_used(vector, rows):
    ours, _ = to_ours(authors_tensors(vector))
    assert ours["detector.label_embedding.weight"].shape == (rows, 255)


def test_the_unknown_class_stays_last_when_classes_are_mapped():
    rows = torch.arange(92.0)[:, None]
    tensors = {
        "label_embedding.weight": rows,
        "decoder.class_head.weight": rows[:91],
        "decoder.class_head.bias": rows[:91, 0],
    }
    mapped, _ = fit_classes(tensors, 80)
    assert mapped["label_embedding.weight"][:, 0].tolist() == [*COCO_CATEGORY_IDS, 91]
    back, _ = fit_classes(mapped, 91)
    assert back["label_embedding.weight"][[1, 90, 91], 0].tolist() == [1, 90, 91]
    trim_label_embedding(tensors, 91)
    assert len(tensors["label_embedding.weight"]) == 91
