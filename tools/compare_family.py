# SPDX-License-Identifier: Apache-2.0
"""Train several recipes with the same iterations and seeds, and plot their AP over iterations and over time.

    python tools/compare_family.py configs/detr/detr_tiny_shapes.py configs/dino/dino_tiny_shapes.py
    python tools/compare_family.py configs/*/*_tiny_shapes.py --seeds 1 2 3 --iterations 2000 --output output/family
    python tools/compare_family.py configs/*/*_tiny_shapes.py --draw-only

The command can be stopped at any time; run again, it continues the interrupted runs. Each run is a run of train_net.py
in its own folder, OUTPUT/RECIPE/seed_S. The results in OUTPUT are family.png, with the mean over seeds and the range
from the worst seed to the best, and family.md, with a table of the last evaluation. Times are those of training,
without evaluation. Each run has one thread, so times are comparable if --jobs is at most the number of cores and the
machine has no other work.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from tabulate import tabulate
from trainings import Training, lines_of, run


class Curve(NamedTuple):
    """AP of one run at each of its evaluations, of which there are ``count``."""

    iterations: np.ndarray  # [count] iterations done
    minutes: np.ndarray  # [count] minutes of training, without evaluation
    ap: np.ndarray  # [count] in 0..100


def read_rows(folder: Path) -> list[dict]:
    """Rows of a run's metrics.json in the order of iterations; later rows replace those that a resumed run repeats."""
    rows: dict[int, dict] = {}
    for line in lines_of(folder):
        rows.setdefault(line["iteration"], {}).update(line)
    return [rows[iteration] for iteration in sorted(rows)]


def read_curve(folder: Path) -> Curve:
    """AP of every evaluation, with the training time up to it."""
    rows = read_rows(folder)
    done, seconds = [0], [0.0]  # iterations done at each row that has a time, and the total time of these iterations
    for row in rows:
        if "time" in row:  # seconds of one iteration, averaged since the previous row
            done.append(row["iteration"] + 1)
            seconds.append(seconds[-1] + row["time"] * (done[-1] - done[-2]))
    evaluated = [row for row in rows if "bbox/AP" in row]
    # Rows count iterations from zero, but the final evaluation has the total number of iterations.
    iterations = [min(row["iteration"] + 1, max(done[-1], row["iteration"])) for row in evaluated]
    minutes = np.interp(iterations, done, seconds) / 60
    return Curve(np.array(iterations), minutes, np.array([row["bbox/AP"] for row in evaluated]))


def collect(trainings: list[Training]) -> dict[str, list[Curve]]:
    """{recipe: curves of its seeds, truncated to the evaluations that all seeds have}."""
    families: dict[str, list[Curve]] = {}
    for training in trainings:
        curve = read_curve(training.folder)
        if len(curve.ap):
            families.setdefault(short_name(training.config), []).append(curve)
    return {name: same_length(curves) for name, curves in families.items()}


def short_name(recipe: Path) -> str:
    """Name of the detector in a recipe's file name."""
    return recipe.stem.removesuffix("_tiny_shapes")


def same_length(curves: list[Curve]) -> list[Curve]:
    """Curves truncated to the length of the shortest."""
    count = min(len(curve.ap) for curve in curves)
    return [Curve(*(values[:count] for values in curve)) for curve in curves]


