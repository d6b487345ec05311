"""Posterior coordinates for measurements with a layout: signals and images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fokker.posterior_coordinates import MAX_VECTOR, Posterior
from fokker.rng import torch_generator
from fokker.states import Cond, observed

SIGNAL = 64  # numbers from which on a row of them is a signal
SIDE = 8  # of an image, at least
AXES = 64  # principal axes of y that a network sees beside its layout
SCALED = 10_000  # rows from which the scales of a layout are taken
KEPT = 256  # principal components of a y that is too large for a covariance


def has_layout(y_shape: tuple[int, ...]) -> bool:
    """Whether y is a signal (L,) or (C, L) with L >= 64, or an image (H, W) or (C, H, W) with sides >= 8."""
    if len(y_shape) == 1 or (len(y_shape) == 2 and y_shape[0] < SIDE):
        return y_shape[-1] >= SIGNAL
    return 2 <= len(y_shape) <= 3 and min(y_shape[-2:]) >= SIDE


class Structured(Posterior):
    """Posterior coordinates given y, with y in its layout among the features.

    Beyond d_x + d_y = 2,000 they are given the 256 leading principal components of y, entries scaled to mean 0 and
    standard deviation 1 and zero where missing: any function of what is observed may be conditioned on.

    grid (2, *y_shape): mean and standard deviation of every entry of y, 1 where it never varies. basis (d_y, 256).
    Further conditions behind y are taken as they are. For the features see `features`.
    """

    name: ClassVar[str] = "posterior, layout"

    def __init__(
        self, mean_x: Tensor, mean_y: Tensor, covariance: Tensor, grid: Tensor, squares: Tensor | None = None,
        basis: Tensor | None = None,
    ):  # fmt: skip
        super().__init__(mean_x, mean_y, covariance, squares)
        self.grid, self.basis = grid, basis

    @classmethod
    def of(cls, x: Tensor, y: Tensor, y_shape: tuple[int, ...], seed: int) -> Structured:
        """From training pairs x (N, *x_shape) and y (N, *y_shape), or y with further conditions as (N, D); NaN is
        missing.
        """
        size = int(torch.Size(y_shape).numel())
        y = y.double().flatten(1)
        first = y[:SCALED, :size]
        mean = first.nanmean(0)
        std = (first - mean).square().nanmean(0).sqrt()
        grid = torch.stack([mean, torch.where(std > 0, std, 1.0)]).nan_to_num(nan=0.0)
        basis = None
        if x[0].numel() + y.shape[1] > MAX_VECTOR:
            values = ((y[:, :size] - grid[0]) / grid[1]).nan_to_num()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(torch_generator(seed, "principal").initial_seed())
                basis = torch.svd_lowrank(values, min(KEPT, *values.shape), niter=2)[2]
            kept = (values @ basis).var(0) > 0
            basis = basis[:, kept]
            y = torch.cat([values @ basis, y[:, size:]], 1)
        inner = Posterior.estimate(x, y)
        squares = None if inner.squares is None else inner.squares.reshape(4, -1)
        return cls(inner.mean_x, inner.mean_y, inner.covariance, grid.reshape(2, *y_shape), squares, basis)

    def reduced(self, cond: Cond) -> Cond:
        """The conditions that x is conditioned on: y as a vector, or its principal components."""
        size = self.grid[0].numel()
        flat = _flat(cond)
        if self.basis is None:
            return flat
        y, seen = observed(flat)
        values = ((y.double()[:, :size] - self.grid[0].flatten()) / self.grid[1].flatten()).nan_to_num()
        out = {"y": torch.cat([values @ self.basis, y[:, size:].double()], 1)}
        if "omega" in flat:
            whole = torch.ones(len(y), self.basis.shape[1], dtype=torch.bool, device=y.device)
            out["omega"] = torch.cat([whole, seen[:, size:]], 1)
        return out

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """L^-1 (x - mu(y))."""
        return super().forward(x, self.reduced(cond))

    def inverse(self, xi: Tensor, cond: Cond) -> Tensor:
        """mu(y) + L xi."""
        return super().inverse(xi, self.reduced(cond))

    def log_det(self, cond: Cond) -> Tensor:
        """log det L (B,)."""
        return super().log_det(self.reduced(cond))

    def rank(self, cond: Cond) -> list[int]:
        """In how many directions x varies given y, for each pattern of observed entries in `cond`."""
        return super().rank(self.reduced(cond))

    def mean(self, cond: Cond) -> Tensor:
        """mu(y) (B, *x_shape) in float64."""
        return super().mean(self.reduced(cond))

    def std(self, cond: Cond) -> Tensor:
        """Standard deviation (B, *x_shape) of every entry of x given y."""
        return super().std(self.reduced(cond))

    def features(self, cond: Cond) -> Tensor:
        """mu(y) in prior standard deviations, y on its 64 widest principal axes; then y in its layout, (y - mean) / std
        and zero where missing, and 1 where it is observed, 0 where it is not.
        """
        plain = super().features(self.reduced(cond))
        n, axes = self.mean_x.numel(), self.mean_y.numel()
        y, seen = observed(_flat(cond))
        size = self.grid[0].numel()
        values = ((y.double()[:, :size] - self.grid[0].flatten()) / self.grid[1].flatten()).nan_to_num()
        shown = plain[:, :n], plain[:, n + max(0, axes - AXES) : n + axes]
        return torch.cat([*shown, values.float(), seen[:, :size].float()], 1)

    @property
    def plain_features(self) -> int:
        """How many features come before the layout."""
        return self.mean_x.numel() + min(AXES, self.mean_y.numel())

    def tensors(self) -> dict[str, Tensor]:
        """Those of `Posterior`, grid and basis."""
        out = {**super().tensors(), "grid": self.grid}
        return out if self.basis is None else {**out, "basis": self.basis}


def _flat(cond: Cond) -> Cond:
    return {name: value.flatten(1) for name, value in cond.items() if name in ("y", "omega")}
