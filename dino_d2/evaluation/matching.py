# SPDX-License-Identifier: Apache-2.0
"""Measures of the matching: which query is matched to which object, and how far its anchor is from the object.

Sources: DINO section 3.3 (ATD(k), the two problems of "confusion"), DN-DETR section 3 (equations 1 and 2 for IS, and
the anchor-target distance of section 3.2).
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
    """The P matched pairs of one image."""

    queries: np.ndarray  # [P] int32
    targets: np.ndarray  # [P] int32 index among the image's objects
    distances: np.ndarray  # [P] float32: L1 of the object's box and the query's initial anchor, NaN without anchors
    farther: np.ndarray  # [P] bool: another query's anchor is nearer to the object
    small: np.ndarray  # [P] bool: the object is small


class Image(NamedTuple):
    """Predictions for one image and its M objects, on the CPU."""

    predictions: QueryPredictions
    labels: Tensor  # [M] int64
    boxes: Tensor  # [M, 4] cxcywh in [0, 1]
    small: Tensor  # [M] bool


def match_images(matcher: HungarianMatcher, images: Sequence[Image]) -> list[ImageMatching]:
    """Match the last layer's predictions as training does, and measure the distance of each object to its anchor.

    Args:
        matcher: the matcher of the training losses.
        images: all with the same number of queries.
    """
    labels, boxes = [image.labels for image in images], [image.boxes for image in images]
    logits, predicted, anchors = (torch.stack(parts) for parts in zip(*(x.predictions for x in images), strict=True))
    matches = matcher(logits[None], predicted[None], labels, boxes)
    counts = torch.bincount(matches.image, minlength=len(images)).tolist()
    queries, targets = matches.query[0], matches.target[0]  # [P] of all images together
    truth = pad_sequence(boxes, batch_first=True)[matches.image, targets]  # [P, 4]
    if anchors.shape[-1] == 4:
        distances = (truth[:, None] - anchors[matches.image]).abs().sum(-1)  # [P, N]
        own = distances.gather(1, queries[:, None])[:, 0]
        farther = own > distances.amin(1)
    else:  # the anchors are points, or embeddings without a position
        own = torch.full((len(queries),), float("nan"))
        farther = torch.zeros(len(queries), dtype=torch.bool)
    small = pad_sequence([image.small for image in images], batch_first=True)[matches.image, targets]
    parts = (queries.int(), targets.int(), own, farther, small)
    ends = np.cumsum(counts)[:-1]
    return [ImageMatching(*pairs) for pairs in zip(*(np.split(part.numpy(), ends) for part in parts), strict=True)]


def average_top_distance(distances: np.ndarray, k: int) -> float:
    """ATD(k), DINO section 3.3: the mean of the k largest anchor-target distances of a validation set.

    The largest distances count because confusion is more likely for objects that are matched with a distant anchor.
    With fewer than k objects it is the mean of all, and NaN without objects.

    Args:
        distances: [number of objects] L1 distances of boxes (cxcywh in [0, 1]) and initial anchors.
    """
    if len(distances) == 0:
        return float("nan")
    return float(np.sort(distances)[-k:].mean(dtype=np.float64))


def instability(before: Mapping, now: Mapping) -> float:
    """IS, equations 1 and 2 of DN-DETR: the number of queries of an image that are matched differently than before.

    With V_n the index of the object of query n, or -1, IS of an image is the number of queries whose V_n differs
    between two evaluations. At most all matched queries of both evaluations differ, so IS is at most twice the number
    of objects.

    Args:
        before, now: {image id: (queries [P], targets [P])}; only images in both count.

    Returns:
        the mean over images.
    """
    changed = []
    for image, (queries, targets) in now.items():
        if image in before:
            earlier = set(zip(*(part.tolist() for part in before[image]), strict=True))
            later = set(zip(queries.tolist(), targets.tolist(), strict=True))
            # A query that changed from one object to another is in both differences and counts once.
            changed.append(len({query for query, _ in earlier ^ later}))
    return float(np.mean(changed)) if changed else float("nan")
