# SPDX-License-Identifier: Apache-2.0
"""Time and memory until the first batch of a dataset of Objects365's size.

    python benchmarks/dataset_startup.py generate FOLDER --images 1742289
    python benchmarks/dataset_startup.py measure FOLDER --ranks 2 --workers 2

`generate` writes the annotations of a training set, with 14.6 boxes an image, and an image file for each, most of them
hard links. `measure` starts ranks that check the dataset, build the training loader and take one batch, as a training
does, and adds up the memory of all processes: pages that several processes share count once (PSS).
"""

import argparse
import json
import multiprocessing
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import torch.distributed
from omegaconf import OmegaConf
from PIL import Image

BOXES_PER_IMAGE = 14.6
CLASSES = 365
WIDTH, HEIGHT = 640, 480
#: Images of a folder, all of them links to one file; ext4 allows 65,000 links.
OF_ONE_FOLDER = 34_000
#: Images that are written at a time.
BLOCK = 20_000


def generate(folder: Path, images: int, seed: int = 0) -> None:
    """Write a dataset in the layout of Objects365."""
    rng = np.random.default_rng(seed)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    with open(folder / "annotations" / "zhiyuan_objv2_train.json", "w") as file:
        file.write('{"images": [')
        for k in range(images):
            file.write(", " * (k > 0) + json.dumps(_image(k)))
            _write_file(folder / "train", k, rng)
        file.write('], "annotations": [')
        count = 0
        for start in range(0, images, BLOCK):
            for line in _annotations(start, min(BLOCK, images - start), count, rng):
                file.write(", " * (count > 0) + line)
                count += 1
        categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    print(f"{images} images, {count} boxes, {file_size(folder) / 1e9:.2f} GB of json")


def file_size(folder: Path) -> int:
    return (folder / "annotations" / "zhiyuan_objv2_train.json").stat().st_size


def _image(k: int) -> dict:
    name = f"images/v1/patch{k // OF_ONE_FOLDER}/objects365_v1_{k:08d}.jpg"
    return {"id": k + 1, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 5, "url": ""}


def _write_file(folder: Path, k: int, rng: np.random.Generator) -> None:
    path, first = (folder / _image(i)["file_name"] for i in (k, k - k % OF_ONE_FOLDER))
    if k % OF_ONE_FOLDER == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((WIDTH, HEIGHT)).save(path)
    elif not path.exists():
        os.link(first, path)


def _annotations(start: int, images: int, count: int, rng: np.random.Generator) -> Iterator[str]:
    """One line for each box, with the fields of the published file."""
    image_ids = np.repeat(np.arange(start + 1, start + images + 1), rng.poisson(BOXES_PER_IMAGE, images))
    x, y = rng.uniform(0, WIDTH - 60, len(image_ids)), rng.uniform(0, HEIGHT - 60, len(image_ids))
    w, h = rng.uniform(4, WIDTH - x), rng.uniform(4, HEIGHT - y)
    columns = image_ids, rng.integers(1, CLASSES + 1, len(x)), rng.random(len(x)) < 0.01, x, y, w, h
    for k, (image_id, category, crowd, *box) in enumerate(zip(*(c.tolist() for c in columns), strict=True), count + 1):
        yield (
            f'{{"id": {k}, "iscrowd": {int(crowd)}, "isfake": 0, "area": {box[2] * box[3]:.10f}, "isreflected": 0, '
            f'"bbox": [{", ".join(f"{value:.10f}" for value in box)}], "image_id": {image_id}, '
            f'"category_id": {category}}}'
        )


def measure(folder: Path, ranks: int, workers: int) -> dict:
    """Seconds to the first batch on all ranks, CPU seconds and the largest memory of all processes together."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    times = context.Queue()
    start = time.perf_counter()
    processes = [
        context.Process(target=_rank, args=(rank, ranks, port, folder, workers, times)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    peak, ended = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.5):
            peak = max(peak, sum(map(_pss, psutil.Process().children(recursive=True))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for process in processes:
        process.join()
    ended.set()
    watcher.join()
    if any(process.exitcode for process in processes):
        sys.exit("a rank failed")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    phases = [times.get() for _ in processes]
    return {
        "ranks": ranks,
        "workers": workers,
        "json_gb": round(file_size(folder) / 1e9, 2),
        "seconds": round(max(sum(of_rank.values()) for of_rank in phases), 1),
        "wall_seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(spent.ru_utime + spent.ru_stime, 1),
        "peak_mib": round(peak),
        "phases": phases,
    }


def _pss(process: psutil.Process) -> float:
    """The memory of a process in MiB, with its part of what it shares with others."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def _rank(rank: int, ranks: int, port: int, folder: Path, workers: int, times: multiprocessing.Queue) -> None:
    begin = time.perf_counter()
    spent: dict[str, float] = {}

    def lap(what: str) -> None:
        nonlocal begin
        spent[what] = round(time.perf_counter() - begin, 1)
        begin = time.perf_counter()

    from dino_d2.detectron2.config import LazyConfig
    from dino_d2.engine.building import build
    from dino_d2.engine.datasets import check_datasets, dataset_names
    from dino_d2.engine.training_data import TrainingData

    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    lap("import")
    cfg = LazyConfig.load(str(Path(__file__).parents[1] / "configs/common/data/objects365.py"))
    split = cfg.dataloader.train.dataset.names[0]
    split.root = str(folder)
    cfg.dataloader.train.dataset.names = [split]
    cfg.dataloader.train.total_batch_size = 2 * ranks
    cfg.dataloader.train.num_workers = workers
    cfg.model = OmegaConf.create({"detector": {"num_classes": CLASSES}})
    check_datasets(cfg, splits=("train",))
    lap("check")
    TrainingData({"train": dataset_names(cfg, "train")})
    lap("digest")
    loader = build(cfg, "dataloader.train")
    lap("loader")
    next(iter(loader))
    lap("batch")
    torch.distributed.barrier()
    times.put(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    generating = commands.add_parser("generate", help="write a dataset")
    generating.add_argument("folder", type=Path)
    generating.add_argument("--images", type=int, default=1_742_289)
    measuring = commands.add_parser("measure", help="start ranks with it")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--ranks", type=int, default=1)
    measuring.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.command == "generate":
        generate(options.folder, options.images)
    else:
        print(json.dumps(measure(options.folder, options.ranks, options.workers)))


if __name__ == "__main__":
    main()
