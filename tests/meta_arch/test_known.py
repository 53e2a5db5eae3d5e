# SPDX-License-Identifier: Apache-2.0
"""Known objects, known labels and progressive inference: what reaches the decoder, and what is learned from it."""

import json

import pytest
import torch

from dino_d2.data.known import KnownLabelsMapper, KnownObjectsMapper, only_classes
from dino_d2.data.shapes import shapes
from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.meta_arch import (
    KnownAtRandom,
    KnownClasses,
    KnownLabelDETR,
    KnownObjectDETR,
    ProgressiveInference,
    VisibleQueries,
    known_classes,
    unknown_classes,
)
from dino_d2.modeling import HungarianMatcher, IndicatedLabelEmbedding, MixedQuerySelection, ProposalHead, SetCriterion
from tests.paths import ROOT

CLASSES, QUERIES, DIM = 5, 20, 32


@pytest.fixture
def make_known(make_detector):
    def make(kind=KnownObjectDETR, **extra):
        denoising = Denoising(CLASSES, FixedGroups(1))
        parts = extra.pop("parts", {})
        return kind(
            detector=make_detector(**parts), criterion=SetCriterion(HungarianMatcher()), denoising=denoising, **extra
        )

    return make


def test_the_split_of_table_3():
    known, unknown = known_classes(80, 0.7), unknown_classes(80, 0.7)
    assert (len(known), len(unknown)) == (56, 24)
    assert sorted(known + unknown) == list(range(80))
    assert known == known_classes(80, 0.7)
    assert known != known_classes(80, 0.7, seed=1)
    assert len(known_classes(80, 0.5)) == 40
    assert KnownClasses([1, 3])(torch.tensor([0, 1, 2, 3])).tolist() == [False, True, False, True]
    torch.manual_seed(0)
    shares = {KnownAtRandom()(torch.zeros(50)).float().mean().item() for _ in range(50)}
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_matching_queries_see_known_objects_and_nobody_sees_padding():
    labels, boxes = [torch.tensor([1, 2]), torch.tensor([3])], [torch.full((2, 4), 0.5), torch.full((1, 4), 0.5)]
    queries = VisibleQueries(*Denoising(CLASSES, FixedGroups(1))(labels, boxes))
    blocked = queries.attention_mask(3)
    assert blocked.shape == (2, 5, 5)
    assert not blocked[0].any()
    assert blocked[1, :, 1].all()  # the second image has one object and one padding slot
    assert not blocked[1, :, [0, 2, 3, 4]].any()


def test_known_objects_are_rebuilt_and_take_no_part_in_the_matching(make_known, make_input):
    model = make_known(known=KnownClasses([0, 1])).train()
    image = make_input(objects=4)
    image["instances"].gt_classes = torch.tensor([0, 2, 1, 4])
    seen = {}
    matcher = model.criterion.matcher
    forward = matcher.forward
    matcher.forward = lambda logits, boxes, labels, targets: (
        seen.update(labels=labels, slots=logits.shape[2]) or forward(logits, boxes, labels, targets)
    )
    losses = model([image])
    assert seen["labels"][0].tolist() == [2, 4]
    assert seen["slots"] == QUERIES
    layers = ["", "_0", "_enc", "_dn", "_dn_0"]
    assert losses.keys() == {f"loss_{kind}{layer}" for kind in ("class", "bbox", "giou") for layer in layers}
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.zero_grad()
    for classes in ([0, 1, 2, 3, 4], []):  # nothing left to match, and nothing known
        model.known = KnownClasses(classes)
        losses = model([image])
        assert all(value.isfinite() for value in losses.values())


def test_the_losses_are_those_of_the_parts_apart(make_known, make_input):
    """The denoising part's losses by the ordinary criterion, of a model that was given known objects alone."""
    model = make_known(known=KnownClasses([0, 1])).train()
    image = make_input(objects=4)
    image["instances"].gt_classes = torch.tensor([0, 2, 1, 4])
    outputs = []
    model.detector.register_forward_hook(lambda module, inputs, output: outputs.append((inputs[2], output)))
    losses = model([image])
    denoising, output = outputs[0]
    truth = image["instances"]
    boxes = torch.cat(
        [truth.gt_boxes.tensor[:, :2] + truth.gt_boxes.tensor[:, 2:], truth.gt_boxes.tensor[:, 2:] * 2], dim=1
    )
    boxes[:, 2:] -= truth.gt_boxes.tensor[:, :2] * 2
    boxes = boxes / 2 / torch.tensor([128, 96, 128, 96])
    for rows, names, of in (([0, 2], "_dn", denoising), ([1, 3], "", None)):
        expected = model.criterion(
            output if of is not None else output._replace(logits=output.logits[:, :, 2:], boxes=output.boxes[:, :, 2:]),
            [truth.gt_classes[rows]],
            [boxes[rows]],
            of,
        )
        for kind in ("class", "bbox", "giou"):
            name = f"loss_{kind}{names}"
            assert losses[name].item() == pytest.approx(expected[name].item(), rel=1e-5)


