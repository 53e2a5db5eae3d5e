# SPDX-License-Identifier: Apache-2.0
"""What a run makes of its config before it builds anything."""

import pytest

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import LazyConfig
from dino_d2.engine.config import disable_pretrained_weights, read_config
from dino_d2.modeling import TimmBackbone
from tests.paths import CONFIGS


@pytest.mark.parametrize("saved", [False, True])
def test_a_backbone_that_leaves_its_weights_at_default_downloads_none(saved, tmp_path):
    cfg = read_config(str(CONFIGS / "dino" / "dino_tiny_shapes.py"))
    cfg.model.detector.backbone = L(TimmBackbone)(name="resnet18")
    if saved:  # the class is then named by a string
        LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
        cfg = read_config(str(tmp_path / "config.yaml"))
    disable_pretrained_weights(cfg)
    assert cfg.model.detector.backbone.pretrained is False
