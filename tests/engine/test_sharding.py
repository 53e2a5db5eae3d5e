# SPDX-License-Identifier: Apache-2.0
"""`train.fsdp`: ranks that keep a part of the model each learn what DDP and one rank learn, and save what they load."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from dino_d2 import get_config
from dino_d2.denoising import ContrastiveDenoising, FixedGroups
from dino_d2.detectron2.engine.defaults import create_ddp_model
from dino_d2.detectron2.utils import comm
from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.engine import NonFiniteLossError, Trainer
from dino_d2.engine.checkpointer import AtomicCheckpointer
from dino_d2.engine.collective import share_weights
from dino_d2.engine.sharding import (
    check_sharding,
    gradients_stay_undivided,
    is_sharded,
    load_undivided_state,
    own_part,
    shard,
    undivided,
    units,
)
from dino_d2.engine.trainer import make_ema
from dino_d2.errors import UserError
from dino_d2.modeling import TimmBackbone
from tests.engine.test_distributed import TWO, train_net
from tests.engine.test_resume import differences
from tests.in_process import run_train_net
from tests.small_data import generate_shapes
from tests.small_models import CLASSES, make_input, make_model
from tests.two_ranks import run_on_two_ranks

on_two_ranks = pytest.mark.skipif(torch.cuda.is_available(), reason="gloo is for machines without a GPU")


# --- what is divided -------------------------------------------------------------------------------------------------


def test_units_are_layers_and_the_stages_of_a_resnet():
    model = make_model()
    detector = model.detector
    body = detector.backbone.body
    stages = [body.conv1, body.layer1, body.layer2, body.layer3, body.layer4]
    assert units(model) == [*stages, *detector.encoder.layers, *detector.decoder.layers]


def test_units_of_a_swin_are_its_blocks():
    options = {"strict_img_size": False}
    model = make_model()
    with torch.device("meta"):
        model.detector.backbone = TimmBackbone("swin_tiny_patch4_window7_224", options=options, pretrained=False)
    kinds = [type(unit).__name__ for unit in units(model)]
    assert kinds == ["PaddedSwinBlock"] * 12 + ["DeformableEncoderLayer"] * 2 + ["DeformableDecoderLayer"] * 2


def test_a_parameter_of_two_units_is_refused():
    model = make_model()
    first, second = model.detector.encoder.layers
    second.feed_forward.linear1.weight = first.feed_forward.linear1.weight
    with pytest.raises(UserError, match=r"layers\.0\.feed_forward\.linear1\.weight also belongs to another part"):
        shard(model)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.compile=True"], "train.compile=True does not work with train.fsdp=True"),
        (["train.amp.enabled=True", "train.amp.dtype=float16"], "Use train.amp.dtype=bfloat16"),
        (["train.panels.period=5"], "Set train.panels.period=0"),
        (["train.ddp.fp16_compression=True"], "exchanged in float32"),
    ],
)
def test_settings_that_do_not_work_together_are_refused(overrides, words):
    recipe = "dino/dino_tiny_shapes.py"
    check_sharding(get_config(recipe, overrides))
    check_sharding(get_config(recipe, ["train.fsdp=True", "train.amp.enabled=True"]))
    with pytest.raises(UserError, match=words):
        check_sharding(get_config(recipe, ["train.fsdp=True", *overrides]))


# --- training --------------------------------------------------------------------------------------------------------

STEPS, ACCUMULATE = 4, 2


def batches(first: int, last: int) -> list[list[dict]]:
    """Of all steps, each with the images ``first`` to ``last - 1`` of four."""
    counts = (3, 1, 2, 3)  # as many objects in the fullest image of each rank: it decides about denoising slots
    return [
        [make_input(64, 96, objects=counts[i], seed=10 * number + i) for i in range(first, last)]
        for number in range(STEPS * ACCUMULATE)
    ]


class Training:
    """A model in training, in one of three ways; with a running mean, accumulation and clipping."""

    def __init__(self, kind: str, data: list[list[dict]], folder: Path):
        model = make_model().train()
        # The boxes are rebuilt as they are: ranks draw other noise than one process, which is not tested here.
        model.denoising = ContrastiveDenoising(
            CLASSES, FixedGroups(3), label_flip_probability=0.0, positive_noise_scale=0.0, negative_noise_scale=0.0
        )
        if comm.get_rank() == 1:
            for parameter in model.parameters():
                parameter.data += 1.0
        share_weights(model)  # those of rank 0
        ema = make_ema(model, 0.9)
        self.undivided = shard(ema.module) if kind == "fsdp" else lambda: ema.module
        if kind == "fsdp":
            shard(model)
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
        if kind == "fsdp":
            load_undivided_state(self.optimizer)
        parallel = create_ddp_model(model, broadcast_buffers=False, device_ids=None) if kind == "ddp" else model
        self.trainer = Trainer(parallel, data, self.optimizer, accumulate=ACCUMULATE, ema=ema)
        self.checkpointer = AtomicCheckpointer(ema.module, str(folder), trainer=self.trainer)

    def run(self, steps: range) -> list[dict[str, float]]:
        """Losses and gradient norm of each step, on rank 0."""
        found = []
        with EventStorage(0) as self.trainer.storage:
            for self.trainer.iter in steps:
                self.trainer.run_step()
                latest = self.trainer.storage.latest()
                found.append({name: value for name, (value, _) in latest.items() if "time" not in name})
        return found

    def own_bytes(self) -> int:
        """Memory of this rank's weights and optimizer state."""
        states = [value for state in self.optimizer.state.values() for value in state.values() if value.dim()]
        tensors = [*self.model.parameters(), *states]
        return sum({s.data_ptr(): s.nbytes() for s in (own_part(t).untyped_storage() for t in tensors)}.values())


