# SPDX-License-Identifier: Apache-2.0
"""Pictures of denoising queries and sampling points, and the hook that draws during training."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.data.shapes import shapes
from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.detectron2.data import DatasetCatalog
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.engine import hooks
from dino_d2.detectron2.utils.events import EventStorage, TensorboardXWriter
from dino_d2.engine import Trainer
from dino_d2.engine.panels import KINDS, Panels
from dino_d2.errors import UserError
from dino_d2.layers import MultiScaleDeformableAttention
from dino_d2.layers.ms_deform_attn_reference import ms_deform_attn_reference
from dino_d2.visualize import panel_of_denoising, panel_of_sampling_points
from dino_d2.visualize.mapped import image_of
from dino_d2.visualize.sampling import points_and_weights, sample
from tests.processes import run_python

NAMES = ["circle", "square", "triangle", "star", "ring"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return shapes("val", tmp_path_factory.mktemp("data") / "shapes", train=1, val=4, size=64)


@pytest.mark.parametrize("reference_size", [2, 4])
def test_points_and_weights_are_those_of_the_attention(reference_size):
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(embed_dim=16, num_heads=2, num_levels=2, num_points=3)
    nn.init.normal_(attention.sampling_offsets.weight, std=0.3)
    nn.init.normal_(attention.attention_weights.weight, std=0.3)
    query, value = torch.randn(1, 5, 16), torch.randn(1, 20, 16)
    references = torch.rand(1, 5, 2, reference_size)
    shapes, starts = torch.tensor([[4, 4], [2, 2]]), torch.tensor([0, 16])
    points, weights = points_and_weights(attention, query, references, shapes)
    projected = attention.value_proj(value).view(1, 20, 2, 8)
    found = attention.output_proj(ms_deform_attn_reference(projected, shapes, starts, points, weights))
    torch.testing.assert_close(found, attention(query, references, value, shapes, starts), rtol=1e-4, atol=1e-5)


def test_the_followed_query_is_the_one_of_the_best_detection(make_model, make_input):
    model, one = make_model().train(), make_input()
    number, layers = sample(model, one["image"])
    assert model.training
    best = model.eval()([one])[0]["instances"][0]
    assert layers[-1].scores.max().item() == pytest.approx(best.scores.item())
    cx, cy, w, h = (layers[-1].box * torch.tensor([128, 96, 128, 96])).tolist()
    expected = torch.tensor([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    expected = expected.clamp(torch.zeros(4), torch.tensor([128.0, 96, 128, 96]))
    torch.testing.assert_close(best.pred_boxes.tensor[0], expected, rtol=1e-4, atol=1e-3)
    assert len(layers) == 2
    assert layers[0].points.shape == (4, 4, 2, 2)  # heads, levels, points, (x, y)
    torch.testing.assert_close(layers[0].weights.sum((1, 2)), torch.ones(4))
    other = (number + 3) % 20
    assert sample(model, one["image"], other)[0] == other
    assert not torch.equal(sample(model, one["image"], other)[1][0].points, layers[0].points)


def test_wrong_wishes_are_met_with_one_message(make_model, make_input, dataset, tmp_path):
    model = make_model()
    with pytest.raises(UserError, match="no query 20; this model has queries 0 to 19"):
        panel_of_sampling_points(model, make_input(), "RGB", NAMES, query=20)
    with pytest.raises(UserError, match=r"model\.denoising=None"):
        panel_of_denoising(make_model(denoising=False), make_input(), "RGB", NAMES)
    with pytest.raises(UserError, match="has dreams; there are predictions, denoising, sampling_points"):
        Panels(model, dataset, DetrDatasetMapper([]), tmp_path, 1, show=["dreams"])
    with pytest.raises(UserError, match=r"model\.denoising=None"):
        Panels(make_model(denoising=False), dataset, DetrDatasetMapper([]), tmp_path, 1, show=["denoising"])
    model.detector.decoder.layers = nn.ModuleList()
    with pytest.raises(UserError, match="no deformable attention"):
        Panels(model, dataset, DetrDatasetMapper([]), tmp_path, 1, show=["sampling_points"])


def test_drawing_changes_neither_generators_nor_the_model(make_model, make_input):
    model = make_model().train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    first = panel_of_denoising(model, make_input(), "RGB", NAMES)
    panel_of_sampling_points(model, make_input(), "RGB", NAMES)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert first == panel_of_denoising(model, make_input(), "RGB", NAMES)
    assert first != panel_of_denoising(model, make_input(), "RGB", NAMES, seed=1)


def test_negatives_have_a_row_where_there_are_any(make_model, make_input):
    model = make_model()
    contrastive = panel_of_denoising(model, make_input(), "RGB", NAMES)
    model.denoising = Denoising(5, FixedGroups(3))
    plain = panel_of_denoising(model, make_input(), "RGB", NAMES)
    assert contrastive.height > 1.8 * plain.height
    assert panel_of_denoising(model, make_input(objects=0), "RGB", NAMES).size == plain.size


def test_pictures_are_rgb_whatever_the_mapper_reads(make_input):
    one = make_input()
    picture = image_of(one, "RGB")
    assert picture.getpixel((3, 5)) == tuple(one["image"][:, 5, 3].tolist())
    assert picture == image_of({"image": one["image"].flip(0)}, "BGR")


def train(model, dataset, folder, panels: bool) -> dict:
    """Four iterations with augmentation and denoising noise from the global generators; the weights afterwards."""
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    mapper = DetrDatasetMapper([T.RandomFlip(prob=0.5)])
    dicts = DatasetCatalog.get(dataset)
    batches = ([mapper(one) for one in dicts] for _ in range(4))
    trainer = Trainer(model.train(), batches, torch.optim.AdamW(model.parameters(), lr=1e-3))
    writer = TensorboardXWriter(str(folder))
    hook = Panels(model, dataset, mapper, folder, period=2, num_images=3, show=KINDS) if panels else None
    trainer.register_hooks([hook, hooks.PeriodicWriter([writer], period=4)])
    trainer.train(0, 4)
    return model.state_dict()


def test_training_goes_on_as_if_no_panel_had_been_drawn(make_model, dataset, tmp_path):
    plain = train(make_model(), dataset, tmp_path / "plain", panels=False)
    with_panels = train(make_model(), dataset, tmp_path / "panels", panels=True)
    assert all(torch.equal(value, plain[name]) for name, value in with_panels.items())
    expected = sorted(f"{kind}_000000{i}.png" for kind in KINDS for i in (1, 3))
    assert sorted(path.name for path in (tmp_path / "panels").glob("*.png")) == expected
    events = EventAccumulator(str(tmp_path / "panels")).Reload()
    for kind in KINDS:
        shown = events.Images(f"panels/{kind}")
        assert [event.step for event in shown] == [1, 3]
        with Image.open(tmp_path / "panels" / f"{kind}_0000003.png") as png:
            assert (shown[1].width, shown[1].height) == png.size
    assert not list((tmp_path / "plain").glob("*.png"))


def test_images_are_written_once(tmp_path):
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage(7) as storage:
        storage.put_image("a", np.zeros((3, 4, 6), np.uint8))
        writer.write()
        writer.write()
    writer.close()
    (event,) = EventAccumulator(str(tmp_path)).Reload().Images("a")
    assert (event.step, event.width, event.height) == (7, 6, 4)


@pytest.mark.slow
def test_panels_are_a_config_line(tmp_path):
    """The losses of a run with panels are those of one without, to the last bit."""
    runs = {"off": [], "on": ["train.panels.period=2", "train.panels.show=[predictions,denoising,sampling_points]"]}
    losses = {}
    for name, panels in runs.items():
        size = [f"+dataloader.{split}.dataset.names.{v}" for split in ("train", "test") for v in ("train=8", "val=4")]
        words = [
            *(f"dataloader.train.dataset.names.root={tmp_path}/shapes", *size),
            *("dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"),
            *("model.detector.encoder.num_layers=1", "model.detector.decoder.num_layers=2"),
            *("train.max_iter=5", "train.log_period=1", "train.num_pictures=0", "train.eval_period=0"),
            *(f"train.output_dir={tmp_path / name}", *panels),
        ]
        run = run_python("train_net.py", "--config-file", "configs/dino/dino_tiny_shapes.py", *words)
        assert run.returncode == 0, run.stdout + run.stderr
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.json").read_text().splitlines()]
        losses[name] = {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}
    assert losses["on"] == losses["off"]
    assert len(losses["on"]) == 5
    assert len(list((tmp_path / "on" / "panels").glob("*.png"))) == 6
    assert not (tmp_path / "off" / "panels").exists()
