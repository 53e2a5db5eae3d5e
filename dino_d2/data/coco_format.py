# SPDX-License-Identifier: Apache-2.0
"""Any dataset in COCO format, named by its two paths: `coco_format(json=..., images=...)` in a config."""

import hashlib
import json as json_module
import locale
import logging
import math
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from iopath.common.file_io import get_cache_dir

from dino_d2.data.check import DatasetError, Normalised, first, read_normalised
from dino_d2.data.check.structure import file_faults
from dino_d2.data.table.annotation_table import TableDicts
from dino_d2.data.table.as_json import json_of
from dino_d2.data.table.cache import table_of
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.data.datasets import register_coco_instances

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """What a dataset was made from."""

    json: Path
    images: Path
    within: Path  # the folder that no file name may leave


_registered: dict[str, tuple[Source, tuple | None]] = {}  # dataset name -> source, version of its file

_tables: dict[str, TableDicts] = {}  # dataset name -> its dataset dicts, for names with a table


def coco_format(
    json: str | os.PathLike,
    images: str | os.PathLike,
    name: str | None = None,
    within: str | os.PathLike | None = None,
) -> str:
    """Registers a COCO-format dataset with Detectron2's catalogs and returns its name.

    Meant for configs, where a dataset name is asked for; calling it again costs nothing:

        names=L(coco_format)(json="annotations/train.json", images="train")

    Category ids may start anywhere and have holes: class k is the category with the k-th smallest id.
    Every field is checked and brought to one type by `dino_d2.data.check.fields.normalise`, which says what is
    accepted. Annotations that cannot be used are skipped, with one warning, in training and evaluation alike: where
    the file needs any correction, the dataset uses a corrected copy of it in iopath's cache folder ($FVCORE_CACHE, or
    ~/.torch/iopath_cache). The file itself is never written to. A large file is read once into a table in the same
    cache (`dino_d2.data.table`).

    Args:
        json: the annotation file, with "images", "annotations" and "categories".
        images: the folder that its `file_name`s are relative to.
        name: the name in the catalogs; made from the paths if not given.
        within: the folder that no `file_name` may leave; the image folder if not given.

    Raises:
        DatasetError: the dataset cannot be used; see `dino_d2.data.check.read_coco`.
        ValueError: `name` is taken by another dataset.
    """
    json, images, within = (
        Path(os.path.abspath(os.path.expanduser(path))) for path in (json, images, within or images)
    )
    source = Source(json, images, within)
    if name is None:
        digest = hashlib.sha256(f"{json}\n{images}".encode(errors="surrogateescape")).hexdigest()[:8]
        # Detectron2 warns of category ids with holes unless the name has "coco" in it.
        name = f"coco_{json.stem}_{digest}"
    version = _version(json)
    if _registered.get(name) == (source, version):
        return name

    if name in DatasetCatalog:
        if name not in _registered or _registered[name][0][:2] != source[:2]:
            raise ValueError(f"The dataset name {name!r} is taken by another dataset. Choose another `name`.")
        DatasetCatalog.remove(name)  # the file has changed since
        MetadataCatalog.remove(name)
        _tables.pop(name, None)

    if table := table_of(json):
        register_table(name, source, TableDicts(table, os.fspath(images)))
        return name
    normalised = read_normalised(json, images, within)
    coco = normalised.coco
    warn_of_corrections(json, normalised.skipped, normalised.corrected, len(coco["annotations"]))
    categories = sorted(coco["categories"], key=lambda category: category["id"])
    register_coco_instances(name, {}, str(_usable_file(json, normalised)), str(images))
    MetadataCatalog.get(name).set(
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={category["id"]: k for k, category in enumerate(categories)},
        num_images=len(coco["images"]),
    )
    _registered[name] = (source, version)
    return name


def register_table(name: str, source: Source, dicts: TableDicts) -> None:
    """Register the dataset of a table under a name that is not taken, or was given to the same paths before.

    Raises:
        DatasetError: image files are missing, or lie outside the folder.
    """
    table = dicts.table
    json, images, within = source
    if not images.is_dir():
        raise DatasetError(f"Image folder {images} does not exist. Check the path (`images=` in the config).")
    errors = list(file_faults(dicts.images, images, within))
    if errors:
        raise DatasetError(f"{json}: " + "\n  ".join(map(str, errors)))
    warn_of_corrections(json, table.skipped, table.corrected, len(table.bbox))
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: dicts)  # type: ignore[arg-type, return-value]  # declared as a list
    _tables[name] = dicts
    MetadataCatalog.get(name).set(
        json_file=json_of(name, dicts),
        image_root=os.fspath(images),
        evaluator_type="coco",
        thing_classes=[category["name"] for category in table.categories],
        thing_dataset_id_to_contiguous_id={category["id"]: k for k, category in enumerate(table.categories)},
        num_images=len(dicts),
    )
    _registered[name] = (source, _version(json))


