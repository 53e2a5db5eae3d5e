# SPDX-License-Identifier: Apache-2.0
"""The Predictor for scripts, and Detectron2's DefaultPredictor on this project's configs."""

import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.checkpoint.score_thresholds import ScoreThresholds, store_score_thresholds
from dino_d2.data.shapes import Recipe, generate
from dino_d2.detectron2.checkpoint import DetectionCheckpointer
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.detectron2.data import MetadataCatalog
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.engine import DefaultPredictor
from dino_d2.detectron2.structures import pairwise_iou
from dino_d2.engine.checkpointer import AtomicCheckpointer
from dino_d2.errors import UserError
from dino_d2.predict import Predictor, predictor_cfg
from dino_d2.predict.tiles import Tiling, View, join
from dino_d2.speed import for_inference
from tests.paths import CONFIGS, ROOT

SMALL = ["model.detector.encoder.num_layers=1", "model.detector.decoder.num_layers=2"]
RECIPES = CONFIGS / "dino"
RECIPE = str(RECIPES / "dino_tiny_shapes.py")
PRETRAINED = str(RECIPES / "dino_r50_4scale_12ep.py")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Overrides for a shapes dataset of three images."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return [f"dataloader.{split}.dataset.names={{root: {root}, train: 2, val: 3}}" for split in ("train", "test")]


CATEGORIES = [{"id": 10 * k, "name": name} for k, name in enumerate(("ant", "bee", "cat", "dog", "elk"))]


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """(overrides, weights file) of a small model."""
    overrides = [*shapes, *SMALL]
    cfg = LazyConfig.apply_overrides(LazyConfig.load(RECIPE), overrides)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    AtomicCheckpointer(instantiate(cfg.model), str(folder), categories=CATEGORIES).save("weights")
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    return overrides, folder / "weights.pth"


def detections(instances):
    return instances.pred_boxes.tensor, instances.scores, instances.pred_classes


def test_a_recipe_with_test_time_augmentation_detects_with_it_in_both_predictors(trained):
    overrides, weights = trained
    recipe = RECIPES / "dino_tiny_shapes_tta.py"
    rgb = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    plain = Predictor(RECIPE, weights, overrides)(rgb, "RGB")
    found = Predictor(recipe, weights, overrides)(rgb, "RGB")
    assert torch.equal(found.scores, plain.scores)
    assert not torch.equal(found.pred_boxes.tensor, plain.pred_boxes.tensor)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(str(recipe)), overrides)
    cfg.train.init_checkpoint = str(weights)
    LazyConfig.save(cfg, str(weights.parent / "tta.yaml"))
    default = DefaultPredictor(predictor_cfg(weights.parent / "tta.yaml", weights))
    also = default(np.ascontiguousarray(rgb[:, :, ::-1]))["instances"].to("cpu")
    assert torch.allclose(also.pred_boxes.tensor, found.pred_boxes.tensor, atol=1e-3)


