# SPDX-License-Identifier: Apache-2.0
"""Time of detection with any config, from images to ``Instances``, with this project's operators and plain PyTorch.

    python benchmarks/inference.py --quick --json FILE                      # only 640 × 640, batch 1
    python benchmarks/inference.py --json FILE                              # batch 1 and 8, two sizes, two dtypes
    python benchmarks/inference.py --config-file configs/... --size 800 1333 --batch 1
    python benchmarks/inference.py --profile trace.json

Implementations and dtypes are measured in turns. ``ours`` is this project; ``composite`` uses plain PyTorch for
deformable attention (softmax, locations, grid_sample), linear layers and convolutions; ``composite_op`` uses it for
deformable attention only. Memory layouts, fused norms and allocator settings are the same for all. ``floor`` runs only
the matrix products and convolutions of ``ours``. bfloat16 and float16 are those of ``for_inference``. Peak memory is
the memory that the first run of a case adds in a new process that has loaded the model and processed a small image:
resident memory on a CPU, PyTorch's allocations on a GPU.
"""

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial

from floor import products_of
from measure import DTYPES, in_fresh_process, machine, median, peak_mib, take_turns, write_json, write_trace
from recipes import add_arguments, image_inputs, load, make_model
from torch import nn

from dino_d2.layers.ms_deform_attn import use_reference_op
from dino_d2.speed import for_inference
from dino_d2.speed.linear import use_plain_linear

SIZES, BATCHES, HALF = [(640, 640), (800, 1216)], [1, 8], ["float32", "bfloat16"]


@contextlib.contextmanager
def plain_pytorch() -> Iterator[None]:
    with use_reference_op(), use_plain_linear():
        yield


OPS = {"ours": contextlib.nullcontext, "composite": plain_pytorch, "composite_op": use_reference_op}


def ready_model(model: nn.Module, implementation: str, dtype: str, compile_with: str | None = None) -> nn.Module:
    """The model as evaluation uses it; with a backend of torch.compile, it keeps plain weights and is compiled."""
    with OPS[implementation](), use_plain_linear() if compile_with else contextlib.nullcontext():
        model = for_inference(model, DTYPES[dtype] if dtype != "float32" else None)
    if compile_with:
        model.detector.compile(fullgraph=True, dynamic=False, backend=compile_with)
    return model


def detect(model: nn.Module, implementation: str, inputs: list[dict]) -> None:
    with OPS[implementation]():
        model(inputs)


def peak(config_file: str, overrides: list[str], device: str, implementation: str, dtype: str, case: tuple) -> float:
    """Peak memory in MiB of the first detection of a case (height, width, batch)."""
    model = ready_model(make_model(load(config_file, overrides), device), implementation, dtype)
    detect(model, implementation, image_inputs(64, 64, 1))
    return peak_mib(partial(detect, model, implementation, image_inputs(*case)), device)


def measure(
    options: argparse.Namespace,
    model: nn.Module,
    case: tuple[int, int, int],
    dtypes: list[str],
    names: list[str] | None = None,
    compile_with: str | None = None,
) -> list[dict]:
    """Rows of one case in each dtype: all implementations and the floor, or only the implementations ``names``."""
    height, width, batch = case
    inputs = image_inputs(*case)
    works = {}
    for dtype in dtypes:
        for name in names or OPS:
            works[dtype, name] = partial(detect, ready_model(model, name, dtype, compile_with), name, inputs)
        if not names:
            works[dtype, "floor"] = products_of(works[dtype, "ours"])
    times = take_turns(works, options.device, options.seconds)
    recipe = (options.config_file, options.overrides, options.device)
    rows = []
    for dtype, name in works:
        latency = median(times[dtype, name])
        rows.append(
            {
                "config": options.config_file,
                "case": f"{height}x{width}",
                "batch": batch,
                "dtype": dtype,
                "device": options.device,
                "implementation": name,
                "latency_ms": latency,
                "images_per_second": 1e3 * batch / latency,
                "peak_mib": None if name == "floor" else in_fresh_process(peak, *recipe, name, dtype, case),
            }
        )
    return rows


def report(rows: list[dict]) -> None:
    print(f"\n{rows[0]['case']}, batch {rows[0]['batch']}")
    print(f"{'':24}{'latency ms':>12}{'images/s':>10}{'ours / it':>11}{'peak MiB':>10}")
    ours = {row["dtype"]: row["latency_ms"] for row in rows if row["implementation"] == "ours"}
    for row in rows:
        memory = "" if row["peak_mib"] is None else f"{row['peak_mib']:10.0f}"
        line = f"{row['implementation']:14}{row['dtype']:10}{row['latency_ms']:12.1f}{row['images_per_second']:10.2f}"
        print(f"{line}{ours[row['dtype']] / row['latency_ms']:11.2f}{memory}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    options = parser.parse_args()
    sizes = options.size or (SIZES[:1] if options.quick else SIZES)
    batches = options.batch or ([1] if options.quick else BATCHES)
    dtypes = options.dtype or HALF
    if options.quick:
        options.seconds = min(options.seconds, 5.0)
    model = make_model(load(options.config_file, options.overrides), options.device)
    if options.profile:
        work = partial(detect, ready_model(model, "ours", dtypes[0]), "ours", image_inputs(*sizes[0], batches[0]))
        for _ in range(3):
            work()
        write_trace(work, options.device, options.profile)
        return
    print(machine(options.device))
    rows = []
    for size in sizes:
        for batch in batches:
            new = measure(options, model, (*size, batch), dtypes)
            report(new)
            rows += new
    write_json(options.json, options.device, rows)


if __name__ == "__main__":
    main()
