# SPDX-License-Identifier: Apache-2.0
"""The op inside PyTorch: opcheck, compile, export, autocast, threads, instruction sets, and the module around it."""

import contextlib
import logging
import math
import os

import pytest
import torch

from dino_d2.layers import ms_deform_attn_op
from dino_d2.layers.ms_deform_attn import (
    MultiScaleDeformableAttention,
    ms_deform_attn,
    op_is_built,
    use_reference_op,
)
from dino_d2.layers.ms_deform_attn_op import ms_deform_attn_fused
from tests.layers.ms_deform_attn_cases import FOUR_LEVELS, fused_case, levels, plain_case, to_dtype, with_gradients
from tests.processes import run_python

needs_op = pytest.mark.skipif(not op_is_built(), reason="the compiled op is not built")


def float32_leaves(arguments):
    return [a.requires_grad_() if a.is_floating_point() else a for a in to_dtype(arguments, torch.float32)]


@needs_op
@pytest.mark.parametrize("name", ["ms_deform_attn", "ms_deform_attn_fused"])
def test_opcheck(name):
    case = plain_case if name == "ms_deform_attn" else fused_case
    arguments = float32_leaves(case(queries=5))
    torch.library.opcheck(getattr(torch.ops.dino_d2, name), arguments)
    grad_output = torch.randn(2, 5, 60)
    detached = [a.detach() for a in arguments]
    torch.library.opcheck(getattr(torch.ops.dino_d2, f"{name}_backward"), (grad_output, *detached, False))


@needs_op
@pytest.mark.parametrize("reference_dim", [2, 4])
def test_compile_without_graph_breaks_and_with_dynamic_shapes(reference_dim):
    torch._dynamo.reset()
    module = MultiScaleDeformableAttention(32, 4, 2, 3)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    for shapes, queries in ((((6, 8), (3, 4)), 7), (((5, 7), (4, 2)), 11)):
        spatial_shapes, starts, tokens = levels(shapes)
        inputs = torch.randn(2, queries, 32), torch.rand(2, queries, 2, reference_dim), torch.randn(2, tokens, 32)
        mask = torch.rand(2, tokens) < 0.3
        expected = module(*inputs, spatial_shapes, starts, mask)
        expected_gradient = torch.autograd.grad(expected.square().sum(), module.value_proj.weight)[0]
        actual = compiled(*inputs, spatial_shapes, starts, mask)
        gradient = torch.autograd.grad(actual.square().sum(), module.value_proj.weight)[0]
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(gradient, expected_gradient)


@needs_op
def test_export_with_dynamic_queries():
    module = MultiScaleDeformableAttention(32, 4, 2, 3).eval()
    spatial_shapes, starts, tokens = levels(((6, 8), (3, 4)))

    def inputs(queries):
        return (
            torch.randn(1, queries, 32),
            torch.rand(1, queries, 2, 4),
            torch.randn(1, tokens, 32),
            spatial_shapes,
            starts,
        )

    queries = torch.export.Dim("queries", min=2, max=1000)
    dynamic = ({1: queries}, {1: queries}, None, None, None)
    program = torch.export.export(module, inputs(7), dynamic_shapes=dynamic)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("dino_d2.ms_deform_attn_fused.default") == 1
    more = inputs(13)
    torch.testing.assert_close(program.module()(*more), module(*more))


@needs_op
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_moves_the_value_and_leaves_the_places(dtype):
    value, shapes, starts, locations, weights = float32_leaves(plain_case(channels=32))
    with torch.autocast("cpu", dtype=dtype):
        output = ms_deform_attn(value, shapes, starts, locations, weights)
    assert output.dtype == dtype
    assert torch.equal(output, ms_deform_attn(value.to(dtype), shapes, starts, locations, weights))
    output.float().sum().backward()
    assert {t.grad.dtype for t in (value, locations, weights)} == {torch.float32}