def test_predictor_finds_what_the_test_loader_finds(trained, tmp_path):
    """The same weights, image and resize by either way; a photograph larger than the resize, from BGR."""
    overrides, weights = trained
    resize = "dataloader.test.mapper.augmentations=[]"
    cfg = LazyConfig.apply_overrides(LazyConfig.load(RECIPE), [*overrides, resize])
    cfg.dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=[96, 96], max_size=130)]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    rgb = np.random.default_rng(0).integers(0, 255, (120, 200, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "image.png")

    predictor = DefaultPredictor(predictor_cfg(tmp_path / "config.yaml", weights))
    found = predictor(np.ascontiguousarray(rgb[:, :, ::-1]))["instances"]

    model = instantiate(cfg.model).eval()
    DetectionCheckpointer(model).load(str(weights))
    mapped = instantiate(cfg.dataloader.test.mapper)({"file_name": str(tmp_path / "image.png"), "image_id": 1})
    assert mapped["image"].shape == (3, 78, 130)
    expected = model.to(predictor.model.device)([mapped])[0]["instances"]
    assert found.image_size == expected.image_size == (120, 200)
    for a, b in zip(detections(found), detections(expected), strict=True):
        assert torch.equal(a, b)


def test_recipe_and_the_config_of_its_run_give_one_predictor(trained):
    overrides, weights = trained
    image = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    by_recipe = DefaultPredictor(predictor_cfg(RECIPE, weights, overrides))(image)["instances"]
    by_run = DefaultPredictor(predictor_cfg(weights.parent / "config.yaml", weights))(image)["instances"]
    for a, b in zip(detections(by_recipe), detections(by_run), strict=True):
        assert torch.equal(a, b)


def test_the_predictor_knows_the_class_names(trained):
    overrides, weights = trained
    predictor = DefaultPredictor(predictor_cfg(RECIPE, weights, overrides))
    assert len(predictor.metadata.thing_classes) == 5
    assert predictor.model.detector.label_embedding.num_embeddings == 5


def test_the_config_can_be_written_and_read(trained):
    overrides, weights = trained
    cfg = predictor_cfg(RECIPE, weights, overrides)
    again = type(cfg).load_cfg(cfg.dump())
    assert again.MODEL.LAZY_CONFIG == cfg.MODEL.LAZY_CONFIG
    assert str(weights) == again.MODEL.WEIGHTS


@pytest.mark.large_memory
def test_the_config_brings_its_model_into_a_new_process(tmp_path):
    cfg = predictor_cfg(RECIPE, "weights.pth", SMALL).clone()  # as Detectron2's AsyncPredictor does
    (tmp_path / "cfg.pkl").write_bytes(pickle.dumps(cfg))
    code = (
        "import pickle, sys\n"
        "from dino_d2.detectron2.modeling import META_ARCH_REGISTRY\n"
        "cfg = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).__name__, cfg.MODEL.LAZY_CONFIG.OVERRIDES)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "cfg.pkl")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == f"LazyConfigModel {SMALL}", result.stderr


def test_values_come_from_the_test_mapper_and_nothing_is_fetched(monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", pytest.fail)
    cfg = predictor_cfg(PRETRAINED, "weights.pth", ["dataloader.test.mapper.augmentations.short_edge_length=640"])
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT) == (640, 1333, "RGB")
    assert cfg.DATASETS.TEST == ("coco_2017_val",)
    assert MetadataCatalog.get("coco_2017_val").thing_classes[0] == "person"
    cfg = predictor_cfg(PRETRAINED, "weights.pth", ["dataloader.test.dataset.names=mine"])
    assert cfg.DATASETS.TEST == ("mine",)
    cfg = predictor_cfg(RECIPE, "weights.pth", ["dataloader.test.dataset.names=mine"])
    assert cfg.INPUT.MIN_SIZE_TEST == 0


def test_a_mapper_that_flips_is_refused(tmp_path):
    cfg = LazyConfig.load(PRETRAINED)
    cfg.dataloader.test.mapper.augmentations = [L(T.RandomFlip)(prob=1.0)]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    with pytest.raises(ValueError, match=r"dataloader\.test\.mapper has"):
        predictor_cfg(tmp_path / "config.yaml", "weights.pth")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photograph's file, stored lying on its side with the EXIF mark that says so."""
    rgb = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(rgb).save(path, exif=exif)
    return path


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained[1].parent / "config.yaml", trained[1], device="cpu")


@pytest.fixture
def resized(trained):
    """config.yaml with a resize at test time."""
    cfg = LazyConfig.apply_overrides(LazyConfig.load(RECIPE), trained[0])
    cfg.dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=[50, 50], max_size=70)]
    LazyConfig.save(cfg, str(trained[1].parent / "resized.yaml"))
    return trained[1].parent / "resized.yaml"


