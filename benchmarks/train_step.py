# SPDX-License-Identifier: Apache-2.0
"""Time of the parts of a training step with any config, with this project's operators and with plain PyTorch.

    python benchmarks/train_step.py --quick --json FILE      # ours and composite, 2 images of 512 × 640
    python benchmarks/train_step.py --json FILE              # all four, 800 × 1216 too, float32 and bfloat16
    python benchmarks/train_step.py --profile trace.json

A step is a step of the project's ``Trainer``. Its parts are: data, which decodes and maps JPEG files with ten objects
each in the training process (without workers, so that all of the work is measured); forward with losses, without
matching; matching; backward; and optimizer, which includes gradient clipping and everything else.

Each implementation has its own process with its usual settings, and the processes run one step each in turn. ``ours``
is this project. ``composite`` uses plain PyTorch for deformable attention and linear layers, and the default settings
of the C library's allocator; ``composite_kept`` also keeps freed memory, as ours does; ``composite_op`` is ours with
deformable attention in plain PyTorch. Peak memory is the memory that the first two steps, which are not timed, add to
the loaded model: activations, gradients and optimizer state; resident memory on a CPU, PyTorch's allocations on a GPU.
The last line compares the images per second that training needs with those that one worker of the recipe's loader
gives.
"""

import argparse
import contextlib
import itertools
import tempfile
import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import torch
from inference import plain_pytorch
from measure import DTYPES, fresh_process, machine, median, peak_mib, write_json, write_trace
from recipes import add_arguments, annotated_images, load, make_model, make_plain_model

from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.detectron2.config import instantiate
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.engine import Trainer
from dino_d2.layers.ms_deform_attn import use_reference_op

SIZES = [(512, 640), (800, 1216)]
PARTS = ("data", "forward", "matching", "backward", "optimizer")

#: Name -> (context of a step, function that builds the model and sets up the process).
IMPLEMENTATIONS = {
    "ours": (nullcontext, make_model),
    "composite": (plain_pytorch, make_plain_model),
    "composite_kept": (plain_pytorch, make_model),
    "composite_op": (use_reference_op, make_model),
}

_trainers: dict[str, "TimedTrainer"] = {}  # in the process of an implementation


