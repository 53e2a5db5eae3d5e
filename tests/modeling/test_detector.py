# SPDX-License-Identifier: Apache-2.0
"""The tensor core as a whole: padding, leaks, small images."""

import pytest
import torch

from dino_d2.denoising import ContrastiveDenoising, FixedGroups
from dino_d2.modeling import MixedQuerySelection, ProposalHead, StaticQueries

DIM, CLASSES, QUERIES = 32, 5, 20


def objects(shift=0.0):
    """Ground truth of two images; ``shift`` moves one object of the first."""
    boxes = [torch.tensor([[0.3 + shift, 0.4, 0.2, 0.2], [0.7, 0.6, 0.3, 0.2]]), torch.tensor([[0.5, 0.5, 0.4, 0.4]])]
    return [torch.tensor([0, 1]), torch.tensor([2])], boxes


def test_output_shapes(make_detector):
    output = make_detector()(torch.rand(2, 3, 96, 128))
    assert output.logits.shape == (2, 2, QUERIES, CLASSES)
    assert output.boxes.shape == (2, 2, QUERIES, 4)
    assert output.anchors.shape == (2, QUERIES, 4)
    assert output.proposals.index.shape == (2, QUERIES)
    assert ((output.boxes >= 0) & (output.boxes <= 1)).all()


def test_no_ground_truth_leaks_to_the_matching_part(make_detector):
    """Through the whole decoder: another ground truth must change the denoising part and nothing else."""
    detector = make_detector().eval()
    images = torch.rand(2, 3, 96, 128)
    outputs = []
    for shift in (0.0, 0.2):
        labels, boxes = objects(shift)
        generator = torch.Generator().manual_seed(1)
        queries = ContrastiveDenoising(CLASSES, FixedGroups(2))(labels, boxes, generator)
        outputs.append(detector(images, denoising_queries=queries))
    slots = queries.target.shape[1]
    first, second = outputs
    assert torch.equal(first.logits[:, :, slots:], second.logits[:, :, slots:])
    assert torch.equal(first.boxes[:, :, slots:], second.boxes[:, :, slots:])
    assert not torch.allclose(first.boxes[:, :, :slots], second.boxes[:, :, :slots], atol=1e-3)
    # and without any denoising the matching part is the same
    without = detector(images)
    assert torch.allclose(without.logits, first.logits[:, :, slots:], atol=1e-5)


def test_denoising_groups_do_not_see_each_other(make_detector):
    detector = make_detector().eval()
    images = torch.rand(2, 3, 96, 128)
    queries = ContrastiveDenoising(CLASSES, FixedGroups(2))(*objects(), torch.Generator().manual_seed(1))
    changed = queries.boxes.clone()
    changed[:, queries.group == 0] = 0.9
    first = detector(images, denoising_queries=queries)
    second = detector(images, denoising_queries=queries._replace(boxes=changed))
    other_group = (queries.group == 1).nonzero()[:, 0]
    assert torch.equal(first.logits[:, :, other_group], second.logits[:, :, other_group])


def test_what_the_feature_maps_hold_in_padding_changes_nothing(make_detector):
    detector = make_detector().eval()
    maps = detector.neck(detector.backbone(torch.rand(2, 3, 96, 128)))
    mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    mask[1, 64:], mask[1, :, 64:] = True, True
    results = []
    for junk in (0.0, 100.0):
        spoilt = [m.clone() for m in maps]
        for m in spoilt:
            level_mask = torch.nn.functional.interpolate(mask[:, None].float(), m.shape[-2:])[:, 0].bool()
            m.masked_fill_(level_mask[:, None], junk)
        detector.neck.forward = lambda _, spoilt=spoilt: spoilt
        # ten queries: fewer than the second image has tokens, so that none is taken from padding
        detector.queries.num_queries = 10
        results.append(detector(torch.rand(2, 3, 96, 128), mask))
    assert torch.equal(results[0].boxes, results[1].boxes)
    assert torch.equal(results[0].logits, results[1].logits)


def test_an_all_clear_mask_is_the_same_as_none(make_detector):
    detector = make_detector().eval()
    images = torch.rand(2, 3, 96, 128)
    with_mask = detector(images, torch.zeros(2, 96, 128, dtype=torch.bool))
    assert torch.allclose(with_mask.boxes, detector(images).boxes, atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (20, 300), (1, 1)])
def test_images_with_fewer_tokens_than_queries(make_detector, size):
    detector = make_detector(queries=MixedQuerySelection(ProposalHead(DIM, CLASSES), 300, DIM)).eval()
    output = detector(torch.rand(1, 3, *size))
    tokens = output.proposals.index.shape[1]
    assert 0 < tokens < 300
    assert output.boxes.shape[2] == tokens
    assert output.boxes.isfinite().all()


def test_static_queries_train_without_proposals(make_detector):
    output = make_detector(queries=StaticQueries(QUERIES, DIM))(torch.rand(1, 3, 64, 64))
    assert output.proposals is None
    assert output.boxes.shape == (2, 1, QUERIES, 4)
