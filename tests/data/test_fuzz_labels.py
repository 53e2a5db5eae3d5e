# SPDX-License-Identifier: Apache-2.0
"""Damaged folders of each label format: each becomes jsons that can be used, or is refused in words."""

import random
import shutil
from pathlib import Path

import pytest

from dino_d2.data.check import read_coco
from dino_d2.data.convert.__main__ import main
from dino_d2.errors import UserError
from tests.data import fuzz
from tests.data.test_convert import voc, yolo
from tests.data.test_convert_formats import csv_table, cvat, labelme, via


def attempt_in(template: Path, folder: Path, capsys):
    texts = {
        path.relative_to(template): path.read_text()
        for path in sorted(template.rglob("*"))
        if path.suffix in (".txt", ".xml", ".yaml", ".json", ".csv")
    }

    def attempt(rng: random.Random) -> None:
        for path, text in texts.items():
            (folder / path).write_bytes(text.encode())
        path = rng.choice(list(texts))
        (folder / path).write_bytes(fuzz.damaged_text(texts[path], rng))
        shutil.rmtree(folder / "annotations", ignore_errors=True)
        status = main([str(folder)])
        said = capsys.readouterr()
        if status:
            assert said.err.startswith("error: ")
            raise UserError(said.err)
        for json in (folder / "annotations").glob("*.json"):
            read_coco(json, folder)

    return attempt


@pytest.mark.parametrize("make", [voc, yolo, labelme, cvat, via, csv_table])
def test_every_damaged_folder_is_converted_or_refused(make, tmp_path, capsys):
    template = make(tmp_path / "template")
    folder = shutil.copytree(template, tmp_path / "folder")
    counts = fuzz.run(600, 0, attempt_in(template, folder, capsys))
    with capsys.disabled():
        print(counts)
    assert counts["accepted"] > 100
    assert counts["refused"] > 100
