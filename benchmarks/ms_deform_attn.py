# SPDX-License-Identifier: Apache-2.0
"""Time of multi-scale deformable attention: this project's op, the grid_sample composite and other installed packages.

    python benchmarks/ms_deform_attn.py --quick                      # encoder and decoder, float32, within a minute
    python benchmarks/ms_deform_attn.py --json FILE                  # every case, dtype and batch
    python benchmarks/ms_deform_attn.py --device cuda --json FILE    # on a GPU

The implementations run in turns, so that ratios are valid even on a shared machine. `ours_fused` and `deformops`
include the softmax, and `ours_fused` also the computation of locations; the others are given the results of both.
Encoder queries are the pixels of all levels, with normally distributed offsets (standard deviation 3 pixels); decoder
queries are random boxes.

Shapes: B images, S tokens, T queries, A heads, V levels, R sampling points.
"""

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from measure import DTYPES, elapsed_ms, machine, median, peak_mib, take_turns, write_json
from torch import Tensor

from dino_d2.layers.ms_deform_attn import ms_deform_attn, ms_deform_attn_reference, op_is_built
from dino_d2.layers.ms_deform_attn_op import ms_deform_attn_fused
from dino_d2.layers.ms_deform_attn_reference import sampling_locations_from_offsets

HEADS, CHANNELS, POINTS = 8, 32, 4
IMAGE = (800, 1216)
FOUR_SCALES, FIVE_SCALES = (8, 16, 32, 64), (4, 8, 16, 32, 64)
CASES = {  # (strides of the levels, number of queries; None: one for each pixel of every level)
    "encoder_4scale": (FOUR_SCALES, None),
    "encoder_5scale": (FIVE_SCALES, None),
    "decoder_900": (FOUR_SCALES, 900),
    "decoder_1100": (FOUR_SCALES, 1100),
}
QUICK = ("encoder_4scale", "decoder_900")


@dataclass
class Inputs:
    value: Tensor  # [B, S, A, channels]
    shapes: Tensor  # [V, 2]
    starts: Tensor  # [V]
    reference: Tensor  # [B, T, V, 2 or 4]
    offsets: Tensor  # [B, T, A, V, R, 2]
    logits: Tensor  # [B, T, A, V, R]
    locations: Tensor  # [B, T, A, V, R, 2]
    weights: Tensor  # [B, T, A, V, R]
    grad_output: Tensor  # [B, T, A * channels]


