# SPDX-License-Identifier: Apache-2.0
"""Memory and time of fine-tuning with each memory-saving setting, measured with train_net.py.

    python benchmarks/fine_tuning.py --json FILE                      # all settings
    python benchmarks/fine_tuning.py --settings "batch 4" EMA         # some

Every row is a run of configs/dino/dino_r50_4scale_custom.py on generated images, with four images per step, in one
batch or accumulated. The sizes of the images change from step to step, as photographs and multi-scale augmentation make
them. Peak memory is the largest resident memory of the process, including PyTorch itself; on a machine
with a GPU it is the largest memory that PyTorch has allocated on it. The time of a step is a median.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from measure import write_json

ROOT = Path(__file__).parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RECIPE = "configs/dino/dino_r50_4scale_custom.py"

ACCUMULATE = ["dataloader.train.total_batch_size=1", "train.accumulate=4"]
FROZEN = ["model.detector.backbone.freeze_stages=4"]
RECOMPUTED = [f"model.detector.{part}.activation_checkpointing=True" for part in ("encoder", "decoder")]
BF16 = ["train.amp.enabled=True"]
SETTINGS = {
    "batch 4": [],
    "batch 2, two accumulated": ["dataloader.train.total_batch_size=2", "train.accumulate=2"],
    "batch 1, four accumulated": ACCUMULATE,
    "frozen backbone": FROZEN,
    "activation checkpointing": RECOMPUTED,
    "bf16": BF16,
    "EMA": ["train.ema.enabled=True"],
    "batch 1, frozen, checkpointing": [*ACCUMULATE, *FROZEN, *RECOMPUTED],
    "batch 1, frozen, checkpointing, bf16": [*ACCUMULATE, *FROZEN, *RECOMPUTED, *BF16],
}


def measure(name: str, data: Path, size: int, steps: int) -> dict:
    """One run of train_net.py on images whose longer side is at most `size` pixels."""
    short_edges = list(range(size // 2, size + 1, 32))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train_net.py", "--config-file", RECIPE, f"data.root={data}"]
        command += [
            f"train.output_dir={folder}",
            f"train.max_iter={steps}",
            "train.log_period=1",
            "train.num_pictures=0",
            "model.detector.backbone.pretrained=False",
            f"dataloader.train.mapper.augmentations={{short_edge_lengths: {short_edges}, max_size: {size}}}",
            f"dataloader.train.mapper.augmentations.crop_short_edge_lengths={short_edges}",
            f"dataloader.train.mapper.augmentations.crop_size=[{size // 2},{size}]",
            f"dataloader.test.mapper.augmentations={{short_edge_length: {size}, max_size: {size}}}",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
        ]
        process = subprocess.Popen([*command, *SETTINGS[name]], cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{name}: train_net.py failed")
        lines = [json.loads(line) for line in (Path(folder) / "metrics.json").read_text().splitlines()]
        on_gpu = re.findall(r"max_mem: (\d+)M", (Path(folder) / "log.txt").read_text())
    return {
        "setting": name,
        "overrides": SETTINGS[name],
        "size": size,
        "step_seconds": median(line["time"] for line in lines if "time" in line),
        "peak_mib": float(on_gpu[-1]) if on_gpu else usage.ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--size", type=int, default=384, help="longest side of the images in pixels")
    parser.add_argument("--steps", type=int, default=12, help="steps of a run; the first three are not timed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "shapes"
        generate = [sys.executable, "-m", "dino_d2.data.shapes", "--root", str(data), "--train", "16", "--val", "1"]
        subprocess.run([*generate, "--size", str(options.size)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for name in options.settings:
            rows.append(measure(name, data, options.size, options.steps))
            print(f"{name:40}{rows[-1]['peak_mib']:8.0f} MiB{rows[-1]['step_seconds']:8.2f} s per step", flush=True)
            write_json(options.json, DEVICE, rows)


if __name__ == "__main__":
    main()
