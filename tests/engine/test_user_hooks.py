# SPDX-License-Identifier: Apache-2.0
"""Hooks that a recipe adds by train.hooks: their place, their state, and what is refused."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.engine import HookBase
from dino_d2.engine import Trainer
from dino_d2.engine.checkpointer import AtomicCheckpointer, PeriodicCheckpointer
from dino_d2.engine.loop import EvalHook
from dino_d2.engine.user_hooks import build_hooks
from dino_d2.errors import UserError
from tests.engine.test_ending import Scale
from tests.engine.test_resume import TINY
from tests.in_process import run_train_net
from tests.small_data import generate_shapes


class Counts(HookBase):
    """Counts iterations across resumes, stores the count as a metric, and notes what it sees at the end."""

    def __init__(self, name: str, first: int = 0):
        self.name, self.count = name, first

    def after_step(self):
        self.count += 1
        self.trainer.storage.put_scalar(f"{self.name}_count", self.count, smoothing_hint=False)
        sees = "bbox/AP" in self.trainer.storage.latest()
        self.trainer.storage.put_scalar(f"{self.name}_sees", sees, smoothing_hint=False)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Forgets(HookBase):
    def state_dict(self):
        return {"a": 1}


def of(*hooks):
    cfg = OmegaConf.create({"train": {"hooks": []}})
    cfg.train.hooks = list(hooks)
    return cfg


def test_hooks_are_built_in_order():
    first, second = build_hooks(of(L(Counts)(name="a"), L(Counts)(name="b", first=3)))
    assert (first.name, second.name, second.count) == ("a", "b", 3)


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (L(Scale)(), r"train\.hooks\.1: Scale is not a hook\. Derive it from HookBase"),
        (L(Forgets)(), r"train\.hooks\.1: Forgets has a state_dict but no load_state_dict"),
        (L(Counts)(), r"train\.hooks\.1: cannot be built: .*name"),
        (3, "is not a hook"),
    ],
)
def test_what_is_no_hook_is_refused(hook, words):
    with pytest.raises(UserError, match=words):
        build_hooks(of(L(Counts)(name="a"), hook))


def test_hooks_of_one_class_keep_a_state_each(tmp_path):
    def make():
        model = Scale()
        trainer = Trainer(model, [[{"image_id": 1}]] * 9, torch.optim.SGD(model.parameters(), lr=0.1))
        trainer.register_hooks([Counts("a"), Counts("b", first=10), Counts("c", first=20)])
        return trainer, AtomicCheckpointer(model, str(tmp_path), trainer=trainer)

    trainer, checkpointer = make()
    trainer.train(0, 2)
    trainer.iter = 1
    checkpointer.save("model_0000001", iteration=1)
    trainer, checkpointer = make()
    checkpointer.resume_or_load("", resume=True)
    assert [hook.count for hook in trainer._hooks] == [2, 12, 22]
    saved = torch.load(tmp_path / "model_0000001.pth", weights_only=True)
    assert saved["trainer"]["hooks"] == {
        "Counts": {"count": 2},
        "Counts#2": {"count": 12},
        "Counts#3": {"count": 22},
    }


class EndsAt(HookBase):
    def after_step(self):
        if self.trainer.iter == 3:
            self.trainer.max_iter = 4


def test_a_hook_can_end_the_training_completely(tmp_path):
    model = Scale()
    trainer = Trainer(model, [[{"image_id": 1}]] * 9, torch.optim.SGD(model.parameters(), lr=0.1))
    checkpointer = AtomicCheckpointer(model, str(tmp_path), trainer=trainer)
    evaluated = []
    evaluation = EvalHook(0, lambda: evaluated.append(trainer.iter))
    trainer.register_hooks([EndsAt(), PeriodicCheckpointer(checkpointer, 100), evaluation])
    trainer.train(0, 9)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 3
    assert evaluated == [4], "once, as at the end of any training"


RECIPE = """
from dino_d2.detectron2.config import LazyCall as L, LazyConfig
from tests.engine.test_user_hooks import Counts
base = LazyConfig.load({path!r})
model, dataloader, optimizer, lr_multiplier, train = (
    base[key] for key in ("model", "dataloader", "optimizer", "lr_multiplier", "train")
)
train.hooks = [L(Counts)(name="mine"), L(Counts)(name="second", first=5)]
del base
"""


def test_the_hooks_of_a_recipe_run_before_the_checkpoint_and_are_resumed_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr("dino_d2.engine.run.test", lambda cfg, model: {"bbox": {"AP": 1.0}})
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(path=TINY[1]))
    options = [*TINY[2:], *generate_shapes(tmp_path / "shapes", train=2, val=2), f"train.output_dir={tmp_path}/run"]
    options += ["train.eval_period=1", "train.log_period=1", "train.checkpointer.period=1"]
    run_train_net("--config-file", str(recipe), *options, "train.max_iter=2")
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000000.pth")
    run_train_net("--config-file", str(recipe), "--resume", *options, "train.max_iter=2")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    found = [(line["iteration"], line["mine_count"], line["second_count"]) for line in lines if "mine_count" in line]
    assert found == [(0, 1, 6), (1, 2, 7), (1, 2, 7)], "a resumed run counts on from its checkpoint"
    seen = [line["mine_sees"] for line in lines if "mine_sees" in line]
    assert seen[:2] == [0, 1], "the evaluations before this iteration"
