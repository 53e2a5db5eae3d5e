# SPDX-License-Identifier: Apache-2.0
"""The ablation tool: its rows, where they are trained, its table. No training here."""

import json
import math
from pathlib import Path

import ablate
import pytest
import torch

from dino_d2.denoising import ContrastiveDenoising, Denoising
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.modeling import LookForwardOnce, LookForwardTwice, MixedQuerySelection, PureQuerySelection, StaticQueries


@pytest.mark.parametrize(
    ("row", "queries", "box_update", "denoising"),
    [
        ("static", StaticQueries, LookForwardOnce, Denoising),
        ("pure", PureQuerySelection, LookForwardOnce, Denoising),
        ("mixed", MixedQuerySelection, LookForwardOnce, Denoising),
        ("dn", MixedQuerySelection, LookForwardTwice, Denoising),
        ("cdn", MixedQuerySelection, LookForwardTwice, ContrastiveDenoising),
        ("none", MixedQuerySelection, LookForwardTwice, type(None)),
        ("cdn_small", MixedQuerySelection, LookForwardTwice, ContrastiveDenoising),
        ("cdn_wide", MixedQuerySelection, LookForwardTwice, ContrastiveDenoising),
    ],
)
def test_rows_are_those_of_the_recipes_in_small(row, queries, box_update, denoising, tmp_path):
    LazyConfig.save(ablate.row_config(ablate.ROWS[row]), str(tmp_path / "row.yaml"))
    cfg = LazyConfig.load(str(tmp_path / "row.yaml"))  # as train_net.py reads it
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert type(model.detector.queries) is queries
    assert type(model.detector.decoder.box_update) is box_update
    assert type(model.denoising) is denoising
    assert model.detector.queries.num_queries == 50
    assert model.detector.num_classes == 5
    if model.denoising is not None:
        assert model.denoising.groups.num_objects == 60
        assert model.denoising.num_classes == 5


def test_noise_scales_are_changed():
    assert ablate.row_config(ablate.ROWS["cdn_small"]).model.denoising.positive_noise_scale == 0.4
    assert ablate.row_config(ablate.ROWS["cdn_wide"]).model.denoising.negative_noise_scale == 3.0


def write(folder: Path, *lines: dict, tail: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return folder


def test_a_row_is_trained_where_it_was_begun(tmp_path):
    training = ablate.training_of("cdn_wide", 2, tmp_path)
    assert training.folder == tmp_path / "cdn_wide" / "seed2"
    assert training.seed == 2
    assert LazyConfig.load(str(training.config)).model.denoising.negative_noise_scale == 3.0


def test_finished_rows_make_the_page_without_training(tmp_path, monkeypatch):
    monkeypatch.setattr("trainings.start", lambda *_: pytest.fail("trains again"))
    for row, ap in (("dn", 10.0), ("cdn", 20.0)):
        for seed in (1, 2):
            write(tmp_path / row / f"seed{seed}", {"iteration": 50} | dict.fromkeys(ablate.MEASURES, ap + seed))
    options = ["--rows", "cdn", "dn", "--seeds", "1", "2", "--iterations", "50", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["ablate.py", *options, "--page", str(tmp_path / "page.md")])
    ablate.main()
    page = (tmp_path / "page.md").read_text()
    assert "| Table 4, row 6: contrastive DN (DINO) | 21.5 ± 0.7 |" in page
    assert "| Table 4, row 5: look forward twice | 11.5 ± 0.7 |" in page
    assert "ran 0 of 4 trainings" in page
    assert (tmp_path / "page.png").is_file()


def test_the_last_value_of_each_measure_counts(tmp_path):
    lines = [{"iteration": 50, "bbox/AP": 10.0, "matching/IS": 3.0}, {"iteration": 100, "bbox/AP": 20.0}]
    found = ablate.measures_of(write(tmp_path, *lines))
    assert found["bbox/AP"] == 20.0
    assert found["matching/IS"] == 3.0
    assert math.isnan(found["duplicates/rate"])


def test_mean_and_spread_by_hand(tmp_path):
    results = {"cdn": [dict.fromkeys(ablate.MEASURES, value) for value in (1.0, 2.0, 6.0)]}
    assert ablate.spread(results["cdn"], "bbox/AP") == pytest.approx((3.0, math.sqrt((4 + 1 + 9) / 2)))
    text = ablate.table(results)
    assert "| Table 4, row 6: contrastive DN (DINO) | 3.0 ± 2.6 |" in text
    ablate.draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size < 150_000