def _train(folder: Path) -> None:
    rank = comm.get_rank()
    mine = batches(2 * rank, 2 * rank + 2)
    for kind in ("ddp", "fsdp"):
        training = Training(kind, mine, folder / kind)
        record = {"steps": training.run(range(STEPS)), "bytes": training.own_bytes()}
        training.checkpointer.save("model_final")
        mean = training.undivided().state_dict()
        torch.save(record | {"mean": mean}, folder / f"{kind} {rank}.pt")
    stopped = Training("fsdp", mine, folder / "resumed")
    stopped.run(range(2))
    stopped.checkpointer.save("model_0000001")
    comm.synchronize()
    resumed = Training("fsdp", mine[2 * ACCUMULATE :], folder / "resumed")
    resumed.checkpointer.resume_or_load("", resume=True)
    assert resumed.trainer.iter == 1
    resumed.run(range(2, STEPS))
    resumed.checkpointer.save("model_final")
    del training, stopped, resumed


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with the results of both ways on two ranks, and of a stopped and resumed run."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("ddp", "fsdp", "resumed"):
        (folder / name).mkdir()
    run_on_two_ranks(_train, folder)
    return folder


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.slow
@on_two_ranks
def test_divided_ranks_learn_what_ddp_and_one_rank_learn(trained, tmp_path):
    """Sums over images and parameters are the same in another order. float32 rounds each to 6e-8 of its size, of which
    a loss and its gradients' norm have a few hundred, so that 5e-5 of a value is beyond rounding."""
    ddp, fsdp = (load(trained / f"{kind} 0.pt")["steps"] for kind in ("ddp", "fsdp"))
    one = Training("alone", batches(0, 4), tmp_path).run(range(STEPS))
    assert one[-1]["total_loss"] < one[0]["total_loss"] - 0.5
    for expected in (ddp, one):
        for step, other in zip(fsdp, expected, strict=True):
            assert step == pytest.approx(other, rel=5e-5)


@pytest.mark.slow
@on_two_ranks
def test_a_rank_keeps_half_of_weights_and_optimizer_state(trained):
    whole = load(trained / "ddp 0.pt")["bytes"]
    assert whole == 3 * 4 * sum(p.numel() for p in make_model().parameters())
    halves = [load(trained / f"fsdp {rank}.pt")["bytes"] for rank in (0, 1)]
    assert halves == pytest.approx([whole / 2] * 2, rel=0.02)  # rows of a tensor are not always an even number


@pytest.mark.slow
@on_two_ranks
def test_a_checkpoint_of_divided_ranks_is_that_of_one_rank(trained, tmp_path):
    """Same names, shapes and order; it continues on one rank, and the undivided copies of all ranks are its model."""
    ddp, fsdp = (load(trained / kind / "model_final.pth") for kind in ("ddp", "fsdp"))
    assert list(fsdp["model"]) == list(ddp["model"])
    for name, tensor in fsdp["model"].items():
        assert type(tensor) is torch.Tensor
        torch.testing.assert_close(tensor, ddp["model"][name], rtol=0, atol=1e-3)
        for rank in (0, 1):
            assert torch.equal(load(trained / f"fsdp {rank}.pt")["mean"][name], tensor), name
    alone = Training("alone", batches(0, 4), tmp_path)
    alone.checkpointer.load(str(trained / "fsdp" / "model_final.pth"))
    assert differences(alone.checkpointer.model.state_dict(), fsdp["model"]) == []
    assert differences(alone.optimizer.state_dict(), fsdp["trainer"]["optimizer"]) == []
    assert differences(alone.model.state_dict(), fsdp["trainer"]["trained_weights"]) == []