def draw(families: dict[str, list[Curve]], path: Path) -> None:
    """Plot the mean over seeds as a line and their range as a band, over iterations and over time."""
    figure, axes = plt.subplots(1, 2, figsize=(14, 7), sharey=True, layout="constrained")
    colours = matplotlib.colormaps["tab20"].colors
    ranked = sorted(families.items(), key=lambda item: -mean_of_last(item[1]))
    for number, (name, curves) in enumerate(ranked):
        ap = np.array([curve.ap for curve in curves])  # [seeds, evaluations]
        colour = colours[(2 * number + number // 10) % 20]
        minutes = np.mean([curve.minutes for curve in curves], axis=0)
        for axis, x in ((axes[0], curves[0].iterations), (axes[1], minutes)):
            axis.plot(x, ap.mean(0), color=colour, marker=".", label=f"{name}  {mean_of_last(curves):.1f}")
            axis.fill_between(x, ap.min(0), ap.max(0), color=colour, alpha=0.15, linewidth=0)
    seeds = " or ".join(str(count) for count in sorted({len(curves) for curves in families.values()}))
    # A square-root scale shows differences between detectors with low AP, too.
    axes[0].set_yscale("function", functions=(lambda ap: np.sqrt(np.maximum(ap, 0)), np.square))
    axes[0].set(xlabel="iterations", ylabel=f"AP (square-root scale): mean and range of {seeds} seeds")
    axes[0].set_yticks(ticks := [0, 0.5, 1, 2, 5, *range(10, 101, 10)], [f"{tick:g}" for tick in ticks])
    axes[0].set_ylim(0, 1.05 * max(curve.ap.max() for curves in families.values() for curve in curves) + 0.1)
    axes[1].set(xlabel="minutes of training on this machine")
    for axis in axes:
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", title="AP at the end, mean", fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def mean_of_last(curves: list[Curve]) -> float:
    """Mean over seeds of the last evaluation's AP."""
    return float(np.mean([curve.ap[-1] for curve in curves]))


def table(families: dict[str, list[Curve]]) -> str:
    """Table of the last evaluation of every recipe, best first."""
    rows = []
    for name, curves in families.items():
        last = np.array([curve.ap[-1] for curve in curves])
        minutes = np.mean([curve.minutes[-1] for curve in curves])
        rows.append([name, len(last), int(curves[0].iterations[-1]), last.mean(), last.min(), last.max(), minutes])
    rows.sort(key=lambda row: -row[3])
    headers = ["recipe", "seeds", "iterations", "AP, mean", "worst", "best", "minutes per run"]
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".1f")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", help="config files, and overrides for all runs such as train.device=cpu")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=2000, help="iterations of every run")
    parser.add_argument("--evaluations", type=int, default=10, help="evaluations of every run, evenly spaced")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time, each with one thread")
    parser.add_argument("--output", type=Path, default=Path("output/family"))
    parser.add_argument("--draw-only", action="store_true", help="do not train; plot the existing results")
    options = parser.parse_intermixed_args(arguments)  # overrides may follow the flags
    options.values = [x for x in options.recipes if "=" in x]
    options.recipes = [Path(x) for x in options.recipes if "=" not in x]
    missing = [str(recipe) for recipe in options.recipes if not recipe.is_file()]
    if missing or not options.recipes:
        parser.error(f"no such config file: {', '.join(missing)}" if missing else "give at least one config file")
    if options.iterations % options.evaluations:
        parser.error(f"--iterations {options.iterations} must be a multiple of --evaluations {options.evaluations}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the missing trainings, then plot."""
    options = parse(arguments)
    # All recipes with the first seed come first, so that an early comparison covers all of them.
    trainings = [
        Training(
            f"{short_name(recipe)} {seed}",
            recipe,
            options.output / recipe.stem / f"seed_{seed}",
            seed,
            tuple(options.values),
        )
        for seed in options.seeds
        for recipe in options.recipes
    ]
    failed = []
    if not options.draw_only:
        failed = run(trainings, options.iterations, options.evaluations, options.jobs)
    families = collect(trainings)
    if families:
        options.output.mkdir(parents=True, exist_ok=True)
        draw(families, options.output / "family.png")
        (options.output / "family.md").write_text(table(families) + "\n")
        print(f"{table(families)}\n\n{options.output / 'family.png'}")
    if failed:
        sys.exit(f"error: {len(failed)} of {len(trainings)} trainings failed")
    if not families:
        sys.exit(f"error: no evaluation in {options.output}")


if __name__ == "__main__":
    main()
