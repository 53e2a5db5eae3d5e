# SPDX-License-Identifier: Apache-2.0
"""demo/demo.py and `dino_d2 predict`: images, folders and videos in, drawn images and COCO results out."""

import errno
import importlib.util
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.checkpoint.score_thresholds import ScoreThresholds, store_score_thresholds
from dino_d2.data.convert.__main__ import FORMATS
from dino_d2.data.shapes import Recipe, generate
from dino_d2.data.shapes_drawing import CLASSES
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.detectron2.evaluation import inference_on_dataset
from dino_d2.engine.checkpointer import AtomicCheckpointer
from dino_d2.errors import UserError
from dino_d2.predict import video
from dino_d2.predict.command import PredictionWriter, main
from dino_d2.predict.inputs import gather
from dino_d2.predictor import Predictor
from tests.paths import ROOT
from tests.processes import run_python

RECIPE = str(ROOT / "configs/dino/dino_tiny_shapes.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with config.yaml, weights.pth of a small model and shapes/."""
    folder = tmp_path_factory.mktemp("trained")
    generate(folder / "shapes", Recipe(train=1, val=3, size=64))
    shapes = f"{{root: {folder}/shapes, train: 1, val: 3, size: 64}}"
    names = [f"dataloader.{split}.dataset.names={shapes}" for split in ("train", "test")]
    small = ["model.detector.encoder.num_layers=1", "model.detector.decoder.num_layers=2"]
    cfg = LazyConfig.apply_overrides(LazyConfig.load(RECIPE), [*names, *small])
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    for bias in (model.detector.decoder.class_head.bias, model.detector.queries.proposal_head.class_head.bias):
        torch.nn.init.normal_(bias)  # else no score of the untrained model is high enough to be drawn
    categories = [
        {"id": k + 1, "name": name} for k, name in enumerate(("circle", "square", "triangle", "star", "ring"))
    ]
    AtomicCheckpointer(model, str(folder), categories=categories).save("weights")
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """Calls the command's main with inputs and flags; returns its results."""

    def run(*inputs, flags=(), output=tmp_path / "found") -> list[dict]:
        files = ["--config-file", trained / "config.yaml", "--weights", trained / "weights.pth"]
        arguments = [*files, "--input", *inputs, "--output", output, *flags]
        main([*map(str, arguments)])
        return json.loads((output / "coco_instances_results.json").read_text())

    return run


def test_a_folder_gives_the_evaluators_detections_in_coco_form(run, trained, tmp_path):
    found = run(trained / "shapes" / "val")
    names = sorted(path.name for path in (tmp_path / "found").iterdir())
    assert names == ["000001.png", "000002.png", "000003.png", "coco_instances_results.json"]

    cfg = LazyConfig.load(str(trained / "config.yaml"))
    cfg.dataloader.evaluator.output_dir = str(tmp_path)
    model = instantiate(cfg.model).eval()
    model.load_state_dict(torch.load(trained / "weights.pth", weights_only=True)["model"])
    inference_on_dataset(model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator))
    expected = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert len(found) == len(expected) == 300
    for one, other in zip(found, expected, strict=True):
        assert {key: one[key] for key in other} == other
    assert found[0]["file_name"] == "000001.png"
    assert found[0]["category_name"] in CLASSES


def test_the_threshold_decides_what_is_drawn(run, trained, tmp_path):
    picture = trained / "shapes" / "val" / "000001.png"
    middle = sorted(detection["score"] for detection in run(picture))[50]
    drawn = []
    for threshold in (0.0, middle, 1.0):
        run(picture, flags=["--confidence-threshold", threshold])
        drawn.append(np.asarray(Image.open(tmp_path / "found" / "000001.png")).astype(int))
    plain = np.asarray(Image.open(picture).convert("RGB").resize((480, 480), Image.Resampling.BICUBIC))
    changed = [(np.abs(image - plain).max(axis=2) > 0).sum() for image in drawn]
    assert changed[0] > changed[1] > changed[2] == 0


