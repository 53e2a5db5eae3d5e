# SPDX-License-Identifier: Apache-2.0
"""`train.ddp.static_graph` with accumulation gives the training of ordinary DistributedDataParallel."""

from pathlib import Path

import pytest
import torch

from dino_d2.detectron2.engine.defaults import create_ddp_model
from dino_d2.detectron2.utils import comm
from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.engine import Trainer
from tests.small_models import make_input, make_model
from tests.two_ranks import run_on_two_ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="gloo is for machines without a GPU"),
]
STEPS, ACCUMULATE = 3, 2


def _train(folder: Path) -> None:
    rank = comm.get_rank()
    for static_graph in (False, True):
        model = make_model().train()
        parallel = create_ddp_model(model, broadcast_buffers=False, device_ids=None, static_graph=static_graph)
        batches = [[make_input(64, 96, objects=i % 4, seed=10 * rank + i)] for i in range(STEPS * ACCUMULATE)]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        trainer = Trainer(parallel, batches, optimizer, accumulate=ACCUMULATE)
        torch.manual_seed(rank)
        with EventStorage(0) as trainer.storage:
            for trainer.iter in range(STEPS):
                trainer.run_step()
        torch.save(model.state_dict(), folder / f"{static_graph} {rank}.pt")


def test_a_static_graph_changes_nothing(tmp_path):
    run_on_two_ranks(_train, tmp_path)
    ordinary, static, other_rank = (torch.load(tmp_path / f"{name}.pt") for name in ("False 0", "True 0", "True 1"))
    for name, weight in ordinary.items():
        assert torch.equal(static[name], weight), name
        assert torch.equal(static[name], other_rank[name]), name