class TimedTrainer(Trainer):
    """Records the milliseconds of each part of each step in ``parts``; the GPU is synchronised between parts."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.parts: dict[str, list[float]] = defaultdict(list)
        self.storage = EventStorage(0)
        self.context = nullcontext
        self.matcher = self.model.criterion.matcher
        self.matcher.forward = self.timed("matching", self.matcher.forward)
        self.next_batch = self.timed("data", self.next_batch)
        self.forward = self.timed("forward", self.forward)
        self.backward = self.timed("backward", self.backward)

    def timed(self, part: str, method):
        def run(*arguments):
            start = self.now()
            result = method(*arguments)
            self.parts[part].append(1e3 * (self.now() - start))
            return result

        return run

    def now(self) -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self) -> None:
        with self.context(), self.storage:
            self.timed("step", self.run_step)()

    def medians(self) -> dict[str, float]:
        """Median milliseconds of a step (``step_ms``) and of its parts, whose sum it is."""
        ms = {part: median(times) for part, times in self.parts.items()}
        ms["forward"] -= ms["matching"]
        ms["optimizer"] = ms["step"] - sum(ms[part] for part in PARTS if part != "optimizer")
        return {f"{part}_ms": ms[part] for part in ("step", *PARTS)}


def make_trainer(
    cfg, device: str, dtype: str, folder: Path, case: tuple[int, int, int], implementation: str = "ours"
) -> TimedTrainer:
    height, width, batch = case
    context, make = IMPLEMENTATIONS[implementation]
    model = make(cfg, device)
    cfg.optimizer.params.model = model
    mapper = DetrDatasetMapper(
        [T.ResizeTransform(height, width, height, width)], cfg.dataloader.train.mapper.image_format
    )
    dicts = annotated_images(folder, height, width, batch, cfg.model.detector.num_classes)
    trainer = TimedTrainer(
        model,
        ([mapper(d) for d in dicts] for _ in itertools.count()),
        instantiate(cfg.optimizer),
        clip_grad_norm=cfg.train.clip_grad_norm,
        precision=None if dtype == "float32" else DTYPES[dtype],
    )
    trainer.context = context
    return trainer


def begin(
    recipe: tuple[str, list[str]],
    device: str,
    dtype: str,
    folder: Path,
    case: tuple[int, int, int],
    compile_with: str | None,
    implementation: str,
) -> float:
    """Build the trainer of this process and run two steps; returns their peak memory in MiB."""
    trainer = make_trainer(load(*recipe), device, dtype, folder, case, implementation)
    if compile_with:
        trainer.model.detector.compile(fullgraph=True, dynamic=False, backend=compile_with)
    _trainers[implementation] = trainer
    return peak_mib(lambda: [trainer.step() for _ in range(2)], device)


def next_step(implementation: str) -> dict[str, float]:
    """Run one step; returns the milliseconds of the step and its parts."""
    trainer = _trainers[implementation]
    trainer.parts.clear()
    trainer.step()
    return trainer.medians()


def measure(
    options: argparse.Namespace,
    case: tuple[int, int, int],
    dtype: str,
    names: list[str] | None = None,
    compile_with: str | None = None,
) -> list[dict]:
    """Rows of one case and dtype: all implementations or ``names``, optionally with a backend of torch.compile."""
    names = names or [name for name in IMPLEMENTATIONS if options.device == "cpu" or name != "composite_kept"]
    height, width, batch = case
    recipe = (options.config_file, options.overrides)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = {name: stack.enter_context(fresh_process()) for name in names}
        peaks = {
            name: process.submit(begin, recipe, options.device, dtype, folder, case, compile_with, name).result()
            for name, process in processes.items()
        }
        steps: dict[str, list[dict]] = {name: [] for name in names}
        waiting = names
        while waiting:
            for name in waiting:
                steps[name].append(processes[name].submit(next_step, name).result())
            waiting = [name for name in names if sum(step["step_ms"] for step in steps[name]) < 1e3 * options.seconds]
    return [
        {
            "config": options.config_file,
            "case": f"{height}x{width}",
            "batch": batch,
            "dtype": dtype,
            "device": options.device,
            "implementation": name,
            **{key: median([step[key] for step in steps[name]]) for key in steps[name][0]},
            "steps": len(steps[name]),
            "peak_mib": peaks[name],
        }
        for name in names
    ]


def report(rows: list[dict]) -> None:
    print(f"\n{rows[0]['case']}, batch {rows[0]['batch']}, {rows[0]['dtype']}; milliseconds")
    print(
        f"{'':16}"
        + "".join(f"{part:>11}" for part in ("step", *PARTS))
        + f"{'peak MiB':>11}{'ours / it':>11}{'memory':>9}"
    )
    ours = rows[0]
    for row in rows:
        cells = "".join(f"{row[f'{part}_ms']:11.1f}" for part in ("step", *PARTS))
        ratios = f"{ours['step_ms'] / row['step_ms']:11.2f}{ours['peak_mib'] / row['peak_mib']:9.2f}"
        print(f"{row['implementation']:16}{cells}{row['peak_mib']:11.0f}{ratios}", flush=True)


def feed(cfg, need: float) -> dict:
    """Images of COCO's usual size that one worker of the recipe's loader reads and augments per second."""
    with tempfile.TemporaryDirectory() as folder:
        dicts = annotated_images(Path(folder), 480, 640, 8, cfg.model.detector.num_classes)
        mapper = instantiate(cfg.dataloader.train.mapper)
        mapper(dicts[0])
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < 3.0:
            mapper(dicts[count % len(dicts)])
            count += 1
    rate = count / (time.perf_counter() - start)
    return {"images_per_second_per_worker": rate, "images_per_second_needed": need, "workers_needed": need / rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    options = parser.parse_args()
    sizes = options.size or (SIZES[:1] if options.quick else SIZES)
    batches = options.batch or [2]
    dtypes = options.dtype or (["float32"] if options.quick else ["float32", "bfloat16"])
    if options.quick:
        options.seconds = min(options.seconds, 5.0)
    cfg = load(options.config_file, options.overrides)
    if options.profile:
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(cfg, options.device, dtypes[0], Path(folder), (*sizes[0], batches[0]))
            trainer.step()
            write_trace(trainer.step, options.device, options.profile)
        return
    print(machine(options.device))
    rows = []
    for size in sizes:
        for batch in batches:
            for dtype in dtypes:
                new = measure(options, (*size, batch), dtype, ["ours", "composite"] if options.quick else None)
                report(new)
                fed = feed(cfg, 1e3 * batch / new[0]["step_ms"])
                rows += [new[0] | fed, *new[1:]]
                print(
                    f"training needs {fed['images_per_second_needed']:.2f} images per second; one worker of the "
                    f"recipe's loader gives {fed['images_per_second_per_worker']:.1f}"
                )
    write_json(options.json, options.device, rows)


if __name__ == "__main__":
    main()
