# SPDX-License-Identifier: Apache-2.0
"""ATD(k), anchor distance and IS: cases by hand, and a slow obvious implementation."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from dino_d2.detectron2.utils import comm
from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.evaluation import MatchingEvaluator
from dino_d2.evaluation.history import MatchingHistory
from dino_d2.evaluation.matching import Image, ImageMatching, average_top_distance, instability, match_images
from dino_d2.meta_arch.detr import QueryPredictions, normalised_boxes
from dino_d2.modeling import HungarianMatcher
from tests.processes import run_python
from tests.small_data import generate_shapes


def matched(**pairs: dict) -> dict:
    """a={query: object} -> {"a": (queries, targets)} as the history has it."""
    return {
        image: (np.array(list(v), dtype=np.int32), np.array(list(v.values()), dtype=np.int32))
        for image, v in pairs.items()
    }


def test_the_mean_of_the_k_largest_by_hand():
    distances = np.array([0.1, 0.4, 0.2, 0.3], dtype=np.float32)
    assert average_top_distance(distances, 1) == pytest.approx(0.4)
    assert average_top_distance(distances, 2) == pytest.approx((0.4 + 0.3) / 2)
    assert average_top_distance(distances, 100) == pytest.approx(0.25)
    assert np.isnan(average_top_distance(distances[:0], 3))


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({3: 0, 5: 1}, {3: 0, 5: 1}, 0),
        ({3: 0, 5: 1}, {3: 1, 5: 0}, 2),  # both queries changed their object
        ({3: 0, 5: 1}, {4: 0, 5: 1}, 2),  # 3 lost it, 4 found it
        ({3: 0, 5: 1}, {1: 0, 2: 1}, 4),  # the bound: twice the objects
        ({3: 0, 5: 1}, {3: 1, 2: 0}, 3),  # 3 changed, 5 lost, 2 found
        ({}, {}, 0),
    ],
)
def test_instability_by_hand(before, now, changed):
    assert instability(matched(a=before), matched(a=now)) == changed
    assert instability(matched(a=before, b={0: 0}), matched(a=now, b={0: 0})) == changed / 2


def test_instability_against_the_vectors_of_equation_1():
    rng = np.random.default_rng(0)
    num_queries, vectors, sparse = 30, [], []
    for _ in range(2):
        vector, images = {}, {}
        for image in range(20):
            objects = int(rng.integers(0, 8))
            queries = rng.choice(num_queries, objects, replace=False)
            vector[image] = [-1] * num_queries
            for target, query in enumerate(queries):
                vector[image][query] = target
            images[image] = (queries.astype(np.int32), np.arange(objects, dtype=np.int32))
        vectors.append(vector)
        sparse.append(images)
    slow = [sum(a != b for a, b in zip(vectors[0][i], vectors[1][i], strict=True)) for i in range(20)]
    assert instability(*sparse) == pytest.approx(sum(slow) / 20)
    assert instability(*sparse) > 0


def test_only_images_of_both_evaluations_count():
    assert instability(matched(a={0: 0}), matched(a={1: 0}, b={2: 0})) == 2
    assert np.isnan(instability(matched(a={0: 0}), matched(b={0: 0})))


def match_image(*image) -> ImageMatching:
    return match_images(HungarianMatcher(), [Image(*image)])[0]


def predictions_of(boxes, anchors, classes=3) -> QueryPredictions:
    boxes, anchors = torch.tensor(boxes), torch.tensor(anchors)
    return QueryPredictions(torch.zeros(len(boxes), classes), boxes, anchors)


def test_the_anchor_of_the_query_whose_last_box_is_matched():
    """Query 1 ends at the object though query 0 has the nearer anchor."""
    truth = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    predictions = predictions_of(
        [[0.9, 0.9, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2]], [[0.5, 0.5, 0.2, 0.3], [0.6, 0.3, 0.1, 0.2]]
    )
    pair = match_image(predictions, torch.tensor([1]), truth, torch.tensor([True]))
    assert pair.queries.tolist() == [1]
    assert pair.targets.tolist() == [0]
    assert pair.distances.tolist() == pytest.approx([0.1 + 0.2 + 0.1 + 0.0])
    assert pair.farther.tolist() == [True]
    assert pair.small.tolist() == [True]


def test_an_image_without_objects_has_an_empty_matching():
    pair = match_image(
        predictions_of([[0.5] * 4], [[0.5] * 4]),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.bool),
    )
    assert [len(part) for part in pair] == [0] * 5


def slow_results(matcher, images, outputs, k) -> dict[str, float]:
    """All distances with Python loops, SciPy on the matcher's own cost."""
    distances, small, farther = [], [], 0
    for image, output in zip(images, outputs, strict=True):
        truth = image["instances"]
        height, width = truth.image_size
        objects = []
        for x0, y0, x1, y1 in truth.gt_boxes.tensor.tolist():
            box = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
            objects.append(box)
        logits, boxes, anchors = output["queries"]
        cost = matcher.cost(
            logits[None, None], boxes[None, None], truth.gt_classes[None], torch.tensor(objects).reshape(1, -1, 4)
        )[0, 0]
        for query, target in zip(*linear_sum_assignment(cost.numpy()), strict=True):
            every = [
                sum(abs(a - b) for a, b in zip(objects[target], anchor.tolist(), strict=True)) for anchor in anchors
            ]
            distances.append(every[query])
            farther += every[query] > min(every) + 1e-7
            area = objects[target][2] * image["width"] * objects[target][3] * image["height"]
            small.append(area < 32**2)
    top = sorted(distances)[-k:]
    top_small = sorted(d for d, s in zip(distances, small, strict=True) if s)[-k:]
    return {
        f"ATD{k}": sum(top) / len(top),
        f"ATD{k}_small": sum(top_small) / len(top_small),
        "anchor_distance": sum(distances) / len(distances),
        "farther": 100 * farther / len(distances),
    }