@pytest.mark.slow
@on_two_ranks
def test_divided_ranks_resume_to_the_last_bit(trained):
    through, resumed = (load(trained / name / "model_final.pth") for name in ("fsdp", "resumed"))
    assert differences(through["model"], resumed["model"]) == []
    assert differences(through["trainer"]["optimizer"], resumed["trainer"]["optimizer"]) == []
    assert differences(through["trainer"]["trained_weights"], resumed["trainer"]["trained_weights"]) == []


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.large_memory
@pytest.mark.slow
@on_two_ranks
def test_one_rank_evaluates_a_checkpoint_of_divided_ranks_to_the_same_boxes(tmp_path):
    overrides = [
        *generate_shapes(tmp_path / "shapes", train=4, val=3),
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "model.detector.backbone.freeze_batch_norm=True",  # ranks have batch norm statistics of their own
        "model.detector.encoder.num_layers=1",
        "model.detector.decoder.num_layers=2",
        "train.max_iter=2",
        "train.eval_period=2",
        "train.num_pictures=1",
        "train.fsdp=True",
    ]
    run = train_net([], *TWO, *overrides, f"train.output_dir={tmp_path}/two")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "this rank keeps" in run.stdout
    assert (tmp_path / "two/predictions.png").is_file()
    recipe = ["--eval-only", "--config-file", "configs/dino/dino_tiny_shapes.py"]
    weights = f"train.init_checkpoint={tmp_path}/two/model_final.pth"
    run_train_net(*recipe, *overrides, weights, f"train.output_dir={tmp_path}/one")
    two, one = (json.loads((tmp_path / name / "coco_instances_results.json").read_text()) for name in ("two", "one"))
    assert len(one) == 300
    assert sorted(map(str, two)) == sorted(map(str, one))


# --- errors and the end ----------------------------------------------------------------------------------------------


class Partial(nn.Module):
    """Has a layer and a head that only some batches use."""

    def __init__(self):
        super().__init__()
        self.detector = nn.Module()
        self.detector.encoder, self.detector.decoder, self.detector.backbone = nn.Module(), nn.Module(), nn.Module()
        self.detector.encoder.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        self.head = nn.Linear(2, 2)

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        x = torch.stack([image["x"] for image in batch])
        for layer in self.detector.encoder.layers[: batch[0]["depth"]]:
            x = layer(x)
        return {"loss": (self.head(x) if batch[0]["head"] else x).square().mean()}


def _train_partly() -> None:
    rank = comm.get_rank()
    model = Partial()
    share_weights(model)
    shard(model)
    assert is_sharded(model)
    assert all(isinstance(layer, FSDPModule) for layer in model.detector.encoder.layers)
    # PyTorch 2.11 needs the same parameters on all ranks.
    on_one_rank = hasattr(model, "set_reduce_scatter_unused_params")
    data = [
        [{"x": torch.ones(2), "depth": depth, "head": head, "image_id": 7}]
        for depth, head in ((2, True), (1, False), (2, rank == 0 or not on_one_rank), (2, False))
    ]
    with gradients_stay_undivided(model):
        model(data[0])["loss"].backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    model(data[0])["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    before = undivided(model.head.weight).clone()
    trainer = Trainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1))
    with EventStorage(0) as trainer.storage:
        for _ in range(3):
            trainer.run_step()
            after = undivided(model.head.weight).clone()
            assert after.isfinite().all()
            assert after.equal(before) == (trainer.storage.iter == 1)
            before = after
            trainer.storage.iter += 1
        if rank == 1:
            own_part(model.head.weight).detach()[0, 0] = torch.nan  # in the row that this rank keeps
        with pytest.raises(NonFiniteLossError, match=r"head\.weight have non-finite values"):
            trainer.run_step()


@pytest.mark.slow
@on_two_ranks
def test_unused_parameters_do_not_hang_and_nan_stops_all_ranks():
    run_on_two_ranks(_train_partly)
