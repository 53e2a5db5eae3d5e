# SPDX-License-Identifier: Apache-2.0
"""Schedules, events, training runs, checkpoints and AP of both engines."""

import copy
import json
import logging
import random

import numpy as np
import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from .engines import ENGINES, both, module

TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}


@pytest.mark.parametrize("method", ["linear", "constant"])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("length", [0.0, 0.02, 0.3])
def test_learning_rate_curve(method, rescale, length):
    curves = []
    for m in both("solver"):
        for after in (MultiStepParamScheduler([1, 0.1], milestones=[70, 97]), CosineParamScheduler(1, 0.05)):
            schedule = m.WarmupParamScheduler(after, 0.01, length, method, rescale)
            optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": x} for x in (0.3, 0.07)])
            scheduler = m.LRMultiplier(optimizer, schedule, max_iter=97)
            for _ in range(97):
                curves.append([group["lr"] for group in optimizer.param_groups])
                optimizer.step()
                scheduler.step()
    half = len(curves) // 2
    assert curves[:half] == curves[half:]


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.tied = self.head

    def forward(self, batch):
        out = self.head(self.stem(batch).mean((2, 3)) + 0.1 * torch.rand(len(batch), 4))
        return {"loss_a": out.square().mean(), "loss_b": (out[:, 0] - 1).abs().mean()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"base_lr": 0.1},
        {"base_lr": 0.1, "weight_decay": 0.2, "weight_decay_norm": 0.0},
        {"base_lr": 0.1, "lr_factor_func": lambda name: 0.1 if name.startswith("stem") else 1.0},
        {"base_lr": 0.1, "bias_lr_factor": 2.0, "weight_decay_bias": 0.0, "weight_decay_norm": 0.1},
        {"base_lr": 0.1, "overrides": {"weight": {"lr": 0.01, "weight_decay": 0.3}, "nothing": {"lr": 1.0}}},
        {"weight_decay": 0.1, "weight_decay_bias": 0.0, "bias_lr_factor": None, "overrides": {"weight": {"lr": 0.5}}},
    ],
)
def test_parameter_groups(options):
    model = Toy()
    names = {parameter: name for name, parameter in model.named_parameters()}
    real, embedded = (m.get_default_optimizer_params(model, **copy.deepcopy(options)) for m in both("solver"))
    named = [[{**g, "params": [names[p] for p in g["params"]]} for g in groups] for groups in (real, embedded)]
    assert named[0] == named[1]


@pytest.mark.parametrize(
    "options",
    [
        {"lr_factor_func": lambda name: 1.0},
        {"bias_lr_factor": 2.0},
        {"weight_decay_bias": 0.0, "overrides": {"bias": {"lr": 0.1}}},
    ],
)
def test_arguments_that_parameter_groups_refuse(options):
    for solver in both("solver"):
        with pytest.raises(ValueError, match=r"base_lr|bias"):
            solver.get_default_optimizer_params(Toy(), **options)


def batches():
    rng = np.random.default_rng(5)
    while True:
        yield torch.tensor(rng.standard_normal((2, 3, 8, 8)), dtype=torch.float32)


def run(engine, folder, iterations=20, before_forward=False):
    """A training run with all hooks; returns the trainer and the losses of each iteration."""
    e, hooks = module(engine, "engine"), module(engine, "engine.hooks")
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    model = Toy()
    params = module(engine, "solver").get_default_optimizer_params(model, base_lr=0.05, weight_decay_norm=0.0)
    optimizer = torch.optim.AdamW(params, lr=0.05)
    trainer = e.SimpleTrainer(model, batches(), optimizer, zero_grad_before_forward=before_forward)
    checkpointer = module(engine, "checkpoint").DetectionCheckpointer(model, str(folder), trainer=trainer)
    schedule = module(engine, "solver").WarmupParamScheduler(
        MultiStepParamScheduler([1, 0.1], milestones=[15, 20]), 0.1, 0.2
    )
    losses = []

    class TakeLosses(e.HookBase):
        def after_step(self):
            losses.append({k: v for k, v in self.trainer.storage.latest().items() if k not in TIMES})

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=schedule),
            hooks.PeriodicCheckpointer(checkpointer, 6, max_to_keep=2),
            hooks.EvalHook(7, lambda: {"bbox": {"AP": float(trainer.iter % 5), "deep": {"x": 1}}}),
            hooks.PeriodicWriter(e.default_writers(str(folder), iterations), period=4),
            TakeLosses(),
        ]
    )
    trainer.train(0, iterations)
    return trainer, losses


def load(path):
    return torch.load(path, weights_only=False)


