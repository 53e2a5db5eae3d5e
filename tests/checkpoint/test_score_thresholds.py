# SPDX-License-Identifier: Apache-2.0
"""Best thresholds are added to a checkpoint, which otherwise stays as it was."""

import pytest
import torch

from dino_d2.checkpoint.score_thresholds import KEY, ScoreThresholds, read_score_thresholds, store_score_thresholds
from dino_d2.errors import UserError

FOUND = ScoreThresholds(0.4, {"ant": 0.3, "bee": 0.55}, 0.5)


@pytest.fixture
def checkpoint(tmp_path):
    """As a run writes it, in small."""
    weight = torch.arange(6.0).reshape(2, 3)
    content = {
        "model": {"a": weight, "view": weight[0]},
        "trainer": {"iteration": 7, "optimizer": {"param_groups": [{"betas": (0.9, 0.999)}], "state": {}}},
        "random_states": [{"torch": torch.get_rng_state(), "python": (3, (1, 2), None)}],
        "categories": [{"id": 3, "name": "ant"}, {"id": 4, "name": "bee"}],
    }
    torch.save(content, tmp_path / "model_final.pth")
    return tmp_path / "model_final.pth"


def test_they_are_stored_and_read(checkpoint):
    before = torch.load(checkpoint, weights_only=True)
    assert read_score_thresholds(str(checkpoint)) is None
    store_score_thresholds(str(checkpoint), ScoreThresholds(0.9, {}, 0.75), ["ant", "bee"])
    store_score_thresholds(str(checkpoint), FOUND, ["ant", "bee"])
    assert read_score_thresholds(str(checkpoint)) == FOUND
    assert FOUND.of(["bee", "cat"]) == [0.55, 0.4]
    after = torch.load(checkpoint, weights_only=True)
    after.pop(KEY)
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, after["model"][name]) for name, tensor in before["model"].items())
    assert after["model"]["a"].data_ptr() == after["model"]["view"].data_ptr()  # they still share memory
    assert after["trainer"] == before["trainer"]
    assert torch.equal(after["random_states"][0].pop("torch"), before["random_states"][0].pop("torch"))
    assert after["random_states"] == before["random_states"]


def test_a_link_stays_one(checkpoint):
    link = checkpoint.with_name("link.pth")
    link.symlink_to(checkpoint.name)
    store_score_thresholds(str(link), FOUND, ["ant", "bee"])
    assert link.is_symlink()
    assert read_score_thresholds(str(checkpoint)) == FOUND


def test_the_wrong_checkpoint(checkpoint, tmp_path):
    before = checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"is a model of other classes: ant, bee; the thresholds are those of cat"):
        store_score_thresholds(str(checkpoint), FOUND, ["cat"])
    with pytest.raises(UserError, match="there is no checkpoint"):
        store_score_thresholds(str(tmp_path / "nothing.pth"), FOUND, ["ant"])
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="it has no 'model'"):
        store_score_thresholds(str(tmp_path / "weights.pth"), FOUND, ["ant"])
    assert checkpoint.read_bytes() == before


def test_a_changed_bit_is_noticed_before_the_file_is_replaced(checkpoint):
    damaged = bytearray(checkpoint.read_bytes())
    place = damaged.find(torch.arange(6.0).numpy().tobytes())
    damaged[place + 5] ^= 1
    checkpoint.write_bytes(damaged)
    with pytest.raises(UserError, match="checksum"):
        store_score_thresholds(str(checkpoint), FOUND, ["ant", "bee"])
    assert checkpoint.read_bytes() == damaged


@pytest.mark.parametrize("stored", [
    3, {}, {"overall": 0.4}, {"overall": "x", "classes": {}, "iou_threshold": 0.5},
    {"overall": 4.0, "classes": {}, "iou_threshold": 0.5}, {"overall": 0.4, "classes": [0.3], "iou_threshold": 0.5},
    {"overall": 0.4, "classes": {"ant": float("nan")}, "iou_threshold": 0.5},
])  # fmt: skip
def test_damaged_thresholds(checkpoint, stored):
    torch.save({**torch.load(checkpoint, weights_only=True), KEY: stored}, checkpoint)
    with pytest.raises(UserError, match=r"no thresholds in \[0, 1\]"):
        read_score_thresholds(str(checkpoint))


def test_files_without(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    assert read_score_thresholds(str(tmp_path / "list.pth")) is None
    assert read_score_thresholds("weights.safetensors") is None
