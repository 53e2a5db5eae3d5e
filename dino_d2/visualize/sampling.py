"""Where a query looks: the sampling points of deformable attention (Deformable DETR section 4.1), layer by layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from dino_d2.errors import UserError
from dino_d2.layers import MultiScaleDeformableAttention, cxcywh_to_xyxy
from dino_d2.layers.ms_deform_attn_reference import sampling_locations_from_offsets
from dino_d2.meta_arch import DETR

from .boxes import LabelledBox, draw_boxes, draw_rectangle
from .mapped import evaluating, image_of
from .sheet import GAP, below, beside, captioned, legend
from .style import PAPER, TILE, Colour, line_width

# Finest level first; not the colours of classes.
LEVEL_COLOURS: tuple[Colour, ...] = ((255, 240, 80), (255, 150, 40), (235, 60, 90), (160, 70, 220), (70, 110, 255))
_LARGEST, _SMALLEST = 11, 3  # radius in pixels of the point with the largest weight, and the least one


class Sampled(NamedTuple):
    """What one decoder layer's deformable attention does for one query; M heads, L levels, P points."""

    points: Tensor  # [M, L, P, 2] (x, y), 0..1 over the image
    weights: Tensor  # [M, L, P]; those of a head sum to one
    reference: Tensor  # [4] cxcywh or [2] xy in 0..1: the anchor that the layer was given
    box: Tensor  # [4] cxcywh in 0..1: what is predicted after the layer
    scores: Tensor  # [C] in 0..1: likewise
    shapes: list[tuple[int, int]]  # (h, w) of each level


def sample(model: DETR, image: Tensor, query: int | None = None) -> tuple[int, list[Sampled]]:
    """Run the model on one image and follow one query through the decoder.

    Args:
        model: with a deformable decoder; left in the mode (training or not) it was in.
        image: [3, H, W] uint8 in the order that the model's mapper reads.
        query: its number, 0 to N - 1; by default that of the detection with the highest score.

    Returns:
        the query's number, and one entry a layer.

    Raises:
        UserError: no deformable attention in the decoder, or no such query.
    """
    attentions = deformable_attentions(model)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def look(attention: nn.Module, inputs: tuple) -> None:
        content, reference_points, _, spatial_shapes, *_ = inputs
        seen.append((content, reference_points, spatial_shapes))

    handles = [attention.register_forward_pre_hook(look) for attention in attentions]
    try:
        with evaluating(model):
            output = model.detector(model.normalise(image)[None])
    finally:
        for handle in handles:
            handle.remove()
    scores = output.logits[:, 0].float().sigmoid()  # [L, N, C]
    number = int(scores[-1].amax(-1).argmax()) if query is None else query
    if not 0 <= number < scores.shape[1]:
        raise UserError(f"there is no query {number}: this image has queries 0 to {scores.shape[1] - 1}")
    layers = []
    for i, (attention, (content, references, spatial_shapes)) in enumerate(zip(attentions, seen, strict=True)):
        one = slice(number, number + 1)
        points, weights = points_and_weights(attention, content[:, one], references[:, one], spatial_shapes)
        layers.append(
            Sampled(
                points=points[0, 0],
                weights=weights[0, 0],
                reference=references[0, number, 0],  # nothing is padded, so it is the same on all levels
                box=output.boxes[i, 0, number].float(),
                scores=scores[i, number],
                shapes=[tuple(shape) for shape in spatial_shapes.tolist()],
            )
        )
    return number, layers


def deformable_attentions(model: DETR) -> list[MultiScaleDeformableAttention]:
    """Those of the decoder, in the order of its layers; UserError where it has none."""
    found = [m for m in model.detector.decoder.modules() if isinstance(m, MultiScaleDeformableAttention)]
    if not found:
        raise UserError("this model's decoder has no deformable attention, so there are no sampling points to draw")
    return found


@torch.no_grad()
def points_and_weights(
    attention: MultiScaleDeformableAttention, query: Tensor, reference_points: Tensor, spatial_shapes: Tensor
) -> tuple[Tensor, Tensor]:
    """Where the module samples, [B, Q, M, L, P, 2] in 0..1, and with which weights, [B, Q, M, L, P].

    The arguments are those of its forward.
    """
    shape = (*query.shape[:2], attention.num_heads, attention.num_levels, attention.num_points)
    offsets = attention.sampling_offsets(query).view(*shape, 2)
    weights = attention.attention_weights(query).view(shape).flatten(3).softmax(-1).view(shape)
    return sampling_locations_from_offsets(reference_points, offsets, spatial_shapes), weights


