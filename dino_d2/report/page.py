# SPDX-License-Identifier: Apache-2.0
"""The page of a report: one HTML file with all its pictures in it, without scripts and without addresses."""

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dino_d2.evaluation.class_ap import IOU_THRESHOLDS, RECALLS, mean_ap
from dino_d2.evaluation.thresholds import GRID, Operation, f1_curve, operate
from dino_d2.visualize.precision import f1_over_threshold, mean_precision, precision_of_classes

from .measures import Measures
from .pictures import Picture, Pictures

#: Classes with a curve of their own: those with the most objects.
CURVES = 10
#: Confusions in the list of the most frequent ones.
CONFUSIONS = 10
#: With more columns than this, the headings of the confusion matrix are written upwards.
UPRIGHT = 8
#: Classes with a row in the confusion matrix: those with the most mistakes. The others share one.
ROWS = 30

# The policy makes sure that a browser loads nothing, whatever a class or a file is called.
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ margin: 0 auto; max-width: 75rem; padding: 0 1rem 3rem; background: #fff; color: #222;
       font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ccc; font-size: 1.25rem; }}
img {{ display: block; max-width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }}
th, td {{ padding: .2rem .6rem; border: 1px solid #ddd; text-align: right; overflow-wrap: normal; }}
th {{ background: #f4f4f4; font-weight: 600; }}
th:first-child {{ position: sticky; left: 0; text-align: left; }}
.upright tr:first-child th {{ vertical-align: bottom; }}
.upright th:not(:first-child) {{ padding: .6rem .2rem; }}
.upright th:not(:first-child) span {{ display: inline-block; max-height: 14rem; writing-mode: vertical-rl;
    transform: rotate(180deg); text-align: left; }}
.key {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: .6rem; padding: 0; }}
.key div {{ border: 1px solid #ddd; border-radius: .4rem; padding: .4rem .7rem; }}
.key b {{ display: block; font-size: 1.4rem; }}
.pairs {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); gap: 1.2rem; }}
figure {{ margin: 0; }}
.pair span {{ font-size: .8rem; color: #555; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }}
.words td:last-child, .words th:last-child {{ text-align: left; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .4rem; }}
.pair img {{ width: 100%; }}
figcaption, .note {{ font-size: .9rem; color: #555; }}
</style>
</head>
<body>
"""


def page(measures: Measures, pictures: Pictures | None, title: str, notes: Sequence[str] = ()) -> str:
    """The HTML of a report.

    Args:
        measures: of an evaluation.
        pictures: None if there is no folder of images.
        title: of the page, in plain text.
        notes: sentences about the data, in plain text.
    """
    sections = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        _overview(measures),
        "<h2>AP by class</h2>",
        _ap_table(measures),
        _rules(measures),
        "<h2>Precision and recall</h2>",
        _charts(measures),
        "<h2>Score threshold</h2>",
        _threshold_table(measures),
        "<h2>Confusion matrix</h2>",
        _confusion(measures),
        "<h2>Kinds of mistakes</h2>",
        _kinds(measures),
        "<h2>Duplicates</h2>",
        _duplicates(measures),
        *_galleries(measures, pictures),
    ]
    return _HEAD.format(title=escape(title)) + "\n".join(sections) + "\n</body>\n</html>\n"


def _overview(measures: Measures) -> str:
    ap, at = mean_ap(measures.ap.precision), measures.operation
    boxes = [(name, _percent(ap[name])) for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
    boxes += [("F1", _share(at.f1)), ("precision", _share(at.precision)), ("recall", _share(at.recall))]
    threshold = f"{measures.score_threshold:.3g}"
    kind = "given" if measures.settings.score_threshold is not None else "of the highest F1"
    if measures.settings.score_threshold is None and measures.best is None:
        kind = "assumed, because no detection is right"
    cells = "".join(f"<div>{name}<b>{value}</b></div>" for name, value in [*boxes, ("threshold", threshold)])
    truth = measures.truth
    crowds = int(truth.is_crowd.sum())
    return (
        f'<div class="key">{cells}</div>\n'
        f'<p class="note">{len(truth.image_ids)} images, {int((~truth.is_crowd).sum())} objects'
        + (f", {crowds} crowd regions" if crowds else "")
        + f", {len(measures.detections.scores)} detections. F1, precision and recall are those of all classes together "
        f"at the score threshold {threshold} ({kind}) and IoU {measures.settings.iou_threshold:g}.</p>"
    )


def _ap_table(measures: Measures) -> str:
    truth, detections = measures.truth, measures.detections
    columns = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    rows = []
    for k, name in enumerate(truth.class_names):
        ap = mean_ap(measures.ap.precision[:, :, k])
        number = int((detections.label == k).sum())
        rows.append([name, *(_percent(ap[c]) for c in columns), measures.ranked[k].objects, number])
    ap = mean_ap(measures.ap.precision)
    objects = sum(ranked.objects for ranked in measures.ranked)
    rows.append(["mean, sum", *(_percent(ap[c]) for c in columns), objects, len(detections.scores)])
    return _table(["class", *columns, "objects", "detections"], rows)


def _rules(measures: Measures) -> str:
    return (
        '<p class="note">AP in percent, by pycocotools: mean over IoU 0.50 to 0.95; AP50 and AP75 at one IoU; APs, APm '
        "and APl for objects whose area is below 32², from 32² to 96², and above 96² square pixels. The "
        f"{measures.settings.max_dets_per_image} best detections of an image and class count. Detections that match a "
        "crowd region count neither as right nor as wrong. A dash: the class has no such object.</p>"
    )


def _charts(measures: Measures) -> str:
    precision, shown = measures.ap.precision[..., 0], _largest(measures)
    names = {k: measures.truth.class_names[k] for k in shown}
    f1 = {k: (names[k], f1_curve(measures.ranked[k])) for k in shown}
    together = f1_curve(measures.ranked_together)
    charts = {
        "Mean precision over recall": mean_precision(precision, IOU_THRESHOLDS.tolist(), RECALLS),
        "Precision over recall by class": precision_of_classes(precision[0], RECALLS, names),
        "F1 over score thresholds": f1_over_threshold(GRID, together, f1, measures.score_threshold),
    }
    images = "".join(_chart(figure, alt) for alt, figure in charts.items())
    more = len(measures.truth.class_names) > CURVES
    note = f'<p class="note">Single curves are those of the {CURVES} classes with the most objects.</p>' if more else ""
    return f'<div class="charts">{images}</div>{note}'


def _largest(measures: Measures) -> list[int]:
    """The classes with the most objects, in their own order."""
    with_objects = [k for k, ranked in enumerate(measures.ranked) if ranked.objects]
    return sorted(sorted(with_objects, key=lambda k: -measures.ranked[k].objects)[:CURVES])


def _threshold_table(measures: Measures) -> str:
    headings = ["class", "best threshold", "F1", "precision", "recall"]
    headings += [f"{what} at {measures.score_threshold:.3g}" for what in ("F1", "precision", "recall")]
    rows = []
    for k, name in enumerate(measures.truth.class_names):
        at = operate(measures.ranked[k], measures.score_threshold)
        rows.append([name, *_operation(measures.best_of_class[k]), *_operation(at)[1:]])
    rows.append(["all together", *_operation(measures.best), *_operation(measures.operation)[1:]])
    return (
        _table(headings, rows) + '<p class="note">The best threshold is that of the highest F1 = 2 TP / (2 TP + FP + '
        f"FN), where a detection is right (TP) if COCO's rules match it at IoU {measures.settings.iou_threshold:g}."
        " It is chosen on these images, so on others F1 tends to be a little lower.</p>"
    )


def _operation(operation: Operation | None) -> list[str]:
    if operation is None:
        return ["–"] * 4
    return [f"{operation.threshold:.3g}", *map(_share, operation[1:])]


def _confusion(measures: Measures) -> str:
    names, confusion = measures.truth.class_names, measures.mistakes.confusion
    off = confusion - np.diag(np.diag(confusion))
    most = np.argsort(-(off.sum(0) + off.sum(1))[:-1], kind="stable")[:ROWS]
    shown = sorted(most.tolist())
    groups = [[k] for k in shown]
    headings = [names[k] for k in shown]
    if others := sorted(set(range(len(names))) - set(shown)):
        groups.append(others)
        headings.append(f"{len(others)} other classes")
    groups.append([len(names)])
    small = np.array([[confusion[np.ix_(rows, columns)].sum() for columns in groups] for rows in groups])
    totals = small.sum(1, keepdims=True).clip(min=1)
    body = []
    for r, heading in enumerate([*headings, "background"]):
        cells = []
        for c, count in enumerate(small[r].tolist()):
            share = count / int(totals[r, 0])
            hue = "130, 200, 130" if r == c else "240, 130, 110"
            style = f' style="background: rgba({hue}, {share:.2f})"' if count else ""
            cells.append(f"<td{style}>{count or ''}</td>")
        body.append(f"<tr><th>{escape(heading)}</th>{''.join(cells)}</tr>")
    head = "".join(
        f"<th><span>{escape(heading)}</span></th>" for heading in ["object \\ detected as", *headings, "background"]
    )
    kind = "wide upright" if len(shown) > UPRIGHT else "wide"
    return (
        f'<div class="{kind}"><table>\n<tr>{head}</tr>\n' + "\n".join(body) + "\n</table></div>\n"
        '<p class="note">Rows are objects, columns are detected classes, at IoU '
        f"{measures.settings.iou_threshold:g} and score {measures.score_threshold:.3g}. The column “background” counts "
        "missed objects, the row “background” detections that match no object, among them duplicates. Detections are "
        "matched within their class first, as in AP, and the rest across classes."
        + (f" The {ROWS} classes with the most mistakes have a row." if others else "")
        + "</p>\n"
        + _frequent(names, off)
    )


def _frequent(names: Sequence[str], off: np.ndarray) -> str:
    """The most frequent confusions between classes, from the matrix without its diagonal."""
    between = off[:-1, :-1]
    order = np.argsort(-between, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(index), len(names)) for index in order]
    rows = [[names[r], names[c], between[r, c]] for r, c in pairs if between[r, c]]
    if not rows:
        return "<p>No object is detected as one of another class.</p>"
    return '<p class="note">The most frequent confusions:</p>\n' + _table(["object", "detected as", "count"], rows)


def _kinds(measures: Measures) -> str:
    counts = Counter(mistake.kind for mistake in measures.mistakes.false_positives)
    iou = f"{measures.settings.iou_threshold:g}"
    rows = [
        ["background", counts["background"], "no object there"],
        ["wrong class", counts["wrong class"], f"IoU of at least {iou} with an object of another class"],
        ["inexact box", counts["inexact box"], f"IoU of 0.1 to {iou} with an object of its class"],
        ["duplicate", counts["duplicate"], "a second detection of an object that a better one has found"],
        ["missed", len(measures.mistakes.missed), "objects that no detection of their class has found"],
    ]
    return f'<div class="words">{_table(["mistake", "count", "meaning"], rows)}</div>'


def _duplicates(measures: Measures) -> str:
    rates = measures.duplicates
    if not rates:
        return "<p>There are no objects.</p>"
    return (
        f"<p>{_percent(rates['rate'])} % of the objects that are found have two or more boxes of their class "
        f"(mean {_percent(rates['boxes_per_object'], 2)}), and {_percent(rates['confused'])} % of the objects with any "
        "box have boxes of different classes.</p>"
        f'<p class="note">Boxes with score ≥ {measures.score_threshold:.3g} and IoU ≥ '
        f"{measures.settings.iou_threshold:g}; a box belongs to the object that it overlaps most.</p>"
    )


def _galleries(measures: Measures, pictures: Pictures | None) -> Iterable[str]:
    if pictures is None:
        yield '<h2>Pictures</h2><p class="note">No folder of images was given (--images).</p>'
        return
    threshold = f"{measures.score_threshold:.3g}"
    yield (
        f'<p class="note">The pictures show the ground truth beside the detections with score ≥ {threshold}. Dashed '
        "boxes count neither as right nor as wrong.</p>"
    )
    for heading, text, some in (
        ("Worst images", "Most mistakes first. Mistakes are red, all else is green.", pictures.worst_images),
        (
            "Most confident false positives",
            "Highest score first. The detection is red, other mistakes are orange.",
            pictures.false_positives,
        ),
        ("Missed objects", "Largest first. The object is red, other mistakes are orange.", pictures.missed),
    ):
        yield f'<h2>{heading}</h2><p class="note">{text}</p>'
        yield f'<div class="pairs">{"".join(map(_figure, some))}</div>' if some else "<p>There are none.</p>"


def _figure(picture: Picture) -> str:
    images = "".join(
        f'<span>{alt}<img src="data:image/jpeg;base64,{_jpeg(image)}" width="{image.width}" height="{image.height}" '
        f'alt="{alt}"></span>'
        for image, alt in ((picture.truth, "ground truth"), (picture.detections, "detections"))
    )
    return f'<figure><div class="pair">{images}</div><figcaption>{escape(picture.caption)}</figcaption></figure>\n'


def _jpeg(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return base64.b64encode(file.getvalue()).decode()


def _chart(figure: Figure, alt: str) -> str:
    file = io.BytesIO()
    # Letters as paths: the page needs no font for its charts.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "dino_d2"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    code = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/svg+xml;base64,{code}" alt="{escape(alt)}">'


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = [
        f"<tr><th>{escape(str(row[0]))}</th>" + "".join(f"<td>{escape(str(c))}</td>" for c in row[1:]) for row in rows
    ]
    body = "".join(f"{line}</tr>\n" for line in lines)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>\n'


def _percent(value: float, digits: int = 1) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
