# SPDX-License-Identifier: Apache-2.0
"""Helpers for pictures that are made from the outputs of a data mapper."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image


def image_of(mapped: dict[str, Any], image_format: str) -> Image.Image:
    """The model's input as an RGB image.

    Args:
        mapped: output of a data mapper.
        image_format: colour order of its "image", "RGB" or "BGR".
    """
    array = mapped["image"].permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array if image_format == "RGB" else array[:, :, ::-1])


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model's mode is restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
