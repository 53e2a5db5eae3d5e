# SPDX-License-Identifier: Apache-2.0
"""Checks of PyTorch files before ``torch.load`` reads them.

``torch.load(weights_only=True)`` runs no code of a file, but it trusts the sizes in it: a storage of the legacy format
is allocated before its data is read, a tensor that reaches past its storage makes the storage grow, and
``bytearray(n)`` is among the calls that it allows.
"""

import argparse
import io
import math
import mmap
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from dino_d2.errors import UserError

from .pickle_syntax import Call, Global, Pickle, Stored, in_one_line, parse_pickle

#: How files of torch.save begin: a zip archive, or the pickle of versions before 1.6.
ZIP_START, LEGACY_START = b"PK", b"\x80"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

#: What ``torch.load`` may call: plain containers and dense tensors.
REBUILD_TENSOR = frozenset(
    {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
)
CALLED = REBUILD_TENSOR | {
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "collections.Counter",  # the milestones of a learning rate schedule
    "argparse.Namespace",  # the arguments of the authors' programs
    "_codecs.encode",
    "__builtin__.set",
    "builtins.set",
}

#: Bytes of an element by the name of the storage class; UntypedStorage counts bytes.
STORAGE_ITEMS = {
    f"torch.{kind}Storage": size
    for size, kinds in {
        1: ("Byte", "Char", "Bool"),
        2: ("Half", "BFloat16", "Short"),
        4: ("Float", "Int"),
        8: ("Double", "Long", "ComplexFloat"),
        16: ("ComplexDouble",),
    }.items()
    for kind in kinds
} | {"torch.storage.UntypedStorage": 1}


def read_torch(path: str) -> Any:
    """Content of a PyTorch file: tensors, plain values and the authors' ``argparse.Namespace``, nothing else.

    Raises:
        UserError: the file is damaged or of another kind, claims more data than it has, or holds other objects.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(16)
    if not start.startswith((ZIP_START, LEGACY_START)):
        raise UserError(
            f"{path}: no PyTorch file: it begins with {start!r}. "
            + ("Is it a web page saved in place of the download? " if start.lstrip().startswith(b"<") else "")
            + "Fetch it again, or give the right file."
        )
    is_zip = start.startswith(ZIP_START)
    try:
        check_zip(path) if is_zip else check_legacy(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Mapped, not read: of a training checkpoint the optimizer's part, twice the model's, is never touched.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except ForbiddenError as error:
        raise UserError(
            f"{path}: not read, because it holds more than tensors and plain values ({error}), and such a file can run "
            "any code when it is read. If you trust it, write its state dict to a new file: "
            'torch.save({"model": torch.load(OLD, weights_only=False)["model"]}, NEW)'
        ) from error
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers of Python and PyTorch
        raise UserError(f"{path}: damaged, fetch or copy it again ({in_one_line(error)})") from error


class ForbiddenError(ValueError):
    """The file contains a call that is not in `CALLED`."""


def check_zip(path: str) -> None:
    """
    Raises:
        Exception: of any kind; the archive is damaged or claims more than it has.
    """
    file_size = Path(path).stat().st_size
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: cut off after {file_size:,} bytes. Fetch or copy it again.")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        root = members[0].filename.split("/")[0]
        if len(names) < len(members) or archive.comment or not all(name.startswith(f"{root}/") for name in names):
            raise ValueError("no archive of torch.save: its members are not those of one folder, each once")
        sizes = {member.filename: member.file_size for member in members}
        # Stored as they are, members cannot be larger than the file; packed ones could be a thousand times as large.
        if any(m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members):
            raise ValueError("no archive of torch.save: its members are compressed")
        if sum(sizes.values()) > file_size:
            raise ValueError("its members are larger than the file")
        with archive.open(f"{root}/data.pkl") as member:
            parsed = parse_pickle(io.BytesIO(member.read()))
    for stored in parsed.stored:
        _, item, key, numel = storage_of(stored)
        if numel * item > sizes[f"{root}/data/{key}"]:
            raise ValueError(f"storage {key} claims {numel * item:,} bytes, which the file does not have")
    check_calls(parsed, file_size)


def check_sums(path: str) -> None:
    """Compare the content of a zip archive with its checksums; the legacy format has none.

    This reads the complete file, which ``read_torch`` does not.

    Raises:
        UserError: a bit of the file has changed since it was written.
        OSError: it cannot be opened.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # as in `read_torch`
        raise UserError(f"{path}: damaged, fetch or copy it again ({in_one_line(error)})") from error
    if member is not None:
        raise UserError(f"{path}: damaged: the checksum of its part {member} is wrong. Fetch or copy it again.")


def check_legacy(path: str) -> None:
    """
    Raises:
        Exception: of any kind; the file is damaged or claims more than it has.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        file_size = len(mapped)
        content = cast("BinaryIO", mapped)  # which reads as a file does
        if parse_pickle(content).value != LEGACY_MAGIC:
            raise ValueError("no file of torch.save: the magic number is missing")
        for _ in ("version", "system"):
            check_calls(parse_pickle(content), file_size)
        parsed = parse_pickle(content)
    claimed = {key: numel * item for _, item, key, numel in map(storage_of, parsed.stored)}
    if sum(claimed.values()) > file_size:
        raise ValueError(f"its storages claim {sum(claimed.values()):,} bytes, and the file has {file_size:,}")
    check_calls(parsed, file_size)


def storage_of(stored: Any) -> tuple[str, int, str, int]:
    """The persistent id of a storage: class, bytes of an element, key, number of elements."""
    if not isinstance(stored, Stored):
        raise ValueError("a tensor without a storage")
    kind, storage, key, _, numel, *_ = stored.id
    if kind != "storage" or not isinstance(storage, Global) or not isinstance(key, str):
        raise ValueError("a persistent id that is no storage")
    if type(numel) is not int or numel < 0:
        raise ValueError(f"{numel!r} is no number of elements")
    return storage.name, STORAGE_ITEMS[storage.name], key, numel


def check_calls(parsed: Pickle, file_size: int) -> None:
    """
    Raises:
        ForbiddenError: a call that is not among `CALLED`.
        ValueError: a tensor reaches past its storage, or is larger than the file.
    """
    for call in parsed.calls:
        if call.function not in CALLED:
            raise ForbiddenError(f"it asks for {call.function!r}")
        if call.function in REBUILD_TENSOR:
            check_tensor(call, file_size)


def check_tensor(call: Call, file_size: int) -> None:
    """
    Raises:
        ValueError: a tensor reaches past its storage, or is larger than the file.
    """
    stored, offset, size, stride, *rest = call.arguments
    _, item, _, numel = storage_of(stored)
    if call.function == "torch._utils._rebuild_tensor_v3":  # its storage counts bytes
        dtype = rest[2]
        item = getattr(torch, dtype.name.removeprefix("torch.")).itemsize
        numel //= item
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"a tensor of size {size} and stride {stride}")
    elements = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if elements else 0
    if (elements and last >= numel) or elements * item > file_size:
        raise ValueError(f"a tensor of size {tuple(size)} claims more data than the file has")
