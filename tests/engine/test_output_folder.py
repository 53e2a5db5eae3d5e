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

from dino_d2.detectron2.engine import HookBase
from dino_d2.engine import Trainer, checkpointer, setup
from dino_d2.engine.checkpointer import AtomicCheckpointer
from dino_d2.engine.output_folder import LOCK, PREDICTIONS, check_entries, in_words, no_half_predictions, reserved
from dino_d2.engine.setup import disk_errors_of_threads_in_a_line, survive_disk_errors
from dino_d2.errors import UserError
from tests.engine.test_ending import Scale


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
