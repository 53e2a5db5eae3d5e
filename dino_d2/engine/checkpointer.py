# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are never half written and hold what an exact continuation needs."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dino_d2.detectron2.checkpoint import DetectionCheckpointer
from dino_d2.detectron2.engine import hooks
from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError
from dino_d2.files import write_atomically

from .output_folder import explained
from .random_state import random_state
from .sharding import gathered, is_sharded

logger = logging.getLogger(__name__)


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, whose files appear whole or not at all.

    A file is written under another name beside its place, brought to the disk and then renamed;
    `last_checkpoint` names it only after that. Besides the model and the checkpointables, a file has
    "random_states": the random generators of each rank. They travel to rank 0 (some 10 kB from each) because
    one file can be whole or missing, while a file per rank could be there for some ranks only.

    Args:
        model, save_dir, checkpointables: as Detectron2's.
        categories: what the classes are, as `dino_d2.data.coco_format.categories` gives them; written along, so that
            a file can be used where the data is not.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, categories: list[dict] | None = None, **checkpointables: Any
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.categories = categories

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``{save_dir}/{name}.pth``. All ranks must call this together; rank 0 writes.

        Args:
            name: of the file, without folder and ending.
            kwargs: more to save.

        Raises:
            UserError: the disk is full or the folder is gone.
        """
        random_states = comm.gather(random_state())
        sharded = is_sharded(self.model)
        if not (sharded or (self.save_dir and self.save_to_disk)):
            return
        states = {key: thing.state_dict() for key, thing in self.checkpointables.items()}
        states = {"model": self.model.state_dict(), **states}
        if sharded:
            states = gathered(states)
        if not self.save_dir or not self.save_to_disk:
            return
        content = {**states, "random_states": random_states, **kwargs}
        if self.categories is not None:
            content["categories"] = self.categories
        path = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        with explained(Path(self.save_dir)):
            write_atomically(path, lambda file: torch.save(content, file))
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_atomically(
            Path(self.save_dir) / "last_checkpoint", lambda file: file.write(last_filename_basename.encode())
        )

    def get_checkpoint_file(self) -> str:
        """The file that `last_checkpoint` names.

        Raises:
            UserError: it is not there.
        """
        path = super().get_checkpoint_file()
        if path and not os.path.isfile(path):
            raise UserError(
                f"{self.save_dir}/last_checkpoint names {os.path.basename(path)}, which is not there. Put the file "
                "back, or write the name of another checkpoint of this folder into last_checkpoint."
            )
        return path


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook for an :class:`AtomicCheckpointer`: on all ranks, and `max_to_keep` counts across resumes."""

    max_to_keep: int | None

    def before_train(self) -> None:
        super().before_train()
        if not comm.is_main_process():
            self.max_to_keep = None  # rank 0 deletes the files
            return
        folder = Path(self.checkpointer.save_dir)
        if self.max_to_keep is not None:
            names = re.compile(re.escape(self.file_prefix) + r"_(\d{7})\.pth")
            found = [match for path in folder.iterdir() if (match := names.fullmatch(path.name))]
            earlier = sorted(match[0] for match in found if int(match[1]) < self.trainer.start_iter)
            self.recent_checkpoints = [str(folder / name) for name in earlier]
            while len(self.recent_checkpoints) > self.max_to_keep:
                os.remove(self.recent_checkpoints.pop(0))
