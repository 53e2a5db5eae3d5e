# SPDX-License-Identifier: Apache-2.0
"""Reading published checkpoints, and writing the authors' names."""

import argparse
import json
import logging
import pickle
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision

from dino_d2.checkpoint import load_checkpoint, load_tensors, to_authors, to_ours
from dino_d2.checkpoint.classes import COCO_CATEGORY_IDS
from dino_d2.checkpoint.formats import DETREX
from dino_d2.checkpoint.layout import from_model
from dino_d2.checkpoint.rules import rename, rename_back
from dino_d2.checkpoint.write import convert
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.errors import UserError
from dino_d2.modeling import TimmBackbone
from tests.paths import ROOT, VECTORS

REFERENCE = VECTORS / "reference" / "dino"


def small_config(num_classes=5, backbone="resnet18"):
    """DINO of two layers and 32 channels; resnet18 is thinned, resnet50 as wide as ever."""
    model = LazyConfig.load(str(ROOT / "configs" / "common" / "models" / "dino_r50.py")).model
    detector = model.detector
    detector.num_classes, detector.embed_dim = num_classes, 32
    detector.backbone.name, detector.backbone.pretrained = backbone, False
    if backbone == "resnet18":
        detector.backbone.options = {"channels": [8, 16, 24, 32]}
        detector.neck.in_channels = {"res3": 16, "res4": 24, "res5": 32}
    for part in (detector.encoder, detector.decoder):
        part.num_layers, part.feedforward_dim, part.num_heads = 2, 64, 4
    detector.queries.num_queries = 30
    return model


def make_model(seed=0, **options):
    """Every tensor random, so that none can be mistaken for another."""
    model = instantiate(small_config(**options))
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def detrex_state(model, separate_heads=False):
    """Our weights by detrex's names, where the heads are one list of decoder layers and proposals."""
    named = from_model({name.removeprefix("detector."): t for name, t in model.state_dict().items()})
    layers = 1 + max(int(name.split(".")[2]) for name in named if name.startswith("decoder.layers."))
    heads = {
        name: t for name, t in named.items() if name.startswith("queries.proposal_head.") and "_head." in name[22:]
    }
    named = {name: t for name, t in named.items() if name not in heads}
    named |= {re.sub(r"queries\.proposal_head\.(\w+_head)", rf"decoder.\1.{layers}", n): t for n, t in heads.items()}
    if separate_heads:
        matches = {name: re.match(r"decoder\.(?:class|box)_head\.(\d+)", name) for name in named}
        named = {name: t + int(matches[name][1]) if matches[name] else t for name, t in named.items()}
    stages = 1 + max(
        int(n.split(".")[2]) for n, t in named.items() if n.startswith("neck.levels") and t.shape[2:] == (1, 1)
    )
    theirs = {}
    for name, tensor in named.items():
        if match := re.fullmatch(r"neck\.levels\.(\d+)\.(.*)", name):
            level = int(match[1])
            name = f"neck.projections.{level}.{match[2]}"
            if level >= stages:
                name = f"neck.extra_levels.{level - stages}.{match[2]}"
        names = rename_back(name, DETREX.rules)
        assert names, name
        theirs |= dict.fromkeys(names, tensor)
    return theirs


# Name rules


def test_rules_keep_numbers_and_tails():
    rules = (("layers.{}.norm1.", "blocks.{}.norm."), ("level_embed", "levels.weight"), ("a.{}.b.{}", "{}.{}.c"))
    assert rename("layers.12.norm1.bias", rules) == "blocks.12.norm.bias"
    assert rename("level_embed", rules) == "levels.weight"
    assert rename("a.3.b.4", rules) == "3.4.c"
    assert rename("level_embed.weight", rules) is None
    assert rename("xlayers.1.norm1.bias", rules) is None
    assert rename_back("blocks.12.norm.bias", rules) == ["layers.12.norm1.bias"]


# The authors' names


