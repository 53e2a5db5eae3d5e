# SPDX-License-Identifier: Apache-2.0
"""Plot losses, box AP, learning rate and gradient norm of one or several trainings.

    python tools/plot_metrics.py output/dino_tiny_shapes
    python tools/plot_metrics.py output/one output/two --output compared.png

reads each folder's ``metrics.json`` and writes a PNG, by default ``curves.png`` in the first folder. A single run is
shown with the parts of its losses; several runs share the same axes.
"""

import argparse
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from dino_d2.errors import UserError

Points = list[tuple[int, float]]  # (iteration, value)

LOSSES = ("loss_class", "loss_bbox", "loss_giou")
SCORES = {"bbox/AP": "-", "bbox/AP50": "--", "bbox/AP75": ":"}


def read(folder: Path) -> dict[str, Points]:
    """Read the curves of a run, by name. If a resumed run has written an iteration twice, the later line is used.

    Args:
        folder: output folder of the run, or its metrics.json.

    Raises:
        UserError: there is no metrics.json, or a line of it is not JSON.
    """
    path = folder / "metrics.json" if folder.is_dir() else folder
    if not path.is_file():
        raise UserError(f"there is no {path}: give the output folder of a run (train.output_dir)")
    curves: dict[str, dict[int, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        for name, value in values.items():
            if value is None:  # it was not finite
                continue
            curves.setdefault(name, {})[values["iteration"]] = value
    return {name: sorted(points.items()) for name, points in curves.items()}


def plot(runs: dict[str, dict[str, Points]]) -> Figure:
    """Plot total loss, AP, losses of the last layer, and learning rate with gradient norm, on four axes.

    Args:
        runs: {name of the run: its curves}.
    """
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (loss, score), (parts, rate) = figure.subplots(2, 2)
    single = len(runs) == 1
    gradients = rate.twinx()
    for i, (run, curves) in enumerate(runs.items()):
        colour = f"C{i % 10}"
        draw(loss, curves, "total_loss", run, color=colour)
        for j, (name, style) in enumerate(SCORES.items()):
            label = name.removeprefix("bbox/") + ("" if single else f", {run}")
            draw(score, curves, name, label, color=f"C{j}" if single else colour, linestyle=style, marker=".")
        for j, name in enumerate(LOSSES):
            label = name if single else run if j == 0 else None
            style = "-" if single else ("-", "--", ":")[j]
            draw(parts, curves, name, label, color=f"C{j}" if single else colour, linestyle=style)
            if single:
                draw(parts, curves, f"{name}_dn", f"{name}_dn", color=f"C{j}", linestyle=":")
        draw(rate, curves, "lr", run if not single else "learning rate", color=colour)
        draw(gradients, curves, "grad_norm", None, color=colour, alpha=0.3)
    for axes, title in ((loss, "total loss"), (score, "box AP on the test set, percent"), (rate, "learning rate")):
        axes.set_title(title)
    parts_shown = "and of its denoising queries (_dn)" if single else "class, bbox (dashed), giou (dotted)"
    parts.set_title(f"losses of the last decoder layer, {parts_shown}", fontsize=10)
    gradients.set_ylabel("gradient norm (pale)")
    for axes in (loss, parts, gradients):
        axes.set_yscale("log")
    score.set_ylim(0, 100)
    for axes in (loss, score, parts, rate):
        axes.set_xlabel("iteration")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        else:
            axes.text(0.5, 0.5, "not in metrics.json", transform=axes.transAxes, ha="center", color="grey")
    return figure


def draw(axes, curves: dict[str, Points], name: str, label: str | None, **style) -> None:
    if curves.get(name):
        iterations, values = zip(*curves[name], strict=True)
        axes.plot(iterations, values, label=label, linewidth=1.3, **style)


def names_of(folders: list[Path]) -> list[str]:
    """Shortest ends of the folders' paths that differ from each other.

    Raises:
        UserError: a folder is given twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(folder.parts) for folder in resolved) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in resolved]
        if len(set(names)) == len(names):
            return names
    raise UserError("the same run is given twice")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of runs")
    parser.add_argument("--output", type=Path, help="PNG to write (curves.png in the first folder)")
    options = parser.parse_args(arguments)
    try:
        runs = dict(zip(names_of(options.runs), map(read, options.runs), strict=True))
        first = options.runs[0]
        path = options.output or (first if first.is_dir() else first.parent) / "curves.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        plot(runs).savefig(path, dpi=80)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(path)


if __name__ == "__main__":
    main()