def same(a, b, where=""):
    """The same nested content, tensors to the last bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.parametrize("before_forward", [True, False])
def test_twenty_iterations_to_the_last_bit(tmp_path, before_forward):
    folders = [tmp_path / engine for engine in ENGINES]
    runs = [run(e, folder, before_forward=before_forward) for e, folder in zip(ENGINES, folders, strict=True)]
    (real, real_losses), (embedded, embedded_losses) = runs
    assert real_losses == embedded_losses
    assert len(real_losses) == 20
    for a, b in zip(real.model.state_dict().values(), embedded.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)

    files = [sorted(p.name for p in folder.iterdir() if "tfevents" not in p.name) for folder in folders]
    assert files[0] == files[1]
    for name in files[0]:
        if name.endswith(".pth"):
            same(load(folders[0] / name), load(folders[1] / name), name)
    assert (folders[0] / "last_checkpoint").read_text() == (folders[1] / "last_checkpoint").read_text()

    metrics = [[json.loads(line) for line in (f / "metrics.json").read_text().splitlines()] for f in folders]
    assert [set(line) for line in metrics[0]] == [set(line) for line in metrics[1]]
    without_times = [[{k: v for k, v in line.items() if k not in TIMES} for line in lines] for lines in metrics]
    assert without_times[0] == without_times[1]

    events = [EventAccumulator(str(folder)).Reload() for folder in folders]
    assert set(events[0].Tags()["scalars"]) == set(events[1].Tags()["scalars"])
    for tag in set(events[0].Tags()["scalars"]) - TIMES:
        a, b = ([(e.step, e.value) for e in accumulator.Scalars(tag)] for accumulator in events)
        assert a == b, tag


@pytest.mark.parametrize("saver", ENGINES)
@pytest.mark.parametrize("loader", ENGINES)
def test_a_checkpoint_of_one_resumes_in_the_other(tmp_path, saver, loader):
    saved, _ = run(saver, tmp_path, iterations=8)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    e = module(loader, "engine")
    model = Toy()
    params = module(loader, "solver").get_default_optimizer_params(model, base_lr=0.05, weight_decay_norm=0.0)
    trainer = e.SimpleTrainer(model, batches(), torch.optim.AdamW(params, lr=0.05))
    schedule = CosineParamScheduler(1, 0)
    trainer.register_hooks([e.hooks.LRScheduler(scheduler=module(loader, "solver").LRMultiplier(
        trainer.optimizer, schedule, 8))])  # fmt: skip
    checkpointer = module(loader, "checkpoint").DetectionCheckpointer(model, str(tmp_path), trainer=trainer)
    checkpointer.resume_or_load("", resume=True)
    assert trainer.iter == 7
    same(model.state_dict(), saved.model.state_dict())
    same(trainer.optimizer.state_dict()["state"], saved.optimizer.state_dict()["state"])
    assert trainer._hooks[0].scheduler.last_epoch == 8


def test_event_storage():
    outcomes = []
    for events in both("utils.events"):
        rng = np.random.default_rng(3)
        with events.EventStorage(10) as storage:
            for iteration in range(10, 60):
                storage.iter = iteration
                storage.put_scalar("loss", rng.random())
                if iteration % 3 == 0:
                    storage.put_scalars(lr=rng.random(), smoothing_hint=False, cur_iter=iteration - 1)
                    storage.put_scalar("rare", rng.random())
            outcomes.append(
                (
                    storage.latest(),
                    storage.latest_with_smoothing_hint(20),
                    [storage.count_samples(name, w) for name in ("loss", "lr", "rare") for w in (1, 7, 20, 100)],
                )
            )
    assert outcomes[0] == outcomes[1]


def test_event_storage_of_a_loop_of_ones_own(tmp_path):
    outcomes = []
    for engine in ENGINES:
        events = module(engine, "utils.events")
        rng = np.random.default_rng(3)
        assert not events.has_event_storage()
        with events.EventStorage(5) as storage:
            assert events.has_event_storage()
            writer = events.TensorboardXWriter(str(tmp_path / engine))
            for _ in range(6):
                with storage.name_scope("outer/"):
                    storage.put_scalar("a", rng.random())
                    with storage.name_scope("inner"):
                        storage.put_scalars(b=rng.random(), smoothing_hint=False)
                    storage.put_scalar("c", rng.random())
                storage.put_histogram("h", torch.tensor(rng.standard_normal((4, 9))), bins=7)
                storage.step()
            kept = copy.deepcopy(storage._histograms)
            writer.write()
            writer.close()
            outcomes.append((storage.iter, storage.iteration, storage.latest(), storage.smoothing_hints(), kept))
            assert storage._histograms == []
        accumulator = EventAccumulator(str(tmp_path / engine), size_guidance={"histograms": 0}).Reload()
        shown = [event.histogram_value for event in accumulator.Histograms("h")]
        outcomes[-1] += ([(h.min, h.max, h.num, h.bucket) for h in shown],)
        assert len(shown) == 6
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("write_metrics_async", [True, False])
def test_metrics_written_by_a_thread_and_a_loader_that_is_replaced(write_metrics_async):
    outcomes = []
    for engine in ENGINES:
        torch.manual_seed(3)
        model = Toy()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"gather_metric_period": 2, "async_write_metrics": write_metrics_async}
        trainer = module(engine, "engine").SimpleTrainer(model, batches(), optimizer, **options)

        class Replace(module(engine, "engine").HookBase):
            def before_step(self):
                if self.trainer.iter == 4:
                    self.trainer.reset_data_loader(batches)

        trainer.register_hooks([Replace()])
        trainer.train(0, 8)
        histories = {name: trainer.storage.history(name).values() for name in ("total_loss", "loss_a", "loss_b")}
        assert len(histories["total_loss"]) == 4
        outcomes.append((histories, [p.tolist() for p in model.parameters()]))
    assert outcomes[0] == outcomes[1]


def test_loss_that_is_not_finite(caplog):
    for engine in ENGINES:
        logging.getLogger("detectron2").propagate = True
        caplog.clear()
        model = nn.Linear(1, 1)
        model.forward = lambda batch: {"loss": torch.zeros((), requires_grad=True) * float("nan")}
        trainer = module(engine, "engine").SimpleTrainer(model, [1], torch.optim.SGD(model.parameters(), lr=0.1))
        with pytest.raises(FloatingPointError):
            trainer.train(0, 1)
        errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert errors == ["Exception in writing metrics: ", "Exception during training:"]


@pytest.mark.parametrize("engine", ENGINES)
def test_logger_options(engine, capsys, caplog):
    name = f"logger_options_{engine}"
    setup_logger = module(engine, "utils.logger").setup_logger
    logger = setup_logger(name=name, enable_propagation=True, configure_stdout=False)
    assert not logger.handlers
    logger.info("hello")
    assert caplog.messages == ["hello"]
    assert setup_logger(name=f"{name}_2", color=False).propagate is False


def test_seeds():
    draws = []
    for m in both("utils.env"):
        m.seed_all_rng(17)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert draws[0] == draws[1]


def test_command_line():
    parsers = [m.default_argument_parser() for m in both("engine")]
    line = ["--config-file", "x.py", "--num-gpus", "4", "--resume", "a=1", "b=2"]
    assert vars(parsers[0].parse_args(line)) == vars(parsers[1].parse_args(line))
    assert vars(parsers[0].parse_args([])) == vars(parsers[1].parse_args([]))


@pytest.fixture
def truth(tmp_path):
    rng = np.random.default_rng(7)
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 200} for i in range(1, 21)]
    annotations = []
    for i in range(120):
        box = np.concatenate([rng.uniform(0, 100, 2), rng.uniform(4, 100, 2)]).tolist()
        annotations.append(
            {
                "id": i + 1,
                "image_id": int(rng.integers(1, 21)),
                "bbox": box,
                "area": box[2] * box[3],
                "category_id": int(rng.choice([2, 4, 9])),
                "iscrowd": int(rng.random() < 0.05),
            }
        )
    categories = [{"id": i, "name": f"class {i}"} for i in (2, 4, 9, 11)]  # the last one has no object
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, annotations


def predictions(m, annotations, index):
    """Noisy truth and false alarms, the same for both engines."""
    rng = np.random.default_rng(11)
    outputs = []
    for image_id in range(1, 21):
        rows = []
        for a in (a for a in annotations if a["image_id"] == image_id):
            x, y, w, h = a["bbox"] + rng.normal(0, 3, 4)
            rows.append(([x, y, x + abs(w), y + abs(h)], index[a["category_id"]], rng.random()))
        rows += [([5, 5, 30, 30], int(rng.integers(0, 4)), float(rng.random() * 0.7)) for _ in range(2)]
        boxes, classes, scores = zip(*rows, strict=True)
        instances = m.Instances((200, 200), pred_boxes=m.Boxes(torch.tensor(np.array(boxes), dtype=torch.float32)))
        instances.pred_classes, instances.scores = torch.tensor(classes), torch.tensor(scores)
        outputs.append(([{"image_id": image_id}], [{"instances": instances}]))
    return outputs


def test_same_ap_from_the_same_predictions(truth, tmp_path):
    path, annotations = truth
    results, files = [], []
    for engine in ENGINES:
        name = f"door_ap_{tmp_path.name}"
        module(engine, "data.datasets").register_coco_instances(name, {}, str(path), str(tmp_path))
        data = module(engine, "data")
        data.DatasetCatalog.get(name)
        index = data.MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
        folder = tmp_path / engine
        evaluator = module(engine, "evaluation").COCOEvaluator(name, output_dir=str(folder), use_fast_impl=False)
        evaluator.reset()
        for inputs, outputs in predictions(module(engine, "structures"), annotations, index):
            evaluator.process(inputs, outputs)
        results.append(evaluator.evaluate())
        files.append(json.loads((folder / "coco_instances_results.json").read_text()))
    assert list(results[0]["bbox"]) == list(results[1]["bbox"])
    np.testing.assert_array_equal(list(results[0]["bbox"].values()), list(results[1]["bbox"].values()))
    assert 5 < results[0]["bbox"]["AP"] < 95
    assert files[0] == files[1]
