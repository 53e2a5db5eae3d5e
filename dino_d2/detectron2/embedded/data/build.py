"""Data loaders, as in `detectron2.data.build`."""

import itertools
import logging
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from termcolor import colored
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from ..utils.logger import log_first_n
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, TrainingSampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
]

logger = logging.getLogger("detectron2.data.build")


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """The images that have at least one annotation which is no crowd."""
    kept = [image for image in dataset_dicts if any(not a.get("iscrowd", 0) for a in image["annotations"])]
    removed = len(dataset_dicts) - len(kept)
    logger.info("Removed %d images with no usable annotations. %d images left.", removed, len(kept))
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: list[str]) -> None:
    """Log how many objects (crowds not counted) each class has."""
    counts = np.zeros(len(class_names), dtype=int)
    for image in dataset_dicts:
        classes = [a["category_id"] for a in image["annotations"] if not a.get("iscrowd", 0)]
        if classes and not 0 <= min(classes) <= max(classes) < len(class_names):
            raise AssertionError(
                f"Image {image.get('image_id', image.get('file_name'))} has a category_id outside "
                f"0..{len(class_names) - 1}: {sorted(set(classes))}."
            )
        np.add.at(counts, classes, 1)

    cells: list[Any] = []
    for name, count in zip(class_names, counts.tolist(), strict=True):
        cells += [name if len(name) <= 13 else f"{name[:11]}..", count]
    columns = min(6, len(cells))
    cells += [None] * (columns - len(cells) % columns)
    if len(class_names) > 1:
        cells += ["total", int(counts.sum())]
    table = tabulate(
        [cells[i : i + columns] for i in range(0, len(cells), columns)],
        headers=["category", "#instances"] * (columns // 2),
        tablefmt="pipe",
        numalign="left",
        stralign="center",
    )
    message = f"Distribution of instances among all {len(class_names)} categories:\n{colored(table, 'cyan')}"
    log_first_n(logging.INFO, message, name=logger.name, key="message")


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
    if not names:
        raise AssertionError("At least one dataset must be named.")
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


def build_batch_data_loader(
    dataset: Dataset,
    sampler: Sampler | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    drop_last: bool = True,
    prefetch_factor: int = 2,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    """Batches of `total_batch_size / world size` elements, as lists unless `collate_fn` is given.

    Args:
        sampler: the order of a map-style dataset; None for an iterable one.
        aspect_ratio_grouping: see `AspectRatioGroupedDataset`.
        seed: of the generator that seeds the workers.
        kwargs: further arguments of `torch.utils.data.DataLoader`.
    """
    world_size = get_world_size()
    if total_batch_size <= 0 or total_batch_size % world_size:
        raise AssertionError(f"A total batch size of {total_batch_size} cannot be shared by {world_size} ranks.")
    batch_size = total_batch_size // world_size
    logger.info("Making batched data loader with batch_size=%d", batch_size)
    if not isinstance(dataset, IterableDataset):
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    kwargs |= {
        "num_workers": num_workers,
        "worker_init_fn": worker_init_reset_seed,
        "prefetch_factor": prefetch_factor if num_workers > 0 else None,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
    }
    if not aspect_ratio_grouping:
        collate_fn = collate_fn or trivial_batch_collator
        return DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, collate_fn=collate_fn, **kwargs)
    if not drop_last:
        raise AssertionError("Grouping by aspect ratio drops incomplete batches, so drop_last must be True.")
    one_by_one = DataLoader(dataset, collate_fn=operator.itemgetter(0), **kwargs)
    batches = AspectRatioGroupedDataset(one_by_one, batch_size)
    return batches if collate_fn is None else MapDataset(batches, collate_fn)


def build_detection_train_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **kwargs: Any,
) -> Any:
    """An endless loader of training batches; see `build_batch_data_loader`.

    Args:
        mapper: from a dataset dict to what the model takes.
        sampler: by default a `TrainingSampler` with a random seed.
    """
    dataset = _mapped(dataset, mapper)
    if sampler is None and not isinstance(dataset, IterableDataset):
        sampler = TrainingSampler(len(dataset))
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def build_detection_test_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> DataLoader:
    """A loader that gives each image once over all ranks, `batch_size` at a time on each rank."""
    dataset = _mapped(dataset, mapper)
    if sampler is None and not isinstance(dataset, IterableDataset):
        sampler = InferenceSampler(len(dataset))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
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
