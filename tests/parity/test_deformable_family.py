# SPDX-License-Identifier: Apache-2.0
"""DAB-Deformable-DETR, DN-Deformable-DETR and its ++: every number of a forward pass and of a training step."""

import pytest
import torch

from dino_d2.modeling.heads import anchor_logits, head_of_layer

from .deformable_forward import compare_maps, run
from .deformable_model import build_model
from .dense_forward import BOXES, INNER, compare_detections, compare_predictions
from .dense_losses import compare_losses, compare_matches
from .dn_denoising import compare_denoising, make_denoising
from .gradients import compare_gradients

SYSTEMS = ("dab_deformable_detr", "dn_dab_deformable_detr", "dn_dab_deformable_detr_deformable_encoder_only")


@torch.no_grad()
def test_evaluation(vector, comparison):
    model = build_model(vector)
    output, recorder = run(model, vector)
    compare_maps(comparison, vector, recorder)
    decoder = model.detector.decoder
    states = torch.stack([decoder.norm(x) for x in recorder.states])
    comparison.close("dec.hs", states, vector["dec.hs"], INNER)
    if "dec.inter_refs" in vector:
        compare_refined(comparison, vector, decoder, output, recorder)
    else:
        references = output.boxes.double().logit() - decoder.box_head(states).double()
        comparison.close("dec.refs", references.sigmoid(), vector["dec.refs"], 5e-6)
    compare_predictions(comparison, vector, output)
    compare_detections(comparison, vector, model)
    comparison.finish()


def test_training_step(vector, comparison):
    if "train" not in vector.meta["mode"]:
        pytest.skip("this vector is of evaluation alone")
    model = build_model(vector).train()
    labels, boxes = vector.targets
    denoising, slots, prefix = None, 0, ""
    if model.denoising is not None:
        denoising = make_denoising(vector, model.denoising)
        slots, prefix = denoising.target.shape[1], "train_"
    output, recorder = run(model, vector, denoising)
    compare_predictions(comparison, vector, output, slots, prefix)
    if denoising is not None:
        compare_denoising(comparison, vector, denoising, output.logits.shape[2] - slots)
        content = recorder.layer_inputs[0].clone()
        if hasattr(model.detector.queries, "patterns"):  # the vector's content is without them
            patterns = model.detector.queries.patterns.weight
            content[:, slots:] -= patterns.repeat_interleave(vector.args["num_queries"], dim=0)
        comparison.close("dn.query_label", content, vector["dn.query_label"], 1e-6)
    compare_matches(comparison, vector, model, prefix)
    losses = model.criterion(output, labels, boxes, denoising)
    compare_losses(comparison, vector, losses)
    sum(losses.values()).backward()
    compare_gradients(comparison, vector, model)
    comparison.finish()


def compare_refined(comparison, vector, decoder, output, recorder):
    """References before the first layer and after each."""
    comparison.close("dec.init_ref", output.anchors, vector["dec.init_ref"].expand_as(output.anchors), BOXES)
    anchors = recorder.image_anchors()
    correction = head_of_layer(decoder.box_head, len(decoder.layers) - 1)(recorder.states[-1])
    anchors.append((correction + anchor_logits(anchors[-1], decoder.anchor_eps)).sigmoid())
    comparison.close("dec.inter_refs", torch.stack(anchors[1:]), vector["dec.inter_refs"], BOXES)
