# SPDX-License-Identifier: Apache-2.0
"""The op against its plain PyTorch reference, the stored vectors and finite differences."""

import json

import numpy as np
import pytest
import torch

from dino_d2.layers.ms_deform_attn_op import ms_deform_attn, ms_deform_attn_fused, op_is_built
from dino_d2.layers.ms_deform_attn_reference import ms_deform_attn_fused_reference, ms_deform_attn_reference
from tests.layers.ms_deform_attn_cases import (
    FOUR_LEVELS,
    TWO_LEVELS,
    fused_case,
    levels,
    plain_case,
    quarter_pixel_locations,
    to_dtype,
    with_gradients,
)
from tests.paths import VECTORS

VECTORS = sorted((VECTORS / "ms_deform_attn").glob("*.npz"))
needs_op = pytest.mark.skipif(not op_is_built(), reason="the compiled op is not built")
# Error allowed relative to the largest value: some ten roundings of the dtype.
ROUNDING = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def assert_close(actual, expected, dtype, name):
    scale = expected.abs().max().clamp_min(1e-30)
    error = ((actual.double() - expected.double()).abs().max() / scale).item()
    assert error <= ROUNDING[dtype], f"{name}: relative error {error:.2e} in {dtype}"


def check_against_reference(op, reference, arguments, dtype):
    """Output and every gradient of the op in `dtype` against the reference in float64 on the same (rounded) inputs."""
    arguments = to_dtype(arguments, dtype)
    with torch.no_grad():
        shape = op(*arguments).shape
    grad_output = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    output, gradients = with_gradients(op, arguments, grad_output)
    expected, expected_gradients = with_gradients(reference, to_dtype(arguments, torch.float64), grad_output)
    assert output.dtype == dtype
    assert_close(output, expected, dtype, "output")
    for index, (gradient, wanted) in enumerate(zip(gradients, expected_gradients, strict=True)):
        assert gradient.dtype == dtype
        assert_close(gradient, wanted, dtype, f"gradient {index}")


def test_the_build_is_tested():
    """`make install` builds the op; a machine without a compiler skips what needs it, and this test says so."""
    if not op_is_built():
        pytest.skip("the compiled op is not built: only the plain PyTorch version is tested")


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", [ms_deform_attn, ms_deform_attn_reference])
def test_stored_vectors(path, dtype, function):
    data = np.load(path)
    names = ("value", "spatial_shapes", "level_start_index", "sampling_locations", "attention_weights")
    arguments = to_dtype([torch.from_numpy(data[name]) for name in names], dtype)
    output, gradients = with_gradients(function, arguments, torch.from_numpy(data["grad_output"]))
    largest = json.loads(str(data["meta"]))["max_abs"]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    results = dict(zip(("output", *(f"grad_{n}" for n in (names[0], *names[3:]))), (output, *gradients), strict=True))
    for name, result in results.items():
        error = np.abs(result.double().numpy() - data[name]).max()
        assert error <= tolerance * max(largest[name], 1e-30), name


@needs_op
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("channels", [1, 8, 16, 20, 32, 40, 64, 100])
def test_plain_every_dtype_and_head_size(dtype, channels):
    arguments = plain_case(channels=channels)
    check_against_reference(ms_deform_attn, ms_deform_attn_reference, arguments, dtype)


@needs_op
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("reference_dim", [2, 4])
@pytest.mark.parametrize("points", [1, 4, 5])
def test_fused_every_dtype(dtype, reference_dim, points):
    arguments = fused_case(FOUR_LEVELS, reference_dim, heads=2, channels=32, points=points)
    if dtype.itemsize == 2:
        # The gradient of a location jumps at a pixel knot. Offsets that put every point a quarter pixel away in 16 bits
        # too would test little else, so the location arithmetic stays in float32 here.
        value, shapes, starts, *rest = arguments
        mixed = [value.to(dtype), shapes, starts, *(t.float() for t in rest)]
        output = ms_deform_attn_fused(*mixed)
        assert output.dtype == dtype
        assert_close(output, ms_deform_attn_fused_reference(*to_dtype(mixed, torch.float64)), dtype, "output")
        return
    check_against_reference(ms_deform_attn_fused, ms_deform_attn_fused_reference, arguments, dtype)


@needs_op
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_float32_locations_with_a_16_bit_value(dtype):
    value, shapes, starts, locations, weights = plain_case(channels=32)
    mixed = [value.to(dtype), shapes, starts, locations.float(), weights.to(dtype)]
    grad_output = torch.randn(2, 33, 96, dtype=torch.float64).to(dtype)
    output, gradients = with_gradients(ms_deform_attn, mixed, grad_output)
    expected, wanted = with_gradients(ms_deform_attn_reference, to_dtype(mixed, torch.float64), grad_output)
    assert_close(output, expected, dtype, "output")
    assert [g.dtype for g in gradients] == [dtype, torch.float32, dtype]
    assert_close(gradients[0], wanted[0], dtype, "value")
    assert_close(gradients[1], wanted[1], torch.float32, "locations")


