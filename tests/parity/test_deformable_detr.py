# SPDX-License-Identifier: Apache-2.0
"""Deformable DETR, plain, refined and two-stage: every number of a forward pass and of a training step."""

import torch

from dino_d2.modeling.heads import anchor_logits, head_of_layer

from .deformable_model import build_model
from .dino_forward import (
    BOXES,
    LOGITS,
    compare_detections,
    compare_geometry,
    compare_predictions,
    compare_statistics,
    run,
)
from .dino_losses import compare_losses, compare_matches
from .gradients import compare_gradients

SYSTEMS = ("Deformable-DETR",)


def test_forward_and_training_step(vector, comparison):
    model = build_model(vector)
    training = "train" in vector.meta["mode"]
    with torch.set_grad_enabled(training):
        # Without dropout a training forward is the evaluation's.
        output, recorder = run(model.train(training), vector, ranked_scores=ranked_scores)
    compare_geometry(comparison, vector, recorder)
    compare_statistics(comparison, vector, recorder)
    memory = recorder.memory[:, vector["memory_sample_index"]]
    comparison.close("memory_sample", memory, vector["memory_sample"], LOGITS)
    if output.proposals is not None:
        compare_proposals(comparison, vector, output.proposals)
    compare_decoder_inputs(comparison, vector, recorder)
    compare_references(comparison, vector, model, output, recorder)
    for layer, name in enumerate(vector.layers):
        compare_predictions(comparison, vector, name, output.logits[layer], output.boxes[layer])
    compare_detections(comparison, vector, output, num_slots=0)
    if training:
        labels, boxes = vector.targets
        losses = model.criterion(output, labels, boxes)
        compare_losses(comparison, vector, losses)
        compare_matches(comparison, vector, model.criterion, output._replace(proposals=None), num_slots=0)
        if output.proposals is not None:
            compare_proposal_matches(comparison, vector, model.criterion, output.proposals)
        sum(losses.values()).backward()
        compare_gradients(comparison, vector, model)
    comparison.finish()


def ranked_scores(proposals):
    return proposals.logits[..., 0].gather(1, proposals.index)


def compare_proposals(comparison, vector, proposals):
    comparison.equal("topk_index", proposals.index, vector["topk_index"].long())
    comparison.close("topk_score", ranked_scores(proposals), vector["topk_score"], LOGITS)
    comparison.close("enc.logit_class0", proposals.logits[..., 0], vector["enc.logit_class0"], LOGITS)
    comparison.close("enc.pred_boxes", proposals.boxes, vector["enc.pred_boxes"], BOXES)
    sample = proposals.logits[:, vector["enc.sample_index"]]
    comparison.close("enc.sample_logits", sample, vector["enc.sample_logits"], LOGITS)


def compare_decoder_inputs(comparison, vector, recorder):
    """Content and positions of the first 32 queries, of the first image alone where all are the same."""
    for name, got in (("dec.tgt", recorder.layer_inputs[0]), ("dec.query_pos", recorder.layer_positions[0])):
        want = vector[name]
        comparison.close(name, got[: len(want), : want.shape[1]], want, LOGITS)


def compare_references(comparison, vector, model, output, recorder):
    """References before the first layer and after each."""
    comparison.close("dec.init_ref", output.anchors, vector["dec.init_ref"], BOXES)
    references = recorder.image_anchors()
    decoder, last = model.detector.decoder, references[-1]
    if decoder.box_update is not None:
        correction = head_of_layer(decoder.box_head, len(decoder.layers) - 1)(recorder.states[-1])
        last = (correction + anchor_logits(last, decoder.anchor_eps)).sigmoid()
    comparison.close("dec.inter_refs", torch.stack([*references[1:], last]), vector["dec.inter_refs"], BOXES)


def compare_proposal_matches(comparison, vector, criterion, proposals):
    labels, boxes = vector.targets
    objects = [torch.zeros_like(x) for x in labels]
    matches = criterion.matcher(proposals.logits[None], proposals.boxes[None], objects, boxes)
    for image in range(len(labels)):
        own = matches.image == image
        pairs = torch.stack([matches.query[0, own], matches.target[0, own]])
        comparison.equal(f"match.enc.img{image}", pairs, vector[f"match.enc.img{image}"].long())
