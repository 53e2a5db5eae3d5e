# SPDX-License-Identifier: Apache-2.0
"""What a user can get wrong, and the one message that meets it: what, where, what to do.

Each mistake goes through the command itself, `train_net.py`; a few through a process of their own, where nothing but
the message may reach the terminal.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.engine.overrides import apply_overrides, check_calls, convert_like
from tests.in_process import run_train_net
from tests.paths import ROOT
from tests.processes import run_python

CUSTOM = "configs/dino/dino_r50_4scale_custom.py"
SHAPES = "configs/dino/dino_tiny_shapes.py"
RECIPES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").glob("*/*.py") if p.parent.name != "common")

#: The custom recipe's model as small as it gets.
SMALL = [
    "model.detector.embed_dim=32",
    "model.detector.backbone={name: resnet10t, pretrained: false, options: {channels: [8, 8, 8, 8]}}",
    "model.detector.neck.in_channels={res3: 8, res4: 8, res5: 8}",
    "model.detector.encoder={num_layers: 1, feedforward_dim: 32}",
    "model.detector.decoder={num_layers: 1, feedforward_dim: 32}",
    "model.detector.queries.num_queries=20",
    "dataloader.train.mapper.augmentations={short_edge_lengths: [64], crop_short_edge_lengths: [64]}",
    "dataloader.train.mapper.augmentations.crop_size=[32, 48]",
    "dataloader.test.mapper.augmentations.short_edge_length=64",
    "dataloader.train.num_workers=0",
    "train.max_iter=1",
    "train.num_pictures=0",
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a sound dataset of two classes in data/, and the recipes where users have them."""
    for split in ("train", "val"):
        (tmp_path / f"data/{split}").mkdir(parents=True)
        images, annotations = [], []
        for i in range(1, 4):
            Image.new("RGB", (64, 48)).save(tmp_path / f"data/{split}/{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
            annotations.append({"id": i, "image_id": i, "category_id": 3 + i % 2, "bbox": [5, 5, 20, 20]})
        categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]
        coco = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / f"data/{split}/_annotations.coco.json").write_text(json.dumps(coco))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change_json(split: str, change):
    """A mistake in a dataset: what is done to its json."""

    def do(place: Path) -> None:
        file = place / f"data/{split}/_annotations.coco.json"
        coco = json.loads(file.read_text())
        change(coco)
        file.write_text(json.dumps(coco))

    return do


def save_weights(classes: int, *overrides: str):
    """A checkpoint of the small model with another class count, as weights.pth."""

    def do(place: Path) -> None:
        cfg = LazyConfig.load(CUSTOM)
        LazyConfig.apply_overrides(cfg, [*SMALL, f"model.detector.num_classes={classes}", *overrides])
        torch.save({"model": instantiate(cfg.model).state_dict()}, place / "weights.pth")

    return do


def save_without_decoder(place: Path) -> None:
    """As weights of another kind of detector are, with another class count besides."""
    save_weights(5)(place)
    tensors = torch.load(place / "weights.pth")["model"]
    torch.save({"model": {k: v for k, v in tensors.items() if ".decoder.layers." not in k}}, place / "weights.pth")


def write(name: str, content: str | bytes):
    def do(place: Path) -> None:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return do


