# SPDX-License-Identifier: Apache-2.0
"""EventStorage, its writers and the log, under either engine."""

import json
import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dino_d2.detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from dino_d2.detectron2.utils.logger import create_small_table, setup_logger


def test_storage():
    with pytest.raises(AssertionError):
        get_event_storage()
    with EventStorage(5) as storage:
        assert get_event_storage() is storage
        for value in (1.0, 9.0, 3.0):
            storage.put_scalar("loss", value)
            storage.put_scalars(lr=value, smoothing_hint=False)
            storage.iter += 1
        storage.put_scalar("late", 2, cur_iter=100)
        assert storage.latest() == {"loss": (3.0, 7), "lr": (3.0, 7), "late": (2.0, 100)}
        assert storage.latest_with_smoothing_hint(20)["loss"] == (3.0, 7)  # the median of 1, 9, 3
        assert storage.latest_with_smoothing_hint(2)["loss"] == (6.0, 7)  # ... of 9, 3
        assert storage.latest_with_smoothing_hint(2)["lr"] == (3.0, 7)
        assert storage.history("loss").global_avg() == pytest.approx(13 / 3)
        with pytest.raises(AssertionError, match="smoothing_hint"):
            storage.put_scalar("loss", 1.0, smoothing_hint=False)
        with pytest.raises(KeyError):
            storage.history("nothing")


def test_writers(tmp_path):
    with EventStorage(0) as storage:
        writers = [JSONWriter(str(tmp_path / "metrics.json")), TensorboardXWriter(str(tmp_path))]
        for iteration in range(4):
            storage.iter = iteration
            storage.put_scalar("total_loss", 4.0 - iteration)
            if iteration == 1:
                storage.put_scalar("bbox/AP", 50.0, smoothing_hint=False)
            if iteration % 2:
                for writer in writers:
                    writer.write()
        for writer in writers:
            writer.write()  # nothing new: nothing twice
            writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines == [
        {"iteration": 1, "total_loss": 3.5, "bbox/AP": 50.0},
        {"iteration": 3, "total_loss": 2.5},
    ]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("total_loss")] == [(1, 3.5), (3, 2.5)]
    assert [(e.step, e.value) for e in events.Scalars("bbox/AP")] == [(1, 50.0)]


def test_metric_printer(caplog):
    logging.getLogger("detectron2").propagate = True
    with EventStorage(0) as storage, caplog.at_level("INFO"):
        printer = CommonMetricPrinter(max_iter=11)
        storage.iter = 5
        storage.put_scalars(total_loss=1.25, loss_class=0.5, time=2.0, data_time=0.5, other=7.0)
        storage.put_scalar("lr", 1e-4, smoothing_hint=False)
        printer.write()
        assert storage.latest()["eta_seconds"] == (10.0, 5)
        storage.iter = 11
        printer.write()  # training is over: no line
    (line,) = caplog.messages
    for part in ("eta: 0:00:10", "iter: 5", "total_loss: 1.25", "loss_class: 0.5", "time: 2.0000", "lr: 0.0001"):
        assert f" {part}  " in f"{line}  "
    assert "last_data_time: 0.5000" in line
    assert "other" not in line


def test_log_goes_to_the_file_of_the_rank(tmp_path, capsys):
    for rank in (0, 1):
        logger = setup_logger(str(tmp_path), rank, name=f"door_log_{rank}", color=False)
        assert setup_logger(str(tmp_path), rank, name=f"door_log_{rank}", color=False) is logger
        logging.getLogger(f"door_log_{rank}.child").info("hello")
        for handler in logger.handlers:
            handler.flush()
    assert (tmp_path / "log.txt").read_text().count("door_log_0.child INFO: hello") == 1
    assert (tmp_path / "log.txt.rank1").read_text().count("hello") == 1
    assert capsys.readouterr().out.count("hello") == 1  # rank 0 only


def test_small_table():
    table = create_small_table({"AP": 12.3456, "AP50": float("nan")})
    assert "12.346" in table
    assert table.splitlines()[0].split() == ["|", "AP", "|", "AP50", "|"]
