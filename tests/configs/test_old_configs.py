# SPDX-License-Identifier: Apache-2.0
"""config.yaml files written before the modelling rooms were rearranged: their paths of classes still load."""

import pytest

from dino_d2.detectron2.config import instantiate
from dino_d2.engine.config import read_config
from tests.paths import ROOT

OLD = sorted((ROOT / "tests" / "old_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_a_config_of_before_builds_the_model_of_today(path):
    (recipe,) = (ROOT / "configs").glob(f"*/{path.stem}.py")
    old = instantiate(read_config(str(path), []).model)
    new = instantiate(read_config(str(recipe), []).model)
    assert type(old) is type(new)
    assert str(old) == str(new)
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (old, new)]
    assert shapes[0] == shapes[1]
