"""What a data mapper has made of an image, for pictures of the inside of a model."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image


def image_of(mapped: dict[str, Any], image_format: str) -> Image.Image:
    """The image as the model sees it, RGB; `image_format` says the order of its channels in `mapped`."""
    array = mapped["image"].permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array if image_format == "RGB" else array[:, :, ::-1])


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode and keeps no gradients; afterwards it is in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
