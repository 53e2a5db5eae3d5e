# SPDX-License-Identifier: Apache-2.0
"""Pictures of the matching, as in the papers: arrows from anchors to objects, and its measures during training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dino_d2.evaluation.matching import Image, match_images
from dino_d2.meta_arch import DETR
from dino_d2.meta_arch.detr import QueryPredictions, normalised_boxes

from .mapped import evaluating, image_of

#: Measures that are drawn over training: names in metrics.json, and headings.
CURVES = {
    "matching/IS": "IS (DN-DETR figure 2)",
    "matching/anchor_distance": "anchor-target distance",
    "matching/ATD100": "ATD(100) (DINO figure 4)",
    "matching/ATD100_small": "ATD(100), small objects",
    "duplicates/rate": "objects found twice, %",
}


def arrows(model: DETR, mapped: Sequence[dict[str, Any]], image_format: str, longest: float = 1.0) -> Figure:
    """Draw arrows from initial anchors (dashed) to the objects that their queries are matched with.

    Colours show the L1 distance of the two boxes (cxcywh in [0, 1]), as in figure 4 of DN-DETR.

    Args:
        model: with four-dimensional anchors.
        mapped: outputs of a data mapper, with the ground truth as "instances".
        image_format: colour order of "image", "RGB" or "BGR".
        longest: the distance at the upper end of the colour scale.
    """
    figure = Figure(figsize=(2.6 * len(mapped) + 0.7, 2.8), layout="constrained")
    panels = figure.subplots(1, len(mapped), squeeze=False)[0]
    colours = ScalarMappable(Normalize(0, longest), "turbo")
    with evaluating(model):
        outputs = model(list(mapped))
    for panel, image, output in zip(panels, mapped, outputs, strict=True):
        predictions = QueryPredictions(*(part.float().cpu() for part in output["queries"]))
        boxes = normalised_boxes(image["instances"])
        labels = image["instances"].gt_classes
        (pairs,) = match_images(model.criterion.matcher, [Image(predictions, labels, boxes, labels < 0)])
        height, width = image["image"].shape[-2:]
        # Pale, so that the colours stand out.
        panel.imshow(image_of(image, image_format).convert("L"), cmap="gray", vmin=-150)
        for query, target, distance in zip(pairs.queries, pairs.targets, pairs.distances, strict=True):
            colour = colours.to_rgba(distance)
            places = np.stack([predictions.anchors[query], boxes[target]]) * (width, height, width, height)
            for (x, y, w, h), line in zip(places, ("--", "-"), strict=True):  # the anchor, then the object
                panel.add_patch(Rectangle((x - w / 2, y - h / 2), w, h, fill=False, edgecolor=colour, linestyle=line))
            style = {"arrowstyle": "-|>", "mutation_scale": 8, "color": colour, "shrinkA": 0, "shrinkB": 0}
            panel.annotate("", places[1, :2], places[0, :2], arrowprops=style)
        mean = f"mean {np.mean(pairs.distances):.3f}" if len(pairs.distances) else "no objects"
        panel.set_title(f"image {image.get('image_id', '')}: {mean}", fontsize=9)
        panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))  # anchors may extend beyond the image
        panel.axis("off")
    figure.colorbar(colours, ax=panels, label="L1 distance", shrink=0.8)
    return figure


def curves(runs: dict[str, Path]) -> Figure:
    """Draw the measures of the matching over the iterations of training, one line for each run.

    Args:
        runs: {name: folder with a metrics.json}.

    Raises:
        ValueError: no run has these measures.
    """
    points: dict[str, dict[str, dict[int, float]]] = {name: {} for name in CURVES}
    for run, folder in runs.items():
        for line in (folder / "metrics.json").read_text().splitlines():
            values = json.loads(line)
            for name in CURVES.keys() & values.keys():
                points[name].setdefault(run, {})[values["iteration"]] = values[name]
    shown = {name: of_runs for name, of_runs in points.items() if of_runs}
    if not shown:
        raise ValueError(
            f"none of {', '.join(map(str, runs.values()))} has measures of the matching in its metrics.json. Add the "
            "instruments to dataloader.evaluator (docs/evaluation.md)"
        )
    figure = Figure(figsize=(2.6 * len(shown), 2.6), layout="constrained")
    for panel, (name, of_runs) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        for run in runs:
            if run in of_runs:
                iterations, values = zip(*sorted(of_runs[run].items()), strict=True)
                panel.plot(iterations, values, marker=".", label=run)
        panel.set_title(CURVES[name], fontsize=9)
        panel.set_xlabel("iteration", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    return figure
