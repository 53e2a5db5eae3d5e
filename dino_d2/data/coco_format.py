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

from dino_d2.data.check import BadImages, DatasetError, Normalised, first, read_normalised, read_without_bad_images
from dino_d2.data.check.structure import file_faults
from dino_d2.data.table.annotation_table import TableDicts
from dino_d2.data.table.as_json import json_of
from dino_d2.data.table.cache import table_of
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.data.datasets import register_coco_instances

logger = logging.getLogger(__name__)

_BAD_IMAGES_SHOWN = 5


class Source(NamedTuple):
    """The files and settings of a registered dataset."""

    json: Path
    images: Path
    within: Path  # the folder that no file name may leave


class _Registration(NamedTuple):
    given: Source
    version: tuple | None  # of the annotation file
    used: Source  # `given`, or a copy of the json without images that cannot be read


_registered: dict[str, _Registration] = {}  # by dataset name

_tables: dict[str, TableDicts] = {}  # dataset name -> its dataset dicts, for names with a table


def coco_format(
    json: str | os.PathLike,
    images: str | os.PathLike,
    name: str | None = None,
    within: str | os.PathLike | None = None,
    skip_bad_images: bool = False,
) -> str:
    """Registers a COCO-format dataset with Detectron2's catalogs and returns its name.

    Meant for configs, where a dataset name is asked for; calling it again costs nothing:

        names=L(coco_format)(json="annotations/train.json", images="train")

    Category ids may start anywhere and have holes: class k is the category with the k-th smallest id.
    Every field is checked and converted to one type by `dino_d2.data.check.fields.normalise`, which says what is
    accepted. Annotations that cannot be used are skipped, with one warning, in training and evaluation alike: where
    the file needs any correction, the dataset uses a corrected copy of it in iopath's cache folder ($FVCORE_CACHE, or
    ~/.torch/iopath_cache). The file itself is never written to. A large file is read once into a table in the same
    cache (`dino_d2.data.table`).

    Args:
        json: the annotation file, with "images", "annotations" and "categories".
        images: the folder that its `file_name`s are relative to.
        name: the name in the catalogs; made from the paths if not given.
        within: the folder that no `file_name` may leave; the image folder if not given.
        skip_bad_images: decode every image, which takes a while, and leave out those that are missing or damaged, with
            one warning.

    Raises:
        DatasetError: the dataset cannot be used; see `dino_d2.data.check.read_coco`.
        ValueError: `name` is taken by another dataset.
    """
    json, images, within = (
        Path(os.path.abspath(os.path.expanduser(path))) for path in (json, images, within or images)
    )
    source = Source(json, images, within)
    if name is None:
        content = f"{json}\n{images}" + "\nskip_bad_images" * skip_bad_images
        digest = hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:8]
        # Detectron2 warns of category ids with holes unless the name has "coco" in it.
        name = f"coco_{json.stem}_{digest}"
    version = _version(json)
    if name in _registered and _registered[name][:2] == (source, version):
        return name

    if name in DatasetCatalog:
        if name not in _registered or _registered[name].given[:2] != source[:2]:
            raise ValueError(f"The dataset name {name!r} is taken by another dataset. Choose another `name`.")
        DatasetCatalog.remove(name)  # the file has changed since
        MetadataCatalog.remove(name)
        _tables.pop(name, None)

    # Images are looked at one by one below, so a large json is read as a small one is.
    table = None if skip_bad_images else table_of(json)
    if table:
        register_table(name, source, TableDicts(table, os.fspath(images)))
        return name
    if skip_bad_images:
        normalised, bad = read_without_bad_images(json, images, within)
        warn_of_bad_images(json, normalised, bad)
    else:
        normalised, bad = read_normalised(json, images, within), None
    coco = normalised.coco
    warn_of_corrections(json, normalised.skipped, normalised.corrected, len(coco["annotations"]))
    categories = sorted(coco["categories"], key=lambda category: category["id"])
    usable = _usable_file(json, normalised)
    register_coco_instances(name, {}, str(usable), str(images))
    MetadataCatalog.get(name).set(
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={category["id"]: k for k, category in enumerate(categories)},
        num_images=len(coco["images"]),
    )
    used = source._replace(json=usable) if bad and bad.reasons else source
    _registered[name] = _Registration(source, version, used)
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
    _registered[name] = _Registration(source, _version(json), source)


def table_dicts_of(name: str) -> TableDicts | None:
    """The dataset dicts of a name that has a table; None for other names."""
    return _tables.get(name)


def num_classes(dataset: str) -> int:
    """The number of classes of a registered dataset, for a model's config."""
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
    return max(1, math.ceil(epochs * num_images(dataset) / (batch_size * accumulate)))


def num_images(dataset: str) -> int:
    """The number of images of a registered dataset."""
    return MetadataCatalog.get(dataset).get("num_images") or len(DatasetCatalog.get(dataset))


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
    """The paths that a name of `coco_format` was made from; None for other names.

    Where images were left out, the json is a copy without them.
    """
    return _registered[name].used if name in _registered else None


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


def warn_of_bad_images(json: Path, normalised: Normalised, bad: BadImages) -> None:
    """Log one warning of all images of a file that are left out."""
    if not bad.reasons:
        return
    count = len(bad.reasons)
    shown = [f"{name} ({why})" for name, why in list(bad.reasons.items())[:_BAD_IMAGES_SHOWN]]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    logger.warning(
        f"{json}: {count} of {count + len(normalised.coco['images'])} images cannot be read and are left out, with "
        f"their {bad.num_annotations} annotations (data.skip_bad_images): {', '.join(shown)}{more}"
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
