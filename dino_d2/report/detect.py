# SPDX-License-Identifier: Apache-2.0
"""Detections of a checkpoint in the test set of a recipe, as `dino_d2 eval` makes them."""

from argparse import Namespace
from pathlib import Path

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import instantiate
from dino_d2.detectron2.data import MetadataCatalog
from dino_d2.engine.config import begin, load_config
from dino_d2.engine.run import evaluate
from dino_d2.errors import UserError
from dino_d2.evaluation import PerClassCOCOEvaluator


def detect(options: Namespace) -> tuple[Path, Path, Path]:
    """Evaluate ``options.weights`` and return the paths of the results, the ground truth and the images.

    Raises:
        UserError: the config, the weights or the dataset cannot be used.
    """
    overrides = [*options.opts, f"train.init_checkpoint={options.weights}", f"train.output_dir={options.output}"]
    args = Namespace(config_file=options.config_file, opts=overrides, eval_only=True, resume=False)
    cfg = load_config(args)
    cfg.dataloader.evaluator = L(PerClassCOCOEvaluator)(
        dataset_name="${dataloader.test.dataset.names}",
        output_dir="${train.output_dir}",
        max_dets_per_image=options.max_dets_per_image,
        allow_cached_coco=False,
    )
    begin(cfg, args)
    evaluate(cfg)
    name = instantiate(cfg.dataloader.test.dataset.names)
    if not isinstance(name, str):
        raise UserError(
            f"the recipe has several test sets ({', '.join(name)}). Give one as dataloader.test.dataset.names"
        )
    metadata = MetadataCatalog.get(name)
    return (
        options.output / "coco_instances_results.json",
        Path(metadata.json_file),
        Path(metadata.get("image_root", "")),
    )
