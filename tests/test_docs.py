# SPDX-License-Identifier: Apache-2.0
"""Every command in the docs runs, or stands in commands_not_run.py; every link leads somewhere.

A command stands in a block marked `sh` or `bash`. Those of `RUN` are run here, in this order and with the given changes
that make them small.
"""

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.data.check.__main__ import main as check
from dino_d2.data.convert.__main__ import main as convert
from dino_d2.data.shapes import Recipe, generate
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.engine.overrides import apply_overrides
from dino_d2.report.command import main as report
from tests.commands_not_run import NOT_RUN
from tests.in_process import run_train_net
from tests.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_QUICK = ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "train.max_iter=1", "train.num_pictures=1"]
_THIN = ["model.detector.encoder={num_layers: 1, feedforward_dim: 32}",
         "model.detector.decoder={num_layers: 1, feedforward_dim: 32}"]  # fmt: skip
_SIZES = ["dataloader.train.mapper.augmentations={short_edge_lengths: [64], crop_short_edge_lengths: [64]}",
          "dataloader.train.mapper.augmentations.crop_size=[32, 48]",
          "dataloader.test.mapper.augmentations.short_edge_length=64"]  # fmt: skip
_SHAPES = [*_QUICK, *_THIN, "dataloader.train.total_batch_size=2"]
_SHAPES += [f"dataloader.{split}.dataset.names.{key}" for split in ("train", "test")
            for key in ("train=4", "val=27", "size=64")]  # fmt: skip
_CUSTOM = [*_QUICK, *_THIN, *_SIZES, "model.detector.embed_dim=64", "model.detector.queries.num_queries=20",
           "model.detector.backbone={name: resnet10t, pretrained: false, options: {channels: [8, 8, 8, 8]}}",
           "model.detector.neck.in_channels={res3: 8, res4: 8, res5: 8}"]  # fmt: skip
_TINY_COCO = [*_QUICK, *_THIN, *_SIZES, "model.detector.backbone.pretrained=False"]