def test_pictures_of_every_size_keep_it_and_their_names(run, trained, tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, size in (("a.jpg", (700, 300)), ("b.tif", (20, 30)), ("more/a.jpg", (500, 400))):
        Image.new("RGB", size, (90, 120, 90)).save(folder / name)
    Image.new("RGBA", (8, 600)).save(folder / "c.webp")
    (folder / "notes.txt").write_text("not a picture")
    found = run(folder, folder / "more" / "*.jpg")
    sizes = {p.name: Image.open(p).size for p in (tmp_path / "found").iterdir() if p.suffix != ".json"}
    assert sizes == {"a.jpg": (700, 300), "b.png": (320, 480), "c.webp": (8, 600), "a_2.jpg": (500, 400)}
    assert {(d["image_id"], d["file_name"]) for d in found} == {(1, "a.jpg"), (2, "b.tif"), (3, "c.webp"), (4, "a.jpg")}


@pytest.mark.parametrize("form", ["yolo", "csv", "labelme"])
def test_the_drawn_detections_are_saved_as_labels(run, trained, tmp_path, form):
    shutil.copytree(trained / "shapes" / "val", tmp_path / "images" / "more")
    scores = sorted(detection["score"] for detection in run(trained / "shapes" / "val"))
    flags = ["--recursive", "--save-labels", form, "--confidence-threshold", scores[-20]]
    found = run(tmp_path / "images", flags=flags, output=tmp_path / "out")
    assert {detection["file_name"] for detection in found} == {f"more/00000{k}.png" for k in (1, 2, 3)}
    assert (tmp_path / "out" / "more" / "000001.png").is_file()
    read = tmp_path / "read"
    shutil.copytree(tmp_path / "images", read / "images")
    if form == "csv":
        shutil.copy(tmp_path / "out" / "labels.csv", read)
    else:
        shutil.copytree(tmp_path / "out" / "labels", read / "labels")
    dataset = FORMATS[form].read(read, CLASSES if form == "yolo" else None)
    images = [image for images in dataset.splits.values() for image in images]
    assert len(images) == 3
    expected = sorted(
        (f"images/{one['file_name']}", one["category_name"], *(round(x, 1) for x in one["bbox"]))
        for one in found
        if one["score"] >= scores[-20]
    )
    got = sorted(
        (image.file.relative_to(read).as_posix(), box.name, *box.xywh) for image in images for box in image.boxes
    )
    assert len(got) == len(expected) == 20
    for one, other in zip(got, expected, strict=True):
        assert one[:2] == other[:2]
        assert one[2:] == pytest.approx(other[2:], abs=0.1)


def test_tiles_find_more_in_a_large_picture(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert len(run(tmp_path / "wide.png")) == 100
    assert len(run(tmp_path / "wide.png", flags=["--tile", 80, "--overlap", 20])) > 100
    with pytest.raises(SystemExit, match="error: --overlap is the overlap of tiles: give their size too"):
        run(tmp_path / "wide.png", flags=["--overlap", 20])
    with pytest.raises(SystemExit, match="error: the overlap of tiles of 80 pixels must be 0 to 79, not 80"):
        run(tmp_path / "wide.png", flags=["--tile", 80, "--overlap", 80])


def test_a_broken_picture_does_not_end_the_work(run, trained, tmp_path, capsys, caplog):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="1 of 2 inputs could not be read"):
        run(tmp_path / "broken.png", trained / "shapes" / "val" / "000001.png")
    assert "1 files with" in capsys.readouterr().out
    assert "broken.png cannot be read" in caplog.text
    found = json.loads((tmp_path / "found" / "coco_instances_results.json").read_text())
    assert {d["file_name"] for d in found} == {"000001.png"}


def test_a_video_is_drawn_frame_by_frame(run, trained, tmp_path):
    cv2 = pytest.importorskip("cv2")
    picture = np.asarray(Image.open(trained / "shapes" / "val" / "000001.png").convert("RGB").resize((480, 480)))
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (480, 480))
    for shift in range(4):
        writer.write(np.ascontiguousarray(np.roll(picture, 8 * shift, axis=1)[:, :, ::-1]))
    writer.release()
    found = run(tmp_path / "clip.avi", trained / "shapes" / "val" / "000001.png", flags=["--confidence-threshold", 1.0])
    assert {(d["image_id"], d["file_name"], d.get("frame")) for d in found} == {
        *((k + 1, "clip.avi", k) for k in range(4)),
        (5, "000001.png", None),
    }
    drawn = cv2.VideoCapture(str(tmp_path / "found" / "clip.mp4"))
    frames = [drawn.read()[1] for _ in range(int(drawn.get(cv2.CAP_PROP_FRAME_COUNT)))]
    assert len(frames) == 4
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(5.0)
    assert np.abs(frames[0][:, :, ::-1].astype(int) - picture).mean() < 12  # the same picture, in the same colours
    assert np.abs(frames[2][:, :, ::-1].astype(int) - np.roll(picture, 16, axis=1)).mean() < 12


