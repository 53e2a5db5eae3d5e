# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are damaged, or of another run, are met with one message before anything is loaded."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dino_d2.engine.checkpointer import AtomicCheckpointer
from dino_d2.engine.resume import check_resume
from dino_d2.engine.trainer import Trainer
from dino_d2.engine.training_data import TrainingData
from dino_d2.errors import UserError

CLASSES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


class Loader:
    """Endless batches with the state of the training loader."""

    batches = 0

    def __iter__(self):
        while True:
            self.batches += 1
            yield [{"image_id": self.batches}]

    def state_dict(self) -> dict[str, Any]:
        return {"seed": 5, "total_batch_size": 1, "aspect_ratio_grouping": False, "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches = state["batches"]


def make_trainer(optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW, **settings: Any) -> Trainer:
    model = nn.Linear(3, 2)
    model.forward = lambda batch: {"loss": nn.functional.linear(torch.ones(1, 3), model.weight, model.bias).sum()}
    return Trainer(model, Loader(), optimizer(model.parameters(), lr=0.1, **settings))


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict[str, Any]:
    """A checkpoint after two iterations."""
    folder = tmp_path_factory.mktemp("run")
    trainer = make_trainer()
    trainer.train(0, 2)
    trainer.iter = 1
    data = TrainingData({})
    data.digests = {"train": ["a"], "test": ["b"]}
    saver = AtomicCheckpointer(trainer.model, str(folder), categories=CLASSES, trainer=trainer, data=data)
    saver.save("model_0000001", iteration=1)
    return torch.load(folder / "model_0000001.pth", weights_only=True)


def check(content: Any, folder: Path, trainer: Trainer | None = None, max_iter: int = 5, categories=None) -> None:
    path = folder / "model_0000001.pth"
    torch.save(content, path)
    trainer = trainer or make_trainer()
    data = TrainingData({})
    data.digests = {"train": ["a"], "test": ["b"]}
    check_resume(str(path), trainer.model, trainer, max_iter, categories or CLASSES, data)


def test_a_sound_checkpoint_passes_without_a_word(content, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        check(content, tmp_path)
    assert caplog.messages == []


def put(*path: Any, value: Any):
    def change(content: dict) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


def drop(*path: Any):
    def change(content: dict) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


STATE = ("trainer", "optimizer", "state")
GROUP = ("trainer", "optimizer", "param_groups", 0)

DAMAGES = {
    "iteration is text": put("trainer", "iteration", value="1"),
    "iteration is negative": put("trainer", "iteration", value=-5),
    "iteration is missing": drop("trainer", "iteration"),
    "two iterations": put("iteration", value=7),
    "weights that are no tensors": put("model", "bias", value=5),
    "no groups": put("trainer", "optimizer", "param_groups", value=5),
    "groups without parameters": drop(*GROUP, "params"),
    "no state by parameter": put(*STATE, value=[1]),
    "a state that is none": put(*STATE, 0, value=5),
    "step is text": put(*STATE, 0, "step", value="2"),
    "step is not finite": put(*STATE, 0, "step", value=torch.tensor(float("nan"))),
    "step is negative": put(*STATE, 0, "step", value=torch.tensor(-2.0)),
    "step is of another run": put(*STATE, 0, "step", value=torch.tensor(900.0)),
    "mean of gradients is a number": put(*STATE, 0, "exp_avg", value=5.0),
    "mean of gradients has no shape": put(*STATE, 0, "exp_avg", value=torch.tensor(1.0)),
    "learning rate is text": put(*GROUP, "lr", value="high"),
    "betas is a number": put(*GROUP, "betas", value=0.9),
    "loader is a list": put("trainer", "data_loader", value=[5]),
    "loader without batches": drop("trainer", "data_loader", "batches"),
    "loader with text": put("trainer", "data_loader", "batches", value="2"),
    "loader with a negative number": put("trainer", "data_loader", "batches", value=-2),
    "loader far beyond": put("trainer", "data_loader", "batches", value=10**15),
    "loader without a seed": drop("trainer", "data_loader", "seed"),
    "hooks is a list": put("trainer", "hooks", value=[5]),
    "random states is a number": put("random_states", value=5),
    "a random state is None": put("random_states", 0, value=None),
    "no state of Python": drop("random_states", 0, "python"),
    "no state of NumPy": drop("random_states", 0, "numpy"),
    "state of torch is cut off": put("random_states", 0, "torch", value=torch.zeros(3, dtype=torch.uint8)),
    "state of torch is of another type": put("random_states", 0, "torch", value=torch.zeros(5056)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_met_with_one_message(damage, content, tmp_path):
    (tmp_path / "model_0000000.pth").touch()
    damaged = copy.deepcopy(content)
    DAMAGES[damage](damaged)
    with pytest.raises(UserError, match=r"--resume: .*model_0000001\.pth is damaged: .*last_checkpoint.*0000000"):
        check(damaged, tmp_path)


def test_a_flipped_bit_is_found(content, tmp_path):
    path = tmp_path / "model_0000001.pth"
    torch.save(content, path)
    data = bytearray(path.read_bytes())
    weights = content["model"]["weight"].numpy().tobytes()
    data[data.index(weights) + 5] ^= 1
    path.write_bytes(data)
    trainer = make_trainer()
    with pytest.raises(UserError, match=r"the checksum of its part .* is wrong"):
        check_resume(str(path), trainer.model, trainer, 5)


@pytest.mark.parametrize(
    ("optimizer", "settings", "words"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, "no SGD"),
        (torch.optim.RMSprop, {}, "no RMSprop"),
        (torch.optim.Adagrad, {}, "no Adagrad"),
        (torch.optim.Adamax, {}, "keeps exp_avg, exp_avg_sq, step of parameter 0.*keeps exp_avg, exp_inf, step"),
    ],
)
def test_another_kind_of_optimizer_is_refused(optimizer, settings, words, content, tmp_path):
    with pytest.raises(UserError, match=f"does not belong to this config: .*{words}"):
        check(content, tmp_path, make_trainer(optimizer, **settings))


def test_the_state_of_sgd_is_refused_by_adamw(content, tmp_path):
    trainer = make_trainer(torch.optim.SGD, momentum=0.9)
    trainer.train(0, 2)
    saved = content | {"trainer": content["trainer"] | {"optimizer": trainer.optimizer.state_dict()}}
    with pytest.raises(UserError, match=r"does not belong to this config: its optimizer has no .*no AdamW"):
        check(saved, tmp_path)
    check(saved, tmp_path, make_trainer(torch.optim.SGD, momentum=0.9))


def test_settings_that_an_older_pytorch_did_not_save_are_filled_in(content, tmp_path):
    older = copy.deepcopy(content)
    for group in older["trainer"]["optimizer"]["param_groups"]:
        for name in ("maximize", "foreach", "capturable", "differentiable", "fused"):
            group.pop(name, None)
    check(older, tmp_path)


def test_fewer_iterations_than_done_are_refused(content, tmp_path):
    check(content, tmp_path, max_iter=2)
    with pytest.raises(UserError, match=r"was saved after 2 iterations, but train\.max_iter=1"):
        check(content, tmp_path, max_iter=1)


def changed(change):
    def do(content: dict) -> dict:
        content = copy.deepcopy(content)
        change(content)
        return content

    return do


CHANGES = {
    "classes in another order": (put("categories", value=CLASSES[::-1]), "class 0 was 'dog' and is 'cat'; class 1"),
    "other boxes": (put("data", "train", value=["c"]), "annotation files of the train set are not those"),
    "no optimizer state": (put(*STATE, value={}), "no state of the optimizer"),
    "another weight decay": (put(*GROUP, "weight_decay", value=0.5), "weight_decay=0.5, not 0.01"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_said_once(change, content, tmp_path, caplog):
    do, words = CHANGES[change]
    with caplog.at_level(logging.WARNING):
        check(changed(do)(content), tmp_path)
    assert [words in message for message in caplog.messages] == [True]


def test_checkpoints_without_the_newer_records_pass(content, tmp_path, caplog):
    older = {key: value for key, value in content.items() if key not in ("data", "categories", "random_states")}
    with caplog.at_level(logging.WARNING):
        check(older, tmp_path)
    assert caplog.messages == []
