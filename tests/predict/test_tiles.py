# SPDX-License-Identifier: Apache-2.0
"""Tiled prediction, with a detector that finds exactly the coloured rectangles which it is shown."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.errors import UserError
from dino_d2.predict.tiles import Tiling, View, join

HEIGHT, WIDTH = 500, 700
TILING = Tiling(200, 60)


def painted(rectangles: list[tuple[int, int, int, int]]) -> np.ndarray:
    """An image [H, W] in which rectangle i (x0, y0, x1, y1) has the value i + 1."""
    image = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    for value, (x0, y0, x1, y1) in enumerate(rectangles, start=1):
        image[y0:y1, x0:x1] = value
    return image


def detect(part: np.ndarray, smallest: int = 0) -> Instances:
    """The box of each value that is shown, if its longer side is at least `smallest`; all have class 0."""
    boxes = []
    for value in np.unique(part[part > 0]):
        rows, columns = np.nonzero(part == value)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        if max(box[2] - box[0], box[3] - box[1]) >= smallest:
            boxes.append(box)
    found = Instances(part.shape)
    found.pred_boxes = Boxes(torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)))
    found.scores = torch.full((len(boxes),), 0.9)
    found.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
    return found


def in_tiles(image: np.ndarray, blind_below: int) -> list[list[float]]:
    """Boxes by tiles; the view of the whole image finds no object that is smaller than `blind_below`."""
    whole, *tiles = views = TILING.views(HEIGHT, WIDTH)
    assert whole == View(0, 0, WIDTH, HEIGHT)
    found = [detect(image, blind_below)]
    found += [detect(image[v.top : v.bottom, v.left : v.right]) for v in tiles]
    joined = join(views, found, HEIGHT, WIDTH)
    assert joined.image_size == (HEIGHT, WIDTH)
    return sorted(joined.pred_boxes.tensor.tolist())


def test_tiles_cover_the_image_with_their_overlap():
    for height, width in ((500, 700), (201, 200), (150, 1001), (340, 341)):
        tiles = TILING.views(height, width)[1:]
        covered = np.zeros((height, width), dtype=bool)
        for v in tiles:
            assert (v.right - v.left, v.bottom - v.top) == (min(200, width), min(200, height))
            covered[v.top : v.bottom, v.left : v.right] = True
        assert covered.all()
        for one, other in pairwise(sorted({(v.left, v.right) for v in tiles})):
            assert one[1] - other[0] >= 60
    assert len(TILING.views(340, 340)) == 1 + 4
    assert TILING.views(200, 200) == [View(0, 0, 200, 200)]


def test_an_object_at_any_place_is_found_once_and_exactly():
    """A 55-pixel object at every third place: inside tiles, across seams, at their corners, at edges of the image."""
    for x in range(0, WIDTH - 55 + 1, 3):
        for y in (0, 100, 143, HEIGHT - 55):
            assert in_tiles(painted([(x, y, x + 55, y + 55)]), blind_below=56) == [[x, y, x + 55, y + 55]]


def test_objects_larger_than_the_overlap_come_from_the_whole_image():
    rectangles = [(10, 10, 690, 60), (120, 80, 330, 400), (400, 150, 470, 220), (650, 440, 700, 500)]
    expected = sorted([float(x) for x in rectangle] for rectangle in rectangles)
    assert in_tiles(painted(rectangles), blind_below=65) == expected
    assert in_tiles(painted(rectangles), blind_below=0) == expected  # found twice, kept once


def test_crowded_objects_at_seams_are_all_found():
    rng = np.random.default_rng(0)
    for _ in range(20):
        cells = [(x, y) for x in range(0, WIDTH - 30, 35) for y in range(0, HEIGHT - 30, 35)]
        sizes = rng.integers(5, 31, (len(cells), 2))
        rectangles = [(x, y, x + int(w), y + int(h)) for (x, y), (w, h) in zip(cells, sizes, strict=True)]
        assert in_tiles(painted(rectangles), blind_below=15) == sorted([float(x) for x in r] for r in rectangles)


def test_boxes_of_one_view_or_of_two_classes_do_not_remove_each_other():
    views = [View(0, 0, 300, 100), View(0, 0, 200, 100), View(100, 0, 300, 100)]

    def of_view(boxes, scores, classes):
        found = Instances((100, 200))
        found.pred_boxes, found.scores = Boxes(torch.tensor(boxes).reshape(-1, 4)), torch.tensor(scores)
        found.pred_classes = torch.tensor(classes, dtype=torch.int64)
        return found

    close = of_view([[110.0, 10, 150, 50], [112, 10, 152, 50], [110, 10, 150, 50]], [0.9, 0.8, 0.7], [0, 0, 1])
    again = of_view([[11.0, 10, 51, 50], [150, 60, 190, 90]], [0.95, 0.3], [0, 1])
    joined = join(views, [of_view([], [], []), close, again], 100, 300)
    assert [round(score, 2) for score in joined.scores.tolist()] == [0.95, 0.7, 0.3]
    assert joined.pred_classes.tolist() == [0, 1, 1]
    assert joined.pred_boxes.tensor[0].tolist() == [111, 10, 151, 50]
    joined = join(views, [of_view([], [], []), close, of_view([], [], [])], 100, 300)
    assert len(joined) == 3


def test_impossible_tiles_are_refused():
    with pytest.raises(UserError, match="at least 1 pixel, not 0"):
        Tiling(0, 0)
    with pytest.raises(UserError, match="overlap of tiles of 64 pixels must be 0 to 63, not 64"):
        Tiling(64, 64)


@pytest.mark.parametrize("values", [(20.5, 3), ("20", 3), (20, 2.5), (True, 0), (float("nan"), 0)])
def test_tiles_that_are_no_whole_pixels_are_refused(values):
    with pytest.raises(UserError, match="whole numbers of pixels"):
        Tiling(*values)
    Tiling(np.int64(20), np.int32(3))
