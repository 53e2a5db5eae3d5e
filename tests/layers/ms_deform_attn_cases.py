# SPDX-License-Identifier: Apache-2.0
"""Random arguments for the tests of the op."""

import torch

TWO_LEVELS = ((6, 8), (3, 4))
FOUR_LEVELS = ((9, 7), (5, 4), (3, 2), (1, 1))


def levels(shapes):
    """spatial_shapes [L, 2], level_start_index [L], number of tokens."""
    spatial_shapes = torch.tensor(shapes)
    sizes = spatial_shapes.prod(1)
    return spatial_shapes, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)[:-1]]), int(sizes.sum())


def quarter_pixel_locations(shapes, batch, queries, heads, points, generator, outside=1.5):
    """Locations at least a quarter pixel away from the knots, some of them up to `outside` pixels off the map."""
    per_level = []
    for height, width in shapes:
        size = torch.tensor([width, height], dtype=torch.float64)
        places = torch.rand(batch, queries, heads, points, 2, generator=generator, dtype=torch.float64)
        pixel = torch.floor(places * (size + 2 * outside) - outside)  # an integer pixel position
        part = 0.25 + 0.5 * torch.rand(pixel.shape, generator=generator, dtype=torch.float64)
        per_level.append((pixel + part + 0.5) / size)
    return torch.stack(per_level, dim=3)


def plain_case(shapes=TWO_LEVELS, batch=2, queries=33, heads=3, channels=20, points=5, seed=0):
    """The five arguments of `ms_deform_attn` in float64, the weights not normalised."""
    generator = torch.Generator().manual_seed(seed)
    spatial_shapes, starts, tokens = levels(shapes)
    value = torch.randn(batch, tokens, heads, channels, generator=generator, dtype=torch.float64)
    locations = quarter_pixel_locations(shapes, batch, queries, heads, points, generator)
    weights = torch.rand(locations.shape[:-1], generator=generator, dtype=torch.float64)
    return value, spatial_shapes, starts, locations, weights


def fused_case(shapes=TWO_LEVELS, reference_dim=2, batch=2, queries=33, heads=3, channels=20, points=5, seed=0):
    """The six arguments of `ms_deform_attn_fused` in float64."""
    generator = torch.Generator().manual_seed(seed)
    spatial_shapes, starts, tokens = levels(shapes)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    value = normal(batch, tokens, heads, channels)
    reference = torch.rand(batch, queries, len(shapes), reference_dim, generator=generator, dtype=torch.float64)
    offsets = normal(batch, queries, heads, len(shapes), points, 2)
    logits = normal(batch, queries, heads, len(shapes), points)
    return value, spatial_shapes, starts, reference, offsets, logits


def to_dtype(arguments, dtype):
    """The arguments with every floating-point tensor in `dtype`."""
    return [a.to(dtype) if a.is_floating_point() else a for a in arguments]


def with_gradients(function, arguments, grad_output):
    """Output and the gradients of all floating-point arguments."""
    leaves = [a.detach().clone().requires_grad_() if a.is_floating_point() else a for a in arguments]
    output = function(*leaves)
    gradients = torch.autograd.grad(output, [a for a in leaves if a.is_floating_point()], grad_output.to(output))
    return output.detach(), gradients
