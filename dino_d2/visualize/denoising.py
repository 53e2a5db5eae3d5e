"""Denoising queries around their ground truth, and what the decoder makes of them (DINO section 3.3, figure 3)."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dino_d2.denoising import ContrastiveDenoising
from dino_d2.errors import UserError
from dino_d2.layers import cxcywh_to_xyxy
from dino_d2.meta_arch import DETR
from dino_d2.meta_arch.detr import normalised_boxes

from .boxes import LabelledBox, draw_boxes, draw_rectangle
from .mapped import evaluating, image_of
from .sheet import below, beside, captioned, legend
from .style import PAPER, TILE, colour_of, line_width


def panel_of_denoising(
    model: DETR, mapped: dict[str, Any], image_format: str, class_names: Sequence[str], groups: int = 2, seed: int = 0
) -> Image.Image:
    """Draws the denoising queries of one image: on the left as they enter the decoder, on the right as they leave it.

    The upper row has the positives, the lower row the negatives, where the denoising is contrastive. The ground truth
    is white; the colour of a query is that of its label, the noised one on the left, and a label that was flipped is
    written at its box.

    Args:
        model: with a `denoising`; left in the mode (training or not) it was in.
        mapped: what a data mapper gives, with "instances"; `image_format` of its "image", "RGB" or "BGR".
        class_names: the name of class k at index k.
        groups: that many of the groups are drawn; all are computed.
        seed: of the noise. The global random generators are not touched.

    Raises:
        UserError: the model has no denoising.
    """
    check_denoising(model)
    instances = mapped["instances"].to(model.device)
    labels, boxes = instances.gt_classes, normalised_boxes(instances)
    generator = torch.Generator(model.device).manual_seed(seed)
    with evaluating(model):
        queries = model.denoising([labels], [boxes], generator)
        output = model.detector(model.normalise(mapped["image"])[None], None, queries)
    slots = queries.labels.shape[1]
    scores, classes = output.logits[-1, 0, :slots].float().sigmoid().max(-1)  # [Q]
    rebuilt = output.boxes[-1, 0, :slots].float()  # [Q, 4]

    image = _with_ground_truth(image_of(mapped, image_format), cxcywh_to_xyxy(boxes))
    group = queries.group if queries.group.ndim == 1 else queries.group[0]
    target, noised = queries.target[0], queries.labels[0]  # [Q]
    real = target >= 0
    words, answers = [""] * slots, [f"{class_names[k]} {scores[i]:.2f}" for i, k in enumerate(classes.tolist())]
    for slot in real.nonzero()[:, 0].tolist():
        if noised[slot] != labels[target[slot]]:
            words[slot] = f"called {class_names[int(noised[slot])]}"
    rows = []
    for sign in ("positives", "negatives")[: model.denoising.copies]:
        chosen = real & (queries.positive[0] == (sign == "positives"))
        mean = f", mean score of all groups {scores[chosen].mean():.2f}" if chosen.any() else ""
        dashed = sign == "negatives"
        entering = _boxes(queries.boxes[0], noised, words, chosen & (group < groups), dashed)
        leaving = _boxes(rebuilt, classes, answers, chosen & (group == 0), dashed)
        rows.append(
            beside(
                captioned(_draw(image, entering), f"{sign} in: {_noise(model, sign)}, {groups} groups"),
                captioned(_draw(image, leaving), f"{sign} out, the first group{mean}"),
            )
        )
    shown = sorted({*labels.tolist(), *noised[real & (group < groups)].tolist()})
    names = [("ground truth", PAPER), *((class_names[k], colour_of(k)) for k in shown)]
    return below(*rows, legend(names, rows[0].width))


def check_denoising(model: DETR) -> None:
    """Raise UserError where a model has no denoising queries to draw."""
    if model.denoising is None:
        raise UserError("this model has no denoising queries to draw: model.denoising is None in its config")


def _noise(model: DETR, sign: str) -> str:
    denoising = model.denoising
    if not isinstance(denoising, ContrastiveDenoising):
        return f"noise below {denoising.centre_noise_scale:g} (centre), {denoising.size_noise_scale:g} (size)"
    inner = denoising.positive_noise_scale
    if sign == "positives":
        return f"noise below λ1 = {inner:g}"
    return f"noise from λ1 = {inner:g} to λ2 = {denoising.negative_noise_scale:g}"


def _with_ground_truth(image: Image.Image, boxes: Tensor) -> Image.Image:
    """The image scaled to a tile, with white boxes ([n, 4] normalised xyxy)."""
    canvas = draw_boxes(image, [], longer_side=TILE)
    pen = ImageDraw.Draw(canvas)
    scale = torch.tensor([canvas.width, canvas.height] * 2)
    for corners in (boxes.cpu() * scale).tolist():
        draw_rectangle(pen, tuple(corners), PAPER, dashed=False, width=line_width(canvas.size) + 2)
    return canvas


def _boxes(boxes: Tensor, classes: Tensor, labels: list[str], chosen: Tensor, dashed: bool) -> list[LabelledBox]:
    """Boxes [Q, 4] normalised cxcywh, of the chosen slots, still normalised."""
    corners = cxcywh_to_xyxy(boxes)
    corners = torch.cat(
        [torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], 1
    )
    picked = chosen.nonzero()[:, 0].tolist()
    return [LabelledBox(tuple(corners[i].tolist()), int(classes[i]), labels[i], dashed) for i in picked]


def _draw(image: Image.Image, boxes: list[LabelledBox]) -> Image.Image:
    scale = (image.width, image.height) * 2
    pixels = [
        LabelledBox(tuple(s * v for s, v in zip(scale, box.box, strict=True)), box.class_index, box.label, box.dashed)
        for box in boxes
    ]
    return draw_boxes(image, pixels, longer_side=max(image.size))
