# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that want to run something, or claim more data than they have: each ends in one UserError line."""

import collections
import importlib
import io
import json
import os
import pickle
import struct
import subprocess
import zipfile

import numpy as np
import pytest
import torch

from dino_d2.checkpoint.files import read_categories, read_tensors
from dino_d2.checkpoint.numpy_pickle import read_numpy_pickle
from dino_d2.errors import UserError

PROTOCOLS = (2, 3, 4, 5)
ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "big endian": np.arange(5, dtype=">f4"),
    "half": np.array([[1.5]], dtype=np.float16),
    "bool": np.array([True, False]),
    "int64": np.array([2**40, -1]),
    "uint8": np.arange(200, 256, dtype=np.uint8),
    "empty": np.empty((0, 3), np.float32),
    "scalar array": np.array(3.0, dtype=np.float32),
}


def write(path, content):
    path.write_bytes(content)
    return str(path)


# What must keep working


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_numpy_arrays(protocol, tmp_path):
    content = {"model": collections.OrderedDict(ARRAYS), "__author__": "zoo", "matching_heuristics": True}
    content |= {"accuracy": np.float32(0.5), "epoch": np.int64(12)}
    path = write(tmp_path / "R-50.pkl", pickle.dumps(content, protocol))
    read = read_numpy_pickle(path)
    assert read["accuracy"] == np.float32(0.5)
    assert read["epoch"] == 12
    assert read["__author__"] == "zoo"
    tensors = read_tensors(path)
    assert tensors.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert tensors[name].dtype == torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype
        assert np.array_equal(tensors[name].numpy(), array)


def test_a_pickle_of_python_2(tmp_path):
    """Its strings are bytes: 'U' with a length, decoded as Latin-1."""
    array = np.array([1.0, -2.5], dtype=np.float32)
    raw = array.tobytes()
    content = (
        b"\x80\x02}U\x05modelq\x01}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Rq\x02"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tbss."
    )
    assert np.array_equal(pickle.loads(content, encoding="latin1")["model"]["w"], array)
    assert read_tensors(write(tmp_path / "old.pkl", content))["w"].tolist() == array.tolist()


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_both_formats_of_torch_save(is_zip, tmp_path):
    dtypes = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    tensors = {str(dtype): torch.arange(6).to(dtype).view(2, 3) for dtype in dtypes}
    tensors |= {"slice": torch.arange(12.0)[3:9:2], "expanded": torch.ones(1).expand(4), "empty": torch.empty(0, 3)}
    tensors |= {"parameter": torch.nn.Parameter(torch.ones(2)), "shape ()": torch.tensor(1.0)}
    schedule = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([tensors["parameter"]], 0.1), [2, 4])
    content = {"model": tensors, "lr_scheduler": schedule.state_dict(), "names": {"a", "b"}, "size": torch.Size([1, 2])}
    content["lr_scheduler"].pop("_get_lr_called_within_step", None)
    path = str(tmp_path / "x.pth")
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    read = read_tensors(path)
    assert read.keys() == tensors.keys()
    assert all(read[name].equal(tensor) for name, tensor in tensors.items())


# Files that want to run something


