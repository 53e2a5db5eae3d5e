# SPDX-License-Identifier: Apache-2.0
"""The files of a run are UTF-8 and valid whatever the locale and the values."""

import errno
import json
import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from dino_d2.detectron2.config import LazyConfig
from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.engine.config import read_config
from dino_d2.engine.setup import config_yaml, save_config, to_yaml
from dino_d2.engine.writers import MetricsWriter
from tests.paths import CONFIGS, ROOT

RECIPE = str(CONFIGS / "dino/dino_tiny_shapes.py")

PROGRAM = """
import sys
from argparse import Namespace
from dino_d2.engine.config import read_config
from dino_d2.engine.setup import save_config, set_up, start_log
cfg = read_config(sys.argv[1], [f"train.output_dir={sys.argv[2]}", "+data.classes=['Käfer', '甲虫']"])
start_log(cfg)
set_up(cfg, Namespace(config_file=sys.argv[1], eval_only=True, opts="Käfer 甲虫"))
save_config(cfg)
print(read_config(sys.argv[2] + "/config.yaml").data.classes == ["Käfer", "甲虫"])
"""


@pytest.mark.slow
def test_files_of_a_run_are_utf8_in_another_locale(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    # Detectron2 reads recipes in the encoding of the locale, so the config here is a config.yaml.
    (tmp_path / "recipe.yaml").write_text(to_yaml(read_config(RECIPE)), encoding="utf-8")
    command = [sys.executable, tmp_path / "program.py", tmp_path / "recipe.yaml", tmp_path]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.rstrip().endswith("True")
    assert "Logging error" not in run.stderr
    for name in ("config.yaml", "log.txt"):
        assert "Käfer" in (tmp_path / name).read_text(encoding="utf-8")
        assert "甲虫" in (tmp_path / name).read_text(encoding="utf-8")


def test_the_config_is_that_of_lazy_config_and_is_written_atomically(tmp_path, monkeypatch):
    cfg = read_config(RECIPE, [f"train.output_dir={tmp_path}"])
    LazyConfig.save(cfg, str(tmp_path / "expected.yaml"))
    save_config(cfg)
    assert config_yaml(cfg).read_text(encoding="utf-8") == (tmp_path / "expected.yaml").read_text(encoding="utf-8")
    before = config_yaml(cfg).read_bytes()
    cfg.train.seed = 7

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        save_config(cfg)
    assert config_yaml(cfg).read_bytes() == before


def test_what_yaml_cannot_hold_is_pickled_as_detectron2_does(tmp_path):
    cfg = read_config(RECIPE, [f"train.output_dir={tmp_path}"])
    cfg.train.function = lambda: 5
    save_config(cfg)
    assert (tmp_path / "config.yaml.pkl").is_file()


def test_a_class_that_only_the_config_file_has_is_named(tmp_path, caplog):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from dino_d2.detectron2.config import LazyCall as L\n"
        "class Gray: pass\n"
        f"train = dict(output_dir={str(tmp_path)!r})\n"
        "mapper = L(Gray)()\n"
    )
    save_config(LazyConfig.load(str(recipe)))
    assert "config.yaml cannot be loaded again: Gray is defined in the config file alone" in caplog.text
    caplog.clear()
    save_config(read_config(RECIPE, [f"train.output_dir={tmp_path}"]))
    assert caplog.text == ""


def test_saving_does_not_change_the_config():
    cfg = read_config(RECIPE)
    before = OmegaConf.to_container(cfg, resolve=False)
    to_yaml(cfg)
    assert OmegaConf.to_container(cfg, resolve=False) == before


def test_metrics_that_are_not_finite_are_null(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.json")
    with EventStorage(0) as storage:
        for iteration in range(2):
            storage.iter = iteration
            storage.put_scalars(loss=1.5, AP=float("nan"), grad_norm=float("inf"), smoothing_hint=False)
            writer.write()
    writer.close()

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines == [{"loss": 1.5, "AP": None, "grad_norm": None, "iteration": iteration} for iteration in range(2)]


class Full:
    """A file on a disk that has room for a few more bytes."""

    def __init__(self, file, room: int):
        self.file, self.room = file, room

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(content[: self.room])
        self.room -= written
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_leaves_no_half_line_of_metrics(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1}\n{"iterat')  # of a run that was killed
    writer = MetricsWriter(path)
    writer._file = Full(writer._file, room=5)
    with EventStorage(2) as storage:
        storage.put_scalar("loss", 1.5)
        with pytest.raises(OSError, match="space"):
            writer.write()
        assert path.read_text() == '{"iteration": 1}\n'
        writer._file.room = 1000
        writer.write()
    writer.close()
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [1, 2]
