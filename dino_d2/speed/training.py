# SPDX-License-Identifier: Apache-2.0
"""Speed-ups of training that do not change parameters, their names or results beyond rounding."""

from torch import nn

from .frozen_batch_norm import fuse_frozen_batch_norms
from .geometry import cache_geometry
from .linear import use_onednn


def optimise_for_training(detector: nn.Module) -> None:
    """Replace the plain modules of a :class:`~dino_d2.modeling.Detector` by faster ones, in place.

    | change                                                    | helps on |
    |-----------------------------------------------------------|----------|
    | frozen batch norms are fused into convolutions            | any      |
    | linear layers, ReLU included, are computed in oneDNN      | CPU      |
    | feed-forward networks are computed in blocks of rows      | CPU      |
    | geometry that depends only on the image size is cached    | any      |

    docs/performance.md has the measured gain of each. The swapped classes are subclasses of the plain ones, so
    checkpoints, hooks, adapters and ``isinstance`` work as before. A detector can be passed twice.
    """
    backbone = detector.get_submodule("backbone")
    fuse_frozen_batch_norms(getattr(backbone, "body", backbone))
    # Other linear layers of a query source have too few rows to gain from oneDNN.
    proposal_head = getattr(detector.queries, "proposal_head", None)
    for part in (detector.position_encoding, detector.encoder, proposal_head, detector.decoder):
        if isinstance(part, nn.Module):
            use_onednn(part)
    cache_geometry(detector)
