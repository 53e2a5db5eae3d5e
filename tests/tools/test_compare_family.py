# SPDX-License-Identifier: Apache-2.0
"""tools/compare_family.py: what it reads from runs, what it trains again, what it draws."""

import json
import sys
from pathlib import Path

import compare_family as tool
import pytest

from tests.paths import ROOT
from tests.processes import python


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_of(ap, seconds=0.5):
    """A finished run of 40 iterations with evaluations in the middle and at the end."""
    return [
        {"iteration": 19, "time": seconds, "bbox/AP": ap / 2},
        {"iteration": 39, "time": seconds},
        {"iteration": 40, "bbox/AP": ap},  # the last one is counted after the last iteration
    ]


def test_a_curve_has_training_time_and_the_last_of_repeated_rows(tmp_path):
    rows = [
        {"iteration": 19, "time": 0.5},
        {"iteration": 39, "time": 9.0, "bbox/AP": 1.0},  # lost when the run was stopped,
        {"iteration": 39, "time": 1.5, "bbox/AP": 10.0},  # and done again
        {"iteration": 59, "time": 0.5},
    ]
    write(tmp_path, rows)
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 79, "bbox/A')  # is being written
    curve = tool.read_curve(tmp_path)
    assert curve.iterations.tolist() == [40]
    assert curve.minutes.tolist() == pytest.approx([(20 * 0.5 + 20 * 1.5) / 60])
    assert curve.ap.tolist() == [10.0]


def test_a_run_that_has_not_begun_has_no_curve(tmp_path):
    assert len(tool.read_curve(tmp_path / "nothing").ap) == 0


def test_finished_runs_are_drawn_and_not_trained_again(tmp_path, capsys, monkeypatch):
    recipes = [str(ROOT / "configs" / n / f"{n}_tiny_shapes.py") for n in ("detr", "dino")]
    for recipe, aps in zip(recipes, ([10, 20], [40, 44]), strict=True):
        for seed, ap in enumerate(aps):
            write(tmp_path / Path(recipe).stem / f"seed_{seed}", run_of(ap))
    monkeypatch.setattr("trainings.start", lambda *_: pytest.fail("trains again"))
    options = ["--seeds", "0", "1", "--iterations", "40", "--evaluations", "2", "--output", str(tmp_path)]
    tool.main([*recipes, *options])
    shown = capsys.readouterr().out
    lines = [line.split("|")[1:-1] for line in shown.splitlines() if line.startswith("| d")]
    assert [cell.strip() for cell in lines[0]] == ["dino", "2", "40", "42.0", "40.0", "44.0", "0.3"]  # best first
    assert [cell.strip() for cell in lines[1]] == ["detr", "2", "40", "15.0", "10.0", "20.0", "0.3"]
    assert (tmp_path / "family.png").stat().st_size > 10_000
    assert "dino" in (tmp_path / "family.md").read_text()


def test_a_failed_run_does_not_take_the_others_from_the_picture(tmp_path, capsys, monkeypatch):
    recipes = [str(ROOT / "configs" / n / f"{n}_tiny_shapes.py") for n in ("detr", "dino")]
    write(tmp_path / "dino_tiny_shapes" / "seed_0", run_of(40))
    monkeypatch.setattr("trainings.TRAIN", (sys.executable, "-c", "raise SystemExit('it broke')"))
    options = ["--seeds", "0", "--iterations", "40", "--evaluations", "2", "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match="1 of 2 trainings failed"):
        tool.main([*recipes, "train.device=cpu", *options])
    shown = capsys.readouterr()
    assert "detr 0 did not finish" in shown.err
    assert "it broke" in shown.err
    assert "| dino" in shown.out
    assert "| detr" not in shown.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["none.py"], "no such config file: none.py"), (["--iterations", "3", "--evaluations", "2"], "multiple")],
)
def test_arguments_that_cannot_be_are_refused(capsys, arguments, complaint):
    recipe = [] if arguments[0].endswith(".py") else [str(ROOT / "configs" / "detr" / "detr_tiny_shapes.py")]
    with pytest.raises(SystemExit):
        tool.main(recipe + arguments)
    assert complaint in capsys.readouterr().err


@pytest.mark.large_memory  # two trainings side by side
@pytest.mark.slow
def test_two_recipes_are_trained_and_drawn(tmp_path, capsys, monkeypatch):
    recipes = [str(ROOT / "configs" / n / f"{n}_tiny_shapes.py") for n in ("detr", "conditional_detr")]
    data = [f"dataloader.train.dataset.names.root={tmp_path / 'shapes'}"]
    data += [f"+dataloader.{split}.dataset.names.{n}" for split in ("train", "test") for n in ("train=8", "val=4")]
    options = ["--seeds", "0", "--iterations", "4", "--evaluations", "2", "--output", str(tmp_path / "family")]
    # Like `run_python`: two fresh Pythons side by side would take a gigabyte.
    monkeypatch.setattr("trainings.TRAIN", (*python(), str(ROOT / "train_net.py")))
    tool.main([*recipes, *data, "dataloader.train.num_workers=0", *options])
    assert len(tool.read_curve(tmp_path / "family" / "detr_tiny_shapes" / "seed_0").ap) == 2
    assert "conditional_detr" in capsys.readouterr().out
    assert (tmp_path / "family" / "family.png").exists()