def panel_of_sampling_points(
    model: DETR, mapped: dict[str, Any], image_format: str, class_names: Sequence[str], query: int | None = None
) -> Image.Image:
    """Draws one picture for each decoder layer: the query's anchor, where it looks, and what it then predicts.

    The anchor that entered the layer is white and dashed, the box predicted after the layer has the colour of its
    class. Points have the colour of their level, and the area of a point goes with its weight. Only the part of the
    image around the boxes is shown.

    Args:
        mapped: what a data mapper gives; `image_format` of its "image", "RGB" or "BGR".
        class_names: the name of class k at index k.
        model, query: see `sample`.
    """
    number, layers = sample(model, mapped["image"], query)
    image = image_of(mapped, image_format)
    view = _view(layers, image.size)
    tiles = [
        captioned(
            _draw(image, layer, view), f"query {number}, layer {i + 1} of {len(layers)}: {_answer(layer, class_names)}"
        )
        for i, layer in enumerate(layers)
    ]
    rows = [beside(*tiles[i : i + 3]) for i in range(0, len(tiles), 3)]
    names = [
        (f"level of stride {round(image.width / width)}", colour)
        for (_, width), colour in zip(layers[0].shapes, LEVEL_COLOURS, strict=False)
    ]
    entries = [("anchor", PAPER), *names]
    return below(*rows, legend(entries, max(row.width for row in rows) - GAP))


def _answer(layer: Sampled, class_names: Sequence[str]) -> str:
    score, class_index = layer.scores.max(-1)
    return f"{class_names[int(class_index)]} {score:.2f}"


def _view(layers: list[Sampled], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of the image to show, xyxy pixels: anchors and boxes of all layers with as much again on each side."""
    width, height = size
    boxes = torch.stack([layer.box.cpu() for layer in layers])
    boxes = cxcywh_to_xyxy(boxes) * torch.tensor([width, height] * 2)
    (left, top), (right, bottom) = boxes[:, :2].amin(0).tolist(), boxes[:, 2:].amax(0).tolist()
    margin = max(right - left, bottom - top, min(size) / 6)
    left, top = max(0, round(left - margin)), max(0, round(top - margin))
    return (
        left,
        top,
        max(left + 1, min(width, round(right + margin))),
        max(top + 1, min(height, round(bottom + margin))),
    )


def _draw(image: Image.Image, layer: Sampled, view: tuple[int, int, int, int]) -> Image.Image:
    size, corner = torch.tensor([image.width, image.height]), torch.tensor(view[:2])

    def in_view(boxes: Tensor) -> Tensor:  # [..., 4] cxcywh in 0..1 -> xyxy in pixels of the view
        return cxcywh_to_xyxy(boxes).cpu() * size.repeat(2) - corner.repeat(2)

    # Words at the box would hide points.
    box = LabelledBox(tuple(in_view(layer.box).tolist()), int(layer.scores.argmax()), label="")
    canvas = draw_boxes(image.crop(view), [box], longer_side=TILE)
    scale = TILE / max(view[2] - view[0], view[3] - view[1])
    pen = ImageDraw.Draw(canvas)
    if len(layer.reference) == 4:
        anchor = in_view(layer.reference) * scale
        draw_rectangle(pen, tuple(anchor.tolist()), PAPER, dashed=True, width=line_width(canvas.size) - 1)
    weights = layer.weights.cpu()
    levels = torch.arange(weights.shape[1])[:, None].expand_as(weights)
    order = weights.flatten().argsort()  # the heaviest on top
    places = ((layer.points.cpu() * size - corner) * scale).flatten(0, 2)[order].tolist()
    radii = (_LARGEST * (weights / weights.max()).sqrt()).clamp(min=_SMALLEST).flatten()[order].tolist()
    for (x, y), radius, level in zip(places, radii, levels.flatten()[order].tolist(), strict=True):
        colour = LEVEL_COLOURS[level % len(LEVEL_COLOURS)]
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(0, 0, 0))
    return canvas
