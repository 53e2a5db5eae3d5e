# SPDX-License-Identifier: Apache-2.0
"""Words of other programs on the command line get the key that is meant."""

import pytest

from dino_d2.cli import _run_parser
from dino_d2.engine.config import read_config
from dino_d2.engine.other_words import FLAGS, WORDS, keys_meant_by
from dino_d2.engine.overrides import check_key
from dino_d2.errors import UserError
from tests.paths import CONFIGS

CUSTOM = str(CONFIGS / "dino" / "dino_r50_4scale_custom.py")
PUBLISHED = str(CONFIGS / "dino" / "dino_r50_4scale_12ep.py")


@pytest.fixture(scope="module")
def custom():
    return read_config(CUSTOM)


@pytest.mark.parametrize("key", WORDS)
def test_every_key_that_is_suggested_exists(key, custom):
    check_key(custom, key)


def test_every_flag_that_is_suggested_exists(capsys):
    parser = _run_parser("train", "", "")
    known = {option for action in parser._actions for option in action.option_strings} | {"--resume", "--eval-only"}
    assert set(FLAGS) <= known


def test_words_are_in_lower_case_as_they_are_compared():
    words = [word for table in (WORDS, FLAGS) for words in table.values() for word in words]
    assert [word for word in words if word != word.lower()] == []


TYPED = {
    "epochs": "train.max_iter.epochs",
    "train.epochs": "train.max_iter.epochs",
    "batch": "dataloader.train.total_batch_size",
    "train.batch_size": "dataloader.train.total_batch_size",
    "dataloader.train.batch_size": "dataloader.train.total_batch_size",
    "lr": "optimizer.lr",
    "lr0": "optimizer.lr",
    "train.lr": "optimizer.lr",
    "SOLVER.BASE_LR": "optimizer.lr",
    "SOLVER.IMS_PER_BATCH": "dataloader.train.total_batch_size",
    "SOLVER.MAX_ITER": "train.max_iter",
    "MODEL.WEIGHTS": "train.init_checkpoint",
    "MODEL.BACKBONE.FREEZE_AT": "model.detector.backbone.freeze_stages",
    "MODEL.ROI_HEADS.NUM_CLASSES": "model.detector.num_classes",
    "DATASETS.TRAIN": "dataloader.train.dataset.names",
    "DATASETS.TEST": "dataloader.test.dataset.names",
    "INPUT.MAX_SIZE_TRAIN": "dataloader.train.mapper.augmentations.max_size",
    "OUTPUT_DIR": "train.output_dir",
    "TEST.EVAL_PERIOD": "train.eval_period",
    "train_cfg.max_epochs": "train.max_iter.epochs",
    "train_dataloader.batch_size": "dataloader.train.total_batch_size",
    "optim_wrapper.optimizer.lr": "optimizer.lr",
    "data.samples_per_gpu": "dataloader.train.total_batch_size",
    "load_from": "train.init_checkpoint",
    "work_dir": "train.output_dir",
    "imgsz": "dataloader.train.mapper.augmentations.max_size",
    "nc": "model.detector.num_classes",
    "num_classes": "model.detector.num_classes",
    "device": "train.device",
    "workers": "dataloader.train.num_workers",
    "dataset": "data.root",
    "weights": "train.init_checkpoint",
    "name": "train.output_dir",
    "train.name": "train.output_dir",
    "patience": "train.early_stopping.patience",
    "train.patience": "train.early_stopping.patience",
    "seed": "train.seed",
    "amp": "train.amp.enabled",
    "freeze": "model.detector.backbone.freeze_stages",
}


@pytest.mark.parametrize("typed", TYPED)
def test_a_word_of_another_program_gets_the_key(typed, custom):
    with pytest.raises(UserError) as refusal:
        check_key(custom, typed)
    assert f"{typed}: the config has no such key. Did you mean {TYPED[typed]}? To add" in str(refusal.value)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("epochs=12", "train.max_iter?"),  # counted in iterations here
        ("data=mine", "dataloader.train.dataset.names?"),
        ("resume=True", "the flag --resume, before all key=value?"),
    ],
)
def test_a_recipe_without_that_key_gets_the_next_one(override, meant):
    with pytest.raises(UserError) as refusal:
        read_config(PUBLISHED, [override])
    assert f"Did you mean {meant}" in str(refusal.value)


def test_a_section_that_is_given_text_names_the_key_inside():
    with pytest.raises(UserError, match=r"data='mine': must be a section.*Did you mean data\.root\?"):
        read_config(CUSTOM, ["data=mine"])


def test_a_misspelt_key_still_gets_the_nearest_one(custom):
    assert keys_meant_by("train.max_itr") == []
    with pytest.raises(UserError, match=r"Did you mean train\.max_iter\?"):
        check_key(custom, "train.max_itr")
