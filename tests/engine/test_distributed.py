# SPDX-License-Identifier: Apache-2.0
"""Two ranks over gloo: they learn what one rank learns, count each image once and stop together."""

import json
import os
import shlex
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks as comm_hooks

from dino_d2.denoising import ContrastiveDenoising, FixedGroups
from dino_d2.detectron2.data import MetadataCatalog, build_detection_test_loader
from dino_d2.detectron2.data.datasets import register_coco_instances
from dino_d2.detectron2.engine.defaults import create_ddp_model
from dino_d2.detectron2.evaluation import COCOEvaluator, inference_on_dataset
from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.detectron2.utils import comm
from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.engine import NonFiniteLossError, Trainer
from dino_d2.engine.collective import share_weights
from dino_d2.engine.launch import leave_process_groups
from dino_d2.modeling.losses import criterion
from tests.paths import ROOT
from tests.processes import python, run_python
from tests.two_ranks import run_on_two_ranks

PYTHON_PATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
CLASSES = 5

pytestmark = [
    pytest.mark.slow,  # every test starts processes that import torch
    pytest.mark.skipif(torch.cuda.is_available(), reason="gloo is for machines without a GPU"),
]


# --- gradients -------------------------------------------------------------------------------------------------------


def gradients(model, batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sum(model(batch).values()).backward()
    return {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("denoising", [True, False])
@pytest.mark.parametrize("objects", [2, 0])
def test_every_trained_parameter_has_a_gradient(make_model, make_input, denoising, objects):
    """DistributedDataParallel waits for all of them."""
    model = make_model(denoising).train()
    sum(model([make_input(objects=objects)]).values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def _gradients_of_half_a_batch(cases: dict, folder: Path) -> None:
    for name, (model, batch) in cases.items():
        parallel = create_ddp_model(model, broadcast_buffers=False, device_ids=None)
        half = len(batch) // 2
        mine = batch[comm.get_rank() * half :][:half]
        torch.save(gradients(parallel, mine), folder / f"{name}_{comm.get_rank()}.pt")


def noiseless() -> ContrastiveDenoising:
    """Rebuilds the boxes as they are: ranks draw other noise than one process does, and that is not what we test."""
    return ContrastiveDenoising(
        CLASSES, FixedGroups(3), label_flip_probability=0.0, positive_noise_scale=0.0, negative_noise_scale=0.0
    )


def assert_close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        largest = gradient.abs().max()
        assert (found[name] - gradient).abs().max() <= 1e-4 * largest + 1e-7, name


def test_two_ranks_with_half_the_batch_have_the_gradients_of_one(make_model, make_input, tmp_path, monkeypatch):
    def batch(*objects):
        return [make_input(64, 96, objects=n, seed=seed) for seed, n in enumerate(objects)]

    def model(denoising):
        made = make_model(denoising).train()
        made.denoising = noiseless() if denoising else None
        return made

    # Denoising slots fill up to the fullest image of a rank's batch, so that one has as many objects on both ranks.
    cases = {
        "denoising": (model(True), batch(3, 1, 2, 3)),
        "matching": (model(False), batch(3, 1, 0, 2)),
        "matching_rank_without_objects": (model(False), batch(2, 3, 0, 0)),
        "denoising_rank_without_objects": (model(True), batch(2, 3, 0, 0)),
    }
    run_on_two_ranks(_gradients_of_half_a_batch, cases, tmp_path)
    for name, (one, whole) in cases.items():
        ranks = [torch.load(tmp_path / f"{name}_{rank}.pt") for rank in (0, 1)]
        for parameter in ranks[0]:
            assert torch.equal(ranks[0][parameter], ranks[1][parameter]), parameter
        if name != "denoising_rank_without_objects":
            assert_close(ranks[0], gradients(one, whole))
            continue
        # In one batch the images without objects would have padding slots; apart they have no slot at all.
        monkeypatch.setattr(criterion, "mean_over_ranks", lambda count, device: torch.tensor(5 / 2))
        halves = [gradients(one, whole[:2]), gradients(one, whole[2:])]
        assert_close(ranks[0], {n: (halves[0][n] + halves[1][n]) / 2 for n in halves[0]})


# --- evaluation ------------------------------------------------------------------------------------------------------


def register(folder: Path, images: int) -> str:
    """A dataset with one object in each of a few images; the object's width is the image's id."""
    entries = [{"id": 10 + i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(images)]
    annotations = [
        {"id": 1 + i, "image_id": 10 + i, "category_id": 1, "bbox": [1, 1, 10 + i, 9], "area": 9, "iscrowd": 0}
        for i in range(images)
    ]
    content = {"images": entries, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    name = f"distributed_{images}"
    register_coco_instances(name, {}, str(path), str(folder))
    MetadataCatalog.get(name).set(thing_classes=["thing"], thing_dataset_id_to_contiguous_id={1: 0})
    return name


def find_the_object(batch: list[dict]) -> list[dict]:
    found = []
    for x in batch:
        instances = Instances((64, 64))
        instances.pred_boxes = Boxes(torch.tensor([[1.0, 1.0, 1.0 + x["image_id"], 10.0]]))
        instances.scores = torch.tensor([0.9])
        instances.pred_classes = torch.tensor([0])
        found.append({"instances": instances})
    return found


def _evaluate(folder: Path, images: int) -> None:
    name = register(folder / str(comm.get_rank()), images)
    dataset = [{"image_id": 10 + i} for i in range(images)]
    loader = build_detection_test_loader(dataset, mapper=dict, num_workers=0)
    evaluator = COCOEvaluator(name, output_dir=str(folder), use_fast_impl=False)
    results = inference_on_dataset(find_the_object, loader, evaluator)
    assert bool(results) == comm.is_main_process()
    if results:
        (folder / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize("images", [21, 5, 1])
def test_evaluation_counts_each_image_once(images, tmp_path):
    """Also where the ranks have not as many images each, or one has none."""
    for rank in "01":
        (tmp_path / rank).mkdir()
    run_on_two_ranks(_evaluate, tmp_path, images)
    predictions = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert sorted(p["image_id"] for p in predictions) == [10 + i for i in range(images)]
    assert all(p["bbox"][2] == p["image_id"] for p in predictions)
    assert json.loads((tmp_path / "results.json").read_text())["bbox"]["AP"] == pytest.approx(100)


# --- accumulation ----------------------------------------------------------------------------------------------------


class CountingTrainer(Trainer):
    """Counts how often ranks share their gradients."""

    shared = 0

    def count(self, _, bucket):
        self.shared += 1
        return comm_hooks.allreduce_hook(None, bucket)


def _accumulate() -> None:
    rank = comm.get_rank()
    model = create_ddp_model(Mean(), broadcast_buffers=False, device_ids=None)
    batches = [[{"x": torch.tensor(float(10 * rank + i)), "image_id": i}] for i in range(3)]
    trainer = CountingTrainer(
        model, batches, torch.optim.SGD(model.parameters(), lr=0.1), clip_grad_norm=1e9, accumulate=3
    )
    model.register_comm_hook(None, trainer.count)
    with EventStorage(0) as trainer.storage:
        trainer.run_step()
    assert trainer.shared == 1
    assert model.module.weight.item() == pytest.approx(1 - 0.1 * (0 + 1 + 2 + 10 + 11 + 12) / 6)


def test_accumulated_gradients_are_shared_once_a_step():
    run_on_two_ranks(_accumulate)


# --- errors ----------------------------------------------------------------------------------------------------------


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        return {"loss_mean": torch.stack([x["x"] * self.weight for x in batch]).mean()}


def _share_weights() -> None:
    torch.manual_seed(comm.get_rank())
    model = nn.Sequential(nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(3))
    model[1].num_batches_tracked.fill_(comm.get_rank())
    first = comm.all_gather([tensor.clone() for tensor in model.state_dict().values()])[0]
    share_weights(model)
    for shared, expected in zip(model.state_dict().values(), first, strict=True):
        torch.testing.assert_close(shared, expected, rtol=0, atol=0)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_ranks_begin_with_the_weights_of_rank_0():
    run_on_two_ranks(_share_weights)


def _train_on_a_bad_image() -> None:
    rank = comm.get_rank()
    model = create_ddp_model(Mean(), broadcast_buffers=False, device_ids=None)
    batches = [
        [{"x": torch.tensor(1.0), "image_id": rank}],
        [{"x": torch.tensor([1.0, torch.nan][rank]), "image_id": 7}],
    ]
    trainer = Trainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1))
    with EventStorage(0) as trainer.storage:
        trainer.run_step()
        weight = model.module.weight.item()
        trainer.iter = 1
        with pytest.raises(NonFiniteLossError, match=r"iteration 1.*: rank 1: image ids \[7\] have .* loss_mean"):
            trainer.run_step()
    assert model.module.weight.item() == weight != 1.0


def test_a_non_finite_loss_on_one_rank_stops_all():
    run_on_two_ranks(_train_on_a_bad_image)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    return [
        f"dataloader.train.dataset.names={{root: {root}, train: 8, val: 5, size: 64}}",
        "dataloader.test.dataset.names={train: 8, val: 5, size: 64}",
        "dataloader.train.total_batch_size=4",
        "dataloader.train.num_workers=0",
        "model.detector.encoder.num_layers=1",
        "model.detector.decoder.num_layers=2",
        "train.max_iter=3",
        "train.eval_period=3",
        "train.log_period=1",
        "train.num_pictures=1",
    ]


def train_net(launcher: list[str], *arguments: str) -> subprocess.CompletedProcess:
    return run_python(*launcher, "train_net.py", "--config-file", "configs/dino/dino_tiny_shapes.py", *arguments)


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "time" not in k and "seconds" not in k} for line in lines]


TWO = ["--num-gpus", "2", "--dist-url", "auto"]  # a free port: the default one may be in use
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]


@pytest.mark.large_memory
def test_an_error_of_the_ranks_is_told_without_a_traceback(overrides, tmp_path):
    bad = ["model.pixel_std=[0,0,0]", f"train.output_dir={tmp_path}"]
    run = train_net([], *TWO, *overrides, *bad)
    assert run.returncode == 1
    end = run.stderr[run.stderr.rindex("error: training stopped at iteration 0") :]
    assert "rank 1: image ids" in end
    assert "Traceback" not in end


@pytest.mark.large_memory
def test_torchrun_starts_the_processes_alone(overrides, tmp_path):
    run = train_net(TORCHRUN, "--num-gpus", "2", *overrides, f"train.output_dir={tmp_path}")
    assert run.returncode != 0
    assert "torchrun has started the processes already" in run.stderr


@pytest.fixture(scope="module")
def one_machine(overrides, tmp_path_factory):
    """The metrics of two ranks that a process of ours has started, without a GPU."""
    folder = tmp_path_factory.mktemp("one_machine")
    run = train_net([], *TWO, *overrides, f"train.output_dir={folder}")
    assert run.returncode == 0, run.stdout + run.stderr
    warnings = [line for line in (run.stdout + run.stderr).splitlines() if "FutureWarning" in line]
    assert [line for line in warnings if "torch.jit.script" not in line] == []  # Detectron2 itself calls that
    assert (folder / "log.txt.rank1").is_file()
    assert len(metrics(folder)) >= 3
    assert "bbox/AP" in metrics(folder)[-1]
    return metrics(folder)


@pytest.mark.large_memory
def test_torchrun_on_two_machines_gives_the_run_of_one(overrides, one_machine, tmp_path):
    """Both machines are this one, and share their folders; the first of them draws the data."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", str(os.getpid())]
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting]
    own = [f"dataloader.train.dataset.names.root={tmp_path}/shapes", f"train.output_dir={tmp_path}/out"]
    with ThreadPoolExecutor() as machines:
        runs = [machines.submit(train_net, launcher, *overrides, *own) for _ in range(2)]
    for run in runs:
        assert run.result().returncode == 0, run.result().stdout + run.result().stderr
    assert (tmp_path / "shapes/train").is_dir()
    assert (tmp_path / "out/log.txt.rank1").is_file()
    assert metrics(tmp_path / "out") == one_machine


#: Stands in for SLURM's `srun`: the tasks of all nodes, on this machine, and the status of the first that fails.
SRUN = """
shift  # --kill-on-bad-exit=1
for SLURM_NODEID in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
    export SLURM_NODEID
    "$@" &
    tasks="$tasks $!"
done
for task in $tasks; do wait $task || exit; done
"""


@pytest.mark.large_memory
@pytest.mark.parametrize(("nodes", "gpus"), [(1, 2), (2, 1)])
def test_the_slurm_script_gives_the_run_of_one_machine(nodes, gpus, overrides, one_machine, tmp_path):
    """It starts torchrun on each node. The SLURM programs that it calls have stand-ins."""
    stand_ins = {"srun": SRUN, "scontrol": "echo localhost", "python": f'exec {shlex.join(python())} "$@"'}
    for name, script in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"JOB_ID": free_port(), "JOB_NODELIST": "nodes", "JOB_NUM_NODES": nodes, "GPUS_ON_NODE": gpus}
    environment = os.environ | {f"SLURM_{key}": str(value) for key, value in slurm.items()}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": PYTHON_PATH, "OMP_NUM_THREADS": "1"}
    command = ["tools/slurm_train.sh", "--config-file", "configs/dino/dino_tiny_shapes.py", *overrides]
    out = tmp_path / "out"
    run = subprocess.run(
        [*command, f"train.output_dir={out}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert (out / "log.txt.rank1").is_file()
    assert metrics(out) == one_machine


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


# --- the end ---------------------------------------------------------------------------------------------------------


def gloo_threads() -> list[str]:
    """Of this process, by their names."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def _leave() -> None:
    model = create_ddp_model(nn.Linear(2, 1), broadcast_buffers=False, device_ids=None)
    model(torch.ones(1, 2)).sum().backward()
    cycle = [model]
    cycle.append(cycle)
    del model, cycle
    assert comm.all_gather(comm.get_local_rank()) == [0, 1]
    assert gloo_threads()
    leave_process_groups()
    assert gloo_threads() == []


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
def test_no_thread_of_gloo_is_left_at_the_end():
    """One could abort the process while Python ends."""
    run_on_two_ranks(_leave)
