# SPDX-License-Identifier: Apache-2.0
"""Pictures of denoising queries before and after the decoder (DINO section 3.3, figure 3)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dino_d2.denoising import ContrastiveDenoising, Denoising
from dino_d2.errors import UserError
from dino_d2.layers import cxcywh_to_xyxy
from dino_d2.meta_arch import DETR
from dino_d2.meta_arch.detr import normalised_boxes

from .boxes import LabelledBox, draw_boxes, draw_rectangle
from .mapped import evaluating, image_of
from .sheet import captioned, legend, side_by_side, stacked
from .style import PAPER, TILE, colour_of, line_width


def panel_of_denoising(
    model: DETR, mapped: dict[str, Any], image_format: str, class_names: Sequence[str], groups: int = 2, seed: int = 0
) -> Image.Image:
    """Draw the denoising queries of one image: the decoder's inputs on the left, its predictions on the right.

    Positive queries are in the upper row, negative ones (of contrastive denoising) in the lower row. The ground truth
    is white. Colours show labels: the noised label on the left, the predicted class on the right. Labels that the noise
    has changed are written at their boxes.

    Args:
        model: with `denoising`; its training or evaluation mode is restored afterwards.
        mapped: output of a data mapper, with "instances".
        image_format: colour order of "image", "RGB" or "BGR".
        class_names: the name of class k at index k.
        groups: number of denoising groups to draw.
        seed: of the noise. The global random generators are not used.

    Raises:
        UserError: the model has no denoising.
    """
    denoising = check_denoising(model)
    instances = mapped["instances"].to(model.device)
    labels, boxes = instances.gt_classes, normalised_boxes(instances)
    generator = torch.Generator(model.device).manual_seed(seed)
    with evaluating(model):
        queries = denoising([labels], [boxes], generator)
        output = model.detector(model.normalise(mapped["image"])[None], None, queries)
    slots = queries.labels.shape[1]
    scores, classes = output.logits[-1, 0, :slots].float().sigmoid().max(-1)  # [Q]
    reconstructed = output.boxes[-1, 0, :slots].float()  # [Q, 4]

    image = _with_ground_truth(image_of(mapped, image_format), cxcywh_to_xyxy(boxes))
    group = queries.group if queries.group.ndim == 1 else queries.group[0]
    target, noised = queries.target[0], queries.labels[0]  # [Q]
    real = target >= 0
    changed, predicted = [""] * slots, [f"{class_names[k]} {scores[i]:.2f}" for i, k in enumerate(classes.tolist())]
    for slot in real.nonzero()[:, 0].tolist():
        if noised[slot] != labels[target[slot]]:
            changed[slot] = f"label {class_names[int(noised[slot])]}"
    rows = []
    for sign in ("positives", "negatives")[: denoising.copies]:
        chosen = real & (queries.positive[0] == (sign == "positives"))
        mean = f", mean score of all groups {scores[chosen].mean():.2f}" if chosen.any() else ""
        dashed = sign == "negatives"
        entering = _boxes(queries.boxes[0], noised, changed, chosen & (group < groups), dashed)
        leaving = _boxes(reconstructed, classes, predicted, chosen & (group == 0), dashed)
        rows.append(
            side_by_side(
                captioned(_draw(image, entering), f"{sign} in: {_noise(denoising, sign)}, {groups} groups"),
                captioned(_draw(image, leaving), f"{sign} out, the first group{mean}"),
            )
        )
    shown = sorted({*labels.tolist(), *noised[real & (group < groups)].tolist()})
    names = [("ground truth", PAPER), *((class_names[k], colour_of(k)) for k in shown)]
    return stacked(*rows, legend(names, rows[0].width))


def check_denoising(model: DETR) -> Denoising:
    """The model's denoising.

    Raises:
        UserError: it has none.
    """
    if model.denoising is None:
        raise UserError("this model has no denoising queries to draw: its config has model.denoising=None")
    return model.denoising


def _noise(denoising: Denoising, sign: str) -> str:
    if not isinstance(denoising, ContrastiveDenoising):
        return f"noise below {denoising.centre_noise_scale:g} (centre), {denoising.size_noise_scale:g} (size)"
    inner = denoising.positive_noise_scale
    if sign == "positives":
        return f"noise below λ1 = {inner:g}"
    return f"noise from λ1 = {inner:g} to λ2 = {denoising.negative_noise_scale:g}"


def _with_ground_truth(image: Image.Image, boxes: Tensor) -> Image.Image:
    """The image at the size of a tile, with the ground truth ([M, 4] normalised xyxy) in white."""
    canvas = draw_boxes(image, [], longer_side=TILE)
    pen = ImageDraw.Draw(canvas)
    scale = torch.tensor([canvas.width, canvas.height] * 2)
    for corners in (boxes.cpu() * scale).tolist():
        draw_rectangle(pen, tuple(corners), PAPER, dashed=False, width=line_width(canvas.size) + 2)
    return canvas


def _boxes(boxes: Tensor, classes: Tensor, labels: list[str], chosen: Tensor, dashed: bool) -> list[LabelledBox]:
    """The chosen ones of boxes [Q, 4] (normalised cxcywh), as normalised xyxy."""
    corners = cxcywh_to_xyxy(boxes)
    corners = torch.cat(
        [torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], 1
    )
    picked = chosen.nonzero()[:, 0].tolist()
    return [LabelledBox(tuple(corners[i].tolist()), int(classes[i]), labels[i], dashed) for i in picked]


def _draw(image: Image.Image, boxes: list[LabelledBox]) -> Image.Image:
    width, height = image.size
    pixels = [
        replace(box, box=(width * box.box[0], height * box.box[1], width * box.box[2], height * box.box[3]))
        for box in boxes
    ]
    return draw_boxes(image, pixels, longer_side=max(image.size))
