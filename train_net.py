#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train, resume or evaluate any config of this project; `dino_d2 train` and `dino_d2 eval` do the same.

    python train_net.py --config-file configs/dino/dino_tiny_shapes.py
    python train_net.py --config-file ... --num-gpus 8
    torchrun --nproc-per-node 8 train_net.py --config-file ...
    python train_net.py --config-file ... --resume
    python train_net.py --config-file ... --eval-only train.init_checkpoint=output/.../model_final.pth

Any value of the config can be given as ``path.to.key=value`` at the end of the line.
"""

from dino_d2.signals import ended_by_interrupt

with ended_by_interrupt():  # the imports take seconds
    from dino_d2.detectron2.engine import default_argument_parser
    from dino_d2.engine.command import launch_main

if __name__ == "__main__":
    launch_main(default_argument_parser().parse_args())
