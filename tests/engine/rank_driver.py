# SPDX-License-Identifier: Apache-2.0
"""train_net.py on several ranks, in one of which, or to all of which, something happens.

python tests/engine/rank_driver.py EVENT [arguments of train_net.py]

EVENT is "none" or one of these and then the number of an iteration, as in "kill@2":

kill          rank 1 is killed during the iteration
raise         rank 1 meets an error
hang          rank 1 is killed while rank 0 stands still
SIGINT, ...   rank 1 sends this signal to the process that has started it
"""

import functools
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch.multiprocessing

import dino_d2.engine.run
from dino_d2.detectron2.engine import default_argument_parser
from dino_d2.detectron2.utils import comm
from dino_d2.engine import ranks
from dino_d2.engine.command import launch_main


class Accident(dino_d2.engine.run.Trainer):
    """The event, after the first forward pass of the iteration on rank 1."""

    def backward(self, losses: dict) -> None:
        event, _, iteration = EVENT.partition("@")
        if iteration == str(self.iter):
            if event == "hang" and comm.get_rank() == 0:
                time.sleep(15)
                print("woke up")
            elif comm.get_rank() == 1:
                cause(event)
        super().backward(losses)


def cause(event: str) -> None:
    if event in ("kill", "hang"):
        os.kill(os.getpid(), signal.SIGKILL)
    if event == "raise":
        raise ValueError("no such thing")
    os.kill(os.getppid(), getattr(signal, event))


if __name__ == "__main__":
    EVENT, *arguments = sys.argv[1:]
    dino_d2.engine.run.Trainer = Accident
    ranks.PATIENCE = 1.0
    if sys.platform == "linux":  # elsewhere libraries do not survive a fork
        forked = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
        torch.multiprocessing.start_processes = forked
    launch_main(default_argument_parser().parse_args(arguments))