def test_one_image_in_any_form_gives_the_same_detections_as_evaluation_and_default_predictor(resized, trained, photo):
    predictor = Predictor(resized, trained[1], device="cpu")
    image = Image.open(photo)
    rgb = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    assert rgb.shape == (100, 60, 3)
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    forms = {
        "str": predictor(str(photo)),
        "Path": predictor(photo),
        "Pillow": predictor(image),
        "RGB array": predictor(rgb, colour_order="RGB"),
        "BGR array": predictor(bgr, colour_order="BGR"),
        "BGR array, not said": predictor(bgr),
        "RGB tensor": predictor(torch.from_numpy(rgb.transpose(2, 0, 1).copy()), colour_order="RGB"),
        "BGR tensor": predictor(torch.from_numpy(bgr.transpose(2, 0, 1).copy())),
    }
    lazy = LazyConfig.load(str(resized))
    mapped = instantiate(lazy.dataloader.test.mapper)({"file_name": str(photo), "image_id": 1})
    assert mapped["image"].shape == (3, 70, 42)
    expected = detections(predictor.model([mapped])[0]["instances"])
    default = DefaultPredictor(predictor_cfg(resized, trained[1]))
    default.model = for_inference(default.model)  # the predictor's operators, so that rounding is the same too
    forms["DefaultPredictor"] = default(bgr)["instances"]
    for form, found in forms.items():
        assert found.image_size == (100, 60), form
        assert all(torch.equal(a, b) for a, b in zip(detections(found), expected, strict=True)), form
    swapped = predictor(bgr, colour_order="RGB")
    assert not torch.equal(swapped.scores, expected[1]), "the colour order makes no difference"


def test_a_score_threshold_and_nms_choose_among_the_same_detections(trained, predictor, photo):
    config, weights = trained[1].parent / "config.yaml", trained[1]
    every = predictor(photo)
    threshold = float(every.scores[20])
    above = Predictor(config, weights, device="cpu", score_threshold=threshold)(photo)
    assert len(above) == int((every.scores >= threshold).sum()) < len(every)
    assert all(torch.equal(a, b) for a, b in zip(detections(above), detections(every[: len(above)]), strict=True))
    apart = Predictor(config, weights, device="cpu", nms_iou=0.05)(photo)
    assert 0 < len(apart) < len(every)
    assert apart.scores.tolist() == sorted(apart.scores.tolist(), reverse=True)
    for k in apart.pred_classes.unique():
        of_class = apart[apart.pred_classes == k].pred_boxes
        assert pairwise_iou(of_class, of_class).fill_diagonal_(0).max() <= 0.05
    for name in ("score_threshold", "nms_iou"):
        with pytest.raises(UserError, match=f"{name} must be a number between 0 and 1, not 50"):
            Predictor(config, weights, **{name: 50})


def test_tiles_are_detected_as_images_of_their_own(trained, predictor, photo):
    config, weights = trained[1].parent / "config.yaml", trained[1]
    one_tile = Predictor(config, weights, device="cpu", tiling=Tiling(100, 20))(photo)
    assert all(torch.equal(a, b) for a, b in zip(detections(one_tile), detections(predictor(photo)), strict=True))
    image = np.random.default_rng(2).integers(0, 255, (64, 150, 3), dtype=np.uint8)
    tiled = Predictor(config, weights, device="cpu", tiling=Tiling(100, 40))
    found = tiled([image, photo], "RGB")
    views = [View(0, 0, 150, 64), View(0, 0, 100, 64), View(50, 0, 150, 64)]
    expected = join(views, [predictor(image[:, v.left : v.right], "RGB") for v in views], 64, 150)
    assert found[0].image_size == (64, 150)
    assert all(torch.equal(a, b) for a, b in zip(detections(found[0]), detections(expected), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(detections(found[1]), detections(one_tile), strict=True))
    few = Predictor(config, weights, device="cpu", tiling=Tiling(100, 40), score_threshold=float(found[0].scores[9]))
    assert torch.equal(few(image, "RGB").scores, found[0].scores[:10])


def test_a_batch_gives_a_list_in_its_order(predictor, photo):
    small = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    alone = [predictor(photo), predictor(small)]
    several = [predictor([photo, small, photo]), predictor((small,)), predictor(small[None])]
    assert [found.image_size for found in several[0]] == [(100, 60), (64, 64), (100, 60)]
    for found, expected in [
        *zip(several[0], [*alone, alone[0]], strict=True),
        (several[1][0], alone[1]),
        (several[2][0], alone[1]),
    ]:
        torch.testing.assert_close(detections(found), detections(expected), rtol=1e-4, atol=1e-4)
    assert predictor([]) == []


def test_the_assumed_colour_order_is_said_once_and_only_where_it_is_assumed(trained, photo, caplog):
    predictor = Predictor(trained[1].parent / "config.yaml", trained[1], device="cpu")
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "dino_d2.predict"):
        predictor(photo)
        predictor(image, colour_order="BGR")
        assert not caplog.records
        predictor(image)
        predictor(image)
    assert [record.message[:40] for record in caplog.records] == ["Arrays and tensors are assumed to be BGR"]


