# SPDX-License-Identifier: Apache-2.0
"""Suggests keys for names from other programs: Ultralytics' YOLO, Detectron2's yacs configs, MMDetection and Hugging
Face's trainer."""

#: {key in a config: words for it}. A word may stand for several keys, of which the first that a config has is
#: suggested. Words are in lower case; a whole dotted key comes before its last part.
WORDS: dict[str, tuple[str, ...]] = {
    "train.max_iter.epochs": ("epochs", "max_epochs", "num_epochs", "n_epochs", "num_train_epochs"),
    "train.max_iter": (
        "epochs", "max_epochs", "num_epochs", "n_epochs", "num_train_epochs",
        "max_iters", "max_steps", "num_iters", "iterations", "iters", "steps", "train_steps",
    ),
    "dataloader.train.total_batch_size": (
        "batch", "batch_size", "batchsize", "bs", "ims_per_batch", "samples_per_gpu", "imgs_per_gpu",
        "per_device_train_batch_size", "train_batch_size",
    ),
    "dataloader.test.batch_size": ("val_batch_size", "test_batch_size", "per_device_eval_batch_size"),
    "dataloader.train.num_workers": ("workers", "num_workers", "workers_per_gpu", "dataloader_num_workers"),
    "train.accumulate": ("accumulate_grad_batches", "gradient_accumulation_steps", "accumulation", "nbs"),
    "optimizer.lr": ("lr", "lr0", "base_lr", "learning_rate", "learningrate", "initial_lr"),
    "optimizer.weight_decay": ("weight_decay", "wd", "decay"),
    "optimizer.params.lr_factor_func.factors": ("lr_backbone", "paramwise_cfg", "backbone_multiplier", "lr_mult"),
    "lr_multiplier.warmup_length": ("warmup", "warmup_epochs", "warmup_iters", "warmup_steps", "warmup_ratio"),
    "lr_multiplier.scheduler.milestones": ("milestones", "lr_drop", "lr_steps", "lr_scheduler", "lr_config"),
    "train.clip_grad_norm": ("clip_grad", "grad_clip", "clip_max_norm", "max_grad_norm", "gradient_clip_val"),
    "dataloader.train.mapper.augmentations.max_size": (
        "imgsz", "img_size", "image_size", "img_scale", "max_size_train",
    ),
    "dataloader.train.mapper.augmentations.short_edge_lengths": ("min_size_train",),
    "dataloader.test.mapper.augmentations.max_size": ("max_size_test",),
    "dataloader.test.mapper.augmentations.short_edge_length": ("min_size_test",),
    "dataloader.train.mapper.augmentations": ("augment", "augmentation", "augmentations", "train_pipeline", "hsv_h"),
    "model.detector.num_classes": ("nc", "num_classes", "n_classes", "classes", "num_labels"),
    "model.detector.backbone.name": ("backbone", "arch", "encoder_name"),
    "model.detector.backbone.freeze_stages": ("freeze", "freeze_at", "frozen_stages"),
    "model.detector.backbone.pretrained": ("pretrained",),
    "model.detector.queries.num_queries": ("num_queries", "queries", "num_object_queries"),
    "model.postprocess.top_k": ("max_det", "max_per_img", "detections_per_image", "num_select"),
    "data.root": ("data", "dataset", "data_root", "dataset_dir", "data_dir", "coco_path", "data_path"),
    "data.train.json": ("ann_file", "train_json", "annotations", "train_ann", "annotation_file"),
    "data.train.images": ("img_prefix", "data_prefix", "train_images", "image_dir"),
    "dataloader.train.dataset.names": (
        "data", "dataset", "data_root", "dataset_dir", "data_dir", "coco_path", "data_path", "datasets.train",
    ),
    "dataloader.test.dataset.names": ("datasets.test",),
    "train.init_checkpoint": (
        "weights", "load_from", "checkpoint", "ckpt", "init_weights", "pretrained_weights", "finetune",
    ),
    "train.output_dir": (
        "name", "project", "output", "out", "work_dir", "save_dir", "exp_name", "output_dir", "run_name", "log_dir",
    ),
    "train.device": ("device", "gpu", "gpus", "accelerator"),
    "train.seed": ("seed", "random_seed", "random_state"),
    "train.amp.enabled": ("amp", "fp16", "half", "bf16", "mixed_precision", "precision", "autocast"),
    "train.ema.enabled": ("ema", "model_ema", "use_ema"),
    "train.compile": ("compile", "torch_compile"),
    "train.best": ("save_best", "best", "monitor", "metric_for_best_model", "load_best_model_at_end"),
    "train.early_stopping.patience": ("patience", "early_stop", "early_stopping", "early_stopping_patience"),
    "train.checkpointer.period": (
        "save_period", "checkpoint_period", "save_steps", "save_interval", "checkpoint_config",
    ),
    "train.checkpointer.max_to_keep": ("max_keep_ckpts", "save_total_limit", "keep"),
    "train.eval_period": ("val_interval", "eval_interval", "eval_steps", "val_period", "evaluation", "eval_freq"),
    "train.log_period": ("log_interval", "logging_steps", "print_freq", "log_freq", "log_config"),
    "train.num_pictures": ("plots", "num_images", "visualize"),
}  # fmt: skip

#: {flag of train_net.py and of `dino_d2 train`: words for it}.
FLAGS: dict[str, tuple[str, ...]] = {
    "--resume": ("resume", "resume_from", "auto_resume", "resume_from_checkpoint"),
    "--eval-only": ("eval", "eval_only", "val", "test_only", "validate", "do_eval"),
    "--num-gpus": ("num_gpus", "n_gpus", "nproc_per_node", "world_size"),
    "--config-file": ("config", "cfg", "config_file"),
}


def keys_meant_by(key: str, table: dict[str, tuple[str, ...]] = WORDS) -> list[str]:
    """The keys that may be meant by an unknown key, most likely first.

    Args:
        key: for example "SOLVER.BASE_LR", "train.epochs" or "imgsz".
        table: {what is meant: words for it}, `WORDS` or `FLAGS`.
    """
    key = key.lower()
    whole = [meant for meant, words in table.items() if key in words]
    return whole or [meant for meant, words in table.items() if key.rpartition(".")[2] in words]