def test_autocast_module():
    module = MultiScaleDeformableAttention(64, 4, 2, 4)
    spatial_shapes, starts, tokens = levels(((6, 8), (3, 4)))
    inputs = torch.randn(2, 9, 64), torch.rand(2, 9, 2, 4), torch.randn(2, tokens, 64), spatial_shapes, starts
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(*inputs)
    assert output.dtype == torch.bfloat16
    assert (output - module(*inputs)).abs().max() < 0.05
    output.float().sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_second_derivatives_are_refused_with_a_reason():
    if not op_is_built():
        pytest.skip("the plain version has second derivatives")
    value, shapes, starts, locations, weights = float32_leaves(plain_case())
    output = ms_deform_attn(value, shapes, starts, locations, weights)
    (gradient,) = torch.autograd.grad(output.sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(gradient.sum(), locations)


@pytest.mark.parametrize("name", ["plain", "fused"])
def test_transforms_of_torch_func(name):
    case, function = (plain_case, ms_deform_attn) if name == "plain" else (fused_case, ms_deform_attn_fused)
    value, *rest = case(batch=1, queries=3, heads=2, channels=4, points=2)

    def energy(value):
        return function(value, *rest).square().sum()

    leaf = value.clone().requires_grad_()
    (expected,) = torch.autograd.grad(energy(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(energy)(value), expected)
    values = torch.stack([value, 2 * value])
    each = torch.func.vmap(torch.func.grad(energy))(values)
    torch.testing.assert_close(each, torch.stack([expected, 2 * expected]))
    # The op itself would give a slope of 0. PyTorch's grid_sample has the slope from 2.15 on and refuses before.
    slope = 2 * energy(value)  # of a quadratic form along its own argument
    with contextlib.suppress(NotImplementedError):
        torch.testing.assert_close(torch.func.jvp(energy, (value,), (value,))[1], slope)
    with torch.autograd.forward_ad.dual_level(), contextlib.suppress(NotImplementedError):
        dual = energy(torch.autograd.forward_ad.make_dual(value, value))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, slope)


@needs_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_same_bits_for_any_number_of_threads_and_every_run(dtype):
    arguments = to_dtype(fused_case(FOUR_LEVELS, 4, queries=701, heads=8, channels=32, points=4), dtype)
    grad_output = torch.randn(2, 701, 256)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            output, gradients = with_gradients(ms_deform_attn_fused, arguments, grad_output)
            results.append((output, *gradients))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_op
@pytest.mark.slow
@pytest.mark.parametrize("capability", ["generic", "avx2"])
def test_every_instruction_set(capability, tmp_path):
    """The tests of values once more on the kernels an older processor would choose."""
    says = tmp_path / "says.py"
    says.write_text("import dino_d2.layers.ms_deform_attn_op, torch; print(torch.ops.dino_d2.cpu_capability())")
    chosen = run_python(says, DINO_D2_CPU_CAPABILITY=capability)
    if chosen.stdout.strip() != capability:
        pytest.skip(f"this processor has no {capability}")
    tests = [os.path.join(os.path.dirname(__file__), "test_ms_deform_attn.py"), "-x", "-p", "no:cacheprovider"]
    run = run_python("-m", "pytest", *tests, DINO_D2_CPU_CAPABILITY=capability)
    assert run.returncode == 0, run.stdout[-2000:]


def test_use_reference_op_takes_the_composite(monkeypatch):
    arguments = to_dtype(plain_case(), torch.float32)
    monkeypatch.setattr(ms_deform_attn_op, "ms_deform_attn_reference", lambda *a: "composite")
    with use_reference_op():
        assert ms_deform_attn(*arguments) == "composite"
    monkeypatch.setenv("DINO_D2_REFERENCE_OP", "1")
    assert ms_deform_attn(*arguments) == "composite"


def test_a_missing_op_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(ms_deform_attn_op, "_missing", {"cpu": "_C.abi3.so is not built"})
    monkeypatch.setattr(ms_deform_attn_op, "_warned", set())
    arguments = to_dtype(plain_case(), torch.float32)
    with caplog.at_level(logging.WARNING):
        first, second = ms_deform_attn(*arguments), ms_deform_attn(*arguments)
    assert torch.equal(first, second)
    assert [r.getMessage().count("_C.abi3.so is not built") for r in caplog.records] == [1]


def test_module_against_its_parts():
    """Projection, padding, star-shaped bias: one query of the module computed by hand."""
    torch.manual_seed(0)
    module = MultiScaleDeformableAttention(16, 2, 1, 1)
    with torch.no_grad():
        module.sampling_offsets.bias.zero_()  # both heads look at the reference point
    spatial_shapes, starts, _ = levels(((2, 2),))
    value, query = torch.randn(1, 4, 16), torch.randn(1, 1, 16)
    mask = torch.tensor([[False, True, False, False]])
    centre = torch.full((1, 1, 1, 2), 0.5)  # between the four tokens
    output = module(query, centre, value, spatial_shapes, starts, mask)
    kept = module.value_proj(value)[0, [0, 2, 3]].sum(0) / 4
    torch.testing.assert_close(output[0, 0], module.output_proj(kept))


def test_module_starts_as_the_star_of_the_paper():
    module = MultiScaleDeformableAttention(256, 8, 4, 4)
    bias = module.sampling_offsets.bias.detach().view(8, 4, 4, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(directions):
        for point in range(4):
            wanted = torch.tensor(direction) * (point + 1.0)
            torch.testing.assert_close(bias[head, :, point], wanted.expand(4, 2), atol=1e-5, rtol=0)
    for zero in (module.sampling_offsets.weight, module.attention_weights.weight, module.attention_weights.bias):
        assert not zero.any()
    bound = math.sqrt(6 / 512)
    assert 0.9 * bound < module.value_proj.weight.abs().max() <= bound


def test_embed_dim_must_fit_the_heads():
    with pytest.raises(ValueError, match="embed_dim 30 is not a multiple of num_heads 8"):
        MultiScaleDeformableAttention(30, 8)


@needs_op
def test_a_detector_on_the_meta_device_gives_shapes(make_detector):
    """For counting FLOPs and memory without computing anything."""
    output = make_detector().to("meta").eval()(torch.zeros(1, 3, 64, 96, device="meta"))
    assert output.logits.shape == (2, 1, 20, 5)
    assert output.boxes.is_meta
