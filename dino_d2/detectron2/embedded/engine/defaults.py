# SPDX-License-Identifier: Apache-2.0
"""Common set-up of training scripts, and a predictor, as in `detectron2.engine.defaults`."""

import argparse
import os
import sys
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..._refusal import needs_detectron2
from ..checkpoint import DetectionCheckpointer
from ..config import CfgNode, LazyConfig
from ..data import MetadataCatalog
from ..data import transforms as T
from ..modeling import build_model
from ..utils import comm
from ..utils.collect_env import collect_env_info
from ..utils.env import seed_all_rng
from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ..utils.file_io import PathManager
from ..utils.logger import setup_logger


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """Wrap the model in `DistributedDataParallel` if there are several ranks; otherwise return it.

    Args:
        fp16_compression: whether gradients are sent in half precision.
        kwargs: further arguments of `DistributedDataParallel`.
    """
    if comm.get_world_size() == 1:
        return model
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    kwargs.setdefault("device_ids", None if on_cpu else [comm.get_local_rank()])
    parallel = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        parallel.register_comm_hook(state=None, hook=fp16_compress_hook)
    return parallel


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser with the flags that all Detectron2 scripts share."""
    script = sys.argv[0]
    parser = argparse.ArgumentParser(
        epilog=epilog
        or f"""Examples:

  on one machine with 8 GPUs:
    {script} --num-gpus 8 --config-file configs/my_config.py
  with other values in the config:
    {script} --config-file configs/my_config.py train.init_checkpoint=weights.pth optimizer.lr=1e-4
  on two machines:
    (machine0) {script} --machine-rank 0 --num-machines 2 --dist-url tcp://machine0:port [other flags]
    (machine1) {script} --machine-rank 1 --num-machines 2 --dist-url tcp://machine0:port [other flags]
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Each user has a fixed port, so a new run fails with an occupied port while an old run is still alive.
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    parser.add_argument("--config-file", default="", metavar="FILE", help="path of the config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of GPUs per machine")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="address at which the processes connect")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="changes to the config, as path.key=value")
    return parser


def default_setup(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Set up logs, write `config.yaml` to the output folder, and seed the random generators with seed + rank.

    Reads `output_dir` or `train.output_dir`, `train.seed` (negative or missing: a random seed),
    `train.cudnn_benchmark` and `train.float32_precision` from the config.

    Raises:
        TypeError: `cfg` is a yacs config.
    """
    if isinstance(cfg, CfgNode):
        raise TypeError(needs_detectron2("'detectron2.engine.default_setup' for a yacs config, only for a LazyConfig"))
    output_dir = _value(cfg, "output_dir", _value(cfg, "train.output_dir", None))
    if comm.is_main_process() and output_dir:
        PathManager.mkdirs(output_dir)
    rank = comm.get_rank()
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)

    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    if getattr(args, "config_file", ""):
        with PathManager.open(args.config_file, "rb") as file:
            logger.info("Contents of args.config_file=%s:\n%s", args.config_file, file.read().decode("utf-8"))
    if comm.is_main_process() and output_dir:
        path = os.path.join(output_dir, "config.yaml")
        LazyConfig.save(cfg, path)
        logger.info("Full config saved to %s", path)

    seed = _value(cfg, "train.seed", -1)
    seed_all_rng(None if seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = _value(cfg, "train.cudnn_benchmark", False)
    precision = _value(cfg, "train.float32_precision", "")
    if precision and torch.cuda.is_available():
        logger.info("Set fp32 precision to %s", precision)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def _value(cfg: DictConfig, key: str, default: Any) -> Any:
    value = OmegaConf.select(cfg, key)
    return default if value is None else value


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers for the log, for `metrics.json` and for TensorBoard; the last two write to `output_dir`."""
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


class DefaultPredictor:
    """Runs a model on one BGR image at a time.

    It builds `cfg.MODEL.META_ARCHITECTURE`, loads `cfg.MODEL.WEIGHTS`, resizes images to
    `cfg.INPUT.{MIN,MAX}_SIZE_TEST` and converts their channels to the order of `cfg.INPUT.FORMAT`. `metadata` is the
    metadata of `cfg.DATASETS.TEST[0]`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg)
        self.model.eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        shortest = cfg.INPUT.MIN_SIZE_TEST
        self.aug = T.ResizeShortestEdge([shortest, shortest], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT
        if self.input_format not in ("RGB", "BGR"):
            raise AssertionError(f"cfg.INPUT.FORMAT must be RGB or BGR, not {self.input_format!r}.")

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """The model's output for an image `[H, W, 3]`, boxes in its pixels."""
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        height, width = original_image.shape[:2]
        image = self.aug.get_transform(original_image).apply_image(original_image)
        tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
        return self.model([{"image": tensor, "height": height, "width": width}])[0]
