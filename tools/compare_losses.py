#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Check that a refactoring did not change any number: train in two checkouts and compare to the last bit.

    git worktree add ../before main
    python tools/compare_losses.py ../before . configs/dino/dino_tiny_shapes.py configs/detr/detr_tiny_shapes.py

The op must be built in both checkouts. All logged losses of every iteration and all final weights are compared. The
exit status is 1 if any of them differs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

OVERRIDES = ("train.eval_period=0", "train.num_pictures=0", "train.log_period=1", "train.device=cpu")


def train(checkout: Path, recipe: str, iterations: int, output_dir: Path, datasets: Path) -> None:
    """Train a recipe with the code of one checkout, on one thread so that the order of sums is fixed."""
    command = [sys.executable, str(checkout / "train_net.py"), "--config-file", str(checkout / recipe)]
    command += [f"train.output_dir={output_dir}", f"train.max_iter={iterations}", *OVERRIDES]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    # Generated data is stored in the working folder, so both checkouts read the same images.
    done = subprocess.run(command, cwd=datasets, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{checkout}: {recipe} failed:\n{done.stderr[-3000:]}")


def losses(folder: Path) -> list[dict[str, float]]:
    """The losses in metrics.json, one entry per iteration."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "loss" in name} for line in lines]


def differences(before: Path, after: Path) -> list[str]:
    """Descriptions of the differences between two finished trainings; empty if they are equal."""
    found = []
    for i, (old, new) in enumerate(zip(losses(before), losses(after), strict=True)):
        names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
        if names:
            found.append(f"iteration {i}: {names[0]} {old.get(names[0])} -> {new.get(names[0])} ({len(names)} losses)")
            break
    old, new = (torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (before, after))
    if old.keys() != new.keys():
        found.append(f"parameter names: {sorted(old.keys() ^ new.keys())[:4]} are in only one checkpoint")
    changed = [name for name in old.keys() & new.keys() if not torch.equal(old[name], new[name])]
    if changed:
        found.append(f"{len(changed)} of {len(old)} weights, such as {min(changed)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout of the code before the change")
    parser.add_argument("after", type=Path, help="checkout of the code after it")
    parser.add_argument("recipes", nargs="+", help="paths that exist in both checkouts")
    parser.add_argument("--iterations", type=int, default=50, help="iterations of each training (%(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for the trainings; existing trainings of BEFORE are reused")
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for recipe in arguments.recipes:
            outputs = [folder / side / Path(recipe).stem for side in ("before", "after")]
            if not (outputs[0] / "model_final.pth").is_file():
                train(arguments.before.resolve(), recipe, arguments.iterations, outputs[0], folder)
            shutil.rmtree(outputs[1], ignore_errors=True)
            train(arguments.after.resolve(), recipe, arguments.iterations, outputs[1], folder)
            found = differences(*outputs)
            failed |= bool(found)
            print(f"{recipe}: {'; '.join(found) or 'equal to the last bit'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
