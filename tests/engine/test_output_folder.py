# SPDX-License-Identifier: Apache-2.0
"""The output folder of a run: reserved for it, and errors of its disk in words."""

import errno
import logging
import os
import shutil
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import nn

from dino_d2.detectron2.config import LazyConfig
from dino_d2.detectron2.engine import HookBase
from dino_d2.engine import Trainer, checkpointer, setup
from dino_d2.engine.checkpointer import AtomicCheckpointer
from dino_d2.engine.output_folder import (
    LOCK,
    PREDICTIONS,
    check_entries,
    folder_of_run,
    in_words,
    later_runs,
    no_half_predictions,
    reserved,
)
from dino_d2.engine.setup import disk_errors_of_threads_in_a_line, survive_disk_errors
from dino_d2.errors import UserError
from tests.engine.test_ending import Scale
from tests.engine.test_resume import TINY
from tests.in_process import run_train_net
from tests.small_data import generate_shapes
from tests.two_ranks import run_on_two_ranks


def reserve(folder: Path, queue) -> None:
    try:
        with reserved(folder):
            queue.put("reserved")
    except UserError as error:
        queue.put(str(error))


def reserve_elsewhere(folder: Path) -> str:
    """What another process says that reserves the folder."""
    context = get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=reserve, args=(folder, queue))
    process.start()
    process.join()
    return queue.get()


def test_a_folder_is_for_one_run_at_a_time(tmp_path):
    with reserved(tmp_path / "out"):
        refusal = reserve_elsewhere(tmp_path / "out")
        assert refusal.startswith(f"another run (process {os.getpid()} on ")
        assert f"writes to {tmp_path}/out. " in refusal
        assert "train.output_dir" in refusal
    assert os.listdir(tmp_path / "out") == []
    assert reserve_elsewhere(tmp_path / "out") == "reserved"


def test_the_lock_of_a_killed_run_does_not_hinder_the_next(tmp_path):
    (tmp_path / LOCK).write_text("process 1 on another\n")
    with reserved(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / LOCK).read_text()