class Runs:
    """Writes the marker file when it is unpickled the ordinary way."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def calls(marker):
    """Name -> object whose unpickling makes the file ``marker``."""
    return {
        "os.system": Runs(os.system, f"touch {marker}"),
        "subprocess": Runs(subprocess.check_call, ["touch", str(marker)]),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(marker)!r}, 'w')"),
        "open": Runs(open, str(marker), "w"),
        "numpy": Runs(np.save, str(marker), np.zeros(1)),
        "torch.save": Runs(torch.save, {}, str(marker)),
        "getattr": Runs(getattr, Runs(importlib.import_module, "os"), "system"),
        "nested pickle": Runs(pickle.loads, pickle.dumps(Runs(os.system, f"touch {marker}"))),
    }


def assert_refused(path, marker, match=None):
    for read in (read_tensors, read_categories):
        if read is read_categories and path.endswith((".pkl", ".safetensors")):
            continue
        with pytest.raises(UserError, match=match) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert path in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("place", ["value", "key", "state", "top"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_run_nothing(protocol, place, tmp_path):
    marker = tmp_path / "ran.npy"
    for name, payload in calls(marker).items():
        content = {
            "value": {"model": {"w": np.ones(2), "x": payload}},
            "key": {"model": {"w": np.ones(2)}, "deep": [[({"a": payload},)]]},
            "state": collections.OrderedDict(w=np.ones(2), x=payload),
            "top": payload,
        }[place]
        path = write(tmp_path / f"{name}.pkl", pickle.dumps(content, protocol))
        assert_refused(path, marker, match="NumPy arrays only|no pickle of NumPy arrays")


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_pytorch_files_run_nothing(is_zip, tmp_path):
    marker = tmp_path / "ran.npy"
    for name, payload in calls(marker).items():
        path = str(tmp_path / f"{name}.pth")
        torch.save({"model": {"w": torch.ones(2)}, "x": payload}, path, _use_new_zipfile_serialization=is_zip)
        assert_refused(path, marker)


def test_object_arrays_are_refused(tmp_path):
    """The bytes of an object array are addresses; NumPy follows them when a pickle says that they are bytes."""
    marker = tmp_path / "ran"
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R"
    state = b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK%stb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    address = b"C\x08" + b"\x41" * 8
    for flags in (b"\x00", b"\x3f"):
        declared = dtype + state % flags
        for body in (
            array + b"(K\x01K\x01\x85" + declared + b"\x89" + address + b"tb",
            b"cnumpy.core.multiarray\nscalar\n" + declared + address + b"\x86R",
            b"cnumpy._core.numeric\n_frombuffer\n(" + address + declared + b"K\x01\x85X\x01\x00\x00\x00CtR",
        ):
            assert_refused(write(tmp_path / "o.pkl", b"\x80\x04}X\x01\x00\x00\x00w" + body + b"s."), marker)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", None], dtype=object),
        np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.array(["text"]),
        np.zeros(2, dtype="V4"),
        np.zeros(2, dtype=np.complex64),
    ],
    ids=lambda array: str(array.dtype),
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_dtypes_are_refused(array, protocol, tmp_path):
    path = write(tmp_path / "x.pkl", pickle.dumps({"w": array}, protocol))
    assert_refused(path, tmp_path / "ran")


# Files that claim more than they have


def numpy_array(shape, data, dtype=b"f4"):
    shape, data = pickle.dumps(shape, 2)[2:-1], pickle.dumps(data, 3)[2:-1]
    return (
        b"\x80\x04}X\x01\x00\x00\x00wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + shape + b"cnumpy\ndtype\nX\x02\x00\x00\x00" + dtype + b"\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + data + b"tbs."
    )  # fmt: skip


LYING_PICKLES = {
    "a shape beyond its data": numpy_array((10**9, 10), b"\0" * 16),
    "a shape below its data": numpy_array((1,), b"\0" * 16),
    "a negative shape": numpy_array((-1, -4), b"\0" * 16),
    "a shape whose product is 0": numpy_array((2**62, 0), b""),
    "a shape that is no tuple": numpy_array(4, b"\0" * 16),
    "a fractional shape": numpy_array((4.0,), b"\0" * 16),
    "33 dimensions": numpy_array((1,) * 33, b"\0" * 4),
    "bytes beyond the file": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "a bytearray beyond the file": b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"x.",
    "a number beyond the file": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "a frame beyond the file": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"}.",
    "a huge place in the memo": b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b".",
    "a huge number of digits": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "deep nesting": b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"K\x01s.",
    "deep lists": b"\x80\x02}X\x01\x00\x00\x00w" + b"]" * 100_000 + b"a" * 99_999 + b"s.",
    "a list of itself": b"\x80\x02]q\x00h\x00a.",
    "no stop": b"\x80\x02}",
    "nothing": b"",
}


@pytest.mark.parametrize("what", LYING_PICKLES)
def test_pickles_that_lie(what, tmp_path):
    assert_refused(write(tmp_path / "x.pkl", LYING_PICKLES[what]), tmp_path / "ran")


class Lie:
    """A tensor of one stored number whose pickle claims something else."""

    def __init__(self, size, stride, offset=0, numel=1):
        self.claims, self.numel = (offset, size, stride), numel


def save(content, path, is_zip):
    """torch.save, with Lie objects pickled as what they claim."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, thing):
            if type(thing) is not tuple or thing[:1] != ("numel",):
                return None
            return ("storage", torch.FloatStorage, "0", "cpu", thing[1], *(() if is_zip else (None,)))

        def save(self, thing, save_persistent_id=True):
            if not isinstance(thing, Lie):
                return super().save(thing, save_persistent_id)
            arguments = (("numel", thing.numel), *thing.claims, False, collections.OrderedDict())
            return self.save_reduce(torch._utils._rebuild_tensor_v2, arguments, obj=thing)

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(content)
    if is_zip:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (("data.pkl", buffer.getvalue()), ("byteorder", b"little"), ("data/0", b"\0" * 4)):
                archive.writestr(f"x/{name}", data)
            archive.writestr("x/version", b"3\n")
        return
    head = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    tail = pickle.dumps(["0"], 2) + struct.pack("<q", content["w"].numel if isinstance(content["w"], Lie) else 1)
    path.write_bytes(b"".join(head) + buffer.getvalue() + tail + b"\0" * 4)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "lie",
    [
        Lie((10**9,), (1,)),
        Lie((10**9,), (1,), numel=10**9),
        Lie((10**6, 10**6), (0, 0)),
        Lie((1,), (1,), offset=10**12),
        Lie((1,), (1,), offset=-4),
        Lie((2,), (-1,)),
        Lie((2,), (2**62,)),
        Lie((-1,), (1,)),
        Lie((1, 1), (1,)),
        Lie((1,), (1,), numel=-1),
        Lie((1.5,), (1,)),
    ],
    ids=lambda lie: f"{lie.claims} of {lie.numel}",
)
def test_tensors_that_claim_more_than_the_file_has(lie, is_zip, tmp_path, monkeypatch):
    def load(*arguments, **options):
        raise AssertionError("torch.load sees a file that lies about its sizes")

    path = tmp_path / "x.pth"
    save({"w": Lie((1,), (1,))}, path, is_zip)
    assert read_tensors(str(path))["w"].tolist() == [0.0]  # the true claim is read
    save({"w": lie}, path, is_zip)
    monkeypatch.setattr(torch, "load", load)
    assert_refused(str(path), tmp_path / "ran", match="damaged")


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("call", [(bytearray, 2**40), (torch.FloatTensor, 2**40), (torch.FloatStorage, 2**40)], ids=str)
def test_calls_that_allocate_are_refused(call, is_zip, tmp_path):
    function, size = call
    path = tmp_path / "x.pth"
    save({"w": Lie((1,), (1,)), "x": Runs(function, size)}, path, is_zip)
    assert_refused(str(path), tmp_path / "ran", match="it asks for")