@needs_op
def test_16_bit_value_gradient_is_rounded_once():
    """3000 queries add 2**-9 to one pixel: in bfloat16 sums that would stop at 1."""
    shapes, starts, _ = levels([(1, 1)])
    value = torch.zeros(1, 1, 1, 32, dtype=torch.bfloat16, requires_grad=True)
    locations, weights = torch.full((1, 3000, 1, 1, 1, 2), 0.5), torch.full((1, 3000, 1, 1, 1), 2.0**-9)
    ms_deform_attn(value, shapes, starts, locations, weights).sum().backward()
    assert value.grad.unique().tolist() == [torch.tensor(3000 * 2.0**-9).bfloat16().item()]


@needs_op
def test_gradcheck():
    plain = plain_case(batch=1, queries=3, heads=2, channels=5, points=2)
    fused = fused_case(reference_dim=4, batch=1, queries=3, heads=2, channels=5, points=2, seed=3)
    for function, arguments in ((ms_deform_attn, plain), (ms_deform_attn_fused, fused)):
        leaves = [a.requires_grad_() if a.is_floating_point() else a for a in arguments]
        assert torch.autograd.gradcheck(function, leaves, eps=1e-7, atol=1e-6)


@needs_op
def test_location_gradients_in_pixels_in_float32():
    """A quarter pixel away from the knots, the gradient per pixel agrees to rounding on maps as large as COCO's."""
    shapes = ((100, 152), (50, 76))
    generator = torch.Generator().manual_seed(2)
    spatial_shapes, starts, tokens = levels(shapes)
    value = torch.randn(1, tokens, 2, 32, generator=generator, dtype=torch.float64)
    locations = quarter_pixel_locations(shapes, 1, 200, 2, 4, generator)
    weights = torch.rand(locations.shape[:-1], generator=generator, dtype=torch.float64)
    arguments = value, spatial_shapes, starts, locations, weights
    grad_output = torch.randn(1, 200, 64, generator=generator, dtype=torch.float64)
    _, (_, actual, _) = with_gradients(ms_deform_attn, to_dtype(arguments, torch.float32), grad_output)
    _, (_, expected, _) = with_gradients(ms_deform_attn_reference, arguments, grad_output)
    per_pixel = spatial_shapes.flip(-1)[:, None].double()
    # Positions near pixel 150 carry 150 * 2**-24 pixels of rounding; the slope along an edge changes by that part.
    assert ((actual.double() - expected) / per_pixel).abs().max() < 3e-4


@needs_op
@pytest.mark.parametrize("pixel", [-1.0, 0.0, 2.0, 3.0, 4.0])
def test_on_the_knots(pixel):
    """At an integer pixel position the op takes the slope on the right, and zero beyond the padding."""
    shapes, starts, _ = levels([(1, 4)])
    value = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64).view(1, 4, 1, 1)
    locations = torch.tensor([(pixel + 0.5) / 4, 0.5], dtype=torch.float64).view(1, 1, 1, 1, 1, 2)
    weights = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    output, (_, gradient, _) = with_gradients(
        ms_deform_attn, (value, shapes, starts, locations, weights), torch.ones(1, 1, 1)
    )
    padded = [0.0, 1.0, 10.0, 100.0, 1000.0, 0.0, 0.0]  # pixel -1 is entry 0
    left = int(pixel) + 1
    assert output.item() == padded[left]
    assert gradient.flatten()[0].item() == 4 * (padded[left + 1] - padded[left])


@pytest.mark.parametrize("function", [ms_deform_attn, ms_deform_attn_reference])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_location_that_is_no_number_gives_nan(function, bad):
    value, shapes, starts, locations, weights = to_dtype(plain_case(channels=32), torch.float32)
    locations[0, 3, 1, 1, 2, 0] = bad
    output = function(value, shapes, starts, locations, weights)
    bad_rows = output.view(2, 33, 3, 32).isnan().any(-1)
    assert bad_rows.nonzero().tolist() == [[0, 3, 1]]
    assert output.view(2, 33, 3, 32)[0, 3, 1].isnan().all()


@pytest.mark.parametrize("function", [ms_deform_attn, ms_deform_attn_reference])
@pytest.mark.parametrize("far", [1e6, -1e30, 1e36])
def test_far_outside_is_zero_even_beside_infinite_values(function, far):
    value, shapes, starts, locations, weights = to_dtype(plain_case(channels=32), torch.float32)
    value[:] = float("inf")
    locations[:] = far
    assert not function(value, shapes, starts, locations, weights).any()


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}, {"queries": 1, "shapes": [(1, 1)]}, {"channels": 0}])
def test_empty_and_smallest(sizes):
    for case, function in ((plain_case, ms_deform_attn), (fused_case, ms_deform_attn_fused)):
        arguments = case(**sizes)
        value, places = arguments[0], arguments[-2]
        output, gradients = with_gradients(
            function, arguments, torch.ones(places.shape[0], places.shape[1], value.shape[2] * value.shape[3])
        )
        assert output.shape == (places.shape[0], places.shape[1], value.shape[2] * value.shape[3])
        assert all(g.isfinite().all() for g in gradients)
        assert gradients[0].shape == value.shape
        if 0 in (places.shape[0], places.shape[1]):
            assert not gradients[0].any()


