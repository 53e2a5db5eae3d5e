# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of detectors, as in `detectron2.checkpoint.detection_checkpoint`."""

from typing import Any

from fvcore.common.checkpoint import Checkpointer
from torch import nn

from ..._refusal import needs_detectron2
from ..utils import comm
from ..utils.file_io import PathManager


class DetectionCheckpointer(Checkpointer):
    """fvcore's `Checkpointer`, which saves on rank 0 only and also loads bare state dicts.

    A checkpoint holds "model", the states of the `checkpointables` and "iteration".
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load the model and, if the file has their states, the checkpointables.

        Args:
            path: checkpoint file; nothing is loaded if it is empty.
            checkpointables: names of the checkpointables to load; by default all.

        Raises:
            ValueError: the parameters of this file would have to be matched to the model by heuristics.
        """
        if path and path.endswith("?matching_heuristics=True"):
            raise ValueError(needs_detectron2(f"{path}, whose parameters are matched by similar names"))
        return super().load(path, checkpointables)

    def _load_file(self, f: str) -> dict[str, Any]:
        if f.endswith((".pkl", ".pyth")):
            raise ValueError(needs_detectron2(f"{f}, a file of Detectron2's or pycls' model zoo"))
        content = super()._load_file(f)
        if content.get("matching_heuristics", False):
            raise ValueError(needs_detectron2(f"{f}, whose parameters are matched by similar names"))
        return content if "model" in content else {"model": content}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        # Files need not have the pixel statistics, which come from the config.
        own_buffers = dict(self.model.named_buffers(recurse=False))
        for name in ("pixel_mean", "pixel_std"):
            if name in own_buffers and name in incompatible.missing_keys:
                incompatible.missing_keys.remove(name)
        return incompatible
