# SPDX-License-Identifier: Apache-2.0
"""Loads the compiled op and completes it: fake kernels, autograd and the autocast rule of `torch.ops.dino_d2`.

The schema and the kernels are in `csrc/`. Where the extension is not built, or `use_reference_op()` is active, the
functions here call the plain PyTorch version; a missing extension is logged once.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from dino_d2.layers.ms_deform_attn_reference import ms_deform_attn_fused_reference, ms_deform_attn_reference

logger = logging.getLogger(__name__)

LIBRARIES = {"cpu": "_C.abi3.so", "cuda": "_C_cuda.abi3.so"}  # the first holds the schema too
REFERENCE_VARIABLE = "DINO_D2_REFERENCE_OP"


def _load_library(name: str) -> str | None:
    """None if the library is loaded, otherwise the reason why not."""
    path = Path(__file__).resolve().parents[1] / name
    if not path.exists():
        return f"{name} is not built"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{name} does not load: {error}"
    return None


def _load_libraries() -> dict[str, str | None]:
    missing = {"cpu": _load_library(LIBRARIES["cpu"])}
    missing["cuda"] = missing["cpu"] or _load_library(LIBRARIES["cuda"])
    return missing


_missing = _load_libraries()
_reference_depth = 0
_warned: set[str] = set()


def op_is_built(device_type: str = "cpu") -> bool:
    """Whether the compiled op is loaded for "cpu" or "cuda" (on this machine, for this PyTorch)."""
    return device_type in _missing and _missing[device_type] is None


@contextlib.contextmanager
def use_reference_op() -> Iterator[None]:
    """Context that uses the plain PyTorch version, for comparisons and measurements.

    The environment variable DINO_D2_REFERENCE_OP=1 does the same for a process.
    """
    global _reference_depth
    _reference_depth += 1
    try:
        yield
    finally:
        _reference_depth -= 1


def _inside_transform() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, is active.

    Ops of ``torch.library`` have no rules for them: reverse mode fails, and forward mode would silently give zeros.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def _use_reference(device_type: str) -> bool:
    if _reference_depth or os.environ.get(REFERENCE_VARIABLE, "0") == "1" or _inside_transform():
        return True
    if op_is_built(device_type) or (device_type == "meta" and op_is_built()):  # the fake kernel
        return False
    if device_type not in _warned and not torch.compiler.is_compiling():
        _warned.add(device_type)
        logger.warning(
            "Multi-scale deformable attention runs on plain PyTorch, which is many times slower: %s. "
            "See docs/install.md to build the op.",
            _missing.get(device_type, f"there is no kernel for {device_type}"),
        )
    return True


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Bilinear samples of all levels, summed with the attention weights (Deformable DETR, equation 3).

    Args:
        value: [B, S, heads, d], level after level, row-major inside a level; float32, float64, float16, bfloat16.
        spatial_shapes: [V, 2] int64 (H, W) of each level, on the device of `value`.
        level_start_index: [V] int64, first token of each level.
        sampling_locations: [B, T, heads, V, R, 2] (x, y) of any of the dtypes; 0..1 spans the map from edge to edge.
            Samples outside the map are zero; a NaN location gives NaN.
        attention_weights: [B, T, heads, V, R] of any of the dtypes, used as they are (no softmax here).

    Returns:
        [B, T, heads * d] in the dtype of `value`. Sums are kept in float32 (float64 for float64).
        Inside transforms of torch.func (grad, vmap, jacrev) the plain PyTorch version computes it.

    Raises:
        RuntimeError: a shape, dtype or device does not fit; the message names the argument. On second derivatives.
        NotImplementedError: forward-mode differentiation (jvp, jacfwd) with a PyTorch before 2.15.
    """
    function = ms_deform_attn_reference if _use_reference(value.device.type) else torch.ops.dino_d2.ms_deform_attn
    return function(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)


def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """`ms_deform_attn` fused with softmax and location arithmetic; locations and weights are never stored.

    Args:
        reference_points: [B, T, V, 2] points (x, y): an offset counts pixels of its level; or [B, T, V, 4] boxes
            (cx, cy, w, h): R offsets span half the box.
        sampling_offsets: [B, T, heads, V, R, 2].
        attention_logits: [B, T, heads, V, R], softmax over the V * R points of a head.

    The other arguments, the result and the errors are those of `ms_deform_attn`.
    """
    function = (
        ms_deform_attn_fused_reference if _use_reference(value.device.type) else torch.ops.dino_d2.ms_deform_attn_fused
    )
    return function(value, spatial_shapes, level_start_index, reference_points, sampling_offsets, attention_logits)


def _fake_forward(value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, *rest: Tensor) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, rest[-2].shape[1], heads * channels)


def _fake_backward(
    grad_output: Tensor, value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (value, *rest[:-1])
    )  # rest ends with `deterministic`


def _setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _make_autograd(name: str) -> Callable:
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        op = getattr(torch.ops.dino_d2, f"{name}_backward")
        gradients = op(grad_output, *ctx.saved_tensors, torch.are_deterministic_algorithms_enabled())
        return gradients[0], None, None, *gradients[1:]

    return backward


def _refuse_double_backward(ctx: FunctionCtx, *grads: Tensor) -> NoReturn:
    raise RuntimeError(
        "ms_deform_attn has no second derivatives: call backward without create_graph=True, "
        "or compute under dino_d2.layers.ms_deform_attn.use_reference_op()"
    )


def _autocast_rule(library: torch.library.Library, name: str, device: str) -> None:
    """Cast `value` to the autocast dtype; locations and weights keep theirs, as locations need more than 8 bits."""
    key = {"cpu": torch._C.DispatchKey.AutocastCPU, "cuda": torch._C.DispatchKey.AutocastCUDA}[device]
    without_autocast = torch._C.DispatchKeySet(key)

    def kernel(value: Tensor, *rest: Tensor) -> Tensor:
        with torch._C._ExcludeDispatchKeyGuard(without_autocast):
            if value.dtype != torch.float64:
                value = value.to(torch.get_autocast_dtype(device))
            return getattr(torch.ops.dino_d2, name)(value, *rest)

    library.impl(name, kernel, key.name)


def _register() -> torch.library.Library:
    library = torch.library.Library("dino_d2", "IMPL")
    for name in ("ms_deform_attn", "ms_deform_attn_fused"):
        torch.library.register_fake(f"dino_d2::{name}", _fake_forward)
        torch.library.register_fake(f"dino_d2::{name}_backward", _fake_backward)
        torch.library.register_autograd(f"dino_d2::{name}", _make_autograd(name), setup_context=_setup_context)
        torch.library.register_autograd(f"dino_d2::{name}_backward", _refuse_double_backward)
        for device in ("cpu", "cuda"):
            _autocast_rule(library, name, device)
    return library


_library = _register() if op_is_built() else None
