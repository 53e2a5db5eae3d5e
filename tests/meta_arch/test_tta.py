# SPDX-License-Identifier: Apache-2.0
"""One-to-one ensembling: the equation of appendix A by hand, and against a slow obvious implementation."""

import pytest
import torch

from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.meta_arch import OneToOneEnsemble, View
from dino_d2.meta_arch.tta import one_to_one


def instances(boxes, scores, classes, size=(100, 200)) -> Instances:
    result = Instances(size)
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.scores = torch.tensor(scores, dtype=torch.float32)
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return result


def iou(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inside = width * height
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return inside / (sum(areas) - inside) if inside else 0.0


def slow_ensemble(predictions, weights, threshold) -> list[list[float]]:
    """Appendix A in Python numbers: for each main box, loop over augmentations and over their boxes."""
    main = predictions[0]
    result = []
    for box, score, label in zip(main.pred_boxes.tensor.tolist(), main.scores.tolist(), main.pred_classes, strict=True):
        numerator, denominator = [weights[0] * score * x for x in box], weights[0] * score
        for weight, other in zip(weights[1:], predictions[1:], strict=True):
            best, best_iou = None, threshold
            for j, candidate in enumerate(other.pred_boxes.tensor.tolist()):
                if other.pred_classes[j] == label and iou(box, candidate) > best_iou:
                    best, best_iou = j, iou(box, candidate)
            if best is not None:
                share = weight * other.scores[best].item()
                selected = other.pred_boxes.tensor[best].tolist()
                numerator = [n + share * x for n, x in zip(numerator, selected, strict=True)]
                denominator += share
        result.append([n / denominator for n in numerator])
    return result


def test_the_equation_term_by_term():
    main = instances([[10, 10, 30, 30]], [0.8], [1])
    flipped = instances([[12, 10, 32, 30], [11, 10, 31, 30]], [0.9, 0.5], [1, 1])  # IoU 0.818 and 0.905: the second
    larger = instances([[10, 12, 30, 32], [10, 10, 30, 30]], [0.4, 0.9], [1, 2])  # the second is of another class
    result = one_to_one([main, flipped, larger], [1.0, 2.0, 0.5], iou_threshold=0.7)
    # w s: 1.0 · 0.8 = 0.8, 2.0 · 0.5 = 1.0, 0.5 · 0.4 = 0.2; together 2.0
    x0 = (0.8 * 10 + 1.0 * 11 + 0.2 * 10) / 2.0
    y0 = (0.8 * 10 + 1.0 * 10 + 0.2 * 12) / 2.0
    assert result.pred_boxes.tensor[0].tolist() == pytest.approx([x0, y0, x0 + 20, y0 + 20])
    assert result.scores.tolist() == main.scores.tolist()
    assert result.pred_classes.tolist() == [1]


def test_it_is_the_printed_equation_where_that_is_an_average():
    """With w s = 1 for every box that takes part, Σ I w s is Σ I, the paper's denominator."""
    main, other = instances([[0, 0, 10, 10]], [0.5], [0]), instances([[0, 0, 10, 12]], [0.25], [0])
    result = one_to_one([main, other], [2.0, 4.0], 0.5)
    printed = [(1 / 2) * (2.0 * 0.5 * a + 4.0 * 0.25 * b) for a, b in zip([0, 0, 10, 10], [0, 0, 10, 12], strict=True)]
    assert result.pred_boxes.tensor[0].tolist() == pytest.approx(printed)


def test_an_augmentation_without_a_box_above_the_threshold_takes_no_part():
    main = instances([[10, 10, 30, 30], [50, 50, 60, 60]], [0.8, 0.3], [1, 0])
    exactly = instances([[10, 10, 30, 40]], [0.9], [1])  # IoU 20 · 20 / (20 · 30) = 2/3, not above it
    for others in ([exactly], [instances([], [], [])], []):
        result = one_to_one([main, *others], [1.0] * (1 + len(others)), iou_threshold=2 / 3)
        assert torch.allclose(result.pred_boxes.tensor, main.pred_boxes.tensor)
    moved = one_to_one([main, exactly], [1.0, 1.0], iou_threshold=0.66)
    assert moved.pred_boxes.tensor[0, 3] > 30
    assert torch.allclose(moved.pred_boxes.tensor[1], main.pred_boxes.tensor[1])


def test_no_box_is_lost_and_none_is_added_and_duplicates_stay():
    main = instances([[10, 10, 30, 30]] * 3, [0.9, 0.8, 0.0], [1, 1, 1])
    result = one_to_one([main, instances([[80, 10, 99, 30]] * 5, [0.9] * 5, [1] * 5)], [1.0, 1.0], 0.5)
    assert len(result) == 3
    assert torch.equal(result.pred_boxes.tensor, main.pred_boxes.tensor)


@pytest.mark.parametrize("seed", range(5))
def test_against_the_slow_ensemble(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        corner = torch.rand(count, 2, generator=generator) * 40
        boxes = torch.cat([corner, corner + 20 + torch.rand(count, 2, generator=generator) * 30], dim=1)
        scores = torch.rand(count, generator=generator) + 0.01
        return instances(boxes.tolist(), scores.tolist(), torch.randint(2, (count,), generator=generator).tolist())

    predictions = [draw(12), draw(20), draw(7)]
    weights = [1.0, 0.7, 2.0]
    result = one_to_one(predictions, weights, iou_threshold=0.4).pred_boxes.tensor
    assert torch.allclose(result, torch.tensor(slow_ensemble(predictions, weights, 0.4)), atol=1e-4)
    assert not torch.allclose(result, predictions[0].pred_boxes.tensor, atol=1)


def test_a_flipped_view_gives_its_boxes_back_in_the_image():
    view = View(scale=2.0, flip=True)
    image = torch.zeros(3, 10, 20, dtype=torch.uint8)
    image[:, :, :5] = 200
    shown = view.image(image)
    assert shown.shape == (3, 20, 40)
    assert shown.dtype == torch.uint8
    assert (shown[:, :, 31:] == 200).all()
    assert (shown[:, :, :29] == 0).all()
    assert view.boxes_back(torch.tensor([[30.0, 1, 40, 9]]), 40).tolist() == [[0, 1, 10, 9]]
    with pytest.raises(ValueError, match="above 0"):
        View(weight=0)


def test_the_model_sees_each_view_once_and_returns_boxes_of_the_output_size(make_model, make_input):
    model = make_model(denoising=False).eval()
    inputs = [make_input(64, 96) | {"height": 128, "width": 192}, make_input(64, 96, seed=1)]
    plain = model(inputs)
    seen = []
    detect = model.detect
    model.detect = lambda batch: seen.append([tuple(x["image"].shape[-2:]) for x in batch]) or detect(batch)
    model.inference = OneToOneEnsemble([View(flip=True), View(scale=1.5)], iou_threshold=0.5)
    result = model(inputs)
    assert seen == [[(64, 96)] * 2, [(64, 96)] * 2, [(96, 144)] * 2]
    for a, b in zip(plain, result, strict=True):
        assert a["instances"].image_size == b["instances"].image_size
        assert torch.equal(a["instances"].scores, b["instances"].scores)
        assert not torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
    assert "tta" not in "".join(model.state_dict())
    model.inference = OneToOneEnsemble([])
    assert torch.allclose(model(inputs)[0]["instances"].pred_boxes.tensor, plain[0]["instances"].pred_boxes.tensor)
