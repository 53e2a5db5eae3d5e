# SPDX-License-Identifier: Apache-2.0
"""DINO with Swin-L for GPUs too small for DistributedDataParallel: the model is divided among the ranks by FSDP2.

Losses and weights are those of dino_swin_large_4scale_12ep.py up to rounding (docs/distributed.md).
"""

from .dino_swin_large_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

train.fsdp = True

# The backward pass recomputes each layer, so that the memory of activations is small too.
model.detector.backbone.activation_checkpointing = True
model.detector.encoder.activation_checkpointing = True
model.detector.decoder.activation_checkpointing = True
