# SPDX-License-Identifier: Apache-2.0
"""One training step: accumulation, clipping, running mean, non-finite losses."""

import pytest
import torch
from torch import nn

from dino_d2.detectron2.engine import HookBase
from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.engine import NonFiniteLossError, Trainer, make_ema


class Line(nn.Module):
    """Loss of a batch of {"x", "y"} dicts: mean squared error of w · x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -0.5]))

    def forward(self, batch):
        errors = torch.stack([(x["x"] @ self.weight - x["y"]) ** 2 for x in batch])
        return {"loss_a": errors.mean(), "loss_b": 0.1 * errors.mean()}


def batches(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            {
                "x": torch.randn(2, generator=generator),
                "y": torch.randn((), generator=generator),
                "image_id": i * size + j,
            }
            for j in range(size)
        ]
        for i in range(count)
    ]


def run(loader, steps=1, **options):
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, loader, optimizer, **({"clip_grad_norm": 1e9} | options))
    with EventStorage(0) as storage:
        trainer.storage = storage
        for trainer.iter in range(steps):
            trainer.run_step()
    return model, trainer


def test_accumulated_batches_give_the_step_of_one_large_batch():
    data = batches(1, 6)[0]
    whole, _ = run([data])
    parts, trainer = run([data[:2], data[2:4], data[4:]], accumulate=3)
    assert torch.allclose(whole.weight, parts.weight, atol=1e-6)
    logged = trainer.storage.latest()
    assert logged["total_loss"][0] == pytest.approx(sum(value.item() for value in Line()(data).values()), rel=1e-5)


def test_gradients_are_clipped_to_the_norm_asked_for():
    start = Line().weight.detach()
    model, trainer = run(batches(1, 4), clip_grad_norm=0.01)
    assert (model.weight - start).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert trainer.storage.latest()["grad_norm"][0] > 0.01


class AfterBackward(HookBase):
    """Notes gradient and weights at each call."""

    def __init__(self):
        self.calls = []

    def after_backward(self):
        weight = self.trainer.model.weight
        self.calls.append((self.trainer.iter, weight.grad.clone(), weight.detach().clone()))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_after_backward_is_called_once_a_step_before_the_weights_change(accumulate):
    model, hook = Line(), AfterBackward()
    data = batches(2 * accumulate, 4)
    trainer = Trainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1), 1e9, accumulate)
    trainer.register_hooks([hook])
    trainer.train(0, 2)
    assert [iteration for iteration, _, _ in hook.calls] == [0, 1]
    (_, first_gradient, start), (_, _, after_one_step) = hook.calls
    assert torch.equal(start, Line().weight)
    torch.testing.assert_close(after_one_step, start - 0.1 * first_gradient)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_names_the_images_and_leaves_the_weights_alone(bad):
    data = batches(1, 3)
    data[0][1]["y"] = torch.tensor(bad)
    model = Line()
    trainer = Trainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.iter = 7
    start = model.weight.detach().clone()
    with pytest.raises(NonFiniteLossError, match=r"iteration 7.*image ids \[0, 1, 2\].*loss_a, loss_b"):
        trainer.run_step()
    assert torch.equal(model.weight, start)


def test_a_non_finite_gradient_behind_finite_losses_leaves_the_weights_alone():
    model = Line()
    model.weight.register_hook(lambda gradient: gradient * float("nan"))
    trainer = Trainer(model, batches(1, 3), torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.iter = 7
    start = model.weight.detach().clone()
    with pytest.raises(NonFiniteLossError, match=r"iteration 7.*the gradient norm is nan"):
        trainer.run_step()
    assert torch.equal(model.weight, start)


class HidesNan(Line):
    """As oneDNN's ReLU does: a NaN of the bias becomes 0, in the loss and in the gradient."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([0.5, float("nan")]))

    def forward(self, batch):
        hidden = self.bias.detach().nan_to_num() + 0 * self.weight
        return {**super().forward(batch), "loss_c": hidden.sum() + 0 * self.bias[0]}


def test_a_non_finite_weight_behind_finite_losses_and_gradients_is_named():
    model = HidesNan()
    trainer = Trainer(model, batches(1, 2), torch.optim.SGD(model.parameters(), lr=0.1), 1e9)
    trainer.iter = 7
    message = r"iteration 7.*bias have non-finite values"
    with EventStorage(0) as trainer.storage, pytest.raises(NonFiniteLossError, match=message):
        trainer.run_step()
    assert model.weight.equal(Line().weight)


def test_the_running_mean_follows_the_weights():
    model = Line()
    ema = make_ema(model, decay=0.9)
    trainer = Trainer(model, batches(3, 2), torch.optim.SGD(model.parameters(), lr=0.1), ema=ema)
    expected = model.weight.detach().clone()
    with EventStorage(0) as storage:
        trainer.storage = storage
        for trainer.iter in range(3):
            trainer.run_step()
            expected = 0.9 * expected + 0.1 * model.weight.detach()
    assert torch.allclose(ema.module.weight, expected)


def test_bfloat16_changes_the_step_a_little_and_the_weights_stay_float32():
    exact, _ = run(batches(1, 4))
    rounded, _ = run(batches(1, 4), precision=torch.bfloat16)
    assert rounded.weight.dtype == torch.float32
    assert torch.allclose(exact.weight, rounded.weight, atol=0.05)


def test_the_weights_behind_a_running_mean_survive_a_checkpoint():
    model = Line()
    data, sgd = batches(2, 2), torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, data, sgd, ema=make_ema(model, decay=0.9))
    with EventStorage(0) as trainer.storage:
        trainer.iter = 0
        trainer.run_step()
    other = Line()
    torch.nn.init.constant_(other.weight, 7.0)
    resumed = Trainer(other, [], torch.optim.SGD(other.parameters(), lr=0.1), ema=make_ema(other, decay=0.9))
    resumed.load_state_dict(trainer.state_dict())
    assert torch.equal(other.weight, model.weight)
    assert not torch.equal(trainer.ema.module.weight, model.weight)


def test_state_survives_a_checkpoint():
    model, trainer = run(batches(2, 2), steps=2, ema=None)
    other = Trainer(model, [], torch.optim.SGD(model.parameters(), lr=0.3))
    other.load_state_dict(trainer.state_dict())
    assert other.optimizer.param_groups[0]["lr"] == 0.1
    assert other.iter == trainer.iter
