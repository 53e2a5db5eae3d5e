# SPDX-License-Identifier: Apache-2.0
"""What a run makes of its config before it builds anything."""

import pytest

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import LazyConfig
from dino_d2.engine.config import disable_pretrained_weights, read_config
from dino_d2.errors import UserError
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


PARTS = {
    "an error in an imported file": ("train = dict(a=1)\ntrain.b = 2\n", "parts/train.py, line 2", "AttributeError"),
    "a name that is missing there": ("other = 1\n", "recipes/one.py, line 2", "'train'"),
    "a syntax error there": ("train = (\n", "parts/train.py, line 1", "SyntaxError"),
    "an error inside a library": ("\n\nimport torch\ntrain = dict(a=torch.zeros(-1))\n", "parts/train.py, line 4", ""),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("relative", [True, False])
def test_an_error_in_a_recipe_names_the_file_and_the_line(part, relative, tmp_path, monkeypatch):
    content, place, words = PARTS[part]
    for name, text in {"parts/train": content, "recipes/one": "a = dict()\nfrom ..parts.train import train\n"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).with_suffix(".py").write_text(text)
    monkeypatch.chdir(tmp_path)
    path = "recipes/one.py" if relative else str(tmp_path / "recipes/one.py")
    with pytest.raises(UserError) as refusal:
        read_config(path)
    assert place in str(refusal.value)
    assert words in str(refusal.value)