def cut_off(place: Path) -> None:
    save_weights(2)(place)
    data = (place / "weights.pth").read_bytes()
    (place / "weights.pth").write_bytes(data[: len(data) // 2])


def own(*arguments: str) -> list[str]:
    return ["--config-file", CUSTOM, *[a for a in arguments if a.startswith("--")], *SMALL, "data.root=data",
            *[a for a in arguments if not a.startswith("--")]]  # fmt: skip


WEIGHTS = "train.init_checkpoint=weights.pth"

#: name: (what is wrong in the folder, the command line, words of the message)
MISTAKES: dict[str, tuple] = {
    # the config file
    "no config": (None, [], ["no config file is given", "--config-file configs/"]),
    "misspelt config": (None, ["--config-file", "configs/dino/dino_r50_4scale_12eps.py"],
        ["there is no config file", "Did you mean configs/dino/dino_r50_4scale_12ep.py?"]),
    "part of a config": (None, ["--config-file", "configs/common/train.py"],
        ["lacks model, dataloader, optimizer", "Recipes are in configs/"]),
    "not a config": (write("a.txt", ""), ["--config-file", "a.txt"], ["a.txt", "a config is a .py file"]),
    "syntax error": (write("a.py", "model = ("), ["--config-file", "a.py"], ["a.py", "SyntaxError", "line 1"]),
    "import error": (write("a.py", "import nothing_here"), ["--config-file", "a.py"],
        ["a.py", "nothing_here", "line 1", "Correct it there"]),
    "empty yaml": (write("a.yaml", ""), ["--config-file", "a.yaml"], ["a.yaml", "holds no keys", "config.yaml"]),
    "misspelt argument in a recipe": (
        lambda place: write("a.py", (ROOT / SHAPES).read_text().replace("..common", ".configs.common")
                            + "\nmodel.detector.decoder.num_leyers = 3\n")(place),
        ["--config-file", "a.py"],
        ["model.detector.decoder.num_leyers", "takes no such argument", "model.detector.decoder.num_layers?"]),
    # the command line
    "misspelt key": (None, own("train.max_iters=5"), ["train.max_iters", "no such", "Did you mean train.max_iter?"]),
    "misspelt section": (None, own("trian.max_iter=5"), ["trian.max_iter", "Did you mean train.max_iter?"]),
    "key of another level": (None, own("lr=1e-4"), ["lr: the config has no such key", "Did you mean optimizer.lr"]),
    "misspelt argument": (None, own("model.detector.backbone.frozen_stages=2"),
        ["model.detector.backbone.frozen_stages", "Did you mean model.detector.backbone.freeze_stages?"]),
    "key below a value": (None, own("train.seed.value=5"), ["train.seed.value", "train.seed is 42", "Set train.seed="]),
    "no equals sign": (None, own("train.max_iter"),
        ["'train.max_iter' is not of the form key=value", "train.max_iter=1000"]),
    "flag behind a key": (None, [*own(), "--resume"], ["--resume comes after a key=value argument"]),
    "value with brackets": (None, own("data.val.json=my (1).json"), ["my (1).json", "quotes"]),
    "text for a number": (None, own("train.accumulate=many"), ["train.accumulate='many'", "must be a whole number"]),
    "number for a switch": (None, own("train.amp.enabled=yes please"), ["train.amp.enabled", "must be True or False"]),
    "half an iteration": (None, own("train.log_period=2.5"), ["train.log_period=2.5", "whole number", "20"]),
    "one number for a list": (None, own("dataloader.train.mapper.augmentations.short_edge_lengths=64"),
        ["short_edge_lengths=64", "must be a list"]),
    "zero": (None, own("dataloader.train.total_batch_size=0"), ["total_batch_size=0", "from 1 to"]),
    "no clipping": (None, own("train.clip_grad_norm=null"), ["train.clip_grad_norm=null", "large number switches"]),
    "no queries": (None, own("model.detector.queries.num_queries=0"), ["num_queries=0", "from 1 to"]),
    "a date as a number of layers": (
        None, own("model.detector.decoder.num_layers=20261121"), ["num_layers=20261121", "to 1000"]
    ),
    "no model": (None, own("model=${train}"), ["model._target_ has no value"]),
    "unknown precision": (None, own("train.amp.dtype=fp16"), ["train.amp.dtype='fp16'", "bfloat16 or float16"]),
    "no such entry of a list": (None, own("model.pixel_mean.7=1"), ["model.pixel_mean.7", "a list of 3"]),
    # the machine
    "unknown device": (None, own("train.device=gpu"), ["train.device=gpu", "PyTorch cannot use this device", "cpu"]),
    "device that is not there": (None, own("train.device=cuda:99"), ["train.device=cuda:99", "Available here: cpu"]),
    "output folder is a file": (write("out", ""), own("train.output_dir=out"),
        ["train.output_dir=out", "cannot be written to", "Give another folder"]),
    "output folder that cannot be": (None, own("train.output_dir=/proc/out"), ["/proc/out", "cannot be written to"]),
    # the model
    "unknown backbone": (None, own("model.detector.backbone.name=resnet10x"),
        ["model.detector.backbone", "timm has no model 'resnet10x'", "resnet10t"]),
    "unknown weights of a backbone": (None, own("model.detector.backbone.name=resnet50.imagenet"),
        ["no weights 'resnet50.imagenet'", "resnet50.tv_in1k"]),
    "unknown option of a backbone": (None, own("model.detector.backbone.options={drop: 1}"), ["resnet10t", "drop"]),
    "other backbone, same neck": (None, own("model.detector.backbone.options.channels=[8,8,8,16]"),
        ["neck.in_channels", "'model.detector.neck.in_channels={res3: 8, res4: 8, res5: 16}'"]),
    "too many frozen stages": (None, own("model.detector.backbone.freeze_stages=7"), ["freeze_stages=7", "'res5'"]),
    "heads do not divide the width": (None, own("model.detector.embed_dim=36"), ["model: ", "(36)", "divisible"]),
    "classes typed by hand": (None, own("model.detector.num_classes=3"),
        ["model.detector.num_classes=3", "has 2 classes (cat, dog)", "=2"]),
    # the data
    "no data": (None, ["--config-file", CUSTOM, *SMALL], ["No train dataset is given", "data.root=FOLDER"]),
    "no such folder": (None, own("data.root=dta"), ["data.root=", "dta: there is no such folder"]),
    "folder of something else": (write("other/a.txt", ""), own("data.root=other"), ["no train annotations", "a.txt"]),
    "Pascal VOC": (write("voc/a.xml", ""), own("data.root=voc"), ["Pascal VOC", "python -m dino_d2.data.convert"]),
    "no such json": (None, own("data.val.json=val.json"), ["val.json does not exist", "Check the path"]),
    "json of something else": (write("cut.json", "[1]"), own("data.val.json=cut.json", "data.val.images=data/val"),
        ["cut.json is not a COCO detection file", "a list"]),
    "json cut off": (write("cut.json", '{"images": ['), own("data.val.json=cut.json", "data.val.images=data/val"),
        ["cut.json is not a JSON file", "line 1", "cut off"]),
    "missing image": (lambda place: (place / "data/train/2.png").unlink(), own(),
        ["1 images (of 3) without a file: 2", "2.png", "Add the files"]),
    "broken image": (write("data/train/2.png", "no image"), own(), ["cannot be read: 2", "2.png", "Replace the files"]),
    "wrong size": (change_json("val", lambda coco: coco["images"][0].update(width=9)), own(),
        ["another size", "1.png: 64 x 48, not 9 x 48", "Correct width and height"]),
    "unknown category": (change_json("train", lambda coco: coco["annotations"][0].update(category_id=9)), own(),
        ["category_id is not in 'categories': 1, with category_id 9", "Add the missing entry"]),
    "id given twice": (change_json("train", lambda coco: coco["annotations"][0].update(id=2)), own(),
        ["ids of 'annotations' given more than once: 2"]),
    "other classes for validation": (change_json("val", lambda coco: coco["categories"][0].update(name="bird")), own(),
        ["different categories", "cat", "bird", "same 'categories' list"]),
    "COCO is not there": (None, ["--config-file", "configs/dino/dino_r50_4scale_12ep.py"],
        ["coco_2017_train", "instances_train2017.json does not exist", "DETECTRON2_DATASETS"]),
    "unknown dataset": (None, own("dataloader.train.dataset.names=coco_2017_trian"),
        ["'coco_2017_trian' is not in", "Did you mean coco_2017_train?"]),
    # checkpoints
    "no checkpoint to evaluate": (None, own("--eval-only"), ["--eval-only needs weights", "train.init_checkpoint="]),
    "no such checkpoint": (None, own(WEIGHTS), ["train.init_checkpoint=weights.pth", "no such file"]),
    "folder as a checkpoint": (None, own("train.init_checkpoint=data"), ["=data: this is a folder"]),
    "empty checkpoint": (write("weights.pth", ""), own(WEIGHTS), ["weights.pth", "no PyTorch file"]),
    "web page as a checkpoint": (write("weights.pth", "<!DOCTYPE html><html>"), own(WEIGHTS),
        ["weights.pth", "no PyTorch file", "web page"]),
    "checkpoint cut off": (cut_off, own(WEIGHTS), ["weights.pth", "cut off after", "again"]),
    "checkpoint of something else": (
        lambda place: torch.save({"model": {"fc.weight": torch.zeros(1)}}, place / "weights.pth"), own(WEIGHTS),
        ["weights.pth", "no checkpoint of a known format", "fc.weight"]),
    "checkpoint without tensors": (lambda place: torch.save([1], place / "weights.pth"), own(WEIGHTS),
        ["weights.pth", "no tensors in it"]),
    "evaluation with other classes": (save_weights(5), own("--eval-only", WEIGHTS),
        ["weights.pth", "re-initialised for 2 classes; the checkpoint has 5", "train first"]),
    "evaluation with another model": (save_weights(2, "model.detector.embed_dim=64"), own("--eval-only", WEIGHTS),
        ["weights.pth", "weights of another model", "config.yaml"]),
    "evaluation with weights of another detector": (
        save_without_decoder,
        own("--eval-only", WEIGHTS), ["weights.pth", "weights of another model", "decoder.layers"]),
    "safetensors cut off": (write("weights.safetensors", b"\x08"), own("train.init_checkpoint=weights.safetensors"),
        ["weights.safetensors", "no safetensors file"]),
    "pickle of something else": (write("weights.pkl", "junk"), own("train.init_checkpoint=weights.pkl"),
        ["weights.pkl: not read"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_met_with_one_message(mistake, place):
    prepare, arguments, words = MISTAKES[mistake]
    if prepare:
        prepare(place)
    with pytest.raises(SystemExit) as stopped:
        run_train_net(*arguments)
    message = str(stopped.value)
    assert message.startswith("error: ")
    assert [word for word in words if word not in message] == [], message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("old", "new"), [(False, True), (True, False), (5, 7), (5, 7.0), (0.5, 1), (0.5, 0.1), ("a", "b"), (None, "a")]
)
def test_a_value_of_the_same_kind_is_no_mistake(old, new):
    assert convert_like("train.key", old, new, str(new)) == new


def test_an_image_that_breaks_after_the_check_ends_in_its_message(place):
    """The check reads first bytes alone; what a loading process meets later comes without its traceback."""
    (place / "data/val/2.png").write_bytes((place / "data/val/2.png").read_bytes()[:60])
    with pytest.raises(SystemExit) as stopped:
        run_train_net(*own("dataloader.test.num_workers=1"))
    assert str(stopped.value).startswith("error: Image ")
    assert "2.png (image id 2) cannot be read" in str(stopped.value)
    assert "Traceback" not in str(stopped.value)


def test_too_little_memory(place, monkeypatch):
    def forward(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("dino_d2.meta_arch.detr.DETR.losses", forward)
    with pytest.raises(SystemExit) as stopped:
        run_train_net(*own())
    for word in ("memory is too small", "train.amp.enabled=True", "train.accumulate", "Tried to allocate"):
        assert word in str(stopped.value)


PROCESSES = {
    "misspelt key": MISTAKES["misspelt key"],
    "missing image": MISTAKES["missing image"],
    "web page as a checkpoint": MISTAKES["web page as a checkpoint"],
    "no GPUs": (None, [*own()[:2], "--num-gpus", "0"], ["--num-gpus", "at least 1"]),
    "machine 2 of 2": (None, [*own()[:2], "--num-machines", "2", "--machine-rank", "2"], ["must be 0 to 1"]),
    "two processes for a batch of three": (
        None,
        [*own()[:2], "--num-gpus", "2", *own()[2:], "dataloader.train.total_batch_size=3", "train.device=cpu"],
        ["total_batch_size=3", "2 processes"],
    ),
}


def run_fresh_python(*words: object, cwd: Path) -> subprocess.CompletedProcess:
    """As `run_python`, by a Python that has imported nothing before."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.large_memory
@pytest.mark.parametrize(
    ("start", "mistake"), [(run_fresh_python, "misspelt key"), *((run_python, mistake) for mistake in PROCESSES)]
)
def test_nothing_but_the_message_reaches_the_terminal(start, mistake, place):
    prepare, arguments, words = PROCESSES[mistake]
    if prepare:
        prepare(place)
    run = start(ROOT / "train_net.py", *arguments, cwd=place)
    assert run.returncode == 1
    assert "Traceback" not in run.stdout + run.stderr
    assert "error: " in run.stderr
    assert [word for word in words if word not in run.stderr] == [], run.stderr


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_have_no_mistake(recipe):
    check_calls(LazyConfig.load(str(ROOT / recipe)))


def test_a_switch_can_be_set_either_way():
    for old in (True, False):
        for new in (True, False):
            assert convert_like("train.amp.enabled", old, new, str(new)) is new


@pytest.mark.parametrize(
    "override",
    [
        "model.detector.backbone.pretrained=False",  # True in the recipe, and True is an int
        "model.detector.backbone.freeze_batch_norm=False",  # an argument that the recipe leaves at its default
        "train.max_iter=5",  # a call in the recipe
        "train.max_iter.epochs=0.5",  # 50 in the recipe, but a float by its annotation
        "optimizer.lr=1",
        "train.clip_grad_norm=1",
        "train.max_iter=1e3",
        "train.seed=null",
        "model.denoising=null",
        "data.train.json=a.json",
        "data.root='a folder'",
        "train.output_dir=2026",
        "optimizer.params.lr_factor_func.factors={}",
        "dataloader.train.mapper.augmentations=${dataloader.test.mapper.augmentations}",
        "model.pixel_mean.0=1.5",
        "+train.mine=1",
    ],
)
def test_what_is_no_mistake_is_set(override):
    cfg = apply_overrides(LazyConfig.load(str(ROOT / CUSTOM)), [override])
    key, _, value = override.lstrip("+").partition("=")
    if "$" not in value:
        expected = OmegaConf.from_dotlist([f"value={value}"]).value
        assert str(OmegaConf.select(cfg, key)).strip("'") == str(expected).strip("'")
