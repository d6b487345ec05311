"""Families of functions of one variable, on the unit interval, each with its exact posterior from noisy values.

matern: a Gaussian process. switch: one of two Gaussian processes, a smooth and a rough one, with equal chances; which
it was is not told. waves: a wave with flat crests, of unknown frequency, phase and height. For the first two the
posterior is closed (a mixture weighted by the evidences), for the third importance sampling in frequency and phase, the
height in closed form.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fokker.grids import Grid
from fokker.random_fields import CosineField
from fokker.reference.gaussian_process import GaussianProcess
from fokker.rng import stream

CELLS = 128
GRID = Grid((CELLS,))
CENTRES = GRID.points[:, 0]


@dataclass(frozen=True)
class Functions:
    """N functions: their values at the centres of the cells (N, 128), and at points (N, m) of each -> (N, m)."""

    cells: Tensor
    at: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Answer:
    """What is known of one function exactly, at points: mean (P,), independent samples (n, P).

    ess: effective number of the draws that the answer comes from; infinite where it is closed.
    """

    mean: Tensor
    samples: Tensor
    ess: float = math.inf


class Family(ABC):
    """A law of functions."""

    @abstractmethod
    def draw(self, count: int, seed: int, part: str) -> Functions:
        """`count` functions, fixed by the seed and the name of the part."""

    @abstractmethod
    def posterior(
        self, points: Tensor, y: Tensor, std: float, n: int, seed: int, case: int = 0, where: Tensor = CENTRES
    ) -> Answer:
        """Given y (m,) = f(points (m,)) + N(0, std^2), with n samples, at the points `where` (P,).

        case: keeps its numbers apart from others'.
        """


@dataclass(frozen=True)
class Processes(Family):
    """One of several Gaussian processes, each with the same chance."""

    fields: tuple[CosineField, ...]

    def draw(self, count: int, seed: int, part: str) -> Functions:
        """Coefficients of every process are drawn, and the process of each function."""
        rng = stream(seed, f"regression/{part}")
        which = torch.from_numpy(rng.integers(len(self.fields), size=count))
        xi = torch.from_numpy(rng.standard_normal((count, CELLS)))

        def at(points: Tensor) -> Tensor:
            found = torch.empty(points.shape, dtype=torch.float64)
            for index, field in enumerate(self.fields):
                found[which == index] = field.at(xi[which == index], points[which == index][..., None])
            return found

        cells = torch.empty(count, CELLS, dtype=torch.float64)
        for index, field in enumerate(self.fields):
            cells[which == index] = field.on_grid(xi[which == index], (CELLS,))
        return Functions(cells, at)

    def posterior(
        self, points: Tensor, y: Tensor, std: float, n: int, seed: int, case: int = 0, where: Tensor = CENTRES
    ) -> Answer:
        """The mixture of the processes' posteriors, weighted by their evidences."""
        rng = stream(seed, "regression/exact", case)
        posteriors = [GaussianProcess(field).posterior(points[:, None], std) for field in self.fields]
        weights = torch.stack([posterior.log_evidence(y) for posterior in posteriors]).softmax(0)
        means = torch.stack([posterior.mean(y, where[:, None]) for posterior in posteriors])
        counts = rng.multinomial(n, weights.numpy() / float(weights.sum()))
        seeds = rng.integers(2**63, size=len(posteriors))
        parts = [
            posterior.sample(y, where[:, None], int(count), int(own))
            for posterior, count, own in zip(posteriors, counts, seeds)
        ]
        return Answer(weights @ means, torch.cat(parts)[torch.from_numpy(rng.permutation(n))])


