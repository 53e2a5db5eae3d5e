# SPDX-License-Identifier: Apache-2.0
"""train_net.py with a witness: a file gets one line of json per training iteration, and one can be the last.

python tests/engine/resume_driver.py RECORD LAST_WORDS [arguments of train_net.py]

LAST_WORDS is "none", "kill" or the name of a signal, and then the number of an iteration: "SIGTERM@7" sends it to
this process during iteration 7, "kill@16" kills it after iteration 16, "kill-writing@14" in the middle of writing
the checkpoint of iteration 14.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import dino_d2.engine.run
from dino_d2.detectron2.engine import default_argument_parser
from dino_d2.engine.command import main


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()[:16]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Witness(dino_d2.engine.run.Trainer):
    """Writes down what goes into each iteration and what comes out of it."""

    def run_step(self) -> None:
        event, _, iteration = LAST_WORDS.partition("@")
        now = iteration == str(self.iter)
        batches = []
        seen = self.model.register_forward_pre_hook(lambda model, inputs: batches.extend(inputs[0]))
        if now and event.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, event))
        super().run_step()
        seen.remove()
        line = {
            "iteration": self.iter,
            "images": [one["image_id"] for one in batches],
            "pixels": [digest(one["image"], one["instances"].gt_boxes.tensor) for one in batches],
            "losses": {k: v.hex() for k, (v, _) in self.storage.latest().items() if "loss" in k or k == "grad_norm"},
            "lr": [group["lr"].hex() for group in self.optimizer.param_groups],
        }
        with open(RECORD, "a") as file:
            file.write(json.dumps(line) + "\n")
        if now and event == "kill":
            kill()
        if now and event == "kill-writing":
            torch.save = lambda content, file: (file.write(b"PK half a checkpoint"), file.flush(), kill())


if __name__ == "__main__":
    RECORD, LAST_WORDS, *arguments = sys.argv[1:]
    dino_d2.engine.run.Trainer = Witness
    main(default_argument_parser().parse_args(arguments))
