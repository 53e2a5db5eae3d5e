"""The matchings of a run's evaluations, one small file each, so that the next evaluation can be compared with the last.

Files and not memory: a resumed run then finds what the stopped one had measured, and no earlier or later than it did.
"""

import re
import shutil
from pathlib import Path

import numpy as np

from dino_d2.files import write_atomically

Matching = dict[object, tuple[np.ndarray, np.ndarray]]  # {image id: (queries [M], targets [M])}


class MatchingHistory:
    """Files ``matching/0001000.npz`` in the folder of a run, named by iteration.

    Args:
        output_dir: folder of the run.
    """

    def __init__(self, output_dir: str | Path):
        self.folder = Path(output_dir) / "matching"

    def save(self, iteration: int, matching: Matching) -> None:
        """Keep the matching of an evaluation, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        pairs = list(matching.values())
        arrays = {
            "images": np.asarray(list(matching)),
            "counts": np.asarray([len(queries) for queries, _ in pairs], dtype=np.int32),
            "queries": np.concatenate([queries for queries, _ in pairs] or [np.zeros(0, np.int32)]),
            "targets": np.concatenate([targets for _, targets in pairs] or [np.zeros(0, np.int32)]),
        }
        write_atomically(self.folder / f"{iteration:07d}.npz", lambda file: np.savez_compressed(file, **arrays))

    def before(self, iteration: int) -> Matching | None:
        """The last matching of an earlier iteration; None where there is none.

        A run that was resumed from an older checkpoint passes iterations a second time: later files do not count.
        """
        found = {int(path.stem): path for path in self.folder.glob("*.npz") if re.fullmatch(r"\d+", path.stem)}
        earlier = [number for number in found if number < iteration]
        if not earlier:
            return None
        with np.load(found[max(earlier)]) as file:
            ends = np.cumsum(file["counts"])[:-1]
            queries, targets = (np.split(file[name], ends) for name in ("queries", "targets"))
            return dict(zip(file["images"].tolist(), zip(queries, targets, strict=True), strict=True))

    def forget(self) -> None:
        """A new run in an old folder starts without the old one's matchings."""
        shutil.rmtree(self.folder, ignore_errors=True)
