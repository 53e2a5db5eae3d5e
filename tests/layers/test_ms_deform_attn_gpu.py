# SPDX-License-Identifier: Apache-2.0
"""The op on a GPU: collected everywhere, run where there is one."""

import pytest
import torch

from dino_d2.layers.ms_deform_attn import MultiScaleDeformableAttention, op_is_built
from dino_d2.layers.ms_deform_attn_op import ms_deform_attn, ms_deform_attn_fused
from dino_d2.layers.ms_deform_attn_reference import ms_deform_attn_fused_reference, ms_deform_attn_reference
from tests.layers.ms_deform_attn_cases import FOUR_LEVELS, fused_case, plain_case, to_dtype, with_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.skipif(not op_is_built("cuda"), reason="the CUDA op is not built"),
]
ROUNDING = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
FORMS = {
    "plain": (plain_case, ms_deform_attn, ms_deform_attn_reference),
    "fused": (fused_case, ms_deform_attn_fused, ms_deform_attn_fused_reference),
}


@pytest.fixture(autouse=True)
def deterministic_off_again():
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(arguments):
    return [a.cuda() for a in arguments]


def assert_close(actual, expected, dtype, name):
    error = (actual.cpu().double() - expected.double()).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error <= ROUNDING[dtype], f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("channels", [5, 16, 24, 32, 64, 160])
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_against_the_reference(form, dtype, channels, deterministic):
    case, function, reference = FORMS[form]
    arguments = to_dtype(case(FOUR_LEVELS, queries=40, channels=channels), dtype)
    if dtype.itemsize == 2:
        arguments[3:] = [t.float() for t in arguments[3:]]  # places stay exact, away from the knots
    grad_output = torch.randn(2, 40, 3 * channels, dtype=torch.float64).to(dtype)
    expected, wanted = with_gradients(reference, to_dtype(arguments, torch.float64), grad_output)
    torch.use_deterministic_algorithms(deterministic)
    output, gradients = with_gradients(function, on_gpu(arguments), grad_output.cuda())
    assert output.dtype == dtype
    assert_close(output, expected, dtype, "output")
    for index, (gradient, target) in enumerate(zip(gradients, wanted, strict=True)):
        assert_close(gradient, target, dtype, f"gradient {index}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_deterministic_twice(form, dtype):
    case, function, _ = FORMS[form]
    arguments = on_gpu(to_dtype(case(FOUR_LEVELS, queries=5000, heads=8, channels=32, points=4), dtype))
    grad_output = torch.randn(2, 5000, 256, device="cuda")
    torch.use_deterministic_algorithms(True)
    first = with_gradients(function, arguments, grad_output)[1]
    for _ in range(3):
        again = with_gradients(function, arguments, grad_output)[1]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", ["ms_deform_attn", "ms_deform_attn_fused"])
def test_opcheck(name):
    case = plain_case if name == "ms_deform_attn" else fused_case
    arguments = on_gpu(to_dtype(case(queries=5), torch.float32))
    leaves = [a.requires_grad_() if a.is_floating_point() else a for a in arguments]
    torch.library.opcheck(getattr(torch.ops.dino_d2, name), leaves)


def test_empty_queries_and_an_address_that_is_not_a_multiple_of_16():
    arguments = to_dtype(plain_case(channels=32), torch.float32)
    empty = [*arguments[:3], arguments[3][:, :0], arguments[4][:, :0]]
    assert ms_deform_attn(*on_gpu(empty)).shape == (2, 0, 96)
    value = arguments[0]
    shifted = torch.empty(value.numel() + 1, device="cuda")[1:].view(value.shape).copy_(value)
    expected = ms_deform_attn_reference(*to_dtype(arguments, torch.float64))
    assert_close(ms_deform_attn(shifted, *on_gpu(arguments[1:])), expected, torch.float32, "output")


def test_wrong_device_is_named():
    arguments = to_dtype(plain_case(), torch.float32)
    with pytest.raises(RuntimeError, match="spatial_shapes must be on the same device as value"):
        ms_deform_attn(arguments[0].cuda(), *arguments[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_module_under_autocast(dtype):
    module = MultiScaleDeformableAttention(256, 8, 4, 4).cuda()
    value, shapes, starts, reference, _, _ = on_gpu(to_dtype(fused_case(FOUR_LEVELS, 4), torch.float32))
    inputs = torch.randn(2, 33, 256, device="cuda"), reference, torch.randn(2, value.shape[1], 256, device="cuda")
    with torch.autocast("cuda", dtype=dtype):
        output = module(*inputs, shapes, starts)
    assert output.dtype == dtype
    assert (output - module(*inputs, shapes, starts)).abs().max() < 0.05