def test_zip_bombs_and_doubled_members_are_refused(tmp_path):
    good, path = tmp_path / "good.pth", tmp_path / "x.pth"
    torch.save({"w": torch.zeros(1)}, good)
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["good/data/0"] = b"\0" * 10_000_000
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert path.stat().st_size < 50_000
    assert_refused(str(path), tmp_path / "ran", match="compressed")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        with pytest.warns(UserWarning):  # noqa: PT030 Python versions word it differently
            archive.writestr("good/data.pkl", members["good/data.pkl"])
    assert_refused(str(path), tmp_path / "ran", match="each once")


def header(entries, length=None):
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text) if length is None else length) + text


def one_tensor(dtype, shape, offsets, length=8):
    return header({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}) + bytes(length)


SAFETENSORS = {
    "a header beyond the file": header({}, 2**40),
    "a header of 2**64": header({}, 2**64 - 1),
    "no json": header(b"{" * 1000),
    "deep json": header(b'{"a":' * 100_000),
    "data beyond the file": one_tensor("F32", [10**9], [0, 4 * 10**9]),
    "a shape that does not fit": one_tensor("F32", [10**9], [0, 8]),
    "a shape that overflows": one_tensor("F32", [2**62, 4], [0, 8]),
    "overlapping": header({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}) + bytes(8),
    "unknown dtype": one_tensor("OBJ", [2], [0, 8]),
    "negative": one_tensor("F32", [-2], [8, 0]),
    "no tensors": header({}),
    "nothing": b"",
}


@pytest.mark.parametrize("what", SAFETENSORS)
def test_safetensors_with_lying_headers(what, tmp_path):
    assert_refused(write(tmp_path / "x.safetensors", SAFETENSORS[what]), tmp_path / "ran")


@pytest.mark.parametrize(
    "categories", [5, {"a": 1}, [5], [{"id": 1}], [{"id": "1", "name": "cat"}], [{"id": 1, "name": 2}]]
)
def test_classes_that_are_none(categories, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {"w": torch.ones(1)}, "categories": categories}, path)
    with pytest.raises(UserError, match=r"x\.pth: damaged: its 'categories'"):
        read_categories(str(path))