def make_inputs(case: str, batch: int, dtype: torch.dtype, device: str) -> Inputs:
    strides, queries = CASES[case]
    generator = torch.Generator().manual_seed(0)
    sizes = [(-(-IMAGE[0] // stride), -(-IMAGE[1] // stride)) for stride in strides]
    shapes = torch.tensor(sizes)
    tokens = shapes.prod(1)
    starts = torch.cat([tokens.new_zeros(1), tokens.cumsum(0)[:-1]])
    levels = len(sizes)
    if queries is None:
        queries = int(tokens.sum())
        centres = torch.cat([pixel_centres(height, width) for height, width in sizes])
        reference = centres[None, :, None].expand(batch, -1, levels, -1)
        spread = 3.0
    else:
        centre = torch.rand(batch, queries, 1, 2, generator=generator)
        size = 0.02 + 0.3 * torch.rand(batch, queries, 1, 2, generator=generator)
        reference = torch.cat([centre, size], -1).expand(-1, -1, levels, -1)
        spread = 2.0
    offsets = spread * torch.randn(batch, queries, HEADS, levels, POINTS, 2, generator=generator)
    logits = torch.randn(batch, queries, HEADS, levels, POINTS, generator=generator)
    locations = sampling_locations_from_offsets(reference, offsets, shapes)
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    value = torch.randn(batch, int(tokens.sum()), HEADS, CHANNELS, generator=generator)
    grad_output = torch.randn(batch, queries, HEADS * CHANNELS, generator=generator)

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None).contiguous()

    return Inputs(*map(place, (value, shapes, starts, reference, offsets, logits, locations, weights, grad_output)))


def pixel_centres(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def implementations(device: str) -> dict[str, tuple[Callable, tuple[str, ...]]]:
    """{name: (function of value, shapes, starts and further inputs, names of the further inputs)}."""
    plain = ("locations", "weights")
    found = {"composite": (ms_deform_attn_reference, plain)}
    if op_is_built(device):
        found = {
            "ours": (ms_deform_attn, plain),
            "ours_fused": (ms_deform_attn_fused, ("reference", "offsets", "logits")),
        }
        found["composite"] = (ms_deform_attn_reference, plain)
    peer = try_import("torch_ms_deform_attn")
    if peer is not None:
        found["torch_ms_deform_attn"] = (peer.ms_deform_attn, plain)
    peer = try_import("deformops.registry")
    if peer is not None:

        def deformops(value, shapes, starts, locations, logits):
            return peer.msda(value, shapes, starts, locations, logits.flatten(3), method="softmax")

        found["deformops"] = (deformops, ("locations", "logits"))
    return found


def try_import(name: str):
    try:
        return importlib.import_module(name)
    except (ImportError, SyntaxError) as error:  # deformops 3 needs Python 3.12
        print(f"{name} is not measured: {type(error).__name__}: {error}")
        return None


class Measured:
    """Forward and forward + backward of one implementation on one case."""

    def __init__(self, function: Callable, names: tuple[str, ...], inputs: Inputs):
        self.function, self.grad_output = function, inputs.grad_output
        self.fixed = (inputs.value, inputs.shapes, inputs.starts, *(getattr(inputs, name) for name in names))
        self.forward_ms: list[float] = []
        self.forward_backward_ms: list[float] = []
        self.peak_mib = float("nan")

    def forward(self) -> None:
        with torch.no_grad():
            self.function(*self.fixed)

    def forward_backward(self) -> None:
        leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in self.fixed]
        output = self.function(*leaves)
        torch.autograd.grad(output, [t for t in leaves if t.requires_grad], self.grad_output)


def measure(measured: dict[str, Measured], device: str, seconds: float) -> None:
    """Measure times in turns, then the peak memory of forward and backward."""
    for kind in ("forward", "forward_backward"):
        times = take_turns({name: getattr(one, kind) for name, one in measured.items()}, device, seconds)
        for name, one in measured.items():
            setattr(one, f"{kind}_ms", times[name])
    for one in measured.values():
        one.peak_mib = peak_mib(one.forward_backward, device)


def floor_ms(inputs: Inputs) -> float:
    """Time to read all inputs and write the output of a forward pass once, at the measured bandwidth of a copy."""
    buffer = torch.empty(2**28, dtype=torch.uint8, device=inputs.value.device)
    target = torch.empty_like(buffer)
    copies = [elapsed_ms(partial(target.copy_, buffer), "cuda") for _ in range(20)]
    bandwidth = 2 * buffer.numel() / median(copies)  # bytes per millisecond
    moved = (inputs.value, inputs.locations, inputs.weights, inputs.grad_output)  # the last is as large as the output
    return sum(t.numel() * t.element_size() for t in moved) / bandwidth


def report(case: str, batch: int, dtype: str, measured: dict[str, Measured]) -> None:
    print(f"\n{case}, batch {batch}, {dtype}")
    print(f"{'':22}{'forward ms':>12}{'spread':>16}{'fwd+bwd ms':>12}{'spread':>16}{'peak MiB':>10}{'ours is':>18}")
    best = measured.get("ours")
    for name, one in measured.items():
        cells = f"{name:22}"
        for times in (one.forward_ms, one.forward_backward_ms):
            cells += f"{median(times):12.3f}{min(times):9.2f}..{max(times):<5.1f}"
        ratios = ""
        if best is not None:
            kinds = ("forward_ms", "forward_backward_ms")
            ratio = [median(getattr(one, k)) / median(getattr(best, k)) for k in kinds]
            ratios = f"{ratio[0]:8.1f}x {ratio[1]:7.1f}x"
        print(f"{cells}{one.peak_mib:10.0f}{ratios:>18}", flush=True)


def rows_of(case: str, batch: int, dtype: str, device: str, measured: dict[str, Measured]) -> list[dict]:
    """Rows with the medians, for the JSON file."""
    where = {"case": case, "batch": batch, "dtype": dtype, "device": device}
    return [
        where
        | {"implementation": name, "forward_ms": median(one.forward_ms)}
        | {"forward_backward_ms": median(one.forward_backward_ms), "peak_mib": one.peak_mib}
        for name, one in measured.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="encoder and decoder in float32, batch 1")
    parser.add_argument("--case", choices=CASES, action="append", help="only these cases")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="only these dtypes")
    parser.add_argument("--batch", type=int, action="append", help="only these batch sizes (default 1 and 2)")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per implementation and measurement")
    parser.add_argument("--json", type=Path, help="write the medians to this file")
    options = parser.parse_args()
    cases = options.case or (QUICK if options.quick else list(CASES))
    dtypes = options.dtype or (["float32"] if options.quick else list(DTYPES))
    batches = options.batch or ([1] if options.quick else [1, 2])
    print(machine(options.device))
    functions = implementations(options.device)
    rows = []
    for case in cases:
        for dtype in dtypes:
            for batch in batches:
                inputs = make_inputs(case, batch, DTYPES[dtype], options.device)
                measured = {k: Measured(*v, inputs) for k, v in functions.items()}
                measure(measured, options.device, min(options.seconds, 1.5) if options.quick else options.seconds)
                report(case, batch, dtype, measured)
                if options.device == "cuda":
                    print(f"floor of the forward pass (bytes moved / copy bandwidth): {floor_ms(inputs):.3f} ms")
                rows += rows_of(case, batch, dtype, options.device, measured)
    write_json(options.json, options.device, rows)


if __name__ == "__main__":
    main()
