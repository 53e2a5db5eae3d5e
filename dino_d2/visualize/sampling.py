# SPDX-License-Identifier: Apache-2.0
"""Pictures of the sampling points of a query in deformable attention (Deformable DETR section 4.1), layer by layer."""

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
from .sheet import GAP, captioned, legend, side_by_side, stacked
from .style import PAPER, TILE, Colour, line_width

#: Colours of the levels, finest first; classes have others.
LEVEL_COLOURS: tuple[Colour, ...] = ((255, 240, 80), (255, 150, 40), (235, 60, 90), (160, 70, 220), (70, 110, 255))
_LARGEST, _SMALLEST = 11, 3  # radius of a point in pixels: with the largest weight, and at least


class LayerSampling(NamedTuple):
    """The deformable attention of one decoder layer for one query, and the layer's prediction."""

    points: Tensor  # [heads, V, R, 2] (x, y), 0..1 over the image
    weights: Tensor  # [heads, V, R]; those of a head sum to one
    reference: Tensor  # [4] cxcywh or [2] xy in 0..1: the anchor that enters the layer
    box: Tensor  # [4] cxcywh in 0..1: predicted after the layer
    scores: Tensor  # [C] in 0..1: predicted after the layer
    shapes: list[tuple[int, int]]  # (h, w) of each level


def sample(model: DETR, image: Tensor, query: int | None = None) -> tuple[int, list[LayerSampling]]:
    """Run the model on one image and record the sampling of one query in every decoder layer.

    Args:
        model: with a deformable decoder; its training or evaluation mode is restored afterwards.
        image: [3, H, W] uint8 in the colour order of the model's mapper.
        query: index of the query, 0 to N - 1; by default that of the detection with the highest score.

    Returns:
        the index of the query, and one entry for each layer.

    Raises:
        UserError: the decoder has no deformable attention, or there is no such query.
    """
    attentions = deformable_attentions(model)
    recorded: list[tuple[Tensor, Tensor, Tensor]] = []

    def record(attention: nn.Module, inputs: tuple) -> None:
        content, reference_points, _, spatial_shapes, *_ = inputs
        recorded.append((content, reference_points, spatial_shapes))

    handles = [attention.register_forward_pre_hook(record) for attention in attentions]
    try:
        with evaluating(model):
            output = model.detector(model.normalise(image)[None])
    finally:
        for handle in handles:
            handle.remove()
    scores = output.logits[:, 0].float().sigmoid()  # [L, N, C]
    number = int(scores[-1].amax(-1).argmax()) if query is None else query
    if not 0 <= number < scores.shape[1]:
        raise UserError(f"there is no query {number}; this model has queries 0 to {scores.shape[1] - 1}")
    layers = []
    for i, (attention, (content, references, spatial_shapes)) in enumerate(zip(attentions, recorded, strict=True)):
        one = slice(number, number + 1)
        points, weights = points_and_weights(attention, content[:, one], references[:, one], spatial_shapes)
        layers.append(
            LayerSampling(
                points=points[0, 0],
                weights=weights[0, 0],
                reference=references[0, number, 0],  # equal on all levels, because the image is not padded
                box=output.boxes[i, 0, number].float(),
                scores=scores[i, number],
                shapes=[tuple(shape) for shape in spatial_shapes.tolist()],
            )
        )
    return number, layers


def deformable_attentions(model: DETR) -> list[MultiScaleDeformableAttention]:
    """Deformable attention modules of the decoder, in the order of its layers.

    Raises:
        UserError: the decoder has none.
    """
    found = [
        m for m in model.detector.get_submodule("decoder").modules() if isinstance(m, MultiScaleDeformableAttention)
    ]
    if not found:
        raise UserError("this model's decoder has no deformable attention, so there are no sampling points to draw")
    return found