def test_the_classes_come_with_the_checkpoint(predictor):
    assert predictor.categories == CATEGORIES
    assert predictor.class_names == ["ant", "bee", "cat", "dog", "elk"]


def test_own_data_need_not_be_there(trained, tmp_path):
    """A recipe that counts its classes in the data: the checkpoint knows their number, and our own their names."""
    cfg = LazyConfig.load(str(RECIPES / "dino_tiny_coco.py"))
    own = LazyConfig.apply_overrides(LazyConfig.load(RECIPE), trained[0])
    model, counted = own.model, cfg.model.detector.num_classes
    model.detector.num_classes = counted
    cfg.model = model
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert Predictor(tmp_path / "config.yaml", trained[1]).class_names == ["ant", "bee", "cat", "dog", "elk"]
    torch.save({"model": torch.load(trained[1], weights_only=True)["model"]}, tmp_path / "bare.pth")
    assert Predictor(tmp_path / "config.yaml", tmp_path / "bare.pth").class_names == ["0", "1", "2", "3", "4"]


def test_names_come_from_the_test_set_where_the_checkpoint_has_none(trained, tmp_path):
    torch.save({"model": torch.load(trained[1], weights_only=True)["model"]}, tmp_path / "bare.pth")
    predictor = Predictor(RECIPE, tmp_path / "bare.pth", trained[0])
    assert predictor.class_names == ["circle", "square", "triangle", "star", "ring"]


@pytest.fixture
def bare(trained, tmp_path):
    """Weights of the small model without class names."""
    torch.save({"model": torch.load(trained[1], weights_only=True)["model"]}, tmp_path / "bare.pth")
    return tmp_path / "bare.pth"


def test_asking_for_names_writes_nothing(bare, tmp_path, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FVCORE_CACHE", str(folder / "cache"))
    predictor = Predictor(RECIPE, bare, SMALL)
    assert predictor.class_names == ["circle", "square", "triangle", "star", "ring"]
    assert [category["id"] for category in predictor.categories] == [1, 2, 3, 4, 5]
    assert DefaultPredictor(predictor_cfg(RECIPE, bare, SMALL)).metadata.thing_classes == predictor.class_names
    assert list(folder.rglob("*")) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
def test_a_working_folder_that_cannot_be_written_is_enough(bare, monkeypatch):
    monkeypatch.chdir("/proc")
    assert Predictor(RECIPE, bare, SMALL).class_names[0] == "circle"


def test_weights_may_be_an_address(trained, predictor, tmp_path, monkeypatch):
    asked = []

    def fetch(address):
        asked.append(address)
        if address.startswith("https://nowhere"):
            raise OSError("name or service not known")
        return str(trained[1]) if address.startswith("https://") else address

    monkeypatch.setattr("dino_d2.predict.weights.PathManager.get_local_path", fetch)
    config = trained[1].parent / "config.yaml"
    found = Predictor(config, "https://example.org/weights.pth", device="cpu")
    assert asked[0] == "https://example.org/weights.pth"
    image = np.zeros((64, 64, 3), np.uint8)
    assert torch.equal(found(image, "RGB").scores, predictor(image, "RGB").scores)
    with pytest.raises(UserError, match=r"https://nowhere/x\.pth cannot be downloaded: name or service"):
        Predictor(config, "https://nowhere/x.pth")
    with pytest.raises(UserError, match=r"there is no checkpoint odd://x\.pth: unknown kind of address"):
        Predictor(config, "odd://x.pth")


def test_the_gradient_through_the_predictors_model_is_that_of_the_recipes(trained):
    """For saliency maps and adversarial images."""
    gradients = []
    cfg = LazyConfig.load(str(trained[1].parent / "config.yaml"))
    plain = instantiate(cfg.model).eval()
    DetectionCheckpointer(plain).load(str(trained[1]))
    for model in (plain, Predictor(trained[1].parent / "config.yaml", trained[1], device="cpu").model):
        image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)).requires_grad_()
        model.detector(image).logits[-1].max().backward()
        gradients.append(image.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


def test_a_bgr_recipe_gives_one_result_for_a_path_an_array_and_a_video_frame(trained, tmp_path):
    cv2 = pytest.importorskip("cv2")
    cfg = LazyConfig.load(str(trained[1].parent / "config.yaml"))
    cfg.dataloader.test.mapper.image_format = "BGR"
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    predictor = Predictor(tmp_path / "config.yaml", trained[1], device="cpu")
    rgb = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "image.png")
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"FFV1"), 5.0, (96, 64))
    writer.write(np.ascontiguousarray(rgb[:, :, ::-1]))
    writer.release()
    _, frame = cv2.VideoCapture(str(tmp_path / "clip.avi")).read()
    expected = predictor(tmp_path / "image.png")
    mapped = predictor.mapper({"file_name": str(tmp_path / "image.png")})
    assert np.array_equal(mapped["image"].permute(1, 2, 0).numpy(), rgb[:, :, ::-1])
    if frame is not None and np.array_equal(frame, rgb[:, :, ::-1]):  # where OpenCV has the lossless codec
        assert torch.equal(predictor(frame, "BGR").scores, expected.scores)
    for found in (predictor(rgb, "RGB"), predictor(rgb[:, :, ::-1], "BGR"), predictor(Image.fromarray(rgb))):
        assert all(torch.equal(a, b) for a, b in zip(detections(found), detections(expected), strict=True))


