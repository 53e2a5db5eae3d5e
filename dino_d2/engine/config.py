"""The config of a run: file, command line, and what is counted in the data."""

from argparse import Namespace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.detectron2.engine import default_setup
from dino_d2.detectron2.utils import comm
from dino_d2.detectron2.utils.logger import setup_logger

from .errors import UserError

#: What a recipe may leave to be read in the dataset, so that nobody types it.
CLASSES = ("data.classes", "model.detector.num_classes")
SCHEDULE = ("train.max_iter", "train.eval_period", "train.checkpointer.period")


def load_config(args: Namespace) -> DictConfig:
    """The config file with the command line's overrides, written to the output folder as config.yaml.

    Raises:
        UserError: no such config file, or a flag among the overrides.
    """
    if not Path(args.config_file).is_file():
        raise UserError(
            f"there is no config file {args.config_file!r} (looked from {Path.cwd()}). "
            "Recipes lie in configs/, e.g. --config-file configs/dino/dino_tiny_shapes.py"
        )
    for argument in args.opts:
        if argument.startswith("--"):
            raise UserError(f"{argument} stands behind the first key=value; flags go before all of them")
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="dino_d2")
    settle(cfg, CLASSES)  # before config.yaml is written: with it, a trained model can do without the dataset
    default_setup(cfg, args)
    if not args.eval_only:
        settle(cfg, SCHEDULE)
    if (cfg.train.init_checkpoint or can_resume(cfg, args.resume)) and "pretrained" in cfg.model.detector.backbone:
        # Fetching the backbone's ImageNet weights first would be for nothing. Detectron2's backbones fetch none.
        cfg.model.detector.backbone.pretrained = False
    return cfg


def settle(cfg: DictConfig, keys: tuple[str, ...]) -> None:
    """Put what a call in the config gives in its place, in those of the keys that have one."""
    for key in keys:
        node = OmegaConf.select(cfg, key)
        if OmegaConf.is_dict(node) and "_target_" in node:
            OmegaConf.update(cfg, key, instantiate(node), merge=False)


def can_resume(cfg: DictConfig, resume: bool) -> bool:
    """Whether to go on from a checkpoint: asked for, and there is one in the output folder."""
    return resume and (Path(cfg.train.output_dir) / "last_checkpoint").is_file()
