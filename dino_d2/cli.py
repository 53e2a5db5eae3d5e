# SPDX-License-Identifier: Apache-2.0
"""The console command `dino_d2`; its verbs run the same code as the scripts and `python -m` modules."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module

from dino_d2.signals import ended_by_interrupt

_TRAIN_EXAMPLES = """examples:
  dino_d2 train --config-file dino/dino_tiny_shapes.py
  dino_d2 train --config-file dino/dino_r50_4scale_custom.py data.root=datasets/mine
  dino_d2 train --config-file dino/dino_r50_4scale_12ep.py --num-gpus 8 train.output_dir=output/first
  dino_d2 train --config-file output/first/config.yaml --resume
"""
_EVAL_EXAMPLES = """examples:
  dino_d2 eval --config-file output/dino_tiny_shapes/config.yaml \\
      train.init_checkpoint=output/dino_tiny_shapes/model_final.pth
"""


def train(arguments: list[str]) -> None:
    parser = _run_parser("train", "Train the model of a config and evaluate it.", _TRAIN_EXAMPLES)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    _launch(parser.parse_args(arguments, argparse.Namespace(eval_only=False)))


def evaluate(arguments: list[str]) -> None:
    description = (
        "Evaluate a checkpoint, given as train.init_checkpoint=FILE, on the test set of a config. `dino_d2 report` "
        "also makes a page with pictures of its mistakes."
    )
    parser = _run_parser("eval", description, _EVAL_EXAMPLES)
    _launch(parser.parse_args(arguments, argparse.Namespace(eval_only=True, resume=False)))


def _run_parser(verb: str, description: str, examples: str) -> argparse.ArgumentParser:
    """The flags of Detectron2's ``default_argument_parser`` that every run has."""
    with ended_by_interrupt():
        from dino_d2.detectron2.engine import default_argument_parser

    parser = argparse.ArgumentParser(
        prog=f"dino_d2 {verb}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a recipe, by path or name, or the config.yaml of a run"
    )
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="GPUs of this machine (1)")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines (1)")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="K", help="number of this machine, from 0 (0)")
    url = default_argument_parser().get_default("dist_url")
    parser.add_argument("--dist-url", default=url, metavar="URL", help="address for the processes of several machines")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY=VALUE", help="changes to the config, last")
    return parser


def _launch(args: argparse.Namespace) -> None:
    with ended_by_interrupt():
        from dino_d2.engine.command import launch_main

    launch_main(args)


def _module(name: str, verb: str) -> Callable[[list[str]], int | None]:
    """The verb of a module that has ``main(arguments, prog)``."""
    return lambda arguments: import_module(name).main(arguments, f"dino_d2 {verb}")


#: {verb: (summary, function of the remaining arguments)}; the function returns an exit status, None for success.
VERBS: dict[str, tuple[str, Callable[[list[str]], int | None]]] = {
    "train": ("train a recipe, or resume a run", train),
    "eval": ("print the AP of a checkpoint on a recipe's test set", evaluate),
    "report": (
        "show what a model finds and misses, and its best threshold, on a web page",
        _module("dino_d2.report.command", "report"),
    ),
    "predict": (
        "detect objects in images, folders, videos or a webcam",
        _module("dino_d2.predict.command", "predict"),
    ),
    "data check": (
        "check a dataset in COCO format before training",
        _module("dino_d2.data.check.__main__", "data check"),
    ),
    "data convert": (
        "convert Pascal VOC or YOLO labels to COCO format",
        _module("dino_d2.data.convert.__main__", "data convert"),
    ),
    "checkpoint convert": (
        "convert a checkpoint to or from the authors' names",
        _module("dino_d2.checkpoint.__main__", "checkpoint convert"),
    ),
}


def usage() -> str:
    width = max(map(len, VERBS)) + 2
    lines = "\n".join(f"  {verb:{width}}{summary}" for verb, (summary, _) in VERBS.items())
    return (
        "usage: dino_d2 VERB ...\n\nThe DINO detector and its family.\n\n"
        f"{lines}\n\n`dino_d2 VERB --help` explains a verb; `dino_d2 --version` prints the version.\n"
    )


def main(arguments: list[str] | None = None) -> int | None:
    """Run the verb that the command line begins with.

    Returns:
        the exit status; None for success.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if words[:1] == ["--version"]:
        from dino_d2 import __version__

        print(f"dino_d2 {__version__}")
        return 0
    for length in (1, 2):
        verb = " ".join(words[:length])
        if verb in VERBS:
            return VERBS[verb][1](words[length:])
    wrong = f"error: {' '.join(words[:2])!r} is not a verb" if words else "error: no verb is given"
    print(f"{usage()}\n{wrong}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
