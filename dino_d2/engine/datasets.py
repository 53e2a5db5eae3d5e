# SPDX-License-Identifier: Apache-2.0
"""Checks of a run's datasets before anything expensive starts."""

import difflib
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dino_d2.data.check import DatasetError, check, table
from dino_d2.data.check.findings import image_findings
from dino_d2.data.check.registered import check_registered
from dino_d2.data.check.splits import shared_names
from dino_d2.data.check.structure import load
from dino_d2.data.coco_format import source_of, table_dicts_of
from dino_d2.detectron2.config import instantiate
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.errors import UserError

from .best_checkpoint import check_metric

logger = logging.getLogger(__name__)

#: Number of image files opened at the start of a run, in about a second; `python -m dino_d2.data.check` reads all.
OPEN_AT_MOST = 2000


def check_datasets(cfg: DictConfig, splits: tuple[str, ...] = ("train", "test")) -> None:
    """Check the datasets of ``cfg.dataloader`` before the model is built.

    Raises:
        DatasetError: a dataset cannot be used, or the splits have different classes.
        UserError: a dataset is not known, or the model has another number of classes.
    """
    names = {split: dataset_names(cfg, split) for split in splits}
    images = {
        name: _check_dataset(name, evaluated=name in names.get("test", []))
        for name in dict.fromkeys(name for of_split in names.values() for name in of_split)
    }
    for train, test in itertools.product(names.get("train", []), names.get("test", [])):
        trained, tested = images[train], images[test]
        if trained and tested:
            for finding in shared_names(*trained, *tested):
                logger.warning("%s and %s: %s", train, test, finding)
    classes = {name: class_list(name) for of_split in names.values() for name in of_split if class_list(name)}
    _check_same_classes(classes)
    model_classes = instantiate(OmegaConf.select(cfg, "model.detector.num_classes"))
    for name, of_dataset in classes.items():
        if isinstance(model_classes, int) and len(of_dataset) != model_classes:
            raise UserError(
                f"model.detector.num_classes={model_classes}, but the dataset {name} has {len(of_dataset)} classes "
                f"({', '.join(of_dataset[:5])}{', ...' if len(of_dataset) > 5 else ''}). Leave num_classes to the "
                "recipes for own data, which count (docs/custom_data.md), or set "
                f"model.detector.num_classes={len(of_dataset)}."
            )


def check_evaluator(cfg: DictConfig) -> None:
    """Build the evaluator once before training, so that faults of the evaluation appear before the training.

    A dataset that is registered by a function is converted to COCO format here.

    Raises:
        UserError: ``cfg.dataloader.evaluator`` cannot be built, or does not give the result that ``cfg.train.best``
            names.
    """
    try:
        evaluator = instantiate(OmegaConf.select(cfg, "dataloader.evaluator"))
    except (UserError, DatasetError):
        raise
    except Exception as error:  # an evaluator of the user's own may fail in every way
        raise UserError(
            f"dataloader.evaluator cannot be built, so the model could not be evaluated after training: "
            f"{type(error).__name__}: {error}"
        ) from error
    if metric := OmegaConf.select(cfg, "train.best"):
        check_metric(metric, evaluator)


def check_names(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: ``cfg.dataloader`` names a dataset that is not in the catalog; the nearest one is named.
    """
    known = DatasetCatalog.list()
    for split in ("train", "test"):
        names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names")
        for name in [names] if isinstance(names, str) else names if OmegaConf.is_list(names) else []:
            if isinstance(name, str) and name not in known:
                nearest = difflib.get_close_matches(name, known, n=1)
                raise UserError(
                    f"dataloader.{split}.dataset.names: {name!r} is not in Detectron2's DatasetCatalog. "
                    + (f"Did you mean {nearest[0]}? " if nearest else "")
                    + "For data of your own use configs/dino/dino_r50_4scale_custom.py with data.root=FOLDER, or "
                    "register it in the config file."
                )


def dataset_names(cfg: DictConfig, split: str) -> list[str]:
    """The catalog names of the split's datasets; none where the loader is not of Detectron2's kind."""
    names = instantiate(OmegaConf.select(cfg, f"dataloader.{split}.dataset.names"))
    return [names] if isinstance(names, str) else list(names or [])


def class_list(name: str) -> list[str]:
    return list(MetadataCatalog.get(name).get("thing_classes") or [])


def _check_dataset(name: str, evaluated: bool) -> tuple[dict, Path] | None:
    """The entries of the images and their folder; None where the dataset is not one of `coco_format`."""
    if source := source_of(name):
        return {"images": _check_coco_format(name, *source)}, source.images
    metadata = MetadataCatalog.get(name)
    if not metadata.get("json_file") and name in DatasetCatalog:
        check_registered(name, evaluated)
        return None
    for what in ("json_file", "image_root"):
        path = metadata.get(what)
        if path and "://" not in str(path) and not Path(path).exists():
            raise DatasetError(
                f"dataset {name}: {path} does not exist (looked from {Path.cwd()}). Set the environment variable "
                "DETECTRON2_DATASETS to the folder that has coco/, or use configs/dino/dino_r50_4scale_custom.py "
                "with data.root=FOLDER for a dataset elsewhere."
            )
    return None


def _check_coco_format(name: str, json: Path, images: Path, within: Path) -> Sequence[dict]:
    entries: Sequence[dict]
    if dicts := table_dicts_of(name):
        entries = dicts.images
        files = list(entries[:OPEN_AT_MOST])
        findings = [*dicts.table.findings, *image_findings(files, images, decode=False)]
    else:
        raw = load(json, images)
        entries = raw["images"]
        findings = check(raw, images, open_at_most=OPEN_AT_MOST, decode=False, within=within, json=json)
    errors = [finding for finding in findings if finding.is_error]
    if errors:
        raise DatasetError(f"{json}: " + "\n  ".join(map(str, errors)))
    if findings:
        logger.warning("%s:\n%s", json, table(findings))
    return entries


def _check_same_classes(classes: dict[str, list[str]]) -> None:
    """Check that class k is the same in all datasets."""
    if not classes:
        return
    (name, expected), *others = classes.items()
    for other, found in others:
        if found != expected:
            only = [f"only in {name}: {c}" for c in expected if c not in found]
            only += [f"only in {other}: {c}" for c in found if c not in expected]
            raise DatasetError(
                f"datasets {name} and {other} have different categories: "
                f"{'; '.join(only[:6]) or 'the same names with their ids in another order'}. Give both jsons the same "
                "'categories' list."
            )
