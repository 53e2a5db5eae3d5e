# SPDX-License-Identifier: Apache-2.0
"""Data loaders, as in `detectron2.data.build`."""

import itertools
import logging
import operator
from collections.abc import Callable
from typing import Any

import torch
from tabulate import tabulate
from termcolor import colored
from torch.utils.data import DataLoader, Dataset, Sampler

from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset, length
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, TrainingSampler

logger = logging.getLogger("detectron2.data.build")


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """The images that have at least one annotation which is no crowd."""
    kept = [image for image in dataset_dicts if any(not a.get("iscrowd", 0) for a in image["annotations"])]
    removed = len(dataset_dicts) - len(kept)
    logger.info("Removed %d images with no usable annotations. %d images left.", removed, len(kept))
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: list[str]) -> None:
    """Log how many objects (crowds not counted) each class has."""
    counts = dict.fromkeys(range(len(class_names)), 0)
    for image in dataset_dicts:
        for category in (a["category_id"] for a in image["annotations"] if not a.get("iscrowd", 0)):
            if category not in counts:
                raise AssertionError(
                    f"Image {image.get('image_id', image.get('file_name'))} has category_id {category}; "
                    f"the dataset's classes are 0..{len(class_names) - 1}."
                )
            counts[category] += 1
    cells: list[Any] = []
    for name, count in [*zip(class_names, counts.values(), strict=True), ("total", sum(counts.values()))]:
        cells += [name if len(name) <= 13 else f"{name[:11]}..", count]
    table = tabulate([cells[i : i + 6] for i in range(0, len(cells), 6)], ["category", "#instances"] * 3, "pipe")
    logger.info("Distribution of instances among all %d categories:\n%s", len(class_names), colored(table, "cyan"))


def get_detection_dataset_dicts(
    names: str | list[str], filter_empty: bool = True, check_consistency: bool = True
) -> list[dict]:
    """Load registered datasets, one after the other, into one list of dicts.

    Args:
        names: one or more names in the `DatasetCatalog`.
        filter_empty: whether to leave out images without objects.
        check_consistency: whether to check that all datasets have the same classes.
    """
    names = [names] if isinstance(names, str) else list(names)
    per_dataset = [DatasetCatalog.get(name) for name in names]
    for name, dicts in zip(names, per_dataset, strict=True):
        if not dicts:
            raise AssertionError(f"Dataset '{name}' has no images.")
    dataset_dicts = list(itertools.chain.from_iterable(per_dataset))

    if "annotations" in dataset_dicts[0]:
        if filter_empty:
            dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
        class_names = MetadataCatalog.get(names[0]).get("thing_classes")
        if check_consistency and class_names is not None:
            check_metadata_consistency("thing_classes", names)
            print_instances_class_histogram(dataset_dicts, class_names)
    if not dataset_dicts:
        raise AssertionError(f"No image in {', '.join(names)} has an object that is no crowd.")
    return dataset_dicts


def build_detection_train_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    """An endless loader of lists of `total_batch_size / world size` elements.

    Args:
        mapper: from a dataset dict to what the model takes.
        sampler: by default a `TrainingSampler` with a random seed.
        total_batch_size: over all ranks.
        aspect_ratio_grouping: see `AspectRatioGroupedDataset`.
        seed: of the generator that seeds the workers; by default torch's own generator does.
        kwargs: further arguments of `torch.utils.data.DataLoader`.
    """
    world_size = get_world_size()
    if total_batch_size <= 0 or total_batch_size % world_size:
        raise AssertionError(f"A total batch size of {total_batch_size} cannot be shared by {world_size} ranks.")
    batch_size = total_batch_size // world_size
    logger.info("Making batched data loader with batch_size=%d", batch_size)
    mapped = _mapped(dataset, mapper)
    in_order = ToIterableDataset(mapped, sampler or TrainingSampler(length(mapped)), shard_chunk_size=batch_size)
    kwargs |= {
        "num_workers": num_workers,
        "worker_init_fn": worker_init_reset_seed,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
    }
    if aspect_ratio_grouping:
        one_by_one = DataLoader(in_order, collate_fn=operator.itemgetter(0), **kwargs)
        return AspectRatioGroupedDataset(one_by_one, batch_size)
    return DataLoader(in_order, batch_size, drop_last=True, collate_fn=trivial_batch_collator, **kwargs)


def build_detection_test_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
) -> DataLoader:
    """A loader that gives each image once over all ranks, `batch_size` at a time on each rank."""
    mapped = _mapped(dataset, mapper)
    return DataLoader(
        mapped,
        batch_size=batch_size,
        sampler=sampler or InferenceSampler(length(mapped)),
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
    )


def _mapped(dataset: list[dict] | Dataset, mapper: Callable[[dict], Any] | None) -> Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


def trivial_batch_collator(batch: list) -> list:
    """A batch is the list of its elements."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed NumPy and Python in a loader's worker too; torch seeds only itself."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
