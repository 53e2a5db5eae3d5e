# SPDX-License-Identifier: Apache-2.0
"""All GPU measurements in one command: the op, inference, training steps, memory and synchronisations.

    python benchmarks/gpu_suite.py --json FILE                      # less than eight minutes on one H200
    python benchmarks/gpu_suite.py --device cpu --quick --json FILE # tries the command on a tiny model without a GPU

Writes {"machine", "op", "inference", "train_step", "synchronisations"}: the first three tables have the rows of
ms_deform_attn.py, inference.py and train_step.py, and "compiled" says whether torch.compile was applied to the
detector. Compare the training steps with the paper's appendix B: 2 images a GPU, 16 GB, 55 minutes an epoch on eight
A100.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import inference
import ms_deform_attn
import torch
import train_step
from measure import machine
from recipes import CONFIG, load, make_model

TINY = "configs/dino/dino_tiny_shapes.py"
SYNCHRONISED = "called a synchronizing CUDA operation"


def op_table(options: argparse.Namespace) -> list[dict]:
    """Rows of the op in encoder and decoder: forward, forward and backward, peak memory."""
    rows = []
    for case in ms_deform_attn.QUICK[1:] if options.quick else ms_deform_attn.QUICK:
        for dtype in options.dtypes:
            functions = ms_deform_attn.implementations(options.device)
            inputs = ms_deform_attn.make_inputs(case, 1, ms_deform_attn.DTYPES[dtype], options.device)
            measured = {name: ms_deform_attn.Measured(*f, inputs) for name, f in functions.items()}
            ms_deform_attn.measure(measured, options.device, options.seconds)
            ms_deform_attn.report(case, 1, dtype, measured)
            rows += ms_deform_attn.rows_of(case, 1, dtype, options.device, measured)
    return rows


def inference_table(options: argparse.Namespace) -> list[dict]:
    """Rows of inference, plain and compiled."""
    rows = []
    model = make_model(load(options.config_file, []), options.device)
    for compiled in (False, True):
        how = (["ours"], options.backend) if compiled else ()
        for size in options.sizes:
            for batch in options.batches:
                new = inference.measure(options, model, (*size, batch), options.dtypes, *how)
                inference.report(new)
                rows += [row | {"compiled": compiled} for row in new]
    return rows


def train_table(options: argparse.Namespace) -> list[dict]:
    """Rows of training steps, plain and compiled."""
    rows = []
    for dtype in options.dtypes:
        for compiled in (False, True):
            for size in options.sizes:
                compile_with = options.backend if compiled else None
                names = ["ours"] if compiled else None
                new = train_step.measure(options, (*size, 2), dtype, names, compile_with)
                train_step.report(new)
                rows += [row | {"compiled": compiled} for row in new]
    return rows


def synchronisations(options: argparse.Namespace) -> list[str] | None:
    """Places where the host waits for the GPU in a forward and backward pass; None without a GPU."""
    if options.device != "cuda":
        return None
    with tempfile.TemporaryDirectory() as folder:
        trainer = train_step.make_trainer(
            load(options.config_file, []), "cuda", "float32", Path(folder), (*options.sizes[0], 2)
        )
        trainer.step()  # allocations and caches
        batch = trainer.next_batch()
        return waits_of(lambda: train_step.Trainer.backward(trainer, train_step.Trainer.forward(trainer, batch)))


def waits_of(work) -> list[str]:
    """Places ("file:line") at which ``torch.cuda.set_sync_debug_mode`` warns during ``work``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if SYNCHRONISED in str(w.message)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model and small images, to check that everything runs"
    )
    parser.add_argument("--config-file", help=f"recipe to measure (default {CONFIG}; with --quick {TINY})")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    options = parser.parse_args()
    options.config_file = options.config_file or (TINY if options.quick else CONFIG)
    options.overrides = []
    options.sizes = [(64, 96)] if options.quick else [(800, 1216)]
    options.batches = [1] if options.quick else [1, 8]
    options.dtypes = ["float32", "bfloat16"]
    options.seconds = 0.01 if options.quick else 1.5
    options.backend = "eager" if options.quick else "inductor"
    print(machine(options.device))
    results = {"machine": machine(options.device)}
    tables = {"op": op_table, "inference": inference_table, "train_step": train_table}
    for name, table in (tables | {"synchronisations": synchronisations}).items():
        results[name] = table(options)
        if options.json:  # after each table, so that an interruption loses little
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    if results["synchronisations"] is not None:
        print(f"\nthe host waits {len(results['synchronisations'])} times in a step: {results['synchronisations']}")


if __name__ == "__main__":
    main()
