# SPDX-License-Identifier: Apache-2.0
"""A record of the annotation files of a run, so that a resumed run can say that they have changed."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dino_d2.data.coco_format import source_of, table_dicts_of
from dino_d2.detectron2.data import MetadataCatalog


class TrainingData:
    """SHA-256 of the annotation files of each split; a checkpointable of Detectron2's checkpointer.

    Args:
        datasets: {split: names in the catalogs}. Datasets without a local annotation file are left out.
    """

    def __init__(self, datasets: Mapping[str, Sequence[str]]):
        self.digests = {
            split: [
                digest(file) if (dicts := table_dicts_of(name)) is None else dicts.table.digest
                for name in names
                if (file := annotation_file(name)) is not None
            ]
            for split, names in datasets.items()
        }

    def state_dict(self) -> dict[str, list[str]]:
        return self.digests

    def load_state_dict(self, state: dict[str, list[str]]) -> None:
        """Does nothing: the record describes the current files."""

    def changes(self, saved: Any) -> Iterator[str]:
        """A sentence for each split whose annotations differ from those of a checkpoint; none if it has no record."""
        for split, digests in self.digests.items():
            before = saved.get(split) if isinstance(saved, dict) else None
            if before is not None and before != digests:
                yield (
                    f"The annotation files of the {split} set are not those of the checkpoint: the run continues "
                    "with the current boxes and classes, which is not an exact continuation."
                )


def annotation_file(name: str) -> Path | None:
    """The annotation file of a dataset in the catalogs; None if it has none on this machine."""
    source = source_of(name)
    file = source.json if source else MetadataCatalog.get(name).get("json_file")
    return Path(file) if file and Path(file).is_file() else None


def digest(file: Path) -> str:
    """SHA-256 of a file's content."""
    sha = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with open(file, "rb") as content:
        while block := content.read(2**20):
            sha.update(block)
    return sha.hexdigest()
