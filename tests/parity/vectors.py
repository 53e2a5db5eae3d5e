# SPDX-License-Identifier: Apache-2.0
"""Reference vectors: files with the inputs and outputs of the authors' code, and the weights it ran with."""

import json
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


def rule_tensor(name: str, shape: list[int], seed: int) -> np.ndarray:
    """The weight that a tensor of this (rule) name has in all reference vectors; no weights are stored."""
    rng = np.random.Generator(np.random.PCG64((zlib.crc32(name.encode()) + 1000003 * seed) % 2**32))
    x = rng.standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.exp(0.1 * x)
    if name.endswith("running_mean"):
        return 0.1 * x
    if "sampling_offsets.bias" in name:
        return 2.0 * x
    if len(shape) <= 1:
        return 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    scale = np.float32(0.3 if "bbox_embed" in name else 1.0)
    # In float64 and then rounded, whatever the NumPy version.
    return ((scale * x).astype(np.float64) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@lru_cache(maxsize=320)  # those of one ResNet-50: 0.1 GB
def _resnet_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """`rule_tensor` of a backbone that most vectors have in common."""
    return torch.from_numpy(np.array(rule_tensor(name, list(shape), seed)))


@lru_cache(maxsize=1)
def _state_dict(vector: "Vector") -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    seed, is_resnet = vector.meta["weight_seed"], "resnet" in str(vector.args.get("backbone"))
    for _, shape, name in vector.meta["keys"]:
        if name not in made:
            make = _resnet_tensor if is_resnet and name.startswith("backbone.") else _resnet_tensor.__wrapped__
            made[name] = make(name, tuple(shape), seed)
    return {name: made[rule_name] for name, _, rule_name in vector.meta["keys"]}


def forget_weights() -> None:
    """Free those of the last vector: Swin-L's take 0.9 GB."""
    _state_dict.cache_clear()


class Vector:
    """One file."""

    def __init__(self, path: Path):
        self.path = path
        self.file = np.load(path)
        self.names = set(self.file.files)
        self.meta: dict = json.loads(str(self.file["meta"])) if "meta" in self.names else {}
        self.args: dict = self.meta.get("args", {})

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.file[name]))

    def __contains__(self, name: str) -> bool:
        return name in self.names

    @property
    def system(self) -> str:
        """Which detector the file is of, by its authors' name."""
        return self.meta.get("system", "unknown system")

    @property
    def kind(self) -> str:
        """What is to be done with the file: the name that a test module gives as its KIND."""
        if "sampling_locations" in self.names:
            return "ms_deform_attn"
        part = self.meta.get("part", self.meta.get("mode", "unknown part"))
        return f"{self.system} {part}"

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """The authors' state dict, made by the rule. Models take these very tensors: they must not be written to."""
        return _state_dict(self)

    @property
    def images(self) -> list[Tensor]:
        """[3, H, W] uint8 RGB."""
        return [self[f"image{i}"].permute(2, 0, 1) for i in range(len(self.meta["image_sizes"]))]

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """The normalised, padded images [B, 3, H, W] and their padding mask [B, H, W]."""
        mean, std = torch.tensor(PIXEL_MEAN).view(3, 1, 1), torch.tensor(PIXEL_STD).view(3, 1, 1)
        mask = self["mask"].bool()
        images = torch.zeros(len(mask), 3, *mask.shape[1:])
        for padded, image in zip(images, self.images, strict=True):
            padded[:, : image.shape[1], : image.shape[2]] = (image / 255 - mean) / std
        return images, mask

    @property
    def targets(self) -> tuple[list[Tensor], list[Tensor]]:
        """Labels [n] and boxes [n, 4] (cxcywh in [0, 1]) of each image."""
        count = len(self.meta["target_counts"])
        return [self[f"target{i}.labels"] for i in range(count)], [self[f"target{i}.boxes"] for i in range(count)]

    @property
    def num_classes(self) -> int:
        return self.args.get("num_classes", self.meta.get("num_classes"))

    @property
    def layers(self) -> list[str]:
        """Names of the decoder layers' outputs, first layer first; full-size files store the last one alone."""
        return [f"aux{k}" for k in range(self.args["dec_layers"] - 1)] + ["out"]
