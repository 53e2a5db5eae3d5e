# SPDX-License-Identifier: Apache-2.0
"""Curves of an evaluation: precision over recall, and F1 over the score threshold."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import colour_of


def precision_of_classes(precision: np.ndarray, recalls: np.ndarray, classes: dict[int, str]) -> Figure:
    """Draw precision over recall at one IoU threshold, with the AP of each class.

    Args:
        precision: [recalls, C] in 0..1, NaN for classes without objects.
        classes: {class: name} of those to draw.
    """
    figure, axes = _figure("single classes at IoU 0.50, and AP")
    for k, name in classes.items():
        values = precision[:, k]
        axes.plot(recalls, values, color=_colour(k), label=f"{_plain(name)}: {100 * values.mean():.1f}")
    _finish(axes, "recall", "precision", "lower left")
    return figure


def mean_precision(precision: np.ndarray, iou_thresholds: Sequence[float], recalls: np.ndarray) -> Figure:
    """Draw precision over recall at each IoU threshold, as the mean over classes, with the mean AP.

    Args:
        precision: [IoU thresholds, recalls, C] in 0..1, NaN for classes without objects.
    """
    figure, axes = _figure("mean of all classes, and AP")
    defined = precision[..., ~np.isnan(precision).all((0, 1))]
    for t, threshold in enumerate(iou_thresholds):
        values = defined[t].mean(axis=1) if defined.shape[2] else np.zeros(len(recalls))
        colour = colormaps["viridis"](t / len(iou_thresholds))
        axes.plot(recalls, values, color=colour, label=f"IoU {threshold:.2f}: {100 * values.mean():.1f}")
    _finish(axes, "recall", "precision", "lower left")
    return figure


def f1_over_threshold(
    thresholds: np.ndarray, together: np.ndarray, classes: dict[int, tuple[str, np.ndarray]], chosen: float
) -> Figure:
    """Draw F1 over the score threshold.

    Args:
        thresholds: [n] in 0..1.
        together: [n] F1 of all classes together.
        classes: {class: (name, F1 [n])} to draw as thin lines.
        chosen: the threshold to mark.
    """
    figure, axes = _figure("F1 over the score threshold")
    for k, (name, values) in classes.items():
        axes.plot(thresholds, values, color=_colour(k), linewidth=1, label=_plain(name))
    axes.plot(thresholds, together, color="black", linewidth=2.5, label="all classes")
    axes.axvline(chosen, color="black", linestyle=":", label=f"threshold {chosen:.3g}")
    _finish(axes, "score threshold", "F1", "lower center")
    return figure


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _finish(axes: Axes, x: str, y: str, place: Literal["lower left", "lower center"]) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc=place)


def _colour(k: int) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in colour_of(k))


def _plain(name: str) -> str:
    """A label that matplotlib takes for neither a formula nor a hidden line."""
    return " " + name.replace("$", r"\$")
