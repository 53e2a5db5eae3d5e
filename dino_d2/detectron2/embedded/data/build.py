# SPDX-License-Identifier: Apache-2.0
"""Data loaders, as in `detectron2.data.build`."""

import itertools
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tabulate import tabulate
from termcolor import colored
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler

from ..not_served import NeedsDetectron2, refuse_yacs_config
from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset, _length
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, TrainingSampler

logger = logging.getLogger("detectron2.data.build")


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """The images with at least one annotation that is not a crowd."""
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
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> list[dict] | Dataset:
    """Load registered datasets, one after the other, into one list of dicts.

    Datasets that are registered as torch datasets are concatenated into one torch dataset without reading it.

    Args:
        names: one or more names in the `DatasetCatalog`.
        filter_empty: whether to leave out images without objects.
        min_keypoints, proposal_files: must be at their defaults.
        check_consistency: whether to check that all datasets have the same classes.

    Raises:
        NeedsDetectron2: for keypoints and proposals.
    """
    if min_keypoints > 0 or proposal_files is not None:
        raise NeedsDetectron2("get_detection_dataset_dicts with min_keypoints or proposal_files")
    names = [names] if isinstance(names, str) else list(names)
    per_dataset: list[Any] = [DatasetCatalog.get(name) for name in names]
    if isinstance(per_dataset[0], Dataset):
        return per_dataset[0] if len(per_dataset) == 1 else ConcatDataset(per_dataset)
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
        raise AssertionError(f"No image in {', '.join(names)} has an object that is not a crowd.")
    return dataset_dicts


def build_batch_data_loader(
    dataset: Dataset,
    sampler: Sampler | None,
    total_batch_size: int | None,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int | None = 2,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    """A loader of batches that are lists of elements.

    Args:
        sampler: of a map-style dataset; None for an `IterableDataset`.
        total_batch_size: over all ranks; None or 0 with `single_gpu_batch_size`.
        aspect_ratio_grouping: see `AspectRatioGroupedDataset`.
        collate_fn: makes a batch from a list of elements; by default the batch is that list.
        drop_last: drop the last batch if it is not full; always so with aspect_ratio_grouping.
        single_gpu_batch_size: of each rank.
        prefetch_factor: batches that a worker loads in advance; has no effect without workers.
        seed: of the generator that seeds the workers; by default torch's own generator does.
        kwargs: further arguments of `torch.utils.data.DataLoader`.
    """
    batch_size = _batch_size_of_rank(total_batch_size, single_gpu_batch_size)
    logger.info("Making batched data loader with batch_size=%d", batch_size)
    if not isinstance(dataset, IterableDataset):
        assert sampler is not None
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    elif sampler is not None:
        raise AssertionError("An IterableDataset has no sampler.")
    kwargs |= {
        "num_workers": num_workers,
        "prefetch_factor": prefetch_factor if num_workers else None,
        "worker_init_fn": worker_init_reset_seed,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
    }
    if not aspect_ratio_grouping:
        collate_fn = collate_fn or trivial_batch_collator
        return DataLoader(dataset, batch_size, drop_last=drop_last, collate_fn=collate_fn, **kwargs)
    if not drop_last:
        raise AssertionError("aspect_ratio_grouping drops batches that are not full: set drop_last=True.")
    one_by_one = DataLoader(dataset, collate_fn=operator.itemgetter(0), **kwargs)
    grouped = AspectRatioGroupedDataset(one_by_one, batch_size)
    return grouped if collate_fn is None else MapDataset(grouped, collate_fn)


def _batch_size_of_rank(total_batch_size: int | None, single_gpu_batch_size: int | None) -> int:
    if single_gpu_batch_size:
        if total_batch_size:
            raise ValueError("Give total_batch_size or single_gpu_batch_size, not both.")
        return single_gpu_batch_size
    world_size = get_world_size()
    if not total_batch_size or total_batch_size < 0 or total_batch_size % world_size:
        raise AssertionError(f"A total batch size of {total_batch_size} cannot be shared by {world_size} ranks.")
    return total_batch_size // world_size


@refuse_yacs_config
def build_detection_train_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Sampler | None = None,
    total_batch_size: int | None,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **kwargs: Any,
) -> Any:
    """An endless loader of lists of `total_batch_size / world size` elements.

    Args:
        mapper: maps a dataset dict to an input of the model.
        sampler: by default a `TrainingSampler` with a random seed; None for an `IterableDataset`.
        total_batch_size, aspect_ratio_grouping, num_workers, collate_fn, kwargs: see `build_batch_data_loader`.
    """
    mapped = _mapped(dataset, mapper)
    if sampler is None and not isinstance(mapped, IterableDataset):
        sampler = TrainingSampler(_length(mapped))
    return build_batch_data_loader(
        mapped,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


@refuse_yacs_config
def build_detection_test_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> DataLoader:
    """A loader that returns each image on exactly one rank, in batches of `batch_size`.

    Args:
        sampler: by default an `InferenceSampler`; None for an `IterableDataset`.
        collate_fn: makes a batch from a list of elements; by default the batch is that list.
    """
    mapped = _mapped(dataset, mapper)
    if not isinstance(mapped, IterableDataset):
        sampler = sampler or InferenceSampler(_length(mapped))
    elif sampler is not None:
        raise AssertionError("An IterableDataset has no sampler.")
    return DataLoader(
        mapped,
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
    """Seed NumPy and Python in a worker process of a loader; torch seeds only its own generators."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
