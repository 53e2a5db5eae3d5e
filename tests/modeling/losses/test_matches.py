# SPDX-License-Identifier: Apache-2.0
"""Matches as criterion and evaluation read them."""

import torch

from dino_d2.modeling import HungarianMatcher
from dino_d2.modeling.losses.matches import Matches


def test_every_layer_pairs_each_object_once_and_a_pair_stays_with_its_image():
    generator = torch.Generator().manual_seed(0)
    layers, batch, queries, counts = 3, 2, 7, [4, 2]
    logits = torch.randn(layers, batch, queries, 5, generator=generator)
    boxes = torch.rand(layers, batch, queries, 4, generator=generator)
    labels = [torch.randint(5, (count,), generator=generator) for count in counts]
    targets = [torch.rand(count, 4, generator=generator) for count in counts]
    matches = HungarianMatcher()(logits, boxes, labels, targets)
    assert isinstance(matches, Matches)
    assert matches.image.tolist() == [0] * 4 + [1] * 2
    assert matches.query.shape == matches.target.shape == (layers, sum(counts))
    for layer in range(layers):
        for image, count in enumerate(counts):
            own = matches.image == image
            assert sorted(matches.target[layer, own].tolist()) == list(range(count))
            assert len(set(matches.query[layer, own].tolist())) == count