@pytest.fixture
def evaluated(make_model, make_input):
    model = make_model(denoising=False).eval()
    images = [make_input(64, 96, objects=n, seed=n) for n in (3, 0, 5, 1)]
    images[2] |= {"height": 32, "width": 48}  # the file is smaller than what the model sees: small objects
    return model, images, model(images)


def test_the_evaluator_against_slow_loops(evaluated):
    model, images, outputs = evaluated
    matcher = model.criterion.matcher
    evaluator = MatchingEvaluator(matcher, top_k=4)
    evaluator.reset()
    evaluator.process(images[:2], outputs[:2])
    evaluator.process(images[2:], outputs[2:])
    results = evaluator.evaluate()["matching"]
    assert results == pytest.approx(slow_results(matcher, images, outputs, 4), rel=1e-5)
    evaluator.reset()
    assert evaluator.evaluate() == {"matching": {}}


def test_queries_are_the_last_layers_of_the_detector(evaluated, make_input):
    model, images, outputs = evaluated
    with torch.no_grad():
        output = model.detector(model.normalise(images[0]["image"])[None])
    queries = outputs[0]["queries"]
    assert torch.allclose(queries.logits, output.logits[-1, 0], atol=1e-4)
    assert torch.allclose(queries.boxes, output.boxes[-1, 0], atol=1e-5)
    assert torch.allclose(queries.anchors, output.anchors[0], atol=1e-5)
    assert normalised_boxes(images[0]["instances"]).shape == (3, 4)


def test_images_of_different_numbers_of_queries_are_matched_apart(evaluated):
    model, images, outputs = evaluated
    fewer = [
        {"queries": QueryPredictions(*(part[: len(part) - 7 * (i % 2)] for part in x["queries"]))}
        for i, x in enumerate(outputs)
    ]
    evaluator = MatchingEvaluator(model.criterion.matcher, top_k=4)
    evaluator.process(images, fewer)
    assert evaluator.evaluate()["matching"] == pytest.approx(slow_results(model.criterion.matcher, images, fewer, 4))


def test_every_image_counts_once_whichever_ranks_had_it(evaluated, monkeypatch):
    model, images, outputs = evaluated
    shards = [MatchingEvaluator(model.criterion.matcher, top_k=4) for _ in range(2)]
    for shard, part in zip(shards, (slice(0, 3), slice(2, 4)), strict=True):  # image 2 is on both
        shard.process(images[part], outputs[part])
        shard.evaluate()
    alone = MatchingEvaluator(model.criterion.matcher, top_k=4)
    alone.process(images, outputs)
    expected = alone.evaluate()
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: [shard._matchings for shard in shards])
    assert shards[0].evaluate() == expected
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert shards[1].evaluate() == {}


