# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels themselves, run on the CPU by a small emulation of CUDA (cuda_emulation/)."""

import ctypes
import shutil
import subprocess

import pytest
import torch

from dino_d2.layers.ms_deform_attn_reference import ms_deform_attn_fused_reference, ms_deform_attn_reference
from tests.layers.ms_deform_attn_cases import FOUR_LEVELS, fused_case, plain_case, to_dtype, with_gradients
from tests.paths import ROOT

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 3}
ROUNDING = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2e-2}
FORWARD, BACKWARD, DETERMINISTIC = 0, 1, 2
SIZES = ("batch", "tokens", "queries", "heads", "channels", "levels", "points")
INPUTS = ("shapes", "starts", "value", "locations", "weights", "reference")
FLAGS = ("reference_dim", "point_type", "wide")
OUTPUTS = ("grad_output", "output", "grad_value", "grad_locations", "grad_weights", "grad_reference")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to build the emulation")


class Call(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int64) for name in SIZES]
        + [(name, ctypes.c_void_p) for name in INPUTS]
        + [(name, ctypes.c_int64) for name in FLAGS]
        + [(name, ctypes.c_void_p) for name in OUTPUTS]
    )


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    library = tmp_path_factory.mktemp("emulation") / "kernels_on_cpu.so"
    source = ROOT / "tests" / "layers" / "cuda_emulation" / "kernels_on_cpu.cpp"
    include = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'cuda'}"]
    subprocess.run(["g++", "-O1", "-std=c++17", "-shared", "-fPIC", *include, source, "-o", library], check=True)
    return ctypes.CDLL(str(library)).run_kernels


class Launch:
    """The tensors of one call, kept alive while the kernels use their addresses."""

    def __init__(self, kernels, arguments, wide):
        value, shapes, starts, *reference, locations, weights = arguments
        self.kernels, self.type = kernels, TYPES[value.dtype]
        compute = torch.float64 if value.dtype == torch.float64 else torch.float32
        batch, tokens, heads, channels = value.shape
        _, queries, _, levels, points, _ = locations.shape
        self.tensors = {
            "shapes": shapes.contiguous(),
            "starts": starts.contiguous(),
            "value": value.contiguous(),
            "locations": locations.contiguous(),
            "weights": weights.contiguous(),
        }
        reference_dim = 0
        if reference:
            self.tensors["reference"] = reference[0].contiguous()
            reference_dim = reference[0].shape[-1]
        nan = float("nan")
        self.tensors["output"] = torch.full((batch, queries, heads * channels), nan, dtype=value.dtype)
        self.tensors["grad_locations"] = torch.full_like(self.tensors["locations"], nan)
        self.tensors["grad_weights"] = torch.full_like(self.tensors["weights"], nan)
        self.tensors["grad_reference"] = torch.full((batch, queries, heads, levels, reference_dim), nan, dtype=compute)
        self.compute = compute
        self.numbers = dict(zip(SIZES, (batch, tokens, queries, heads, channels, levels, points), strict=True))
        self.numbers |= {"reference_dim": reference_dim, "point_type": TYPES[locations.dtype], "wide": int(wide)}

    def run(self, what):
        addresses = {name: tensor.data_ptr() for name, tensor in self.tensors.items()}
        call = Call(**self.numbers, **addresses)
        return self.kernels(ctypes.byref(call), self.type, what)

    def backward(self, grad_output, what, grad_value=None):
        value = self.tensors["value"]
        self.tensors["grad_output"] = grad_output.to(value.dtype).contiguous()
        if grad_value is not None:
            self.tensors["grad_value"] = grad_value
        elif what == BACKWARD:
            self.tensors["grad_value"] = torch.zeros(value.shape, dtype=self.compute)
        else:
            self.tensors["grad_value"] = torch.full_like(value, float("nan"))
        assert self.run(what) > 0
        gradients = [self.tensors["grad_value"].to(value.dtype)]
        if self.numbers["reference_dim"]:
            gradients.append(self.tensors["grad_reference"].sum(2))
        return [*gradients, self.tensors["grad_locations"], self.tensors["grad_weights"]]


def assert_close(actual, expected, dtype, name):
    error = (actual.double() - expected.double()).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error <= ROUNDING[dtype], f"{name}: relative error {error:.2e}"


# heads and channels choose the lanes: 8 lanes for 32 channels of float32, 1 for 8 of bfloat16, idle lanes for 24, a
# second round of channels for 160; 11 queries leave the last block partly empty.
CASES = [
    pytest.param(torch.float32, {"channels": 32}, True, id="float32-32"),
    pytest.param(torch.float32, {"channels": 24, "heads": 2, "queries": 11}, True, id="float32-24"),
    pytest.param(torch.float32, {"channels": 5, "queries": 11}, False, id="float32-5-narrow"),
    pytest.param(torch.float32, {"channels": 160, "queries": 4}, True, id="float32-160"),
    pytest.param(torch.float64, {"channels": 20, "queries": 11}, True, id="float64-20"),
    pytest.param(torch.float64, {"channels": 3, "queries": 11, "shapes": FOUR_LEVELS}, False, id="float64-3-narrow"),
    pytest.param(torch.bfloat16, {"channels": 32, "queries": 11}, True, id="bfloat16-32"),
    pytest.param(torch.bfloat16, {"channels": 8, "queries": 11, "points": 1}, True, id="bfloat16-8"),
]


