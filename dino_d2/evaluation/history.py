# SPDX-License-Identifier: Apache-2.0
"""Matchings of a run's evaluations, saved so that the next evaluation can be compared with the previous one.

They are kept in files rather than in memory so that a resumed run compares with the same evaluation as an uninterrupted
one.
"""

import re
from pathlib import Path

import numpy as np

from dino_d2.files import write_atomically

Matching = dict[object, tuple[np.ndarray, np.ndarray]]  # {image id: (queries [P], targets [P])}


class MatchingHistory:
    """Files ``matching/0001000.npz`` in the folder of a run, named by iteration.

    Args:
        output_dir: the output folder of the run.
    """

    def __init__(self, output_dir: str | Path):
        self.folder = Path(output_dir) / "matching"

    def save(self, iteration: int, matching: Matching) -> None:
        """Save the matching of an evaluation; an interrupted call leaves no partial file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        pairs = list(matching.values())
        images = np.asarray(list(matching))
        counts = np.asarray([len(queries) for queries, _ in pairs], dtype=np.int32)
        queries = np.concatenate([queries for queries, _ in pairs] or [np.zeros(0, np.int32)])
        targets = np.concatenate([targets for _, targets in pairs] or [np.zeros(0, np.int32)])
        write_atomically(
            self.folder / f"{iteration:07d}.npz",
            lambda file: np.savez_compressed(file, images=images, counts=counts, queries=queries, targets=targets),
        )

    def before(self, iteration: int) -> Matching | None:
        """The matching of the latest evaluation before an iteration; None if there is none.

        A run that was resumed from an older checkpoint repeats iterations, so later files are ignored.
        """
        found = {int(path.stem): path for path in self._files()}
        earlier = [number for number in found if number < iteration]
        if not earlier:
            return None
        with np.load(found[max(earlier)]) as file:
            ends = np.cumsum(file["counts"])[:-1]
            queries, targets = (np.split(file[name], ends) for name in ("queries", "targets"))
            return dict(zip(file["images"].tolist(), zip(queries, targets, strict=True), strict=True))

    def forget(self) -> None:
        """Delete the matchings of an earlier run in the same folder, and no other files."""
        for path in self._files():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        return [path for path in self.folder.glob("*.npz") if re.fullmatch(r"\d{7,}", path.stem)]
