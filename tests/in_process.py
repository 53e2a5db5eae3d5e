# SPDX-License-Identifier: Apache-2.0
"""train_net.py without a process of its own, for tests that would start Python a hundred times."""

from dino_d2.detectron2.engine import default_argument_parser
from dino_d2.engine.command import main
from tests.loggers import loggers_restored


def run_train_net(*arguments: str) -> None:
    """`python train_net.py ...`; the loggers it sets up are as before afterwards."""
    with loggers_restored():
        main(default_argument_parser().parse_args(arguments))