def table_dicts_of(name: str) -> TableDicts | None:
    """The dataset dicts of a name that has a table; None for other names."""
    return _tables.get(name)


def num_classes(dataset: str) -> int:
    """The number of classes of a registered dataset; for a model's config, so that nobody types it."""
    return len(class_names(dataset))


def class_names(dataset: str) -> list[str]:
    """The classes of a registered dataset, in the order of the model's outputs."""
    return list(MetadataCatalog.get(dataset).thing_classes)


def iterations(epochs: float, dataset: str, batch_size: int, accumulate: int = 1) -> int:
    """Iterations in which a model sees each image of a registered dataset ``epochs`` times, at least one.

    Args:
        batch_size: images in a batch over all ranks.
        accumulate: batches in an iteration.
    """
    num_images = MetadataCatalog.get(dataset).get("num_images") or len(DatasetCatalog.get(dataset))
    return max(1, math.ceil(epochs * num_images / (batch_size * accumulate)))


def metadata_of(classes: Sequence[str]) -> str:
    """A name in the `MetadataCatalog` that has these classes, for a model whose dataset is not on this machine."""
    name = f"classes_{hashlib.sha256(json_module.dumps(list(classes)).encode()).hexdigest()[:8]}"
    MetadataCatalog.get(name).set(thing_classes=list(classes))
    return name


def categories(dataset: str) -> list[dict] | None:
    """[{"id", "name"}] of a registered dataset, as in its json, in the order of a model's classes; None if unknown."""
    metadata = MetadataCatalog.get(dataset)
    names = metadata.get("thing_classes")
    if names is None:
        return None
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {k: k for k in range(len(names))}
    id_of_class = {k: dataset_id for dataset_id, k in ids.items()}
    return [{"id": id_of_class[k], "name": name} for k, name in enumerate(names)]


def source_of(name: str) -> Source | None:
    """The paths that a name of `coco_format` was made from; None for other names."""
    return _registered[name][0] if name in _registered else None


def _version(json: Path) -> tuple[int, int] | None:
    """A file that is not there has no version; read_coco says so in its own words."""
    return (json.stat().st_mtime_ns, json.stat().st_size) if json.is_file() else None


def warn_of_corrections(
    json: Path, skipped: Mapping[str, Collection], corrected: Mapping[str, Collection], usable: int
) -> None:
    """Log one warning of all annotations of a file that are skipped or corrected.

    Args:
        skipped, corrected: reason -> ids of annotations.
        usable: number of the other annotations and the corrected ones.
    """
    if not (skipped or corrected):
        return
    count = sum(map(len, skipped.values()))
    parts = [f"{reason}: {len(ids)} (ids {first(ids)})" for reason, ids in {**skipped, **corrected}.items()]
    logger.warning(
        f"{json}: {count} of {count + usable} annotations are skipped"
        + (f" and {sum(map(len, corrected.values()))} corrected" if corrected else "")
        + f". {'; '.join(parts)}. Correct or delete them in the json to be rid of this message."
    )


def _usable_file(json: Path, normalised: Normalised) -> Path:
    """The file itself where nothing in it was corrected, otherwise a corrected copy."""
    if normalised.is_as_given and _is_read_by_pycocotools(json):
        return json
    path = write_to_cache(json.stem, normalised.coco)
    logger.info(f"{json}: using the corrected copy {path}")
    return path


def _is_read_by_pycocotools(json: Path) -> bool:
    """pycocotools opens jsons in the encoding of the machine's locale, and does not know byte order marks."""
    with open(json, "rb") as file:
        encoding = json_module.detect_encoding(file.read(4))
    return encoding == "utf-8" and locale.getpreferredencoding(False).lower().replace("-", "") == "utf8"


def write_to_cache(stem: str, coco: dict) -> Path:
    """Writes the json under a name made from its content, so that processes can write it at the same time."""
    text = json_module.dumps(coco)
    folder = Path(get_cache_dir()) / "dino_d2"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
    return path
