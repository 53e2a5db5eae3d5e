# SPDX-License-Identifier: Apache-2.0
"""The denoising module alone: layout, noise, mask, reproducibility."""

import subprocess
import sys

import pytest
import torch

from dino_d2.denoising import (
    ContrastiveDenoising,
    Denoising,
    DynamicGroups,
    DynamicGroupsPerImage,
    FixedGroups,
    batches_of_step,
    shift_centre_and_size,
    shift_corners,
)


def ground_truth(*counts: int, num_classes: int = 7):
    """Objects well inside the image, so that no noised box is clamped."""
    generator = torch.Generator().manual_seed(sum(counts))
    labels = [torch.randint(num_classes, (n,), generator=generator) for n in counts]
    boxes = [torch.rand(n, 4, generator=generator) * 0.05 + torch.tensor([0.5, 0.5, 0.1, 0.1]) for n in counts]
    return labels, boxes


def corner_shift(queries, boxes):
    """Noise of every slot's corners in units of the object's half size, [B, Q, 4]."""
    padded = torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True)
    clean = padded.gather(1, queries.target.clamp(min=0)[..., None].expand(-1, -1, 4))
    half = clean[..., 2:] / 2
    corners = torch.cat([clean[..., :2] - half, clean[..., :2] + half], -1)
    noised_half = queries.boxes[..., 2:] / 2
    noised = torch.cat([queries.boxes[..., :2] - noised_half, queries.boxes[..., :2] + noised_half], -1)
    return (noised - corners) / torch.cat([half, half], -1)


def test_contrastive_positives_lie_inside_lambda1_and_negatives_between_lambda1_and_lambda2():
    labels, boxes = ground_truth(3, 5)
    torch.manual_seed(0)
    queries = ContrastiveDenoising(7, positive_noise_scale=0.4, negative_noise_scale=0.9)(labels, boxes)
    shift = corner_shift(queries, boxes).abs()
    positive = shift[queries.positive]
    negative = shift[~queries.positive & (queries.target >= 0)]
    assert positive.max() < 0.4 + 1e-4
    assert positive.max() > 0.35
    assert negative.min() > 0.4 - 1e-4
    assert negative.max() < 0.9 + 1e-4
    assert negative.max() > 0.85
    assert len(positive) == len(negative) == queries.num_positives


def test_plain_denoising_bounds_centre_and_size():
    labels, boxes = ground_truth(4)
    torch.manual_seed(0)
    queries = Denoising(7, FixedGroups(50), centre_noise_scale=0.4, size_noise_scale=0.2)(labels, boxes)
    clean = boxes[0][queries.target[0]]
    unit = torch.cat([clean[:, 2:] / 2, clean[:, 2:]], -1)
    shift = ((queries.boxes[0] - clean) / unit).abs()
    assert shift[:, :2].max() < 0.4 + 1e-4
    assert shift[:, 2:].max() < 0.2 + 1e-4
    assert (shift.amax(0) > torch.tensor([0.35, 0.35, 0.17, 0.17])).all()
    assert queries.positive.all()


def test_box_noise_by_hand():
    box = torch.tensor([0.5, 0.5, 0.2, 0.4])
    # x0 moves right by the half width 0.1, y1 down by half the half height 0.2 / 2
    assert shift_corners(box, torch.tensor([1.0, 0, 0, 0.5])).tolist() == pytest.approx([0.55, 0.55, 0.1, 0.5])
    assert shift_centre_and_size(box, torch.tensor([1.0, 0, -0.5, 0.5])).tolist() == pytest.approx([0.6, 0.5, 0.1, 0.6])
    # clamped to the image
    assert shift_corners(torch.tensor([0.1, 0.5, 0.2, 0.4]), torch.tensor([-2.0, 0, 0, 0]))[0] == pytest.approx(0.1)


def test_attention_mask_by_hand():
    labels, boxes = ground_truth(1, 0)
    queries = ContrastiveDenoising(7, FixedGroups(2))(labels, boxes)
    # two groups of a positive and a negative slot, then one matching query; True = may not attend
    expected = [
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
    ]
    assert queries.attention_mask(1).int().tolist() == expected


def test_slots_are_laid_out_group_by_group_positives_first():
    labels, boxes = ground_truth(2, 1)
    queries = ContrastiveDenoising(7, FixedGroups(2))(labels, boxes)
    assert queries.target.tolist() == [[0, 1, 0, 1, 0, 1, 0, 1], [0, -1, 0, -1, 0, -1, 0, -1]]
    assert queries.positive.int().tolist() == [[1, 1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0]]
    assert queries.group.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert queries.num_positives == 6


