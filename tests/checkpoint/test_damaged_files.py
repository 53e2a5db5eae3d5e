# SPDX-License-Identifier: Apache-2.0
"""Mutated checkpoints: each is read, or refused with one UserError."""

import argparse
import collections
import io
import pickle
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dino_d2.checkpoint import load_tensors
from dino_d2.checkpoint.files import read_categories, read_tensors
from dino_d2.errors import UserError


def good_files():
    """Suffix and content of small files of every kind."""
    generator = torch.Generator().manual_seed(0)
    model = {f"layers.{i}.weight": torch.randn(3, 4, generator=generator) for i in range(3)}
    model |= {"steps": torch.tensor(7), "half": torch.ones(5).half()}
    run = {
        "model": model,
        "iteration": 9,
        "categories": [{"id": 1, "name": "cat"}],
        "args": argparse.Namespace(lr=1e-4),
    }
    for is_zip in (True, False):
        buffer = io.BytesIO()
        torch.save(run, buffer, _use_new_zipfile_serialization=is_zip)
        yield ".pth", buffer.getvalue()
    arrays = collections.OrderedDict((name, tensor.numpy()) for name, tensor in model.items())
    for protocol in (2, 4, 5):
        yield ".pkl", pickle.dumps({"model": arrays, "__author__": "zoo", "scale": np.float32(2)}, protocol)
    yield ".safetensors", safetensors.torch.save(model)


def cut(content, _, rng):
    return content[: rng.randrange(len(content))]


def flip_bits(content, _, rng):
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(content, _, rng):
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x2E, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def repeat_part(content, _, rng):
    start, end = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:end] + content[start:end] + content[end:]


def drop_part(content, _, rng):
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randrange(1, 64) :]


def insert_bytes(content, _, rng):
    start = rng.randrange(len(content))
    return content[:start] + rng.randbytes(rng.randrange(1, 32)) + content[start:]


def splice(content, other, rng):
    return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]


def change_members(content, other, rng):
    """Members dropped, renamed, exchanged or damaged inside an archive whose checksums are right."""
    if not content.startswith(b"PK"):
        return flip_bits(content, other, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    index = rng.randrange(len(members))
    name, data = members[index]
    match rng.randrange(5):
        case 0:
            del members[index]
        case 1:
            members[index] = (name + "x", data)
        case 2:
            members[index] = (name, rng.choice(members)[1])
        case 3:
            members[index] = (name, rng.choice((cut, flip_bits, set_bytes))(data or b"0", other, rng))
        case 4:
            rng.shuffle(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


MUTATIONS = (cut, flip_bits, set_bytes, repeat_part, drop_part, insert_bytes, splice, change_members, change_members)


def outcome(path):
    """ "read", "refused", or any other error in words."""
    try:
        tensors = read_tensors(path)
        read_categories(path)
        for tensor in tensors.values():
            tensor.float().sum()  # its memory is there
    except UserError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:  # what the test is about
        return f"{type(error).__name__}: {error}"
    return "read"


def fuzz(folder, count, seed):
    """{outcome: how often} of mutated files."""
    rng = random.Random(seed)
    files = list(good_files())
    outcomes = collections.Counter()
    for _ in range(count):
        suffix, content = rng.choice(files)
        path = folder / f"x{suffix}"
        path.write_bytes(rng.choice(MUTATIONS)(content, rng.choice(files)[1], rng))
        outcomes[outcome(str(path))] += 1
    return outcomes


def test_the_files_are_good(tmp_path):
    for suffix, content in good_files():
        path = tmp_path / f"x{suffix}"
        path.write_bytes(content)
        assert len(read_tensors(str(path))) == 5


@pytest.mark.filterwarnings("ignore")
def test_2000_mutated_files_are_read_or_refused(tmp_path):
    outcomes = fuzz(tmp_path, 2000, seed=0)
    assert outcomes.keys() == {"read", "refused"}
    assert min(outcomes.values()) > 200


class Small(torch.nn.Module):
    """Tensors with the names of a detector of 91 classes, of which one is damaged."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.decoder = torch.nn.Module()
        self.decoder.class_head = torch.nn.Linear(4, num_classes)
        self.label_embedding = torch.nn.Embedding(num_classes, 4)
        self.backbone = torch.nn.ModuleDict({"body": torch.nn.Linear(4, 4)})


@pytest.mark.parametrize("name", ["decoder.class_head.weight", "decoder.class_head.bias", "label_embedding.weight"])
@pytest.mark.parametrize("shape", [(), (3,), (3, 4), (0, 4), (100, 1)])
@pytest.mark.parametrize(("there", "here"), [(91, 80), (80, 91), (80, 80), (80, 5)])
def test_class_tensors_of_other_shapes_are_reported(name, shape, there, here):
    tensors = Small(there).state_dict()
    tensors[name] = torch.zeros(shape)
    model = Small(here)
    before = model.state_dict()[name].clone()
    report = load_tensors(model, tensors)
    assert name in {*report.misshapen, *report.remade}
    assert model.state_dict()[name].equal(before)
    assert "backbone.body.weight" in report.loaded


if __name__ == "__main__":  # python -m tests.checkpoint.test_damaged_files FOLDER COUNT SEED
    print(fuzz(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