def test_a_live_video_keeps_to_the_clock(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    times = iter([100.0, 100.35, 100.36, 101.0])
    monkeypatch.setattr(video.time, "monotonic", lambda: next(times))
    writer = video.VideoWriter(tmp_path / "live.mp4", 10.0, live=True)
    for _ in range(3):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.close()
    assert cv2.VideoCapture(str(tmp_path / "live.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 10


def test_mistakes_are_met_with_one_message(run, trained, tmp_path, monkeypatch):
    picture = trained / "shapes" / "val" / "000001.png"
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit, match=r"error: --input nothing\.jpg does not exist"):
        run("nothing.jpg")
    with pytest.raises(SystemExit, match="contains neither pictures nor videos"):
        run(tmp_path / "empty")
    with pytest.raises(SystemExit, match=r"000001\.png would overwrite the input"):
        run(picture, output=picture.parent)
    with pytest.raises(SystemExit, match="is a file; a folder is needed"):
        run(picture, output=picture)
    with pytest.raises(SystemExit, match="error: there is no checkpoint"):
        run(picture, flags=["--weights", "nothing.pth"])
    if importlib.util.find_spec("cv2"):
        with pytest.raises(SystemExit, match=r"clip\.mp4 cannot be opened"):
            run(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SystemExit, match="videos and webcams need OpenCV: pip install"):
        run(tmp_path / "clip.mp4")


def test_webcams_and_patterns_are_understood(tmp_path):
    assert [(one.path, one.camera, one.name) for one in gather(["webcam", "webcam:2"])] == [
        (None, 0, "webcam0"),
        (None, 2, "webcam2"),
    ]
    for name in ("b.png", "a.png", "c.MP4"):
        (tmp_path / name).touch()
    assert [one.name for one in gather([f"{tmp_path}/*.png"])] == ["a.png", "b.png"]
    assert [(one.name, one.is_video) for one in gather([str(tmp_path)])][-1] == ("c.MP4", True)
    with pytest.raises(UserError, match="does not exist"):
        gather([f"{tmp_path}/*.gif"])


@pytest.mark.slow
def test_the_script_runs_from_the_command_line(trained, tmp_path):
    shutil.copy(trained / "shapes" / "val" / "000001.png", tmp_path / "one.png")
    command = "demo/demo.py --config-file CONFIG --weights WEIGHTS --input IN --output OUT --opts"
    places = {"CONFIG": RECIPE, "WEIGHTS": trained / "weights.pth", "IN": tmp_path, "OUT": tmp_path / "out"}
    words = [str(places.get(word, word)) for word in command.split()]
    small = ["model.detector.encoder.num_layers=1", "model.detector.decoder.num_layers=2", "model.postprocess.top_k=7"]
    done = run_python(*words, *small)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 files with")
    assert len(json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())) == 7


@pytest.mark.parametrize("value", ["nan", "-0.1", "2"])
def test_a_threshold_that_is_none_is_refused(run, trained, value):
    with pytest.raises(SystemExit, match=r"--confidence-threshold .* must be between 0 and 1"):
        run(trained / "shapes/val/000001.png", flags=[f"--confidence-threshold={value}"])


def test_a_full_disk_is_said_in_words(run, trained, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(SystemExit, match=r"cannot be written to: .*No space left"):
        run(trained / "shapes/val/000001.png")


def test_a_signal_keeps_the_results_so_far(run, trained, tmp_path, monkeypatch):
    pictures = sorted((trained / "shapes/val").glob("*.png"))
    draw = PredictionWriter.draw

    def signalled(self, *arguments):
        if self.results:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, *arguments)

    monkeypatch.setattr(PredictionWriter, "draw", signalled)
    with pytest.raises(SystemExit) as stopped:
        run(*pictures)
    assert stopped.value.code == 128 + signal.SIGTERM
    results = json.loads((tmp_path / "found/coco_instances_results.json").read_text())
    assert {result["file_name"] for result in results} == {pictures[0].name}


@pytest.mark.parametrize("categories", [[{"id": 1, "name": "cat"}], [{"id": k, "name": "a\nb"} for k in range(5)]])
def test_names_that_are_not_those_of_the_classes_are_refused(categories, trained, tmp_path):
    content = torch.load(trained / "weights.pth", weights_only=False) | {"categories": categories}
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="damaged"):
        Predictor(trained / "config.yaml", tmp_path / "weights.pth", device="cpu")


def test_the_best_threshold_of_the_weights(trained, tmp_path, capsys):
    shutil.copy(trained / "weights.pth", tmp_path / "weights.pth")
    files = ["--config-file", str(trained / "config.yaml"), "--weights", str(tmp_path / "weights.pth")]
    files += [
        "--input",
        str(trained / "shapes/val"),
        "--output",
        str(tmp_path / "out"),
        "--confidence-threshold",
        "best",
    ]
    with pytest.raises(SystemExit, match="has no best score threshold"):
        main(files)
    store_score_thresholds(str(tmp_path / "weights.pth"), ScoreThresholds(1.0, {}, 0.5), CLASSES)
    main(files)
    assert "3 files with 0 detections drawn" in capsys.readouterr().out