@pytest.mark.parametrize(
    ("groups", "counts", "expected"),
    [
        (FixedGroups(5), [3, 1], [5, 5]),
        (DynamicGroups(100), [3, 1], [33, 33]),
        (DynamicGroups(100), [101, 7], [1, 1]),
        (DynamicGroups(100), [0, 0], [100, 100]),
        (DynamicGroupsPerImage(100), [3, 1, 0, 200], [33, 100, 100, 1]),
    ],
)
def test_group_counts(groups, counts, expected):
    assert groups(counts) == expected


def test_groups_per_image_fill_the_same_budget_and_never_mix():
    labels, boxes = ground_truth(3, 1)
    queries = Denoising(7, DynamicGroupsPerImage(9))(labels, boxes)
    assert queries.target[0].tolist() == [0, 1, 2] * 3
    assert queries.target[1].tolist() == [0] * 9
    mask = queries.attention_mask(2)
    assert mask.shape == (2, 11, 11)
    assert not mask[0, :3, :3].any()
    assert mask[0, :3, 3:9].all()
    assert mask[1, 0, 1:9].all()


def test_padding_slots_are_marked_and_neutral():
    labels, boxes = ground_truth(3, 1, 0)
    queries = ContrastiveDenoising(7, FixedGroups(1))(labels, boxes)
    padding = queries.target < 0
    assert padding.sum(1).tolist() == [0, 4, 6]
    assert (queries.labels[padding] == -1).all()
    assert (queries.boxes[padding] == 0.5).all()
    assert not queries.positive[padding].any()


def test_a_batch_without_objects_has_no_slots():
    labels, boxes = ground_truth(0, 0)
    queries = ContrastiveDenoising(7)(labels, boxes)
    assert queries.labels.shape == (2, 0)
    assert queries.boxes.shape == (2, 0, 4)
    assert queries.num_positives == 0
    assert not queries.attention_mask(3).any()


def test_labels_flip_as_often_as_asked():
    labels = [torch.zeros(1, dtype=torch.int64)]
    boxes = [torch.tensor([[0.5, 0.5, 0.1, 0.1]])]
    torch.manual_seed(0)
    queries = Denoising(10, FixedGroups(20000), label_flip_probability=0.25)(labels, boxes)
    # a tenth of the drawn labels are the old one
    assert (queries.labels != 0).float().mean().item() == pytest.approx(0.25 * 0.9, abs=0.01)


def test_the_same_generator_gives_the_same_queries():
    labels, boxes = ground_truth(3, 2)
    denoising = ContrastiveDenoising(7)
    first = denoising(labels, boxes, torch.Generator().manual_seed(1))
    torch.rand(5)  # the global generator does not matter
    again = denoising(labels, boxes, torch.Generator().manual_seed(1))
    other = denoising(labels, boxes, torch.Generator().manual_seed(2))
    assert torch.equal(first.boxes, again.boxes)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.boxes, other.boxes)


def test_inputs_are_left_unchanged():
    labels, boxes = ground_truth(3, 2)
    kept = [x.clone() for x in labels + boxes]
    ContrastiveDenoising(7)(labels, boxes)
    assert all(torch.equal(a, b) for a, b in zip(labels + boxes, kept, strict=True))


def test_labels_and_boxes_must_go_together():
    with pytest.raises(ValueError, match="image 1 of the batch: 2 labels"):
        Denoising(7)([torch.zeros(1).long(), torch.zeros(2).long()], [torch.zeros(1, 4), torch.zeros(3, 4)])


def test_lambda2_below_lambda1_is_refused():
    with pytest.raises(ValueError, match=r"negative_noise_scale 0\.5"):
        ContrastiveDenoising(7, positive_noise_scale=1.0, negative_noise_scale=0.5)


@pytest.mark.large_memory
def test_the_module_needs_torch_alone():
    """Imported by its file, it must not pull in anything of this project or of Detectron2."""
    code = (
        "import importlib.util, sys;"
        "spec = importlib.util.find_spec('dino_d2.denoising');"
        "before = set(sys.modules);"
        "import torch; after_torch = set(sys.modules);"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module);"
        "new = {m.split('.')[0] for m in set(sys.modules) - after_torch};"
        "assert not new & {'dino_d2', 'detectron2', 'fvcore', 'scipy'}, new"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