@pytest.mark.parametrize("num_classes", [5, 80, 91])
def test_to_the_authors_and_back_is_bit_identical(num_classes):
    ours = make_model(num_classes=num_classes).state_dict()
    theirs = to_authors(ours)
    back, unused = to_ours(theirs)
    assert same(back, dict(ours))
    assert not unused

    fresh = make_model(seed=1, num_classes=num_classes)
    report = load_tensors(fresh, theirs)
    assert same(fresh.state_dict(), ours)
    assert not report.missing + report.remade
    assert not report.misshapen | report.unused
    assert not report.doubtful


@pytest.mark.parametrize("vector", ["dino_tiny_eval", "dino_swinl_4scale_eval"])
def test_authors_names_and_shapes_are_complete(vector):
    meta = json.loads(str(np.load(REFERENCE / f"{vector}.npz")["meta"]))
    with torch.device("meta"):
        if vector == "dino_tiny_eval":
            config = small_config(num_classes=91, backbone="resnet50")
            config.detector.embed_dim = 64
            for part in (config.detector.encoder, config.detector.decoder):
                part.feedforward_dim = 128
            theirs = to_authors(instantiate(config).state_dict())
        else:
            config = LazyConfig.load(str(ROOT / "configs/common/models/dino_swin_large.py")).model
            config.detector.num_classes = 91
            config.detector.backbone.pretrained = False
            theirs = to_authors(instantiate(config).state_dict())
    floating = {name: list(t.shape) for name, t in theirs.items() if not name.endswith("relative_position_index")}
    assert floating == {name: shape for name, shape, _ in meta["keys"]}


def test_swin_position_index_is_timms():
    from dino_d2.checkpoint.write import relative_position_indices

    block = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False).layers[0].blocks[0].attn
    made = relative_position_indices({"x.relative_position_bias_table": block.relative_position_bias_table})
    assert made["x.relative_position_index"].equal(block.relative_position_index)


def test_converter_is_a_command(tmp_path, monkeypatch):
    ours, theirs, back = tmp_path / "ours.pth", tmp_path / "theirs.pth", tmp_path / "back.pth"
    state = make_model().state_dict()
    torch.save({"model": state, "iteration": 7}, ours)
    for source, target in ((ours, theirs), (theirs, back)):
        monkeypatch.setattr("sys.argv", ["dino_d2.checkpoint", str(source), str(target)])
        runpy.run_module("dino_d2.checkpoint", run_name="__main__")
    assert "transformer.level_embed" in torch.load(theirs, weights_only=True)["model"]
    assert same(torch.load(back, weights_only=True)["model"], dict(state))


# Classes


def test_91_category_ids_become_80_classes():
    source = make_model(num_classes=91)
    model = make_model(seed=1, num_classes=80)
    report = load_tensors(model, to_authors(source.state_dict()))
    assert "91" in report.classes
    assert not report.remade + report.missing
    for class_index, category_id in ((0, 1), (11, 13), (79, 90)):  # person, stop sign, toothbrush
        assert COCO_CATEGORY_IDS[class_index] == category_id
        for name in ("decoder.class_head.weight", "queries.proposal_head.class_head.bias", "label_embedding.weight"):
            ours, theirs = model.state_dict()[f"detector.{name}"], source.state_dict()[f"detector.{name}"]
            assert ours[class_index].equal(theirs[category_id])


def test_category_ids_are_cocos():
    # The names at both ends and round the gaps of COCO's list.
    assert len(COCO_CATEGORY_IDS) == 80
    assert COCO_CATEGORY_IDS[10:13] == (11, 13, 14)  # fire hydrant, stop sign, parking meter
    assert COCO_CATEGORY_IDS[58:62] == (64, 65, 67, 70)  # potted plant, bed, dining table, toilet
    assert COCO_CATEGORY_IDS[-1] == 90


