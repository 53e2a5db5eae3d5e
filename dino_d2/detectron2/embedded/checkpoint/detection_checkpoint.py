# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of detectors, as in `detectron2.checkpoint.detection_checkpoint`."""

from typing import Any

from fvcore.common.checkpoint import Checkpointer
from torch import nn

from ..utils import comm
from ..utils.file_io import PathManager


class DetectionCheckpointer(Checkpointer):
    """fvcore's `Checkpointer`, saving on rank 0 only and loading bare state dicts too.

    A checkpoint holds "model", the states of the `checkpointables` and "iteration".
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager

    def _load_file(self, f: str) -> dict[str, Any]:
        if f.endswith((".pkl", ".pyth")):
            raise ValueError(
                f"{f}: files of Detectron2's and pycls' model zoos need Detectron2, whose name matching reads them."
            )
        content = super()._load_file(f)
        return content if "model" in content else {"model": content}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        # The config, not the weights, says how pixels are normalised.
        own_buffers = dict(self.model.named_buffers(recurse=False))
        for name in ("pixel_mean", "pixel_std"):
            if name in own_buffers and name in incompatible.missing_keys:
                incompatible.missing_keys.remove(name)
        return incompatible