CROWDED = [
    (lambda **options: ContrastiveDenoising(7, **options), 500),
    (lambda **options: Denoising(7, FixedGroups(5), **options), 200),
    (lambda **options: Denoising(7, FixedGroups(10), **options), 100),
]


@pytest.mark.parametrize(("make", "objects"), CROWDED)
def test_a_crowded_image_has_a_bounded_number_of_slots(make, objects):
    labels, boxes = ground_truth(1500, 3)
    queries = make()(labels, boxes)
    num_slots = queries.labels.shape[1]
    assert num_slots == 1000
    mask = queries.attention_mask(900)
    assert mask.nbytes <= 1900**2
    targets = queries.target[0, :objects]
    assert len(targets.unique()) == objects
    assert targets.max() > 1000  # objects from anywhere in the list, not its beginning
    real = queries.target[1] >= 0
    assert set(queries.target[1][real].tolist()) == {0, 1, 2}
    assert queries.num_positives == queries.positive.sum()
    assert make(max_queries=None)(labels, boxes).labels.shape[1] == 1500 * 1000 // objects


@pytest.mark.parametrize(("make", "objects"), CROWDED)
def test_slots_of_a_crowded_image_are_made_from_their_targets(make, objects):
    labels, boxes = ground_truth(1500)
    denoising = make()
    denoising.label_flip_probability = 0
    queries = denoising(labels, boxes)
    assert torch.equal(queries.labels[0], labels[0][queries.target[0]])
    inside = (queries.boxes[0] - boxes[0][queries.target[0]]).abs()[queries.positive[0]]
    assert (inside < 0.151).all()  # a box's own size, 0.15 at most


@pytest.mark.parametrize(("make", "objects"), CROWDED)
def test_the_limit_changes_nothing_up_to_its_number_of_objects(make, objects):
    labels, boxes = ground_truth(objects, 3)
    limited = make()(labels, boxes, torch.Generator().manual_seed(1))
    unlimited = make(max_queries=None)(labels, boxes, torch.Generator().manual_seed(1))
    assert torch.equal(limited.boxes, unlimited.boxes)
    assert torch.equal(limited.target, unlimited.target)


def test_a_crowded_image_gives_other_objects_slots_in_every_call_and_the_same_ones_for_a_generator():
    labels, boxes = ground_truth(1500)
    denoising = ContrastiveDenoising(7)
    first, again, other = (denoising(labels, boxes, torch.Generator().manual_seed(s)).target for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_up_to_100_objects_are_always_denoised_in_full():
    labels, boxes = ground_truth(100, 4)
    queries = ContrastiveDenoising(7, FixedGroups(40))(labels, boxes)
    assert queries.labels.shape == (2, 8000)
    assert queries.num_positives == 40 * 104


@pytest.mark.parametrize("groups", [FixedGroups(3), DynamicGroups(40), DynamicGroupsPerImage(40)])
@pytest.mark.parametrize("kind", [Denoising, ContrastiveDenoising])
def test_the_slots_of_a_step_are_those_of_one_batch_of_all_its_images(kind, groups):
    """Objects above the limit are drawn anew for each batch; their number stays."""
    counts = [[1, 7], [0, 0], [250, 3]]
    labels, boxes = ground_truth(*(n for batch in counts for n in batch))
    denoising = kind(7, groups, max_queries=240)
    whole = denoising(labels, boxes)
    parts = [
        denoising(labels[2 * i :][:2], boxes[2 * i :][:2], part=part) for i, part in enumerate(batches_of_step(counts))
    ]
    assert torch.equal(torch.cat([part.target >= 0 for part in parts]), whole.target >= 0)
    assert torch.equal(torch.cat([part.positive for part in parts]), whole.positive)
    assert all(torch.equal(part.target, whole.target[2 * i :][:2]) for i, part in enumerate(parts[:2]))
    if whole.group.dim() > 1:
        assert torch.equal(torch.cat([part.group for part in parts]), whole.group)
    else:
        assert all(torch.equal(part.group, whole.group) for part in parts)
    assert sum(part.num_positives for part in parts) == whole.num_positives
    scored = whole.labels.numel() if whole.scored is None else int(whole.scored.sum())
    assert all(part.of_step == pytest.approx((whole.num_positives / 3, scored / 3)) for part in parts)
    assert whole.of_step is None
