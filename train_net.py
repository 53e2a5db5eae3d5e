#!/usr/bin/env python
"""Train, resume or evaluate any config of this project.

    python train_net.py --config-file configs/dino/dino_tiny_shapes.py
    python train_net.py --config-file ... --num-gpus 8
    torchrun --nproc-per-node 8 train_net.py --config-file ...
    python train_net.py --config-file ... --resume
    python train_net.py --config-file ... --eval-only train.init_checkpoint=output/.../model_final.pth

Any value of the config can be given as ``path.to.key=value`` at the end of the line.
"""

import sys

import torch

from dino_d2.data.check import DatasetError
from dino_d2.detectron2.engine import default_argument_parser
from dino_d2.engine.config import load_config
from dino_d2.engine.launch import launch
from dino_d2.engine.run import evaluate, train
from dino_d2.engine.trainer import NonFiniteLossError
from dino_d2.errors import UserError

OUT_OF_MEMORY = (
    "the GPU's memory is too small for this. What helps, in this order (docs/custom_data.md has figures): "
    "train.amp.enabled=True; half of dataloader.train.total_batch_size and twice train.accumulate; "
    "model.detector.encoder.activation_checkpointing=True; smaller images, by "
    "dataloader.train.mapper.augmentations.max_size=1000."
)


def main(args) -> None:
    try:
        cfg = load_config(args)
        if args.eval_only:
            evaluate(cfg)
        else:
            train(cfg, resume=args.resume)
    except (UserError, DatasetError, NonFiniteLossError) as error:
        sys.exit(f"error: {error}")
    except torch.OutOfMemoryError as error:
        sys.exit(f"error: {OUT_OF_MEMORY}\nPyTorch says: {error}")


if __name__ == "__main__":
    try:
        launch(main, default_argument_parser().parse_args())
    except UserError as error:
        sys.exit(f"error: {error}")
