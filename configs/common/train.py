# SPDX-License-Identifier: Apache-2.0
"""Settings of a run, as in Detectron2's configs/common/train.py, with DINO's additions."""

import torch
from omegaconf import OmegaConf

train = OmegaConf.create(
    dict(
        output_dir="./output",  # if a recipe does not set it: ./output/<stem of the recipe's file name>
        init_checkpoint="",
        max_iter=90000,
        device="cuda" if torch.cuda.is_available() else "cpu",
        seed=42,
        amp=dict(enabled=False, dtype="bfloat16"),  # "float16" scales the loss
        compile=False,  # torch.compile of the detector; the first iteration of each image size takes minutes
        clip_grad_norm=0.1,  # Table 8, clip_max_norm
        accumulate=1,  # batches of a step; their gradients are those of one batch with all images
        ema=dict(enabled=False, decay=0.9997),  # evaluate and save a running mean of the weights
        ddp=dict(
            broadcast_buffers=False,
            find_unused_parameters=False,
            fp16_compression=False,
            device_ids=None,  # the model is on its device already; Detectron2's default fails on a CPU
        ),
        fsdp=False,  # in place of DDP: divide weights, gradients and optimizer state among the ranks
        checkpointer=dict(period=5000, max_to_keep=3),
        eval_period=5000,
        validation_loss=False,  # also compute the training losses on the test set at each evaluation
        best=None,  # "bbox/AP": keep the weights with the best value of this result as model_best.pth; None keeps none
        best_mode="max",  # "min" where small values are good
        early_stopping=dict(patience=None),  # end after so many evaluations in a row that are not better; None: never
        log_period=20,
        panels=dict(
            period=0,  # iterations between pictures of predictions, in panels/ and in TensorBoard; 0 for none
            num_images=4,
            show=["predictions"],  # next to the ground truth; also available: "denoising", "sampling_points"
            query=None,  # draw sampling points of this query; null for the query of the best detection
        ),
        wandb=dict(project=None),  # log to this project of Weights & Biases; needs dino_d2[wandb]
        mlflow=dict(experiment=None),  # log to this experiment of MLflow; needs dino_d2[mlflow]
        hooks=[],  # hooks of your own, [L(MyHook)(...)]; called in order, before a checkpoint is written
        num_pictures=8,  # validation images in predictions.png after training; 0 for none
    )
)