@pytest.mark.parametrize("form", ["plain", "fused with points", "fused with boxes"])
@pytest.mark.parametrize(("dtype", "sizes", "wide"), CASES)
def test_against_the_reference(kernels, dtype, sizes, wide, form):
    if form == "plain":
        arguments, reference = plain_case(**sizes), ms_deform_attn_reference
    else:
        dim = 2 if form.endswith("points") else 4
        arguments, reference = fused_case(**sizes, reference_dim=dim), ms_deform_attn_fused_reference
    arguments = to_dtype(arguments, dtype)
    if dtype == torch.bfloat16:  # locations stay exact, away from the knots
        arguments[3:] = [t.float() for t in arguments[3:]]
    launch = Launch(kernels, arguments, wide)
    lanes = launch.run(FORWARD)
    assert 1 <= lanes <= 32
    grad_output = torch.randn(launch.tensors["output"].shape, dtype=torch.float64).to(dtype)
    expected, expected_gradients = with_gradients(reference, to_dtype(arguments, torch.float64), grad_output)
    assert_close(launch.tensors["output"], expected, dtype, "output")
    for what in (BACKWARD, DETERMINISTIC):
        gradients = launch.backward(grad_output, what)
        for index, (gradient, wanted) in enumerate(zip(gradients, expected_gradients, strict=True)):
            assert_close(gradient, wanted, dtype, f"gradient {index} of kernel {what}")


def test_far_outside_is_zero_and_nan_is_nan(kernels):
    value, shapes, starts, locations, weights = to_dtype(plain_case(channels=32, queries=3), torch.float32)
    value[:] = float("inf")
    locations[:] = 1e30
    locations[0, 1, 2, 1, 3, 0] = float("nan")
    launch = Launch(kernels, (value, shapes, starts, locations, weights), wide=True)
    launch.run(FORWARD)
    output = launch.tensors["output"].view(2, 3, 3, 32)
    assert output[0, 1, 2].isnan().all()
    output[0, 1, 2] = 0
    assert not output.any()
    for what in (BACKWARD, DETERMINISTIC):
        assert not launch.backward(torch.ones(2, 3, 96), what)[0].any()


OUTSIDE = {
    "beyond the last int64": lambda shapes, starts: (shapes, torch.tensor([0, 2**63 - 1])),
    "the end reaches past value": lambda shapes, starts: (shapes, starts + 1),
    "negative": lambda shapes, starts: (shapes, torch.tensor([0, -12])),
    "wraps round to 32 bits": lambda shapes, starts: (shapes, starts + 2**32),
    "overlaps the level before it": lambda shapes, starts: (shapes, torch.tensor([0, 40])),
    "no height": lambda shapes, starts: (torch.tensor([[6, 8], [0, 4]]), starts),
    "a size whose product overflows": lambda shapes, starts: (torch.tensor([[6, 8], [2**62, 4]]), starts),
}


@pytest.mark.parametrize("what", OUTSIDE)
@pytest.mark.parametrize("form", ["plain", "fused"])
def test_a_level_outside_value_gives_nan_and_touches_no_memory(kernels, what, form):
    """On a GPU nobody can look at level_start_index before the launch, so that the kernels refuse it themselves."""
    case = plain_case(channels=32, queries=3) if form == "plain" else fused_case(channels=32, queries=3)
    value, shapes, starts, *rest = to_dtype(case, torch.float32)
    guarded = torch.full((3, *value.shape), 7.0)  # gradients that were written beside value would show here
    shapes, starts = OUTSIDE[what](shapes, starts)
    launch = Launch(kernels, (guarded[1].copy_(value), shapes, starts, *rest), wide=True)
    launch.run(FORWARD)
    assert launch.tensors["output"].isnan().all()
    for kind in (BACKWARD, DETERMINISTIC):
        sums = torch.zeros(3, *value.shape)
        launch.backward(torch.ones(2, 3, 96), kind, sums[1])
        assert not sums[0].any()
        assert not sums[2].any()
        assert launch.tensors["grad_locations"][..., 1, :, :].isnan().all()


def test_more_points_than_shared_memory_is_refused(kernels):
    many = plain_case(queries=1, points=800, channels=4)
    assert Launch(kernels, to_dtype(many, torch.float32), wide=True).run(FORWARD) == 0
    some = to_dtype(plain_case(queries=2, points=200, channels=4), torch.float32)
    launch = Launch(kernels, some, wide=True)
    assert launch.run(FORWARD) > 1  # more lanes than the one that four channels need: fewer slots share the memory
    assert_close(launch.tensors["output"], ms_deform_attn_reference(*to_dtype(some, torch.float64)), torch.float32, "")
