# SPDX-License-Identifier: Apache-2.0
"""Pictures of the matching."""

import json

import pytest
from matplotlib.colors import Normalize

from dino_d2.detectron2.data.detection_utils import read_image
from dino_d2.visualize.matching import arrows, curves


def test_an_arrow_for_every_object_coloured_by_its_length(make_model, make_input, tmp_path):
    model = make_model(denoising=False)
    images = [make_input(objects=3), make_input(objects=0, seed=1)]
    figure = arrows(model, images, "RGB", longest=2.0)
    assert model.training
    panels = figure.axes[:2]
    assert [len(panel.texts) for panel in panels] == [3, 0]
    assert [len(panel.patches) for panel in panels] == [6, 0]
    colours = [text.arrow_patch.get_edgecolor() for text in panels[0].texts]
    assert len(set(colours)) == 3
    assert Normalize(0, 2.0)(1.0) == 0.5
    figure.savefig(tmp_path / "arrows.png")
    assert read_image(tmp_path / "arrows.png", format="RGB").shape[1] > 300


def test_curves_take_what_was_measured(tmp_path):
    for run, values in (("dn", [3.0, 1.0]), ("cdn", [2.0])):
        (tmp_path / run).mkdir()
        lines = [{"iteration": 10 * i, "matching/IS": value, "bbox/AP": 5} for i, value in enumerate(values)]
        (tmp_path / run / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    figure = curves({run: tmp_path / run for run in ("dn", "cdn")})
    (panel,) = figure.axes
    assert [list(line.get_ydata()) for line in panel.lines] == [[3.0, 1.0], [2.0]]
    assert list(panel.lines[0].get_xdata()) == [0, 10]
    (tmp_path / "dn" / "metrics.json").write_text('{"iteration": 1, "bbox/AP": 5}\n')
    with pytest.raises(ValueError, match="Add the instruments"):
        curves({"dn": tmp_path / "dn"})
