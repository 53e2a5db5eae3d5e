# SPDX-License-Identifier: Apache-2.0
"""A few generated images for runs of seconds."""

from pathlib import Path

from dino_d2.data.shapes import Recipe, generate

#: Overrides that make dino_tiny_shapes a model of seconds on a CPU.
THIN = [
    "model.detector.encoder.num_layers=1",
    "model.detector.decoder.num_layers=2",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "train.device=cpu",
]


def generate_shapes(root: Path, train: int, val: int) -> list[str]:
    """Draw so many images of 64 pixels below ``root``; returns the overrides with which a shapes recipe takes them."""
    generate(root, Recipe(train=train, val=val, size=64))
    size = [f"train={train}", f"val={val}", "size=64"]
    return [
        f"dataloader.train.dataset.names.root={root}",
        *[f"+dataloader.{split}.dataset.names.{value}" for split in ("train", "test") for value in size],
    ]