@pytest.mark.parametrize("reference_dim", [2, 4])
@pytest.mark.parametrize("sizes", [{"points": 0}, {"channels": 0}, {"queries": 0}, {"heads": 0}])
def test_fused_gradients_of_empty_sums_are_zero(sizes, reference_dim):
    arguments = fused_case(reference_dim=reference_dim, **sizes)
    value, offsets = arguments[0], arguments[-2]
    grad_output = torch.ones(*offsets.shape[:2], value.shape[2] * value.shape[3])
    output, gradients = with_gradients(ms_deform_attn_fused, arguments, grad_output)
    assert not output.any()
    assert not any(g.any() for g in gradients)  # NaN counts as any


@pytest.mark.parametrize("sizes", [{"queries": 0}, {"shapes": [(0, 0)]}])
def test_reference_has_gradients_where_nothing_is_sampled(sizes):
    arguments = plain_case(**sizes)
    value, locations = arguments[0], arguments[-2]
    grad_output = torch.ones(*locations.shape[:2], value.shape[2] * value.shape[3])
    _, gradients = with_gradients(ms_deform_attn_reference, arguments, grad_output)
    assert not any(g.any() for g in gradients)


def test_five_levels_of_different_sizes():
    shapes = [(1, 1), (13, 2), (2, 13), (1, 5), (4, 4)]
    check_against_reference(
        ms_deform_attn, ms_deform_attn_reference, plain_case(shapes, queries=50, points=3), torch.float64
    )
    check_against_reference(
        ms_deform_attn_fused, ms_deform_attn_fused_reference, fused_case(TWO_LEVELS, 4), torch.float64
    )


@needs_op
def test_non_contiguous_arguments():
    value, shapes, starts, locations, weights = plain_case()
    expected = ms_deform_attn(value, shapes, starts, locations, weights)
    strided = (
        value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        shapes.t().contiguous().t(),
        torch.stack([starts, starts], 1)[:, 0],
        locations.transpose(1, 2).contiguous().transpose(1, 2),
        weights.transpose(1, 2).contiguous().transpose(1, 2),
    )
    assert not any(t.is_contiguous() for t in strided)
    assert torch.equal(ms_deform_attn(*strided), expected)
    assert torch.equal(ms_deform_attn(value, shapes.int(), starts.int(), locations, weights), expected)


WRONG = {
    "value must have the shape": lambda a: {0: a[0][0]},
    "value must be float32": lambda a: {0: a[0].long()},
    r"spatial_shapes must have the shape \[L, 2\] = \[2, 2\], but has \[3, 2\]": lambda a: {1: a[1].new_ones(3, 2)},
    "spatial_shapes must be an int64": lambda a: {1: a[1].double()},
    r"level_start_index must have the shape \[L\]": lambda a: {2: a[2][:1]},
    r"spatial_shapes\[0\] = \(0, 8\) is not a size": lambda a: {1: torch.tensor([[0, 8], [3, 4]])},
    "level 1 of 5 x 4 tokens from level_start_index.1. = 48": lambda a: {1: torch.tensor([[6, 8], [5, 4]])},
    "overlaps the level before it": lambda a: {2: torch.tensor([0, 40])},
    "level 0 of 6 x 8 tokens from level_start_index.0. = -1": lambda a: {2: torch.tensor([-1, 48])},
    "level 1 of 3 x 4 tokens from level_start_index.1. = 9223372036854775807": lambda a: {
        2: torch.tensor([0, 2**63 - 1])
    },
    r"sampling_locations must have the shape \[B, Q, M, L, P, 2\]": lambda a: {3: a[3][..., :1]},
    "attention_weights must have the shape": lambda a: {4: a[4][:, 1:]},
    "attention_weights must be float32": lambda a: {4: a[4].int()},
}


@needs_op
@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message):
    arguments = list(plain_case())
    for index, wrong in WRONG[message](arguments).items():
        arguments[index] = wrong
    with pytest.raises(RuntimeError, match=message):
        ms_deform_attn(*arguments)


@needs_op
def test_wrong_fused_arguments_are_named():
    value, shapes, starts, reference, offsets, logits = fused_case()
    with pytest.raises(RuntimeError, match=r"reference_points must have the shape \[B, Q, L, 2\] or"):
        ms_deform_attn_fused(value, shapes, starts, reference[..., :1], offsets, logits)
    with pytest.raises(RuntimeError, match="attention_logits must have the shape"):
        ms_deform_attn_fused(value, shapes, starts, reference, offsets, logits[:1])
