# SPDX-License-Identifier: Apache-2.0
"""Trainers, hooks, checkpoints, schedules, launching and the predictor, under either engine."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from torch import nn

from dino_d2.detectron2 import ENGINE
from dino_d2.detectron2.checkpoint import DetectionCheckpointer
from dino_d2.detectron2.config import LazyConfig, get_cfg
from dino_d2.detectron2.engine import (
    DefaultPredictor,
    HookBase,
    SimpleTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from dino_d2.detectron2.modeling import META_ARCH_REGISTRY
from dino_d2.detectron2.solver import LRMultiplier, WarmupParamScheduler, get_default_optimizer_params
from dino_d2.detectron2.utils import comm
from tests.two_ranks import run_on_two_ranks


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.norm = nn.LayerNorm(3)

    def forward(self, batch):
        prediction = self.layer(self.norm(batch))
        return {"loss_square": prediction.square().mean(), "loss_abs": prediction.abs().mean()}


class Batches:
    """Endless, and the k-th batch is always the same."""

    def __init__(self, start=0):
        self.start = start

    def __iter__(self):
        k = self.start
        while True:
            yield torch.randn(4, 3, generator=torch.Generator().manual_seed(k))
            k += 1


def make_trainer(output_dir, start=0, **checkpointer_options):
    torch.manual_seed(0)
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    trainer = SimpleTrainer(model, Batches(start), optimizer)
    checkpointer = DetectionCheckpointer(model, str(output_dir), trainer=trainer)
    schedule = WarmupParamScheduler(MultiStepParamScheduler([1, 0.1], milestones=[6, 10]), 0.1, 0.3)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=schedule),
            None,
            hooks.PeriodicCheckpointer(checkpointer, period=4, **checkpointer_options),
            hooks.EvalHook(5, lambda: {"bbox": {"AP": 10.0 + trainer.iter, "AP-cat": float("nan")}}),
            hooks.PeriodicWriter(default_writers(str(output_dir), 10), period=2),
        ]
    )
    return trainer, checkpointer


def test_a_run_and_what_it_leaves(tmp_path):
    trainer, checkpointer = make_trainer(tmp_path)
    before = trainer.model.layer.weight.clone()
    trainer.train(0, 10)
    assert trainer.iter == 10
    assert not torch.equal(before, trainer.model.layer.weight)
    names = {p.name for p in tmp_path.iterdir()}
    assert {"model_0000003.pth", "model_0000007.pth", "model_final.pth", "metrics.json"} <= names
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert checkpointer.has_checkpoint()

    content = torch.load(tmp_path / "model_0000007.pth")
    assert content["iteration"] == content["trainer"]["iteration"] == 7
    assert set(content["trainer"]) == {"iteration", "hooks", "optimizer"}
    assert content["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 8
    assert set(content["model"]) == set(Toy().state_dict())

    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    by_iteration = {line["iteration"]: line for line in lines}
    assert {"total_loss", "loss_square", "loss_abs", "lr", "time", "data_time", "eta_seconds"} <= set(by_iteration[9])
    assert by_iteration[9]["lr"] == pytest.approx(0.01)
    assert by_iteration[10]["bbox/AP"] == 20.0  # the evaluation after the last iteration


def test_resumed_run_is_the_same_run(tmp_path):
    whole, _ = make_trainer(tmp_path / "whole")
    whole.train(0, 10)
    make_trainer(tmp_path / "part")[0].train(0, 10)
    (tmp_path / "part/last_checkpoint").write_text("model_0000003.pth")
    resumed, checkpointer = make_trainer(tmp_path / "part", start=4)
    nn.init.zeros_(resumed.model.layer.weight)
    checkpointer.resume_or_load("", resume=True)
    assert resumed.iter == 3
    resumed.train(resumed.iter + 1, 10)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_old_checkpoints_are_removed(tmp_path):
    make_trainer(tmp_path, max_to_keep=1)[0].train(0, 10)
    assert not (tmp_path / "model_0000003.pth").exists()
    assert (tmp_path / "model_0000007.pth").exists()


def test_loading_a_bare_state_dict(tmp_path):
    weights = {name: torch.full_like(value, 2.0) for name, value in Toy().state_dict().items()}
    torch.save(weights, tmp_path / "bare.pth")
    model = Toy()
    DetectionCheckpointer(model).load(str(tmp_path / "bare.pth"))
    assert (model.layer.weight == 2).all()


def test_nan_stops_the_run_and_hooks_still_close(tmp_path):
    class Bad(Toy):
        def forward(self, batch):
            return {"loss": super().forward(batch)["loss_abs"] * math.nan}

    model = Bad()
    trainer = SimpleTrainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=0.1))
    closed = []

    class Close(HookBase):
        def after_train(self):
            closed.append(self.trainer.iter)

    trainer.register_hooks([Close()])
    with pytest.raises(FloatingPointError, match="iteration"):
        trainer.train(3, 5)
    assert closed == [3]


def test_trainer_refuses_a_model_in_eval_mode():
    model = Toy()
    trainer = SimpleTrainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=0.1))
    model.eval()
    with pytest.raises(AssertionError, match="eval mode"):
        trainer.run_step()


def test_warmup_and_multiplier():
    schedule = WarmupParamScheduler(MultiStepParamScheduler([1, 0.1], milestones=[60, 100]), 0.01, 0.1)
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)])
    scheduler = LRMultiplier(optimizer, schedule, max_iter=100)
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    rates = np.array(rates)
    np.testing.assert_allclose(rates[:, 1], rates[:, 0] / 10)
    np.testing.assert_allclose(rates[[0, 5, 10, 59, 60, 99], 0], [0.01, 0.505, 1, 1, 0.1, 0.1])
    with pytest.raises(ValueError, match="ParamScheduler"):
        LRMultiplier(optimizer, lambda x: x, 10)
    assert WarmupParamScheduler(CosineParamScheduler(1, 0), 0.5, 0.1, "constant")(0.05) == 0.5


def test_parameter_groups():
    model = Toy()
    model.layer.bias.requires_grad = False
    groups = get_default_optimizer_params(
        model, base_lr=1.0, weight_decay_norm=0.0, lr_factor_func=lambda name: 0.1 if "layer" in name else 1.0
    )
    assert sorted((g["lr"], g.get("weight_decay"), len(g["params"])) for g in groups) == [(0.1, None, 1), (1, 0, 2)]
    with pytest.raises(ValueError, match="base_lr"):
        get_default_optimizer_params(model, lr_factor_func=lambda name: 1.0)


def test_command_line():
    args = default_argument_parser().parse_args(
        ["--config-file", "a.py", "--num-gpus", "2", "train.max_iter=3", "a.b=c"]
    )
    assert (args.config_file, args.num_gpus, args.opts) == ("a.py", 2, ["train.max_iter=3", "a.b=c"])
    assert (args.resume, args.eval_only, args.num_machines, args.machine_rank) == (False, False, 1, 0)
    assert args.dist_url.startswith("tcp://127.0.0.1:")


def test_set_up(tmp_path):
    config = tmp_path / "a.py"
    config.write_text(f"train = dict(output_dir={str(tmp_path / 'out')!r}, seed=5)")
    numbers = []
    for _ in range(2):
        default_setup(LazyConfig.load(str(config)), SimpleNamespace(config_file=str(config), eval_only=False))
        numbers.append((torch.rand(1).item(), np.random.rand(), os.environ["PYTHONHASHSEED"]))  # noqa: NPY002
    assert numbers[0] == numbers[1]
    assert numbers[0][2] == "5"
    assert LazyConfig.load(str(tmp_path / "out/config.yaml")).train.seed == 5
    assert "Command line arguments" in (tmp_path / "out/log.txt").read_text()


@pytest.mark.skipif(ENGINE != "embedded", reason="Detectron2 sets up with either config")
def test_set_up_with_a_yacs_config_says_what_it_needs(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    with pytest.raises(TypeError, match=r"default_setup.*yacs.*Detectron2 itself"):
        default_setup(cfg, SimpleNamespace())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(ENGINE != "embedded", reason="Detectron2 loads them")
@pytest.mark.parametrize(
    "weights",
    [
        "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
        "detectron2://ImageNetPretrained/mae.pth?matching_heuristics=True",
        "{folder}/plain.pth?matching_heuristics=True",
        "{folder}/marked.pth",
        "{folder}/zoo.pkl",
    ],
)
def test_weights_for_detectron2_alone_say_what_they_are(weights, tmp_path):
    torch.save({"model": Toy().state_dict()}, tmp_path / "plain.pth")
    torch.save({"model": Toy().state_dict(), "matching_heuristics": True}, tmp_path / "marked.pth")
    (tmp_path / "zoo.pkl").write_bytes(b"")
    with pytest.raises((ValueError, FileNotFoundError), match=r"model zoo|similar names") as caught:
        DetectionCheckpointer(Toy()).load(weights.format(folder=tmp_path))
    assert "needs Detectron2 itself" in str(caught.value)
    assert Path(weights).name.partition("?")[0] in str(caught.value)


@META_ARCH_REGISTRY.register()
class DoorToyDetector(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return [{"image": x["image"] * self.scale, "size": (x["height"], x["width"])} for x in inputs]


def test_predictor(tmp_path):
    torch.save({"model": {"scale": torch.tensor(2.0)}}, tmp_path / "weights.pth")
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "DoorToyDetector"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.FORMAT = 20, "RGB"
    bgr = np.zeros((10, 30, 3), dtype=np.uint8)
    bgr[..., 0] = 7
    output = DefaultPredictor(cfg)(bgr)
    assert output["size"] == (10, 30)
    assert output["image"].shape == (3, 20, 60)
    assert output["image"][:, 0, 0].tolist() == [0, 0, 14]


def _rank_job(folder):
    rank = comm.get_rank()
    assert (comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()) == (2, rank, 2)
    assert comm.all_gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert comm.gather(rank, dst=0) == ([0, 1] if rank == 0 else [])
    np.random.seed(rank)  # noqa: NPY002
    assert len(set(comm.all_gather(comm.shared_random_seed()))) == 1
    torch.manual_seed(0)
    on_cpu = {} if ENGINE == "embedded" else {"device_ids": None}
    model = create_ddp_model(Toy(), broadcast_buffers=False, fp16_compression=False, **on_cpu)
    trainer = SimpleTrainer(model, Batches(start=100 * rank), torch.optim.SGD(model.parameters(), lr=0.1))
    checkpointer = DetectionCheckpointer(model, folder, trainer=trainer)
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, period=3) if rank == 0 else None])
    trainer.train(0, 3)
    weights = comm.all_gather([p.tolist() for p in model.parameters()])
    assert weights[0] == weights[1]
    if rank == 0:
        assert {"loss_abs", "data_time", "rank_data_time"} <= set(trainer.storage.latest())


@pytest.mark.slow  # two processes import torch
@pytest.mark.skipif(torch.cuda.is_available(), reason="NCCL is tested on GPUs")
def test_two_ranks_over_gloo(tmp_path):
    run_on_two_ranks(_rank_job, str(tmp_path))
    assert set(torch.load(tmp_path / "model_final.pth")["model"]) == set(Toy().state_dict())
