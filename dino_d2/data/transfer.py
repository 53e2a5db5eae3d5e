# SPDX-License-Identifier: Apache-2.0
"""How batches get from loading processes to the trainer: in one block of shared memory each.

PyTorch's own transfer shares each tensor separately. A batch then costs one file descriptor per tensor, and if
/dev/shm is full, the worker cannot send anything and the trainer waits forever.
"""

import functools
import io
import itertools
import logging
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

#: Bytes; every tensor begins at a multiple of it.
ALIGNMENT = 64


class Packed:
    """A batch on its way to another process. Pickled and unpickled, it is the batch itself.

    CPU tensors and NumPy arrays are copied to shared memory, or, if that is full, become part of the pickle, which
    goes through a pipe. Tensors keep their order in memory; views of one tensor become tensors of their own.

    Args:
        batch: anything that can be pickled.
    """

    def __init__(self, batch: Any):
        buffers: list[pickle.PickleBuffer] = []
        stream = io.BytesIO()
        _Pickler(stream, 5, True, buffers.append).dump(batch)
        self.pickled = stream.getvalue()
        views = [buffer.raw() for buffer in buffers]
        self.sizes = [view.nbytes for view in views]
        content = bytearray().join(part for view in views for part in (view, bytes(-view.nbytes % ALIGNMENT)))
        self.content: Tensor | bytearray = content
        if content:
            try:
                self.content = torch.frombuffer(content, dtype=torch.uint8).share_memory_()
            except RuntimeError as error:
                if "shared memory" not in str(error):
                    raise

    def __reduce__(self) -> tuple[Callable, tuple]:
        return _unpack, (self.pickled, self.sizes, self.content)


def pack(batch: Any, collate: Callable[[Any], Any] = list) -> Packed:
    """``collate`` for a loader with workers: the trainer gets what ``collate`` returns.

    Args:
        batch: list of samples.
        collate: function of the list.
    """
    return Packed(collate(batch))


def _unpack(pickled: bytes, sizes: list[int], content: Tensor | bytearray) -> Any:
    if isinstance(content, Tensor):
        array: Any = content.numpy()  # NumPy's types do not say that an array is a buffer
        memory = memoryview(array)
    else:
        memory = memoryview(content)
        if sizes:
            _warn_of_full_memory()
    starts = itertools.accumulate((size + -size % ALIGNMENT for size in sizes), initial=0)
    buffers = [memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    return pickle.loads(pickled, buffers=buffers)


@functools.cache  # once per process
def _warn_of_full_memory() -> None:
    logger.warning(
        "The shared memory /dev/shm is full: batches come from the loading processes through pipes, which is slower. "
        "Docker gives 64 MiB of it; start the container with --shm-size=8g or --ipc=host."
    )


class _Pickler(ForkingPickler):
    """Passes on the memory of contiguous CPU tensors instead of sharing each of them."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not Tensor or value.device.type != "cpu" or value.layout != torch.strided:
            return NotImplemented
        if value.requires_grad or value.is_quantized or not value.numel():
            return NotImplemented
        order = sorted(range(value.dim()), key=lambda axis: -value.stride()[axis])
        dense = value.permute(order).contiguous().resolve_conj().resolve_neg()
        array: Any = dense.view(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(array), value.dtype, dense.shape, order)


def _tensor(buffer: Any, dtype: torch.dtype, shape: tuple[int, ...], order: list[int]) -> Tensor:
    dense = torch.frombuffer(buffer, dtype=dtype).view(shape)
    return dense.permute([order.index(axis) for axis in range(len(order))])
