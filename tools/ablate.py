#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Small versions of DINO's ablations: train each row with several seeds on shapes, write a table and a plot.

    python tools/ablate.py                     # continues after an interruption; runs --jobs trainings at a time
    python tools/ablate.py --rows dn cdn --seeds 1 --iterations 100 --page output/try/ablations.md

The rows are those of Table 4, denoising none/DN/CDN, and noise scales. Results of a training are in its folder,
``{output}/{row}/seed{n}``; finished trainings are not repeated.
"""

import argparse
import os
import platform
import resource
import shlex
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from trainings import ROOT, Training, lines_of, run, unfinished

from dino_d2.detectron2.config import LazyConfig

BASE = "configs/dino/dino_tiny_shapes_instruments.py"

#: Name in metrics.json -> (heading, decimal places).
MEASURES = {
    "bbox/AP": ("AP", 1),
    "bbox/APs": ("AP small", 1),
    "matching/ATD100": ("ATD(100)", 3),
    "matching/ATD100_small": ("ATD(100) small", 3),
    "matching/IS": ("IS", 2),
    "duplicates/rate": ("duplicates, %", 1),
}


#: Parts of the model that are taken from the recipes in configs/dino/ablations; the rest is from the small recipe.
PARTS = ("denoising", "detector.queries", "detector.decoder.box_update", "detector.label_embedding")


class Minutes(NamedTuple):
    """Duration of the trainings: elapsed time, and CPU time."""

    elapsed: float
    cpu: float


@dataclass(frozen=True)
class Row:
    """One row of the table: the recipe in configs/dino/ablations whose parts are used, and further changed values."""

    title: str
    recipe: str
    values: dict[str, float] = field(default_factory=dict)


ROWS = {
    "static": Row("Table 4, row 2: static queries, DN", "table4_row2_optimised_dn_detr"),
    "pure": Row("Table 4, row 3: pure query selection", "table4_row3_pure_selection"),
    "mixed": Row("Table 4, row 4: mixed query selection", "table4_row4_mixed_selection"),
    "dn": Row("Table 4, row 5: look forward twice", "table4_row5_look_forward_twice"),
    "cdn": Row("Table 4, row 6: contrastive DN (DINO)", "table4_row6_dino"),
    "none": Row("row 6 without denoising", "table7_no_dn"),
    "cdn_small": Row(
        "row 6, λ1 0.4, λ2 0.8 (Table 8)",
        "table4_row6_dino",
        {"denoising.positive_noise_scale": 0.4, "denoising.negative_noise_scale": 0.8},
    ),
    "cdn_wide": Row("row 6, λ2 3", "table4_row6_dino", {"denoising.negative_noise_scale": 3.0}),
}


def row_config(row: Row) -> DictConfig:
    """The small DINO on shapes with the row's parts, and with its own number of queries and denoising budget."""
    cfg = LazyConfig.load(str(ROOT / BASE))
    num_queries = cfg.model.detector.queries.num_queries
    budget = cfg.model.denoising.groups.num_objects
    recipe = LazyConfig.load(str(ROOT / "configs/dino/ablations" / f"{row.recipe}.py"))
    for part in PARTS:
        OmegaConf.update(cfg.model, part, OmegaConf.select(recipe.model, part), merge=False)
    cfg.model.detector.queries.num_queries = num_queries
    if cfg.model.denoising is not None:
        cfg.model.denoising.groups.num_objects = budget
    for key, value in row.values.items():
        OmegaConf.update(cfg.model, key, value)
    return cfg


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/ablate.py", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=1000, help="iterations of 8 images in each training")
    parser.add_argument(
        "--evaluations",
        type=int,
        default=4,
        help="evaluations of each training, evenly spaced; IS compares the last two",
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time, each with one thread")
    parser.add_argument("--output", type=Path, default=Path("output/ablations"))
    parser.add_argument(
        "--page", type=Path, default=Path("docs/ablations.md"), help="page to write, with the plot in the same folder"
    )
    options = parser.parse_args()
    start = time.perf_counter()
    trainings = [training_of(row, seed, options.output) for row in options.rows for seed in options.seeds]
    count = len(unfinished(trainings, options.iterations))
    if run(trainings, options.iterations, options.evaluations, options.jobs):
        sys.exit("error: no table, because some trainings failed. Run the same command again; it repeats only those")
    results: dict[str, list[dict[str, float]]] = {row: [] for row in options.rows}
    for training in trainings:
        results[training.folder.parent.name].append(measures_of(training.folder))
    options.page.parent.mkdir(parents=True, exist_ok=True)
    picture = options.page.with_suffix(".png")
    draw(results, picture)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = Minutes((time.perf_counter() - start) / 60, (children.ru_utime + children.ru_stime) / 60)
    options.page.write_text(page(results, options, picture.name, count, minutes), encoding="utf-8")
    print(table(results))
    print(f"{options.page} and {picture}")


def training_of(row: str, seed: int, output: Path) -> Training:
    """The training of a row with a seed; the row's config is written to its folder."""
    folder = output / row / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    LazyConfig.save(row_config(ROWS[row]), str(folder / "row.yaml"))
    return Training(f"{row} {seed}", folder / "row.yaml", folder, seed)


def measures_of(folder: Path) -> dict[str, float]:
    """The last value of each measure; NaN if there is none."""
    values = dict.fromkeys(MEASURES, float("nan"))
    for line in lines_of(folder):
        values |= {name: line[name] for name in MEASURES if name in line}
    return values


def spread(results: list[dict[str, float]], name: str) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds (0 for a single seed)."""
    values = [result[name] for result in results]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown table of mean ± standard deviation."""
    lines = [
        "| | " + " | ".join(heading for heading, _ in MEASURES.values()) + " |",
        "|---" * (len(MEASURES) + 1) + "|",
    ]
    for row, seeds in results.items():
        cells = []
        for name, (_, digits) in MEASURES.items():
            mean, deviation = spread(seeds, name)
            cells.append(f"{mean:.{digits}f} ± {deviation:.{digits}f}")
        lines.append(f"| {ROWS[row].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw one panel for each measure, with a dot for each seed and a line at the mean."""
    figure = Figure(figsize=(12, 0.8 + 0.35 * len(results)), layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for panel, (name, (heading, _)) in zip(panels, MEASURES.items(), strict=True):
        for y, seeds in enumerate(results.values()):
            values = [result[name] for result in seeds]
            panel.plot(values, [y] * len(values), "o", color="tab:blue", alpha=0.6, markersize=5)
            panel.plot([np.mean(values)] * 2, [y - 0.3, y + 0.3], color="black")
        panel.set_title(heading, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(results)), list(results))
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=90)


def page(results: dict, options: argparse.Namespace, picture: str, trained: int, minutes: Minutes) -> str:
    """Text of the documentation page."""
    command = shlex.join(["python", "tools/ablate.py", *sys.argv[1:]])
    return f"""# Ablations on the shapes dataset

Small versions of DINO's Table 4, of denoising none/DN/CDN, and of noise scales: {options.iterations} iterations of 8
images, mean of {len(options.seeds)} seeds ± standard deviation [^run]. [evaluation.md](evaluation.md) describes the
columns. Higher is better for AP and AP small, lower for all others.

{table(results)}

![Each dot is a training, each line a mean]({picture})

The images are few, small and synthetic: differences within the standard deviation are not significant, and larger ones
may not hold for photographs.

[^run]: `{command}` on {date.today()}, {os.cpu_count()} CPUs ({platform.machine()}), PyTorch {torch.__version__}. This
    call ran {trained} of {len(results) * len(options.seeds)} trainings, {options.jobs} at a time, in
    {minutes.elapsed:.0f} minutes, with {minutes.cpu:.0f} minutes of CPU time.
"""


if __name__ == "__main__":
    main()
