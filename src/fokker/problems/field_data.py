"""Fields seen at a few points: Poisson, Helmholtz, a monotone warp and a threshold of one Gaussian field.

    g ~ N(0, (-Lap + 9)^-2) on the unit square with Neumann boundary, the constant dropped

    poisson    Lap u = g, u = 0 on the boundary; inverse: u is seen, g wanted; forward: the other way round
    helmholtz  Lap u + u = g, likewise
    warp       x = exp(g / s), s the standard deviation of g: log-normal, the usual law of a permeability; skewness 6,
               so a Gaussian fitted to x is far off, and yet exact: log x is g. Multiplicative noise
    threshold  a = 12 where g > 0, else 3

All modes k < n of the grid of n x n cells are used. A field takes its coefficients from a table of 128 x 128 numbers,
so case i on 32, 64 and 128 cells is one function with more and more of its modes. Points are chosen at random for each
case, 31, 123 and 500 of 32^2, 64^2 and 128^2 (3 %). Noise is relative to the standard deviation of the seen field over
the *prior*, not over the case, which would tell of the truth; for the threshold to half the gap of its two values.
Source: Huang et al. 2024 (DiffusionPDE); Yao et al. 2025 (FunDPS): the two equations. The other families are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.grids import cosine_matrix, sine_matrix
from fokker.operators.base import Composition, LinearOperator
from fokker.operators.field_solves import DirichletSolve
from fokker.operators.selection import Inpainting
from fokker.reference.gaussian_field import GaussianField
from fokker.rng import Key, Rows, stream

FAMILIES = {"poisson": ("inverse", "forward"), "helmholtz": ("inverse", "forward"), "warp": ("direct",),
            "threshold": ("direct",)}  # fmt: skip
SHIFT = {"poisson": 0.0, "helmholtz": 1.0}
TAU, ALPHA = 3.0, 2.0
LOW, HIGH = 3.0, 12.0
LARGEST = 128
SEEN = {32: 31, 64: 123, 128: 500}  # 500 is the published number; elsewhere 3 %, rounded
_ROWS = 256  # fields made at a time


@dataclass(frozen=True)
class Fields:
    """seen, wanted: the field that is observed and the one that is inferred, (N, n, n), float64."""

    seen: Tensor
    wanted: Tensor


@dataclass(frozen=True)
class Cases:
    """points: (M, m), flat indices in ascending order; y: (M, m), what was observed there; truth: (M, n, n), wanted."""

    points: Tensor
    y: Tensor
    truth: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class FieldProblem:
    """One task. family, task: see `FAMILIES`; n: cells per axis, 4 to 128; noise: relative standard deviation, from 0.

    Raises InputError for other names and numbers, and for a threshold without noise, which has no density.
    """

    family: str
    task: str
    n: int = 64
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.family not in FAMILIES or self.task not in FAMILIES[self.family]:
            known = "; ".join(f"{name}: {', '.join(tasks)}" for name, tasks in FAMILIES.items())
            raise InputError(f"family and task: got {self.family!r} and {self.task!r}, accepted are {known}")
        if isinstance(self.n, bool) or not isinstance(self.n, int) or not 4 <= self.n <= LARGEST:
            raise InputError(f"n: got {self.n!r}, a whole number from 4 to {LARGEST} is accepted")
        least = "above 0" if self.family == "threshold" else "from 0 on"
        if not 0 <= self.noise < math.inf or (self.family == "threshold" and self.noise == 0):
            raise InputError(f"noise: got {self.noise!r}, a number {least} is accepted")

    @cached_property
    def field(self) -> GaussianField:
        """The law of g."""
        k2 = torch.arange(self.n, dtype=torch.float64) ** 2
        values = self.n**2 * (math.pi**2 * (k2[:, None] + k2) + TAU**2) ** -ALPHA
        values[0, 0] = 0.0
        return GaussianField(values)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of g: the root of its variance's mean over the grid."""
        return float(self.field.eigenvalues.mean().sqrt())

    @cached_property
    def solve(self) -> DirichletSolve | None:
        """g -> u, for the two equations."""
        return DirichletSolve((self.n, self.n), SHIFT[self.family]) if self.family in SHIFT else None

    @cached_property
    def noise_std(self) -> float:
        """Standard deviation of the noise: of y, or of s log y for the warp, s the `spread`."""
        if self.family == "threshold":
            return self.noise * (HIGH - LOW) / 2
        if self.task != "inverse":
            return self.noise * self.spread
        assert self.solve is not None
        # trace of G C G^T over the grid: both are products of transforms along the axes
        mixed = (sine_matrix(self.n) @ cosine_matrix(self.n).T) ** 2
        energy = mixed @ self.field.eigenvalues @ mixed.T
        return self.noise * math.sqrt(float((self.solve._values**2 * energy).sum()) / self.n**2)

    @property
    def count(self) -> int:
        """m, the number of points."""
        return SEEN.get(self.n, max(1, round(0.03 * self.n**2)))

    def latent(self, count: int, seed: int = 0, split: str = "train", first: int = 0) -> Tensor:
        """g (count, n, n), fields `first` to `first` + count of a split ("train" or "test"), each the same always."""
        out = torch.empty(count, self.n, self.n, dtype=torch.float64)
        for start in range(first, first + count, _ROWS):
            index = np.arange(start, min(start + _ROWS, first + count))
            key = Key(seed, Rows(np.zeros_like(index), index), part=f"fields/{split}")
            white = key.normal((LARGEST, LARGEST))[:, : self.n, : self.n]
            out[index - first] = self.field.colour(white.double())
        return out

    def of_latent(self, g: Tensor) -> Fields:
        """The seen and the wanted field for g (..., n, n)."""
        if self.solve is not None:
            u = self.solve(g)
            return Fields(u, g) if self.task == "inverse" else Fields(g, u)
        x = (g / self.spread).exp() if self.family == "warp" else torch.where(g > 0, HIGH, LOW).to(g)
        return Fields(x, x)

    def training(self, count: int, seed: int = 0, first: int = 0) -> Fields:
        """Training fields; those of a smaller count are the first of a larger one."""
        return self.of_latent(self.latent(count, seed, "train", first))

    def cases(self, count: int, seed: int = 0) -> Cases:
        """Test cases, each the same however many are asked for."""
        fields = self.of_latent(self.latent(count, seed, "test"))
        size, m = self.n**2, self.count
        rngs = [stream(seed, f"field cases/{self.n}", case) for case in range(count)]
        points = np.stack([np.sort(rng.permutation(size)[:m]) for rng in rngs])
        noise = self.noise_std * torch.from_numpy(np.stack([rng.standard_normal(m) for rng in rngs]))
        where = torch.from_numpy(points)
        y = fields.seen.flatten(1).gather(1, where)
        y = y * (noise / self.spread).exp() if self.family == "warp" else y + noise
        return Cases(where, y, fields.wanted)

    def operator(self, points: Tensor) -> LinearOperator:
        """g -> the values at the points (m,) that the data tell of: of u or of g itself."""
        mask = torch.zeros(self.n**2, dtype=torch.bool)
        mask[points] = True
        seen = Inpainting(mask.unflatten(0, (self.n, self.n)))
        return Composition(seen, self.solve) if self.solve is not None and self.task == "inverse" else seen