def test_instability_appears_from_the_second_evaluation_of_a_training_on(evaluated, tmp_path):
    model, images, outputs = evaluated

    def evaluate(iteration: int, shift: int) -> dict:
        evaluator = MatchingEvaluator(model.criterion.matcher, output_dir=tmp_path)
        moved = [{"queries": QueryPredictions(*(part.roll(shift, 0) for part in x["queries"]))} for x in outputs]
        evaluator.process(images, moved)
        with EventStorage(iteration):
            return evaluator.evaluate()["matching"]

    assert "IS" not in evaluate(99, 0)
    assert evaluate(199, 0)["IS"] == 0
    result = evaluate(299, 10)
    assert result["IS_bound"] == 2 * (3 + 0 + 5 + 1) / 4
    changed = []
    for queries, targets in MatchingHistory(tmp_path).before(200).values():
        before, now = [-1] * 20, [-1] * 20
        for query, target in zip(queries, targets, strict=True):
            before[query], now[(query + 10) % 20] = target, target
        changed.append(sum(a != b for a, b in zip(before, now, strict=True)))
    assert 0 < result["IS"] == sum(changed) / 4
    # Resumed from the checkpoint of 199, the same evaluation is compared with that of 199 again, not with itself.
    assert evaluate(299, 10) == result


def test_an_evaluation_alone_keeps_nothing(evaluated, tmp_path):
    model, images, outputs = evaluated
    evaluator = MatchingEvaluator(model.criterion.matcher, output_dir=tmp_path)
    evaluator.process(images, outputs)
    assert "IS" not in evaluator.evaluate()["matching"]
    assert list(tmp_path.iterdir()) == []


def test_queries_without_boxes_as_anchors_have_an_instability_alone(evaluated, tmp_path):
    model, images, outputs = evaluated
    points = [{"queries": x["queries"]._replace(anchors=x["queries"].anchors[:, :2])} for x in outputs]
    for iteration in (1, 2):
        evaluator = MatchingEvaluator(model.criterion.matcher, output_dir=tmp_path)
        evaluator.process(images, points)
        with EventStorage(iteration):
            results = evaluator.evaluate()["matching"]
    assert results == {"IS": 0.0, "IS_bound": 4.5}


def test_outputs_without_queries_are_an_error_with_a_way_out(evaluated):
    model, images, outputs = evaluated
    with pytest.raises(ValueError, match="Remove the evaluator"):
        MatchingEvaluator(model.criterion.matcher).process(images, [{"instances": x["instances"]} for x in outputs])


def test_the_history_gives_back_what_it_was_given(tmp_path):
    history = MatchingHistory(tmp_path)
    assert history.before(10) is None
    first = {7: matched(a={4: 1, 2: 0})["a"], 9: matched(a={})["a"], 12: matched(a={5: 0})["a"]}
    history.save(5, first)
    history.save(8, {7: matched(a={1: 0})["a"]})
    assert history.before(5) is None
    found = history.before(8)
    assert list(found) == [7, 9, 12]
    assert all(np.array_equal(a, b) for image in first for a, b in zip(first[image], found[image], strict=True))
    assert list(history.before(100)) == [7]
    history.forget()
    assert history.before(100) is None
    assert not history.folder.exists()


def test_forgetting_deletes_only_what_the_history_wrote(tmp_path):
    history = MatchingHistory(tmp_path)
    history.save(5, {7: matched(a={4: 1})["a"]})
    for name in ("notes.txt", "mine.npz"):
        (history.folder / name).touch()
    history.forget()
    assert sorted(path.name for path in history.folder.iterdir()) == ["mine.npz", "notes.txt"]


@pytest.mark.slow
def test_a_resumed_run_measures_what_an_unbroken_one_does(tmp_path):
    common = [
        *("--config-file", "configs/dino/dino_tiny_shapes_instruments.py"),
        *generate_shapes(tmp_path / "shapes", train=8, val=4),
        *("dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "train.num_pictures=0"),
        *("train.eval_period=2", "train.checkpointer.period=2", "train.log_period=1"),
    ]

    def run(folder, max_iter, *flags) -> dict[int, float]:
        run_python("train_net.py", *flags, *common, f"train.output_dir={folder}", max_iter).check_returncode()
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        return {line["iteration"]: line["matching/IS"] for line in lines if "matching/IS" in line}

    whole = run(tmp_path / "whole", "train.max_iter=6")
    assert whole.keys() == {3, 6}
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "whole", broken, ignore=shutil.ignore_patterns("metrics.json"))
    (broken / "last_checkpoint").write_text("model_0000003.pth")
    assert run(broken, "train.max_iter=6", "--resume") == {6: whole[6]}