@torch.no_grad()
def points_and_weights(
    attention: MultiScaleDeformableAttention, query: Tensor, reference_points: Tensor, spatial_shapes: Tensor
) -> tuple[Tensor, Tensor]:
    """Sampling points [B, N, heads, V, R, 2] in 0..1 and weights [B, N, heads, V, R] of a module.

    The arguments are those of the module's ``forward``.
    """
    shape = (*query.shape[:2], attention.num_heads, attention.num_levels, attention.num_points)
    offsets = attention.sampling_offsets(query).view(*shape, 2)
    weights = attention.attention_weights(query).view(shape).flatten(3).softmax(-1).view(shape)
    return sampling_locations_from_offsets(reference_points, offsets, spatial_shapes), weights


def panel_of_sampling_points(
    model: DETR, mapped: dict[str, Any], image_format: str, class_names: Sequence[str], query: int | None = None
) -> Image.Image:
    """Draw one picture for each decoder layer: the query's anchor, its sampling points and its prediction.

    The anchor that enters the layer is white and dashed; the box that is predicted after the layer has the colour of
    its class. Points have the colour of their level, and their area grows with their weight. The picture shows the part
    of the image around the boxes.

    Args:
        mapped: output of a data mapper.
        image_format: colour order of its "image", "RGB" or "BGR".
        class_names: the name of class k at index k.
        model, query: see `sample`.
    """
    number, layers = sample(model, mapped["image"], query)
    image = image_of(mapped, image_format)
    view = _view(layers, image.size)
    tiles = [
        captioned(
            _draw(image, layer, view),
            f"query {number}, layer {i + 1} of {len(layers)}: {_prediction(layer, class_names)}",
        )
        for i, layer in enumerate(layers)
    ]
    rows = [side_by_side(*tiles[i : i + 3]) for i in range(0, len(tiles), 3)]
    names = [
        (f"level of stride {round(image.width / width)}", colour)
        for (_, width), colour in zip(layers[0].shapes, LEVEL_COLOURS, strict=False)
    ]
    entries = [("anchor", PAPER), *names]
    return stacked(*rows, legend(entries, max(row.width for row in rows) - GAP))


def _prediction(layer: LayerSampling, class_names: Sequence[str]) -> str:
    score, class_index = layer.scores.max(-1)
    return f"{class_names[int(class_index)]} {score:.2f}"


def _view(layers: list[LayerSampling], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of the image to show, in xyxy pixels: the boxes of all layers with a margin of their size."""
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


def _draw(image: Image.Image, layer: LayerSampling, view: tuple[int, int, int, int]) -> Image.Image:
    size, corner = torch.tensor([image.width, image.height]), torch.tensor(view[:2])

    def in_view(boxes: Tensor) -> Tensor:  # [..., 4] cxcywh in 0..1 -> xyxy in pixels of the view
        return cxcywh_to_xyxy(boxes).cpu() * size.repeat(2) - corner.repeat(2)

    # A label would hide points.
    box = LabelledBox(tuple(in_view(layer.box).tolist()), int(layer.scores.argmax()), label="")
    canvas = draw_boxes(image.crop(view), [box], longer_side=TILE)
    scale = TILE / max(view[2] - view[0], view[3] - view[1])
    pen = ImageDraw.Draw(canvas)
    if len(layer.reference) == 4:
        anchor = in_view(layer.reference) * scale
        draw_rectangle(pen, tuple(anchor.tolist()), PAPER, dashed=True, width=line_width(canvas.size) - 1)
    weights = layer.weights.cpu()
    levels = torch.arange(weights.shape[1])[:, None].expand_as(weights)
    order = weights.flatten().argsort()  # the largest weights on top
    places = ((layer.points.cpu() * size - corner) * scale).flatten(0, 2)[order].tolist()
    radii = (_LARGEST * (weights / weights.max()).sqrt()).clamp(min=_SMALLEST).flatten()[order].tolist()
    for (x, y), radius, level in zip(places, radii, levels.flatten()[order].tolist(), strict=True):
        colour = LEVEL_COLOURS[level % len(LEVEL_COLOURS)]
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(0, 0, 0))
    return canvas