@dataclass(frozen=True)
class Waves(Family):
    """f(x) = a tanh(sharp sin(2 pi (k x + phase))), a ~ N(height, spread^2), k ~ U(low, high), phase ~ U(0, 1)."""

    sharp: float = 4.0
    height: float = 1.0
    spread: float = 0.25
    low: float = 1.0
    high: float = 2.0
    squares: int = 256  # along k and along the phase, from which the proposal of the posterior is made
    draws: int = 10_000
    doubt: float = 0.1  # deviation by which a square's centre may miss its values: added to the noise of the proposal
    everywhere: float = 0.05  # fraction of the proposal that is the prior

    def draw(self, count: int, seed: int, part: str) -> Functions:
        """Height, frequency and phase of every function."""
        rng = stream(seed, f"regression/{part}")
        a = torch.from_numpy(rng.normal(self.height, self.spread, (count, 1)))
        k, phase = (torch.from_numpy(rng.random(count)) for _ in range(2))
        k = self.low + (self.high - self.low) * k
        cells = a * self._shape(k, phase, GRID.points[:, 0])
        return Functions(cells, lambda points: a * self._shape(k, phase, points))

    def posterior(
        self, points: Tensor, y: Tensor, std: float, n: int, seed: int, case: int = 0, where: Tensor = CENTRES
    ) -> Answer:
        """By draws of (k, phase) from squares weighted by their evidence; a given these is Gaussian."""
        rng = stream(seed, "regression/exact", case)
        sides = (torch.arange(self.squares, dtype=torch.float64) + 0.5) / self.squares
        centres = torch.cartesian_prod(sides, sides)
        q = self._evidence(centres, points, y, math.hypot(std, self.doubt)).softmax(0)
        q = (1 - self.everywhere) * q + self.everywhere / len(q)
        heights = (rng.random() + np.arange(self.draws)) / self.draws
        chosen = torch.from_numpy(np.searchsorted(q.cumsum(0).numpy(), heights).clip(max=len(q) - 1))
        jitter = torch.from_numpy(rng.random((self.draws, 2)) - 0.5) / self.squares
        unit = centres[chosen] + jitter
        weights = (self._evidence(unit, points, y, std) - q[chosen].log()).softmax(0)
        k, phase = self._scaled(unit)
        shape = self._shape(k, phase, points)
        precision = self.spread**-2 + shape.square().sum(1) / std**2
        centre = (self.height / self.spread**2 + shape @ y / std**2) / precision
        picked = torch.from_numpy(rng.choice(self.draws, n, p=weights.numpy() / float(weights.sum())))
        a = centre[picked] + torch.from_numpy(rng.standard_normal(n)) / precision[picked].sqrt()
        everywhere = self._shape(k, phase, where)
        return Answer(
            (weights * centre) @ everywhere, a[:, None] * everywhere[picked], float(1 / weights.square().sum())
        )

    def _evidence(self, unit: Tensor, points: Tensor, y: Tensor, std: float) -> Tensor:
        """log p(y given k, phase), a integrated out, up to a constant; unit (S, 2) on the unit square."""
        shape = self._shape(*self._scaled(unit), points)
        gap, size = y - self.height * shape, shape.square().sum(1)
        total = std**2 + self.spread**2 * size
        along = (shape * gap).sum(1)
        left = (gap.square().sum(1) - self.spread**2 * along.square() / total) / std**2
        return -0.5 * (left + total.log())

    def _scaled(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        return self.low + (self.high - self.low) * unit[:, 0], unit[:, 1]

    def _shape(self, k: Tensor, phase: Tensor, x: Tensor) -> Tensor:
        """tanh(sharp sin(...)) (S, m) of k and phase (S,) at x (m,) or (S, m)."""
        return (self.sharp * (2 * math.pi * (k[:, None] * x + phase[:, None])).sin()).tanh()


FAMILIES: dict[str, Family] = {
    "matern": Processes((CosineField.matern(1, CELLS, length=0.2, nu=1.5),)),
    "switch": Processes((CosineField.matern(1, CELLS, 0.4, 2.5), CosineField.matern(1, CELLS, 0.05, 0.5))),
    "waves": Waves(),
}
TITLES = {
    "matern": "a Gaussian process with a Matern kernel",
    "switch": "a smooth or a rough Gaussian process, which one is not told",
    "waves": "waves with flat crests, of unknown frequency, phase and height",
}
