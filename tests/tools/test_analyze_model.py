# SPDX-License-Identifier: Apache-2.0
"""Counts of tools/analyze_model.py against counts by hand."""

import importlib.util
import json

import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from dino_d2.layers import ms_deform_attn_op
from tests.paths import ROOT

SMALL = [
    "model.detector.num_classes=7",
    "model.detector.embed_dim=32",
    "model.detector.backbone.name=resnet18",
    "model.detector.neck.in_channels.res3=128",
    "model.detector.neck.in_channels.res4=256",
    "model.detector.neck.in_channels.res5=512",
    "model.detector.encoder.num_layers=2",
    "model.detector.encoder.feedforward_dim=64",
    "model.detector.encoder.num_heads=4",
    "model.detector.decoder.num_layers=3",
    "model.detector.decoder.feedforward_dim=64",
    "model.detector.decoder.num_heads=4",
    "model.detector.queries.num_queries=10",
]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("analyze_model", ROOT / "tools" / "analyze_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tool, capsys):
    def run(*arguments):
        config = str(ROOT / "configs" / "dino" / "dino_r50_4scale_12ep.py")
        tool.main(["--config-file", config, "--size", "64", "96", *arguments, *SMALL])
        return capsys.readouterr().out

    return run


def test_counts_are_those_made_by_hand(run):
    parts = json.loads(run("--json"))["parts"]
    dim, heads, points, levels, hidden, classes, queries = 32, 4, 4, 4, 64, 7, 10
    tokens = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
    samples = heads * points * levels
    weights = dim * (2 * samples + samples)  # offsets and attention weights
    feed_forward = 2 * dim * hidden
    norm = 5 * dim

    encoder_layer = tokens * (2 * dim * dim + weights + 5 * samples * dim // heads + feed_forward + 2 * norm)
    assert parts["encoder"]["gflops"] * 1e9 == pytest.approx(2 * encoder_layer, rel=1e-9)

    encoder_parameters = 2 * dim * (dim + 1) + (dim + 1) * 3 * samples + feed_forward + hidden + dim + 4 * dim
    assert parts["encoder"]["parameters"] * 1e6 == pytest.approx(2 * encoder_parameters)

    position = queries * (2 * dim * dim + dim * dim)
    self_attention = queries * 4 * dim * dim + 2 * queries * queries * dim
    cross_attention = tokens * dim * dim + queries * (dim * dim + weights + 5 * samples * dim // heads)
    box = queries * (2 * dim * dim + 4 * dim)
    decoder_layer = position + self_attention + cross_attention + queries * (feed_forward + 4 * norm) + 2 * box
    # The last layer has no next one to refine anchors for.
    decoder = 3 * (decoder_layer + queries * dim * classes) - box
    assert parts["decoder"]["gflops"] * 1e9 == pytest.approx(decoder, rel=1e-9)

    assert parts["total"]["gflops"] == pytest.approx(sum(parts[p]["gflops"] for p in parts if p != "total"))
    embeddings = (levels + classes) * dim / 1e6
    summed = sum(parts[p]["parameters"] for p in parts if p != "total")
    assert parts["total"]["parameters"] == pytest.approx(summed + embeddings)
    frozen = parts["backbone"]["parameters"] - parts["backbone"]["trainable"]
    assert frozen > 0
    assert parts["total"]["parameters"] - parts["total"]["trainable"] == pytest.approx(frozen)
    assert all(values["activations"] > 0 for values in parts.values())


def test_built_op_and_plain_pytorch_count_alike(run):
    built = json.loads(run("--json"))["parts"]
    with ms_deform_attn_op.use_reference_op():
        plain = json.loads(run("--json"))["parts"]
    assert plain["encoder"]["gflops"] == pytest.approx(built["encoder"]["gflops"], rel=0.02)


def test_table_names_every_part(run):
    table = run()
    for word in ("backbone", "encoder", "queries", "decoder", "total", "64 x 96"):
        assert word in table


def test_a_misspelt_key_is_an_error(run):
    with pytest.raises(SystemExit, match=r"nm_classes: the config has no such key.*num_classes"):
        run("model.detector.nm_classes=3")


def test_values_may_be_narrower_than_queries(tool):
    """Conditional DETR's attention has content and position side by side in queries and keys, not in values."""

    class Attention(torch.nn.Module):
        def forward(self, query, key, value):
            return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    inputs = torch.rand(2, 4, 5, 16), torch.rand(2, 4, 7, 16), torch.rand(2, 4, 7, 8)
    counted = FlopCountAnalysis(Attention(), inputs).set_op_handle(**tool.HANDLES).total()
    assert counted == 2 * 4 * 5 * 7 * (16 + 8)
