# SPDX-License-Identifier: Apache-2.0
"""Parameters, multiply-adds and activations of each part of a model.

    python tools/analyze_model.py --config-file configs/dino/dino_r50_4scale_12ep.py
    python tools/analyze_model.py --config-file ... --size 800 1333 --json model.detector.num_classes=91

GFLOPs follow fvcore: one multiply-add counts as one, and convolutions, linear layers, matrix products and norms are
counted, but no other element-wise operations. Attention counts as its two matrix products, a sample of deformable
attention as four multiply-adds for the interpolation and one for its weight. Activations, also as in fvcore, are the
outputs of convolutions, linear layers and matrix products. The numbers are for one image without denoising queries.
"""

import argparse
import json
import logging
import sys
import warnings
from math import prod

import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from fvcore.nn.jit_handles import elementwise_flop_counter, get_shape
from tabulate import tabulate
from torch import Tensor, nn

from dino_d2.detectron2.config import instantiate
from dino_d2.engine.config import disable_pretrained_weights, read_config
from dino_d2.errors import UserError

PARTS = ("backbone", "neck", "encoder", "queries", "decoder")


class LogitsAndBoxes(nn.Module):
    """A detector that returns only tensors, as tracing requires."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.detector(images)
        return output.logits, output.boxes


def attention_flops(inputs: list, outputs: list) -> int:
    """Multiply-adds of the query-key and weight-value products.

    Query and key are [..., length, d]; the value may have another d.
    """
    query, key, value = (get_shape(x) for x in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def deformable_attention_flops(inputs: list, outputs: list) -> int:
    """Multiply-adds of four neighbours and one weight for every channel of every sample.

    The first input is the value [B, S, heads, channels], the last one the weights or logits [B, T, heads, V, R].
    """
    return 5 * get_shape(inputs[0])[-1] * prod(get_shape(inputs[-1]))


HANDLES = {
    "aten::scaled_dot_product_attention": attention_flops,
    "dino_d2::ms_deform_attn": deformable_attention_flops,
    "dino_d2::ms_deform_attn_fused": deformable_attention_flops,
    "aten::grid_sampler": elementwise_flop_counter(0, 5),  # the op in plain PyTorch, if it is not built
}


def analyze(detector: nn.Module, height: int, width: int) -> dict[str, dict[str, float]]:
    """Count the parameters and operations of each part of a detector.

    Args:
        detector: the tensor core.
        height, width: size of the image in pixels.

    Returns:
        {part: {"parameters", "trainable", "gflops", "activations"}} in the order of the data, then "total", which
        includes the embeddings of levels and labels; parameters and activations are in millions.
    """
    model = LogitsAndBoxes(detector).eval()
    images = torch.zeros(1, 3, height, width, device=next(detector.parameters()).device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        flops = FlopCountAnalysis(model, images).set_op_handle(**HANDLES)
        activations = ActivationCountAnalysis(model, images)
        for analysis in (flops, activations):
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        by_flops, by_activations = flops.by_module(), activations.by_module()
    counted = {}
    for part in (*PARTS, "total"):
        name = "detector" if part == "total" else f"detector.{part}"
        module = model.get_submodule(name)
        counted[part] = {
            "parameters": sum(p.numel() for p in module.parameters()) / 1e6,
            "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6,
            "gflops": by_flops[name] / 1e9,
            "activations": by_activations[name] / 1e6,
        }
    return counted


def main(arguments: list[str] | None = None) -> None:
    """Print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, help="LazyConfig file with a `model`")
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1280), metavar=("HEIGHT", "WIDTH"), help="pixels")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("overrides", nargs="*", help="config overrides, such as model.detector.num_classes=91")
    options = parser.parse_args(arguments)

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    try:
        config = read_config(options.config_file, options.overrides)
    except UserError as error:
        sys.exit(f"error: {error}")
    disable_pretrained_weights(config)  # the counts do not depend on weights
    counted = analyze(instantiate(config.model).detector, *options.size)
    if options.json:
        print(json.dumps({"config": options.config_file, "size": list(options.size), "parts": counted}, indent=2))
        return
    rows = [[part, *values.values()] for part, values in counted.items()]
    headers = ["part", "parameters (M)", "trainable (M)", "GFLOPs", "activations (M)"]
    print(f"{options.config_file}, one image of {options.size[0]} x {options.size[1]}")
    print(tabulate(rows, headers, floatfmt=".2f"))


if __name__ == "__main__":
    main()
