# SPDX-License-Identifier: Apache-2.0
"""Models and batches for the benchmarks, from any config."""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from measure import DTYPES
from PIL import Image
from torch import Tensor, nn

from dino_d2.detectron2.config import instantiate
from dino_d2.engine.config import disable_pretrained_weights, read_config
from dino_d2.errors import UserError
from dino_d2.speed.memory import keep_freed_memory

CONFIG = "configs/dino/dino_r50_4scale_12ep.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line arguments for the model, the device, the cases and the output."""
    parser.add_argument("--config-file", default=CONFIG, help=f"recipe to measure (default {CONFIG})")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer cases: at most three minutes on two cores")
    parser.add_argument("--size", nargs=2, type=int, action="append", metavar=("H", "W"), help="only these sizes")
    parser.add_argument("--batch", type=int, action="append", help="only these batch sizes")
    parser.add_argument(
        "--dtype", choices=DTYPES, action="append", help="only these dtypes; half precision uses autocast"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="time per implementation and case")
    parser.add_argument("--json", type=Path, help="write the medians to this file")
    parser.add_argument(
        "--profile", type=Path, help="write a trace of one run of the first case to this file instead of timing"
    )
    parser.add_argument("overrides", nargs="*", help="config overrides, such as model.detector.num_classes=91")


def load(config_file: str, overrides: list[str]):
    """The config with a randomly initialised backbone; the speed does not depend on weights."""
    try:
        cfg = read_config(config_file, overrides)
    except UserError as error:
        sys.exit(f"error: {error}")
    disable_pretrained_weights(cfg)
    return cfg


def make_model(cfg, device: str) -> nn.Module:
    """The config's model; the process is set up as by train_net.py."""
    if device == "cpu":
        keep_freed_memory()
    return make_plain_model(cfg, device)


def make_plain_model(cfg, device: str) -> nn.Module:
    """The config's model, without changing the process."""
    torch.manual_seed(0)
    return instantiate(cfg.model).to(device)


def random_image(height: int, width: int) -> Tensor:
    """[3, H, W] uint8, as smooth as a photograph, so that its file has a realistic size."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, max(1, height // 16), max(1, width // 16), generator=generator) * 255
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].to(torch.uint8)


def image_inputs(height: int, width: int, batch: int) -> list[dict]:
    """Images for evaluation, on the CPU as the data loader returns them."""
    return [{"image": random_image(height, width), "image_id": i} for i in range(batch)]


def annotated_images(folder: Path, height: int, width: int, count: int, num_classes: int, objects: int = 10) -> list:
    """Write JPEG files of one size; returns their dataset dicts with random objects (COCO has seven in an image)."""
    generator = np.random.default_rng(0)
    dicts = []
    for i in range(count):
        path = folder / f"{i}.jpg"
        Image.fromarray(random_image(height, width).permute(1, 2, 0).numpy()).save(path, quality=90)
        corner = generator.random((objects, 2)) * 0.6
        side = 0.05 + generator.random((objects, 2)) * 0.3
        boxes = np.concatenate([corner, side], 1) * [width, height, width, height]
        annotations = [
            {"bbox": box.tolist(), "bbox_mode": 1, "category_id": int(generator.integers(num_classes))}  # XYWH_ABS
            for box in boxes
        ]
        dicts.append(
            {"file_name": str(path), "height": height, "width": width, "image_id": i, "annotations": annotations}
        )
    return dicts