def test_80_classes_become_category_ids_that_never_score():
    source = make_model(num_classes=80)
    model = make_model(seed=1, num_classes=91)
    load_tensors(model, source.state_dict())
    head = model.detector.decoder.class_head
    assert head.weight[90].equal(source.detector.decoder.class_head.weight[79])
    assert head.bias[[0, 12, 83]].tolist() == [-100] * 3


def test_other_classes_keep_fresh_heads_and_say_so_once(caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "coco.pth"
    torch.save({"model": to_authors(make_model(num_classes=91).state_dict())}, path)
    model = make_model(seed=1, num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level(logging.INFO, logger="dino_d2.checkpoint.load"):
        report = load_checkpoint(model, path)
    kept = {name for name, tensor in model.state_dict().items() if tensor.equal(before[name])}
    assert kept == {
        "detector.decoder.class_head.weight",
        "detector.decoder.class_head.bias",
        "detector.queries.proposal_head.class_head.weight",
        "detector.queries.proposal_head.class_head.bias",
        "detector.label_embedding.weight",
    }
    assert set(report.remade) == kept
    assert not report.missing
    lines = [line for line in caplog.text.splitlines() if "classes" in line]
    assert len(lines) == 1
    assert "91" in lines[0]
    assert "3" in lines[0]


# Accounting


def test_every_tensor_is_accounted_for():
    model = make_model()
    tensors = dict(model.state_dict())
    tensors.pop("detector.decoder.norm.weight")
    tensors["detector.level_embedding.weight"] = torch.zeros(5, 32)
    tensors["detector.surplus"] = torch.zeros(1)
    report = load_tensors(model, tensors)
    assert report.missing == ["detector.decoder.norm.weight"]
    assert report.misshapen == {"detector.level_embedding.weight": "(5, 32) there, (4, 32) here"}
    assert report.unused == {"detector.surplus": "the model has no such tensor"}
    assert len(report.loaded) + 2 == len(model.state_dict())
    assert report.doubtful
    for word in ("decoder.norm.weight", "(5, 32) there", "detector.surplus"):
        assert word in str(report)


def test_own_checkpoint_of_a_wrapped_model(tmp_path):
    source, model = make_model(), make_model(seed=1)
    path = str(tmp_path / "model_final.pth")
    state = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save({"model": state, "optimizer": {"lr": 1e-4}, "iteration": 9}, path)
    report = load_checkpoint(model, path)
    assert same(model.state_dict(), source.state_dict())
    assert report.format == "dino_d2"
    load_checkpoint(model.detector, path)  # the tensor core alone takes the same files


def test_unknown_and_refused_formats():
    with pytest.raises(ValueError, match="known are"):
        load_tensors(make_model(), {"conv.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"torchvision/R-50\.pkl"):
        load_tensors(make_model(), {"res2_0_branch2a_w": torch.zeros(1)})


# detrex


def test_detrex_names():
    names = detrex_state(make_model(num_classes=80)).keys()
    assert names > {
        "backbone.stem.conv1.norm.running_var",
        "backbone.res3.0.shortcut.norm.weight",
        "neck.convs.2.conv.weight",
        "neck.extra_convs.0.norm.bias",
        "transformer.level_embeds",
        "transformer.encoder.layers.1.attentions.0.sampling_offsets.bias",
        "transformer.encoder.layers.1.ffns.0.layers.0.0.weight",
        "transformer.decoder.layers.0.attentions.0.attn.in_proj_weight",
        "transformer.decoder.layers.0.attentions.1.value_proj.weight",
        "transformer.decoder.layers.0.norms.2.weight",
        "transformer.decoder.class_embed.2.bias",
        "class_embed.2.weight",
        "bbox_embed.0.layers.2.bias",
        "label_enc.weight",
    }


def test_detrex_with_equal_heads_is_whole():
    source, model = make_model(num_classes=80), make_model(seed=1, num_classes=80)
    report = load_tensors(model, detrex_state(source))
    assert report.format == "detrex DINO"
    assert same(model.state_dict(), source.state_dict())
    assert not report.unused
    assert not report.separate_heads
    assert report.settings == {"position_encoding.temperature": (10000, 20), "position_encoding.offset": (-0.5, 0.0)}
    assert "model.detector.position_encoding.temperature=10000" in str(report)


def test_detrex_with_separate_heads_gives_the_last_layers():
    source, model = make_model(num_classes=80), make_model(seed=1, num_classes=80)
    report = load_tensors(model, detrex_state(source, separate_heads=True))
    head = source.detector.decoder.class_head
    assert model.detector.decoder.class_head.weight.equal(head.weight + 1)
    proposals = source.detector.queries.proposal_head.class_head
    assert model.detector.queries.proposal_head.class_head.weight.equal(proposals.weight + 2)
    assert report.separate_heads
    assert report.doubtful
    assert "class_embed.0.weight" in report.unused
    assert not report.missing


def test_detrex_with_separate_heads_is_whole_in_the_detrex_recipe():
    source, config = make_model(num_classes=80), small_config(num_classes=80)
    recipe = LazyConfig.load(str(ROOT / "configs" / "dino" / "dino_r50_4scale_12ep_detrex.py")).model.detector
    config.detector.decoder.class_head = recipe.decoder.class_head
    config.detector.decoder.box_head = recipe.decoder.box_head
    config.detector.position_encoding = recipe.position_encoding
    model = instantiate(config)
    report = load_tensors(model, detrex_state(source, separate_heads=True))
    for layer in range(2):
        head = source.detector.decoder.class_head
        assert model.detector.decoder.class_head[layer].weight.equal(head.weight + layer)
    assert not report.unused
    assert not report.missing
    assert not report.doubtful


# Backbones


@pytest.fixture(scope="module")
def resnet50():
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def detectron2_name(name):
    """As Detectron2's conversion of torchvision models renames."""
    name = name if "layer" in name else f"stem.{name}"
    name = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


@pytest.mark.parametrize("file", ["torchvision.pth", "R-50.pkl"])
def test_resnet_files_give_torchvisions_features(file, resnet50, tmp_path):
    path = tmp_path / file
    state = resnet50.state_dict()
    if file.endswith(".pkl"):
        arrays = {detectron2_name(name): tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision", "matching_heuristics": True}))
    else:
        torch.save(state, path)
    model = make_model(backbone="resnet50")
    report = load_checkpoint(model, str(path))
    assert all(name.startswith("detector.backbone.") for name in report.loaded)
    assert not [name for name in report.missing if "backbone" in name]
    assert all("classifier" in why or "fixed" in why for why in report.unused.values())

    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        got = model.eval().detector.backbone(image)["res5"]
        x = resnet50.maxpool(resnet50.relu(resnet50.bn1(resnet50.conv1(image))))
        want = resnet50.layer4(resnet50.layer3(resnet50.layer2(resnet50.layer1(x))))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


class BackboneOnly(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.detector = torch.nn.Module()
        self.detector.backbone = TimmBackbone(name, pretrained=False, freeze_stages=0, norm_outputs="swin" in name)


@pytest.mark.parametrize(
    ("name", "expected_format"),
    [
        ("resnet26", "torchvision or timm ResNet"),
        ("swin_tiny_patch4_window7_224", "timm Swin"),
        ("convnext_atto", "timm ConvNeXt"),
    ],
)
def test_timm_backbones_are_filled(name, expected_format):
    source = timm.create_model(name, pretrained=False)
    model = BackboneOnly(name)
    report = load_tensors(model, source.state_dict())
    assert report.format == expected_format
    assert all(".norms." in missing or "num_batches" in missing for missing in report.missing)
    assert not report.misshapen
    first = next(iter(source.state_dict()))
    assert first not in report.unused


def test_swin_as_published():
    """Its patch merging ends a stage, timm's begins the next one."""
    source = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False)
    published = {}
    for name, tensor in source.state_dict().items():
        match = re.fullmatch(r"layers\.(\d)\.downsample\.(.*)", name)
        published[f"layers.{int(match[1]) - 1}.downsample.{match[2]}" if match else name] = tensor
    published["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    model = BackboneOnly("swin_tiny_patch4_window7_224")
    report = load_tensors(model, published)
    assert report.format == "Swin as published"
    body = model.detector.backbone.body.state_dict()
    assert body["layers_1.downsample.reduction.weight"].equal(source.layers[1].downsample.reduction.weight)
    assert all(".norms." in name for name in report.missing)


# Safety


class Payload:
    def __reduce__(self):
        return (print, ("a checkpoint ran code",))


@pytest.mark.parametrize("file", ["evil.pth", "evil.pkl"])
def test_files_run_no_code(file, tmp_path, capsys):
    path = tmp_path / file
    if file.endswith(".pkl"):
        path.write_bytes(pickle.dumps({"model": Payload()}))
    else:
        torch.save({"model": {}, "args": Payload()}, path)
    with pytest.raises(ValueError, match=file):
        load_checkpoint(make_model(), str(path))
    assert "ran code" not in capsys.readouterr().out


def test_authors_arguments_are_admitted(tmp_path):
    path = tmp_path / "checkpoint0011_4scale.pth"
    state = to_authors(make_model().state_dict())
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-4, device="cuda"), "epoch": 11}, path)
    assert load_checkpoint(make_model(seed=1), str(path)).format == "IDEA-Research/DINO"


def test_a_file_without_tensors(tmp_path):
    path = tmp_path / "empty.pth"
    torch.save({"iteration": 3}, path)
    with pytest.raises(ValueError, match="no tensors"):
        load_checkpoint(make_model(), str(path))


@pytest.mark.parametrize("module", ["dino_d2.checkpoint.__main__", "dino_d2.checkpoint.transfer"])
@pytest.mark.parametrize("content", [None, b"junk"])
def test_commands_meet_a_file_that_is_no_checkpoint_with_one_message(module, content, tmp_path, monkeypatch):
    source = tmp_path / "weights.pth"
    if content:
        source.write_bytes(content)
    monkeypatch.setattr(sys, "argv", [module, str(source), str(tmp_path / "out.pth")])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit, match=r"error: .*weights\.pth"):
        runpy.run_module(module, run_name="__main__")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    state = make_model().state_dict()
    name = next(name for name in state if name.endswith("class_head.weight"))
    state[name][0, 0] = value
    with pytest.raises(UserError, match=f"1 tensors have NaN or infinity; the first is {name}"):
        load_tensors(make_model(), state)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_weights_of_another_kind_of_number_are_not_loaded(dtype):
    state = make_model().state_dict()
    name = next(name for name in state if name.endswith("class_head.weight"))
    report = load_tensors(make_model(), state | {name: state[name].to(dtype)})
    assert report.misshapen == {name: f"{dtype} there, torch.float32 here"}


def test_the_converter_writes_atomically(tmp_path, monkeypatch):
    """The source can be the target, and a target that cannot be written stays as it was."""
    file = tmp_path / "a.pth"
    state = make_model().state_dict()
    torch.save({"model": state}, file)
    for _ in range(2):  # to the authors' names and back
        convert(str(file), str(file))
    assert same(torch.load(file, weights_only=True)["model"], dict(state))
    for target in (tmp_path / "no/such/folder/x.pth", tmp_path, Path("/dev/full")):
        with pytest.raises(UserError, match="cannot be written"):
            convert(str(file), str(target))

    def write_to_full_disk(path, write):
        with open("/dev/full", "wb") as full:
            write(full)

    monkeypatch.setattr("dino_d2.checkpoint.write.write_atomically", write_to_full_disk)
    with pytest.raises(UserError, match=r"x\.pth cannot be written: .*No space left"):
        convert(str(file), str(tmp_path / "x.pth"))