def test_a_bgr_model_finds_what_the_same_model_finds_in_rgb(trained, tmp_path):
    """The same weights, with the channels of the first convolution in the other order."""
    config = trained[1].parent / "config.yaml"
    checkpoint = torch.load(trained[1], weights_only=True)
    stem = next(name for name, value in checkpoint["model"].items() if value.ndim == 4 and value.shape[1] == 3)
    checkpoint["model"][stem] = checkpoint["model"][stem].flip(1)
    torch.save(checkpoint, tmp_path / "bgr.pth")
    cfg = LazyConfig.load(str(config))
    cfg.dataloader.test.mapper.image_format = "BGR"
    cfg.model.pixel_mean, cfg.model.pixel_std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    rgb = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "image.png")
    expected = Predictor(config, trained[1], device="cpu")(rgb, "RGB")
    bgr = Predictor(tmp_path / "config.yaml", tmp_path / "bgr.pth", device="cpu")
    for found in (bgr(tmp_path / "image.png"), bgr(rgb, "RGB"), bgr(rgb[:, :, ::-1], "BGR")):
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nothing.jpg", r"image nothing\.jpg does not exist \(looked from"),
        (Path(__file__).parent, "is a folder, not an image"),
        (__file__, r"image .*test_predictor\.py cannot be read"),
        (np.zeros((8, 8), np.uint8), r"an array must be one image \[H, W, 3\], not \[8, 8\]"),
        (np.zeros((3, 8, 8), np.uint8), r"\[H, W, 3\], not \[3, 8, 8\]"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"a tensor must be one image \[3, H, W\]"),
        (torch.zeros(3, 8, 8), "must hold uint8 values in 0..255, not float32"),
        (17, "not int"),
    ],
)
def test_what_is_no_image_is_said_in_words(predictor, image, message):
    with pytest.raises(UserError, match=message):
        predictor(image)