_TRAIN = "python train_net.py --config-file "
_CUSTOM_RECIPE = f"{_TRAIN}configs/dino/dino_r50_4scale_custom.py "
RUN = {
    "python -m dino_d2.data.convert datasets/mine": [],
    "python -m dino_d2.data.check datasets/mine/annotations/instances_train.json datasets/mine": [],
    "python -m dino_d2.data.check datasets/mine/annotations/instances_train.json datasets/mine --pictures pictures": [],
    f"{_TRAIN}configs/dino/dino_small_custom.py data.root=datasets/mine": [*_QUICK, *_THIN, "data.image_size=64"],
    f"{_CUSTOM_RECIPE}data.root=datasets/mine train.init_checkpoint=coco.pth": _CUSTOM,
    f"{_CUSTOM_RECIPE}data.train.json=train.json data.train.images=photos data.val.json=val.json "
    "data.val.images=photos": _CUSTOM,
    f"{_TRAIN}output/dino_r50_4scale_custom/config.yaml --eval-only "
    "train.init_checkpoint=output/dino_r50_4scale_custom/model_final.pth": [],
    f"{_TRAIN}configs/dino/dino_tiny_coco.py data.train.json=annotations/train.json data.train.images=train "
    "data.val.json=annotations/val.json data.val.images=val": _TINY_COCO,
    f"{_TRAIN}configs/dino/dino_tiny_shapes.py": _SHAPES,
    f"{_TRAIN}configs/dino/dino_tiny_shapes.py --resume": [*_SHAPES, "train.max_iter=2"],
    f"{_TRAIN}configs/dino/dino_tiny_shapes_tta.py --eval-only "
    "train.init_checkpoint=output/dino_tiny_shapes/model_final.pth": _SHAPES,
    f"{_TRAIN}output/dino_tiny_shapes/config.yaml --eval-only "
    "train.init_checkpoint=output/dino_tiny_shapes/model_final.pth": [],
    f"{_TRAIN}configs/dino/dino_tiny_shapes.py train.max_iter=1000 optimizer.lr=5e-4": _SHAPES,
    f"{_TRAIN}configs/dino/dino_tiny_shapes.py train.eval_period=200 train.best=bbox/AP "
    "train.early_stopping.patience=5": _SHAPES,
    f"{_TRAIN}configs/dino/dino_tiny_shapes.py --eval-only "
    "train.init_checkpoint=output/dino_tiny_shapes/model_final.pth "
    "dataloader.evaluator.output_dir=found": _SHAPES,
    "python demo/demo.py --config-file configs/dino/dino_tiny_shapes.py --weights "
    "output/dino_tiny_shapes/model_final.pth --input datasets/shapes/val --output found": ["--opts", *_SHAPES],
    "python demo/demo.py --config-file configs/dino/dino_tiny_shapes.py --weights "
    "output/dino_tiny_shapes/model_final.pth --input aerial --output tiled --tile 640 --overlap 128":
        ["--opts", *_SHAPES],
    "python demo/demo.py --config-file configs/dino/dino_tiny_shapes.py --weights "
    "output/dino_tiny_shapes/model_final.pth --input datasets/shapes/val --output labelled "
    "--recursive --save-labels yolo --confidence-threshold 0.5": ["--opts", *_SHAPES],
    "python -m dino_d2.report --results found/coco_instances_results.json --annotations "
    "datasets/shapes/annotations/shapes_val.json --images datasets/shapes/val --output report": [],
    "python -m dino_d2.report --config-file output/dino_tiny_shapes/config.yaml --weights "
    "output/dino_tiny_shapes/model_final.pth --output report": [],
    "python tools/draw_queries.py --config-file configs/dino/dino_tiny_shapes.py --weights "
    "output/dino_tiny_shapes/model_final.pth --input datasets/shapes/val/000027.png --output pictures":
        ["--opts", *_SHAPES],
    "python tools/draw_matching.py arrows --config-file configs/dino/dino_tiny_shapes.py --weights "
    "output/dino_tiny_shapes/model_final.pth --longest 0.2 --output anchors.png": ["--opts", *_SHAPES],
    "python tools/plot_metrics.py output/dino_tiny_shapes": [],
    "python tools/plot_metrics.py output/one output/two --output compared.png": [],
    f"{_TRAIN}configs/dino/dino_tiny_shapes.py train.panels.period=500 "
    "'train.panels.show=[predictions,denoising,sampling_points]'": [*_SHAPES, "train.panels.period=1"],
    f"{_TRAIN}configs/dino/dino_tiny_shapes.py model.denoising=null": _SHAPES,
}  # fmt: skip


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> list[str]:
    """The commands of a page, each on one line."""
    found = []
    for language, content in blocks(page):
        if language in ("sh", "bash"):
            for line in content.replace("\\\n", " ").splitlines():
                command = line.partition(" #")[0]
                if command.strip() and not command.startswith("#"):
                    found.append(" ".join(command.split()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_is_run_or_listed_as_not_run(page):
    not_run = NOT_RUN.get(page.name, [])
    shown = commands(page)
    assert [command for command in shown if command not in RUN and command not in not_run] == []
    assert [command for command in not_run if command not in shown or command in RUN] == [], "no longer true"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_of_their_kind(page):
    plain = [line for language, content in blocks(page) if not language for line in content.splitlines()]
    assert [line for line in plain if re.match(r"(python|pip|make|torchrun|pytest|srun) ", line)] == []


def test_what_is_run_is_in_the_docs():
    shown = {command for page in PAGES for command in commands(page)}
    assert [command for command in RUN if command not in shown] == []


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder in which the commands find what they speak of."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    generate(tmp_path / "src", Recipe(train=4, val=2, size=64))
    Path("aerial").mkdir()
    Image.new("RGB", (700, 100)).save("aerial/fields.png")
    for name in ("one", "two"):
        Path("output", name).mkdir(parents=True)
        lines = [json.dumps({"iteration": i, "total_loss": 9.0 - i, "bbox/AP": float(i)}) for i in range(3)]
        Path("output", name, "metrics.json").write_text("\n".join(lines))
    for split in ("train", "val"):
        shutil.copytree(f"src/{split}", split)
        Path("annotations").mkdir(exist_ok=True)
        shutil.copy(f"src/annotations/shapes_{split}.json", f"annotations/{split}.json")
        _as_yolo(split)
        coco = json.loads(Path(f"annotations/{split}.json").read_text())
        for image in coco["images"]:
            Path("photos").mkdir(exist_ok=True)
            shutil.copy(f"{split}/{image['file_name']}", f"photos/{split}{image['file_name']}")
            image["file_name"] = f"{split}{image['file_name']}"
        Path(f"{split}.json").write_text(json.dumps(coco))
    Path("datasets/mine/data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [circle, square, triangle, star, ring]"
    )
    cfg = LazyConfig.load("configs/dino/dino_r50_4scale_custom.py")
    apply_overrides(cfg, [*_CUSTOM, "model.detector.num_classes=80"])
    torch.save({"model": instantiate(cfg.model).state_dict()}, "coco.pth")
    return tmp_path


def _as_yolo(split: str) -> None:
    coco = json.loads(Path(f"src/annotations/shapes_{split}.json").read_text())
    labels = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        x, y, w, h = np.array(annotation["bbox"]) / 64
        labels[annotation["image_id"]].append(f"{annotation['category_id'] - 1} {x + w / 2} {y + h / 2} {w} {h}")
    shutil.copytree(f"src/{split}", f"datasets/mine/images/{split}")
    Path(f"datasets/mine/labels/{split}").mkdir(parents=True)
    for image in coco["images"]:
        name = Path(image["file_name"]).stem
        Path(f"datasets/mine/labels/{split}/{name}.txt").write_text("\n".join(labels[image["id"]]))


@pytest.mark.slow
@pytest.mark.large_memory
def test_the_commands_run(place, monkeypatch):
    for command, changes in RUN.items():
        program, *arguments = shlex.split(command.removeprefix("python ").removeprefix("-m "))
        if program == "train_net.py":
            run_train_net(*arguments, *changes)
        elif program.endswith(".py"):
            monkeypatch.setattr(sys, "argv", [program, *arguments, *changes])
            monkeypatch.syspath_prepend((ROOT / program).parent)
            runpy.run_path(str(ROOT / program), run_name="__main__")
        else:
            run = {"dino_d2.data.convert": convert, "dino_d2.data.check": check, "dino_d2.report": report}[program]
            assert not run([*arguments, *changes]), command
    picture = Image.open(place / "output/dino_r50_4scale_custom/predictions.png")
    assert picture.size[0] > 0


def without_blocks(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for words, target in LINK.findall(without_blocks(page)):
        if "://" in target or target.startswith("#"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path
        assert file.exists(), f"{page.name}: {target}"
        if anchor.startswith("L"):  # a line: it must be that of the name that the link shows
            name = words.strip("`").split(".")[-1]
            lines = [n for n, line in enumerate(file.read_text().splitlines(), 1) if re.search(rf"\b{name}\b", line)]
            assert int(anchor[1:]) in lines, f"{page.name}: {words} is in lines {lines} of {path}, not {anchor}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_sections_lead_to_a_heading(page):
    targets = [target.partition("#") for _, target in LINK.findall(without_blocks(page)) if "://" not in target]
    of_pages = [(page.parent / path if path else page, anchor) for path, _, anchor in targets if anchor]
    assert [anchor for file, anchor in of_pages if file.suffix == ".md" and anchor not in anchors(file)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_footnotes_are_explained(page):
    text = without_blocks(page)
    assert set(re.findall(r"(?<!^)\[\^([\w-]+)\]", text, re.M)) == set(re.findall(r"^\[\^([\w-]+)\]: ", text, re.M))


#: Dates, processors and measured memory or speed.
MEASURED = re.compile(r"\b2026-|EPYC|Xeon|s/iter|\d [GM]iB")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_measurements_stand_in_tables_or_footnotes(page):
    lines = without_blocks(page).splitlines()
    assert [line for line in lines if MEASURED.search(line) and not line.startswith(("|", "[^"))] == []


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_each_page_is_linked_from_the_readme(page):
    assert f"(docs/{page.name})" in PAGES[0].read_text()
