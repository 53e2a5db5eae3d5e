"""Measures of which query is matched to which object, and from how far its anchor has to come.

Sources: DINO section 3.3 (ATD(k), the two problems of "confusion"), DN-DETR section 3 (equations 1 and 2 for IS, and
the anchor-target distance of section 3.2). Shapes: N queries, M matched pairs, T objects of an image.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dino_d2.meta_arch.detr import QueryPredictions
from dino_d2.modeling.losses.matcher import HungarianMatcher


class ImageMatching(NamedTuple):
    """The M matched pairs of one image, and how they were come by."""

    queries: np.ndarray  # [M] int32
    targets: np.ndarray  # [M] int32 index among the image's objects
    distances: np.ndarray  # [M] float32: L1 from the object's box to the query's initial anchor, NaN without anchors
    farther: np.ndarray  # [M] bool: another query's anchor lay nearer to the object
    small: np.ndarray  # [M] bool: the object is small


class Image(NamedTuple):
    """Predictions for one image and its T objects, on the host."""

    predictions: QueryPredictions
    labels: Tensor  # [T] int64
    boxes: Tensor  # [T, 4] cxcywh in [0, 1]
    small: Tensor  # [T] bool


def match_images(matcher: HungarianMatcher, images: Sequence[Image]) -> list[ImageMatching]:
    """Match the last layer's boxes as training does, and look back at the anchors they started from.

    Args:
        matcher: that of the training losses.
        images: with the same number of queries.
    """
    labels, boxes = [image.labels for image in images], [image.boxes for image in images]
    logits, predicted, anchors = (torch.stack(parts) for parts in zip(*(x.predictions for x in images), strict=True))
    matches = matcher(logits[None], predicted[None], labels, boxes)
    counts = torch.bincount(matches.image, minlength=len(images)).tolist()
    queries, targets = matches.query[0], matches.target[0]  # [M] of all images together
    truth = pad_sequence(boxes, batch_first=True)[matches.image, targets]  # [M, 4]
    if anchors.shape[-1] == 4:
        distances = (truth[:, None] - anchors[matches.image]).abs().sum(-1)  # [M, N]
        own = distances.gather(1, queries[:, None])[:, 0]
        farther = own > distances.amin(1)
    else:  # points, or embeddings without a place
        own = torch.full((len(queries),), float("nan"))
        farther = torch.zeros(len(queries), dtype=torch.bool)
    small = pad_sequence([image.small for image in images], batch_first=True)[matches.image, targets]
    parts = (queries.int(), targets.int(), own, farther, small)
    ends = np.cumsum(counts)[:-1]
    return [ImageMatching(*pairs) for pairs in zip(*(np.split(part.numpy(), ends) for part in parts), strict=True)]


def average_top_distance(distances: np.ndarray, k: int) -> float:
    """ATD(k), DINO section 3.3: the mean of the k largest anchor-target distances of a whole validation set.

    The k largest, for confusion is likelier where an object was matched with a far anchor. Of fewer than k objects,
    the mean of all; NaN of none.

    Args:
        distances: [number of objects] L1 distances of boxes (cxcywh in [0, 1]) and initial anchors.
    """
    if len(distances) == 0:
        return float("nan")
    return float(np.sort(distances)[-k:].mean(dtype=np.float64))


def instability(before: Mapping, now: Mapping) -> float:
    """IS, equations 1 and 2 of DN-DETR: queries of an image that changed their object (or lost or found one).

    With V_n the object of query n, or -1, IS of an image is the number of queries whose V_n differs between two
    evaluations; the mean over images is returned. At most every query of either matching differs, so that it is no
    more than twice the mean number of objects.

    Args:
        before, now: {image id: (queries [M], targets [M])}; images that are in both count.
    """
    changed = []
    for image, (queries, targets) in now.items():
        if image in before:
            earlier = set(zip(*(part.tolist() for part in before[image]), strict=True))
            later = set(zip(queries.tolist(), targets.tolist(), strict=True))
            # A query that went from one object to another is in both differences, and counts once.
            changed.append(len({query for query, _ in earlier ^ later}))
    return float(np.mean(changed)) if changed else float("nan")