def test_what_does_not_fit_is_said_in_words(trained, tmp_path):
    overrides, weights = trained
    with pytest.raises(UserError, match=r'precision must be "bfloat16", "float16" or None \(float32\), not .fp16'):
        Predictor(RECIPE, weights, precision="fp16")
    with pytest.raises(UserError, match="precision must be"):
        Predictor(RECIPE, weights, precision=["bfloat16"])
    with pytest.raises(UserError, match=r"train\.py is not a recipe: it has no model\.detector\.backbone"):
        Predictor(CONFIGS / "common" / "train.py", weights)
    with pytest.raises(UserError, match=r"there is no config file 'nothing\.py'"):
        Predictor("nothing.py", weights)
    with pytest.raises(UserError, match=r"there is no checkpoint nothing\.pth"):
        Predictor(RECIPE, "nothing.pth")
    with pytest.raises(UserError, match=r"does not fit .*class heads .* 5"):
        Predictor(RECIPE, weights, [*overrides, "model.detector.num_classes=3"])
    with pytest.raises(UserError, match=r"does not fit .*\(not in the checkpoint\)"):
        Predictor(RECIPE, weights, [*overrides, "model.detector.encoder.num_layers=2"])
    with pytest.raises(UserError, match=r"does not fit .* there, .* here"):
        Predictor(RECIPE, weights, [*overrides, "model.detector.encoder.feedforward_dim=128"])
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(UserError, match=r"text\.pth is not a checkpoint"):
        Predictor(RECIPE, tmp_path / "text.pth", overrides)
    with pytest.raises(UserError, match="device 'abacus' cannot be used"):
        Predictor(RECIPE, weights, overrides, device="abacus")
    with pytest.raises(UserError, match="colour_order must be"):
        Predictor(RECIPE, weights, overrides)(np.zeros((8, 8, 3), np.uint8), colour_order="GBR")


def test_the_lines_of_the_docs_run(tmp_path, monkeypatch, capsys):
    """docs/predict.md and the README's snippet, in a folder that looks like that of a finished `make train`."""
    root = CONFIGS.parent
    (tmp_path / "configs").symlink_to(root / "configs")
    generate(tmp_path / "datasets/shapes", Recipe(train=1, val=27, size=64))
    model = instantiate(LazyConfig.load(RECIPE).model)
    torch.nn.init.constant_(model.detector.decoder.class_head.bias, 1.0)
    (tmp_path / "output/dino_tiny_shapes").mkdir(parents=True)
    checkpointer = AtomicCheckpointer(model, str(tmp_path / "output/dino_tiny_shapes"), categories=CATEGORIES)
    checkpointer.save("model_final")
    monkeypatch.chdir(tmp_path)
    for page in ("docs/predict.md", "README.md"):
        blocks = re.findall(r"```python\n(.*?)```", (root / page).read_text(), flags=re.S)
        blocks = [block for block in blocks if "redictor" in block or "instances" in block]
        assert blocks, page
        names: dict = {}
        for block in blocks:
            exec(block, names)
    assert capsys.readouterr().out.count("[") == 100
    assert Image.open("found.png").size == (480, 480)


def test_the_best_threshold_is_that_of_the_checkpoint(trained, tmp_path):
    overrides, weights = trained
    file = tmp_path / "weights.pth"
    shutil.copy(weights, file)
    with pytest.raises(UserError, match=r"has no best score threshold\. Find and store it: dino_d2 report"):
        Predictor(RECIPE, file, overrides, score_threshold="best")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found = Predictor(RECIPE, file, overrides)(image, "RGB")
    middle = found.scores[len(found) // 2].item()
    thresholds = ScoreThresholds(middle, {"ant": 1.0, "bee": 0.0}, 0.5)
    store_score_thresholds(str(file), thresholds, [category["name"] for category in CATEGORIES])
    best = Predictor(RECIPE, file, overrides, score_threshold="best")
    assert best.score_thresholds == thresholds
    assert len(best(image, "RGB")) == (found.scores >= middle).sum() < len(found)
    of_class = Predictor(RECIPE, file, overrides, score_threshold="best_per_class")(image, "RGB")
    classes = found.pred_classes
    expected = (classes == 1) | ((classes > 1) & (found.scores >= middle))
    assert torch.equal(of_class.scores, found.scores[expected])
    assert len(Predictor(RECIPE, file, overrides)(image, "RGB")) == len(found)  # the default keeps all
    with pytest.raises(UserError, match="best or best_per_class, not 'better'"):
        Predictor(RECIPE, file, overrides, score_threshold="better")