def test_a_known_object_changes_what_is_found_and_only_in_its_image(make_known, make_input):
    model = make_known(known=KnownClasses([0])).eval()
    images = [make_input(seed=1), make_input(seed=2)]
    plain = model(images)
    known = images[0]["instances"]
    together = model([images[0] | {"known_objects": known}, images[1]])
    assert not torch.allclose(together[0]["instances"].scores, plain[0]["instances"].scores, atol=1e-4)
    assert torch.allclose(together[1]["instances"].scores, plain[1]["instances"].scores, atol=1e-5)
    alone = model([images[0] | {"known_objects": known}])
    assert torch.allclose(together[0]["instances"].scores, alone[0]["instances"].scores, atol=1e-5)
    none = model([images[0] | {"known_objects": known[:0]}])
    assert torch.equal(none[0]["instances"].scores, model([images[0]])[0]["instances"].scores)
    assert together[0]["queries"].boxes.shape == (QUERIES, 4)


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


def test_progressive_inference_feeds_the_best_detection_back():
    def detect(batch):
        """Finds the objects 0.9, 0.8, 0.3, but for known ones; each is a pixel wide."""
        known = batch[0].get("known_objects")
        taken = [] if known is None else known.gt_classes.tolist()
        asked.append(taken)
        left = [(c, s) for c, s in ((0, 0.9), (1, 0.8), (2, 0.3)) if c not in taken]
        found = Instances((20, 40))
        found.pred_boxes = Boxes(torch.tensor([[c * 8.0, 0, c * 8 + 8, 10] for c, _ in left]).reshape(-1, 4))
        found.scores = torch.tensor([s for _, s in left])
        found.pred_classes = torch.tensor([c for c, _ in left], dtype=torch.int64)
        boxes.append(None if known is None else known.gt_boxes.tensor.tolist())
        return [{"instances": found}]

    asked, boxes = [], []
    image = {"image": torch.zeros(3, 10, 10, dtype=torch.uint8)}
    result = ProgressiveInference(steps=5, score_threshold=0.5)(detect, [image])[0]["instances"]
    assert asked == [[], [0], [0, 1]]  # the third is not confident enough to become known
    assert boxes[2] == [[0, 0, 2, 5], [2, 0, 4, 5]]  # in the pixels of the image, not of the output
    assert result.pred_classes.tolist() == [0, 1, 2]
    assert result.scores.tolist() == pytest.approx([0.9, 0.8, 0.3])
    asked.clear()
    ProgressiveInference(steps=1)(detect, [image])
    assert asked == [[], [0]]
    asked.clear()
    given = Instances((10, 10))
    given.gt_boxes, given.gt_classes = Boxes(torch.tensor([[0.0, 0, 2, 5]])), torch.tensor([0])
    ProgressiveInference(steps=5)(detect, [image | {"known_objects": given}])
    assert asked == [[0], [0, 1]]  # what is known from the start stays known
    assert boxes[-1] == [[0, 0, 2, 5], [2, 0, 4, 5]]


def test_the_mappers_tell_and_the_evaluator_counts_other_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    name = shapes("val", tmp_path / "shapes", train=1, val=6, size=64)
    given = KnownObjectsMapper(KnownClasses([0, 1, 2]), augmentations=[])
    labels = KnownLabelsMapper(augmentations=[])
    for dataset_dict in DatasetCatalog.get(name):
        mapped = given(dataset_dict)
        classes = mapped["instances"].gt_classes.tolist()
        assert mapped["known_objects"].gt_classes.tolist() == [c for c in classes if c < 3]
        assert labels(dataset_dict)["known_labels"] == sorted(set(classes))
    other = only_classes(name, [3, 4])
    metadata = MetadataCatalog.get(other)
    assert metadata.thing_classes == MetadataCatalog.get(name).thing_classes
    with open(MetadataCatalog.get(name).json_file) as file:
        everything = [a["category_id"] for a in json.load(file)["annotations"]]
    with open(metadata.json_file) as file:
        kept = [a["category_id"] for a in json.load(file)["annotations"]]
    assert kept == [c for c in everything if c in (4, 5)]
    assert 0 < len(kept) < len(everything)


@pytest.mark.parametrize(("split", "unknown"), [("70_30", 2), ("50_50", 3)])
def test_the_recipes_of_table_3_learn_and_count_the_same_unknown_classes(tmp_path, monkeypatch, split, unknown):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    counted = []
    for kind in ("known_objects", "unknown_alone"):
        cfg = LazyConfig.load(f"{ROOT}/configs/known/shapes_{kind}_{split}.py")
        names = cfg.dataloader.train.dataset.names
        few = {"train": 12, "val": 12, "size": 64}
        (names if "root" in names else names.dataset).update(root=str(tmp_path / "shapes"), **few)
        cfg.dataloader.test.dataset.names.update(few)
        evaluated = instantiate(cfg.dataloader.evaluator.dataset_name)
        counted.append(classes_in(evaluated))
        learned = classes_in(instantiate(names))
        assert learned == (set(range(5)) if kind == "known_objects" else counted[0])
    assert counted[0] == counted[1]
    assert len(counted[0]) == unknown


def classes_in(dataset: str) -> set[int]:
    return {a["category_id"] for x in DatasetCatalog.get(dataset) for a in x["annotations"]}
