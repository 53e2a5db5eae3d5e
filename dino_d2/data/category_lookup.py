# SPDX-License-Identifier: Apache-2.0
"""Class names of the dataset that a recipe names, without registering, generating or checking the dataset."""

import json as json_module
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dino_d2.data.coco_format import categories, coco_format
from dino_d2.data.folders import custom_dataset, find_json
from dino_d2.data.objects365 import objects365
from dino_d2.data.shapes import CLASSES, shapes
from dino_d2.detectron2.data import MetadataCatalog
from dino_d2.detectron2.utils.registry import locate
from dino_d2.errors import UserError


def look_up_categories(dataset: str | DictConfig | ListConfig) -> list[dict]:
    """Categories of a dataset, from the catalogs or its annotation file.

    Nothing is written, registered or downloaded, and no image is looked at.

    Args:
        dataset: ``dataloader.test.dataset.names`` of a recipe: a name in the catalogs, a call of one of the dataset
            functions of ``dino_d2.data``, or a list of these, whose categories are the same.

    Returns:
        [{"id", "name"}] as in the annotation file, in the order of the model's classes.

    Raises:
        UserError: the names cannot be found; the message says why.
    """
    if isinstance(dataset, ListConfig) and len(dataset):
        dataset = dataset[0]
    if isinstance(dataset, str):
        known = categories(dataset) if dataset in MetadataCatalog.list() else None
        if known is None:
            raise UserError(f"the dataset {dataset!r} is not registered, or has no class names")
        return known
    if not isinstance(dataset, DictConfig) or "_target_" not in dataset:
        raise UserError("the recipe names no dataset")
    target = locate(dataset._target_) if isinstance(dataset._target_, str) else dataset._target_
    if target not in _READERS:
        raise UserError(f"the dataset comes from {getattr(target, '__name__', target)}, which would have to be called")
    try:
        arguments = OmegaConf.to_container(dataset, resolve=True, throw_on_missing=True)
        assert isinstance(arguments, dict)  # as the config is one
        return _READERS[target](**{str(name): value for name, value in arguments.items() if name != "_target_"})
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError, RecursionError, OmegaConfBaseException) as error:
        raise UserError(f"the dataset's annotations cannot be read: {type(error).__name__}: {error}") from error


def _in_file(json: str | os.PathLike, **_: Any) -> list[dict]:
    content = json_module.loads(Path(json).expanduser().read_text(encoding="utf-8-sig"))
    found = [{"id": category["id"], "name": category["name"]} for category in content["categories"]]
    return sorted(found, key=lambda category: category["id"])


def _in_folder(
    split: str, root: str | os.PathLike | None = None, json: str | os.PathLike | None = None, **_: Any
) -> list[dict]:
    if json is not None:
        return _in_file(json)
    if root is None:
        raise UserError(f"no {split} dataset is given (data.root)")
    return _in_file(find_json(Path(root).expanduser(), split))


def _of_objects365(split: str, root: str | os.PathLike | None = None, **_: Any) -> list[dict]:
    folder = Path(root or Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "objects365")
    return _in_file(folder / "annotations" / f"zhiyuan_objv2_{'train' if split == 'train' else 'val'}.json")


def _of_shapes(**_: Any) -> list[dict]:
    return [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]


_READERS: dict[Callable, Callable[..., list[dict]]] = {
    coco_format: _in_file,
    custom_dataset: _in_folder,
    objects365: _of_objects365,
    shapes: _of_shapes,
}
