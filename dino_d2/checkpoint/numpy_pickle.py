# SPDX-License-Identifier: Apache-2.0
"""Reads NumPy arrays from pickles of Detectron2's model zoo without NumPy's own unpickling.

NumPy's unpickling trusts the file: a pickle can set flags of a dtype that make NumPy use bytes as pointers. Here an
array needs a numeric dtype, a shape and exactly the bytes for both.
"""

import io
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dino_d2.errors import UserError

from .pickle_syntax import ERRORS, Call, in_one_line, parse_pickle

DTYPES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
BYTE_ORDERS = frozenset({"<", ">", "|", "="})
MAX_DIMENSIONS = 32

DTYPE = "numpy.dtype"
ARRAY = frozenset({"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"})
ARRAY_OF_BUFFER = frozenset({"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"})
SCALAR = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
ENCODE = "_codecs.encode"
BYTES = frozenset({"__builtin__.bytes", "builtins.bytes"})
CALLED = ARRAY | ARRAY_OF_BUFFER | SCALAR | BYTES | {DTYPE, ENCODE, "collections.OrderedDict"}
NAMED = CALLED | {"numpy.ndarray"}


def read_numpy_pickle(path: str) -> Any:
    """Content of a pickle of protocol 0 to 5: plain values, and NumPy arrays in the outermost dictionary or one below.

    Raises:
        UserError: the file is damaged, or holds anything but numeric arrays and plain values.
    """
    try:
        parsed = parse_pickle(io.BytesIO(Path(path).read_bytes()))
        if unknown := parsed.names - NAMED:
            raise ValueError(f"a model pickle holds NumPy arrays only, and this one asks for {min(unknown)!r}")
        value = parsed.value
        if not isinstance(value, dict):
            return evaluate(value)
        return {
            name: {key: evaluate(item) for key, item in part.items()} if isinstance(part, dict) else evaluate(part)
            for name, part in value.items()
        }
    except ERRORS as error:
        raise UserError(
            f"{path}: not read: no pickle of NumPy arrays, or damaged ({in_one_line(error)}). Fetch it again, or give "
            "the right file."
        ) from error


def evaluate(value: Any) -> Any:
    """The array or scalar that a call describes; other values are returned unchanged."""
    if not isinstance(value, Call):
        return value
    if value.function in ARRAY:
        version, *rest = parts_of(value.state, 5)
        if version != 1:
            raise ValueError(f"an array of the unknown version {version!r}")
        shape, dtype, is_fortran, data = rest
        return array_of(shape, dtype_of(dtype), "F" if is_fortran is True else "C", bytes_of(data))
    if value.function in ARRAY_OF_BUFFER:
        data, dtype, shape, order = parts_of(value.arguments, 4)
        return array_of(shape, dtype_of(dtype), "F" if order == "F" else "C", bytes_of(data))
    if value.function in SCALAR:
        dtype, data = parts_of(value.arguments, 2)
        return array_of((), dtype_of(dtype), "C", bytes_of(data))[()]
    if value.function == ENCODE or value.function in BYTES:
        return bytes_of(value)
    return value


def array_of(shape: Any, dtype: np.dtype, order: Literal["C", "F"], data: bytes) -> np.ndarray:
    """An array in the byte order of this machine that owns its memory."""
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{shape!r} is no shape of an array")
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(data):
        raise ValueError(f"an array of shape {shape} and type {dtype} needs {needed} bytes, and has {len(data)}")
    if max(shape, default=0) * dtype.itemsize > max(2**31, len(data)):
        raise ValueError(f"{shape!r} is no shape of an array")  # no elements, but a size beyond NumPy's range
    if dtype.kind == "b":  # bytes other than 0 and 1 are no booleans
        return (np.frombuffer(data, np.uint8) != 0).reshape(shape, order=order)
    array = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
    return array.astype(dtype.newbyteorder("=")).reshape(shape, order=order)


def dtype_of(value: Any) -> np.dtype:
    """A numeric dtype; structured and object dtypes have other names."""
    if not isinstance(value, Call) or value.function != DTYPE:
        raise ValueError("an array without a dtype")
    name = value.arguments[0] if value.arguments else None
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"{name!r} is no numeric dtype")
    _, order, *fields = parts_of(value.state, 8)
    if order not in BYTE_ORDERS or fields[:3] != [None, None, None]:
        raise ValueError("a dtype with fields is no numeric one")
    return np.dtype(order + name)


def bytes_of(value: Any) -> bytes:
    """Raw data: bytes, the strings of Python 2, and the way that Python 3 writes bytes under protocol 2."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("latin1")
    if isinstance(value, Call) and value.function == ENCODE:
        text, encoding = parts_of(value.arguments, 2)
        if isinstance(text, str) and encoding == "latin1":
            return text.encode("latin1")
    if isinstance(value, Call) and value.function in BYTES and not value.arguments:
        return b""
    raise ValueError(f"the data of an array is a {type(value).__name__}")


def parts_of(value: Any, count: int) -> tuple:
    if not isinstance(value, tuple) or len(value) != count:
        raise ValueError(f"an array is described by {count} values, not by {type(value).__name__}")
    return value
