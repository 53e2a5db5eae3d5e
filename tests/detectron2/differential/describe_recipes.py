# SPDX-License-Identifier: Apache-2.0
"""Prints as JSON what every recipe of configs/ becomes under the engine of this process.

`describe_recipes.py FOLDER` also leaves each recipe's config.yaml in FOLDER.
"""

import enum
import json
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from dino_d2.detectron2.config import LazyConfig, instantiate

ROOT = Path(__file__).parents[3]
RECIPES = sorted(p for p in (ROOT / "configs").rglob("*.py") if not {"common", "backbones"} & set(p.parts))


def name_of(thing: Any) -> str:
    """Where a class or function lives, engines aside."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    return name.replace("dino_d2.detectron2.embedded.", "detectron2.")


def describe(thing: Any) -> Any:
    """Class and public attributes of an object, and of those of its attributes, as far as JSON goes."""
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, torch.Tensor):
        return [type(thing).__name__, list(thing.shape), str(thing.dtype), thing.requires_grad]
    if OmegaConf.is_config(thing):
        return describe(OmegaConf.to_container(thing, resolve=False))
    if isinstance(thing, dict):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple | set | range):
        return [describe(value) for value in thing]
    if isinstance(thing, torch.dtype | torch.device | enum.Enum | Path):
        return str(thing)
    if isinstance(thing, type) or not hasattr(thing, "__dict__"):
        return name_of(thing) if hasattr(thing, "__qualname__") else repr(thing)
    if hasattr(thing, "__qualname__"):
        return name_of(thing)
    public = {name: describe(value) for name, value in vars(thing).items() if not name.startswith("_")}
    if isinstance(thing, nn.Module):
        public |= {name: describe(value) for name, value in thing.named_children()}
        public |= {name: describe(value) for name, value in thing.named_parameters(recurse=False)}
        public |= {name: describe(value) for name, value in thing.named_buffers(recurse=False)}
    return {"": name_of(type(thing)), **public}


def describe_recipe(path: Path, folder: Path) -> dict[str, Any]:
    cfg = LazyConfig.load(str(path))
    if "data" in cfg:  # a recipe for a folder of the user's own, who gives the paths
        for split in ("train", "val"):
            cfg.data[split] = {"json": f"{split}.json", "images": split}
    LazyConfig.save(cfg, str(folder / f"{path.stem}.yaml"))
    if "pretrained" in cfg.model.detector.backbone:
        cfg.model.detector.backbone.pretrained = False
    if "data" in cfg:
        cfg.model.detector.num_classes = 7
    with torch.device("meta"):  # shapes alone
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = instantiate(cfg.optimizer)
    schedule = instantiate(cfg.lr_multiplier)
    mappers = [instantiate(cfg.dataloader[split].mapper) for split in ("train", "test")]
    for split in ("train", "test"):
        del cfg.dataloader[split].mapper  # what is left needs no data on this machine to be described
    return {
        "model": describe(model),
        "optimizer": [
            {key: [names[p] for p in value] if key == "params" else describe(value) for key, value in group.items()}
            for group in optimizer.param_groups
        ],
        "schedule": [schedule(step / 97) for step in range(97)],
        "mappers": describe(mappers),
        "dataloader": describe(cfg.dataloader),
        "train": describe(cfg.train),
    }


if __name__ == "__main__":
    recipes = {p.relative_to(ROOT).as_posix(): describe_recipe(p, Path(sys.argv[1])) for p in RECIPES}
    print(json.dumps(recipes))
