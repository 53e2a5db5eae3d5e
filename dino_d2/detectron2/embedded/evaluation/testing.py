# SPDX-License-Identifier: Apache-2.0
"""Results of evaluations for logs and metric storages, as in `detectron2.evaluation.testing`."""

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger("detectron2.evaluation.testing")


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log the main metrics of each task, without those of single categories, as comma-separated lines."""
    for task, metrics in results.items():
        if isinstance(metrics, Mapping):
            main = {name: value for name, value in metrics.items() if "-" not in name}
            logger.info("copypaste: Task: %s", task)
            logger.info("copypaste: %s", ",".join(main))
            logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))
        else:
            logger.info("copypaste: %s=%s", task, metrics)


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """`{"bbox": {"AP": 50}}` becomes `{"bbox/AP": 50}`, at any depth."""
    flat: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{inner}": v for inner, v in flatten_results_dict(value).items()}
        else:
            flat[name] = value
    return flat
