"""train_net.py without a process of its own, for tests that would start Python a hundred times."""

import train_net
from dino_d2.detectron2.engine import default_argument_parser
from tests.loggers import loggers_restored


def run_train_net(*arguments: str) -> None:
    """`python train_net.py ...`; the loggers it sets up are as before afterwards."""
    with loggers_restored():
        train_net.main(default_argument_parser().parse_args(arguments))
