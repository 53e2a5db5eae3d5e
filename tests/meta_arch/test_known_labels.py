# SPDX-License-Identifier: Apache-2.0
"""Known labels: the classes of an image are given, and their objects are detected."""

import torch

from dino_d2.meta_arch import KnownLabelDETR
from dino_d2.modeling import IndicatedLabelEmbedding, MixedQuerySelection, ProposalHead

from .conftest import CLASSES, DIM, QUERIES


def test_known_labels_are_asked_for_one_by_one(make_known, make_input):
    queries = MixedQuerySelection(ProposalHead(DIM, CLASSES), QUERIES, DIM - 1)
    parts = {"label_embedding": IndicatedLabelEmbedding(CLASSES, DIM), "queries": queries}
    model = make_known(KnownLabelDETR, parts=parts).eval()
    contents = []
    decode = model.detector.decode
    model.detector.decode = lambda encoded, *rest: contents.append(encoded.queries.content) or decode(encoded, *rest)
    image = make_input()
    result = model([image | {"known_labels": [3, 1]}])[0]
    for content, label in zip(contents, (3, 1), strict=True):
        expected = torch.cat([model.detector.label_embedding.weight[label], torch.ones(1)])  # indicator 1: known
        assert torch.equal(content[0], expected.expand(QUERIES, -1))
    found = result["instances"]
    assert set(found.pred_classes[found.scores > 0].tolist()) == {1, 3}
    assert result["queries"].boxes.shape == (2 * QUERIES, 4)
    of_one = model([image | {"known_labels": [1]}])[0]["instances"]
    same = found.scores[found.pred_classes == 1]
    assert torch.allclose(same, of_one.scores[: len(same)], atol=1e-5)
    nothing = model([image | {"known_labels": []}])[0]["instances"]
    assert nothing.scores.max() == 0


def test_dinos_queries_keep_their_content_and_are_told_the_class(make_known, make_input):
    model = make_known(KnownLabelDETR).eval()
    contents = []
    decode = model.detector.decode
    model.detector.decode = lambda encoded, *rest: contents.append(encoded.queries.content) or decode(encoded, *rest)
    image = make_input()
    model([image])
    model([image | {"known_labels": [3]}, make_input(seed=1)])
    own, told = contents
    assert torch.allclose(told[0], own[0] + model.detector.label_embedding.weight[3])
    assert torch.allclose(told[1], own[0])  # of no question


def test_an_image_without_known_labels_is_detected_as_ever_beside_one_with(make_known, make_input):
    model = make_known(KnownLabelDETR).eval()
    image, other = make_input(seed=1), make_input(seed=2)
    plain = model([other])[0]["instances"]
    told, untold = model([image | {"known_labels": [3, 1]}, other])
    assert set(told["instances"].pred_classes[told["instances"].scores > 0].tolist()) == {1, 3}
    assert torch.allclose(untold["instances"].scores[: len(plain)], plain.scores, atol=1e-5)
    assert untold["instances"].pred_classes[: len(plain)].tolist() == plain.pred_classes.tolist()


def test_training_on_a_label_matches_its_objects_alone(make_known, make_input):
    model = make_known(KnownLabelDETR).train()
    image = make_input(objects=4)
    image["instances"].gt_classes = torch.tensor([2, 2, 2, 2])
    other = make_input(objects=0)
    seen = []
    forward = model.criterion.matcher.forward
    model.criterion.matcher.forward = lambda *inputs: seen.append([len(x) for x in inputs[2]]) or forward(*inputs)
    losses = model([image, other])
    assert seen == [[4, 0], [4, 0]]  # the question's objects, and all of them for the proposals
    layers = ["", "_0", "_enc", "_dn", "_dn_0"]
    assert losses.keys() == {f"loss_{kind}{layer}" for kind in ("class", "bbox", "giou") for layer in layers}
    sum(losses.values()).backward()
    image["instances"].gt_classes = torch.tensor([2, 3, 2, 2])
    torch.manual_seed(0)
    seen.clear()
    for _ in range(8):
        model([image])
    assert {tuple(x) for x in seen[::2]} == {(1,), (3,)}
