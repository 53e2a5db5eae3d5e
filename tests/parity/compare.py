# SPDX-License-Identifier: Apache-2.0
"""Comparison of many tensors with one verdict at the end, so that a failure shows everything that is off."""

import pytest
import torch
from torch import Tensor


class Comparison:
    """Collects deviations; ``finish`` fails where one is beyond its tolerance."""

    def __init__(self):
        self.rows: list[tuple[str, float, float]] = []  # name, largest deviation, largest as a share of the tolerance

    def close(self, name: str, got: Tensor, want: Tensor, absolute: float = 0.0, relative: float = 0.0) -> None:
        """|got - want| <= absolute + relative · |want|, element by element."""
        want = want.to(torch.float64)
        self.within(name, got, want, absolute + relative * want.abs())

    def within(self, name: str, got: Tensor, want: Tensor, tolerance: Tensor) -> None:
        """|got - want| <= tolerance, element by element; equal infinities are equal."""
        assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
        got, want = got.detach().to(torch.float64), want.to(torch.float64)
        deviation = torch.where(got == want, 0.0, (got - want).abs()).nan_to_num(nan=torch.inf)
        share = torch.where(deviation == 0, 0.0, deviation / tolerance)
        self.rows.append((name, largest(deviation), largest(share)))

    def equal(self, name: str, got: Tensor, want: Tensor) -> None:
        """Exactly equal."""
        assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
        different = int((got != want).sum())
        self.rows.append((name, float(different), torch.inf if different else 0.0))

    def finish(self) -> None:
        """Fail with all rows beyond their tolerance, the worst first."""
        bad = sorted((row for row in self.rows if row[2] > 1), key=lambda row: -row[2])
        if bad:
            table = "\n".join(
                f"  {name}: off by {off:.3g}, {share:.3g} times the tolerance" for name, off, share in bad[:25]
            )
            pytest.fail(f"{len(bad)} of {len(self.rows)} comparisons are off\n{table}", pytrace=False)


def largest(x: Tensor) -> float:
    return float(x.max()) if x.numel() else 0.0