def test_a_lock_that_is_a_link_leaves_the_linked_file_alone(tmp_path):
    (tmp_path / "precious").write_text("content")
    (tmp_path / LOCK).symlink_to("precious")
    with pytest.raises(UserError, match="is a link"), reserved(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "content"


def test_parts_of_a_killed_run_are_deleted_first_and_files_of_others_are_kept(tmp_path):
    for name in ("model_0000001.pth.part", "config.yaml.part", "last_checkpoint.part", "film.part"):
        (tmp_path / name).write_bytes(b"half")
    with reserved(tmp_path):
        assert sorted(os.listdir(tmp_path)) == ["film.part", LOCK]


def choose(folder: Path, resume: bool = False) -> Path:
    """The folder that a run would write to."""
    with folder_of_run(folder, resume) as chosen:
        assert (chosen / LOCK).is_file(), "it is reserved"
    return chosen


@pytest.mark.parametrize("name", ["model_final.pth", "model_0000499.pth", "model_best.pth", "last_checkpoint"])
def test_a_run_takes_a_folder_without_another_run(name, tmp_path):
    folder = tmp_path / "out"
    assert choose(folder) == folder
    (folder / name).write_bytes(b"first")
    assert choose(folder) == tmp_path / "out_2"
    (tmp_path / "out_2" / "metrics.json").write_text("{}\n")
    assert choose(folder) == tmp_path / "out_3"
    assert choose(folder, resume=True) == folder
    assert (folder / name).read_bytes() == b"first"
    assert sorted(os.listdir(folder)) == [name]
    assert later_runs(folder) == [tmp_path / "out_2"]


def test_files_that_are_not_of_a_run_do_not_count(tmp_path):
    for name in ("config.yaml", "log.txt", "notes.md", "metrics.json", "model_zoo.pth", "coco_instances_results.json"):
        (tmp_path / name).touch()
    assert choose(tmp_path) == tmp_path


def test_the_working_folder_gets_a_numbered_neighbour(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "last_checkpoint").touch()
    assert choose(Path()) == tmp_path / "work_2"


def test_a_folder_that_another_process_writes_to_is_refused_also_if_it_holds_a_run(tmp_path):
    with reserved(tmp_path / "out"):
        (tmp_path / "out" / "last_checkpoint").touch()
        context = get_context("fork")
        with context.Pool(1) as pool, pytest.raises(UserError, match=r"another run .* writes to"):
            pool.apply(choose, (tmp_path / "out",))
    assert not (tmp_path / "out_2").exists()


def choose_on_both_ranks(folder: Path) -> None:
    with folder_of_run(folder, resume=False) as chosen:
        assert chosen == folder.parent / "out_2"


@pytest.mark.slow
def test_all_ranks_take_the_same_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last_checkpoint").touch()
    run_on_two_ranks(choose_on_both_ranks, tmp_path / "out")


def test_a_second_run_leaves_the_first_as_it_is(tmp_path):
    options = generate_shapes(tmp_path / "shapes", train=2, val=2)
    command = [*TINY, *options, "train.max_iter=1", f"train.output_dir={tmp_path}/out"]
    run_train_net(*command)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    run_train_net(*command, "train.seed=1")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    second = tmp_path / "out_2"
    assert (second / "model_final.pth").is_file()
    assert (
        f"{tmp_path}/out holds another run, which is not changed: this run writes to {second}."
        in (second / "log.txt").read_text()
    )
    assert LazyConfig.load(str(second / "config.yaml")).train.output_dir == str(second)


@pytest.mark.parametrize("name", ["log.txt", "metrics.json", "config.yaml", "last_checkpoint", "model_0000003.pth"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_in_place_of_a_file_of_the_run_is_refused(make, name, tmp_path):
    (tmp_path / "model_0000001.pth").write_bytes(b"")
    (tmp_path / "panels").mkdir()
    check_entries(tmp_path)
    make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is not a file"):
        check_entries(tmp_path)


def test_the_newest_checkpoint_counts_where_last_checkpoint_is_missing(tmp_path, caplog):
    keeper = AtomicCheckpointer(nn.Linear(1, 1), str(tmp_path))
    assert not keeper.has_checkpoint()
    assert keeper.get_checkpoint_file() == ""
    for name in ("model_0000001", "model_0000003", "model_final"):
        keeper.save(name)
    (tmp_path / "last_checkpoint").unlink()
    assert keeper.has_checkpoint()
    assert keeper.get_checkpoint_file() == str(tmp_path / "model_0000003.pth")
    assert "the newest checkpoint of the folder is model_0000003.pth" in caplog.text


@pytest.mark.parametrize(("content", "words"), [(b"", "names nothing"), (b"\xff\0", "is no text")])
def test_a_last_checkpoint_that_names_none_is_refused(content, words, tmp_path):
    (tmp_path / "last_checkpoint").write_bytes(content)
    with pytest.raises(UserError, match=words):
        AtomicCheckpointer(nn.Linear(1, 1), str(tmp_path)).get_checkpoint_file()


@pytest.mark.parametrize("size", [10, 10**6])  # PyTorch reports the larger one as an error of its own
def test_a_full_disk_is_said_in_words_and_leaves_no_part(size, tmp_path, monkeypatch):
    def write_to_full_disk(path, write):
        with open("/dev/full", "wb") as file:
            write(file)

    monkeypatch.setattr(checkpointer, "write_atomically", write_to_full_disk)
    model = nn.ParameterList([nn.Parameter(torch.zeros(size)) for _ in range(2)])
    with pytest.raises(UserError, match=r"no space is left for .* MiB are free now\).*--resume"):
        AtomicCheckpointer(model, str(tmp_path)).save("model_0000001")


def test_a_vanished_folder_is_said_in_words(tmp_path):
    model = nn.Linear(1, 1)
    keeper = AtomicCheckpointer(model, str(tmp_path / "gone"))
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    with pytest.raises(UserError, match="gone no longer exists"):
        keeper.save("model_0000001")


def test_other_errors_keep_their_traceback(tmp_path):
    assert in_words(RuntimeError("a bug"), tmp_path) is None
    assert in_words(FileNotFoundError(errno.ENOENT, "no such file", "image.jpg"), tmp_path) is None


def test_a_full_disk_leaves_no_half_predictions(tmp_path):
    for name in PREDICTIONS:
        (tmp_path / name).write_text("of the evaluation before")
        os.utime(tmp_path / name, (0, 0))

    def evaluate():
        with no_half_predictions(tmp_path):
            (tmp_path / PREDICTIONS[1]).write_text('[{"image_id": ')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="space"):
        evaluate()
    assert [path.name for path in tmp_path.iterdir()] == [PREDICTIONS[0]]


def test_a_thread_that_cannot_write_costs_one_line(capsys):
    def write():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    setup._say_once.cache_clear()
    with disk_errors_of_threads_in_a_line():
        for _ in range(2):
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
    assert capsys.readouterr().err == "A thread cannot write: No space left on device\n"


class FullDisk(HookBase):
    def after_step(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_hook_that_meets_a_full_disk_ends_the_training_in_words(tmp_path, caplog):
    model = Scale()
    trainer = Trainer(model, [[{"image_id": 1}]] * 9, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.output_dir = tmp_path
    trainer.register_hooks([FullDisk()])
    with pytest.raises(UserError, match="no space is left"):
        trainer.train(0, 3)
    assert "Exception during training" not in caplog.text


def test_a_log_file_on_a_full_disk_costs_one_line(capsys):
    logger = logging.Logger("full")
    with open("/dev/full", "w") as full:
        logger.addHandler(logging.StreamHandler(full))
        survive_disk_errors(logger)
        for _ in range(3):
            logger.warning("line")
        with pytest.raises(OSError, match="space"):
            full.close()
    assert capsys.readouterr().err == "The log file cannot be written: No space left on device\n"
