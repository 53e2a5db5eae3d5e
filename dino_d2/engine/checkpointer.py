# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are written atomically and hold the full state for an exact resume."""

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

#: File with the state at the end of a training.
FINAL = "model_final.pth"
#: File with the weights of the best evaluation, without the state of the training.
BEST = "model_best.pth"


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes.

    A checkpoint is written to a temporary file in the same folder, flushed to disk and renamed; `last_checkpoint` is
    updated afterwards. In addition to the model and the checkpointables, the file has "random_states", the RNG state of
    each rank. Rank 0 gathers them (about 10 kB each) into one file, because with one file per rank some could be
    missing.

    Args:
        model, save_dir, checkpointables: as in Detectron2.
        categories: the classes, as returned by `dino_d2.data.coco_format.categories`; saved in the file so that it can
            be used without the dataset.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, categories: list[dict] | None = None, **checkpointables: Any
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.categories = categories

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``{save_dir}/{name}.pth``. All ranks must call this together; rank 0 writes.

        Args:
            name: file name without folder and extension.
            kwargs: additional entries of the checkpoint.

        Raises:
            UserError: the disk is full or the folder has been removed.
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

    def save_weights(self, name: str, **kwargs: Any) -> None:
        """Write ``{save_dir}/{name}.pth`` with the weights alone, which no run resumes from. All ranks must call this.

        Args:
            name: of the file, without folder and ending.
            kwargs: more to save.

        Raises:
            UserError: the disk is full or the folder is gone.
        """
        weights = self.model.state_dict()
        if is_sharded(self.model):
            weights = gathered(weights)
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": weights, **kwargs}
        if self.categories is not None:
            content["categories"] = self.categories
        with explained(Path(self.save_dir)):
            write_atomically(Path(self.save_dir) / f"{name}.pth", lambda file: torch.save(content, file))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_atomically(
            Path(self.save_dir) / "last_checkpoint", lambda file: file.write(last_filename_basename.encode())
        )

    def has_checkpoint(self) -> bool:
        return last_checkpoint(Path(self.save_dir)) is not None

    def get_checkpoint_file(self) -> str:
        """Path of the file named in `last_checkpoint`, or of the newest one without it; "" without checkpoints.

        Raises:
            UserError: that file does not exist.
        """
        name = last_checkpoint(Path(self.save_dir))
        if name is None:
            return ""
        path = os.path.join(self.save_dir, name)
        if not os.path.isfile(path):
            raise UserError(
                f"{self.save_dir}/last_checkpoint names {name or 'nothing'}, which does not exist. Restore the "
                "file, or write the name of another checkpoint in this folder into last_checkpoint."
            )
        return path


def last_checkpoint(folder: Path) -> str | None:
    """The name of the checkpoint from which a run in this folder continues; None if there is none.

    A run that is killed between its first checkpoint and the file `last_checkpoint` leaves only the checkpoint.

    Raises:
        UserError: the file `last_checkpoint` is no text.
    """
    file = folder / "last_checkpoint"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8").strip()
        except ValueError as error:
            raise UserError(
                f"{file} is no text. Write the name of a checkpoint of its folder into it, such as model_0004999.pth"
            ) from error
    names = sorted(path.name for path in folder.glob("model_*.pth") if re.fullmatch(r"model_\d{7}\.pth", path.name))
    if not names:
        return None
    logger.warning("%s is missing; the newest checkpoint of the folder is %s.", file, names[-1])
    return names[-1]


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook for an :class:`AtomicCheckpointer`: runs on all ranks; `max_to_keep` includes earlier runs."""

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

    def after_step(self) -> None:
        self.max_iter = self.trainer.max_iter  # a hook before this one may have ended the training
        super().after_step()
