"""Exact posterior of a two-valued field: high where a Gaussian field is positive, low elsewhere."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.reference.gaussian_field import Field, Linear
from fokker.reference.orthant import Orthant
from fokker.rng import stream

_DOUBT = math.log(1e-6)
_BATCH = 2**22  # entries of fields held at a time


class ThresholdedPosterior:
    """The law of g ~ `Field`, and of a = high where g > 0 else low, given y = a(points) + N(0, noise^2 I).

    Summed over the signs s of g at the points, p(g | y) is a mixture of Gaussians restricted to orthants with weights
    prod_i N(y_i; a(s_i), noise^2) P(orthant s). All of them but that of the nearest values s* weigh together at most
    (prod_i (1 + e^-d_i) - 1) / P(s*), d_i what the log likelihood loses by the other sign of i; `log_doubt` is the log
    of that. For noise of 5 % of (high - low) / 2 one d_i is 800 on average, so s* is certain for all purposes, and a
    sample is one of the orthant at the points (`Orthant`: independent and exact) joined by the Gaussian field given it
    (Matheron). No Markov chain is involved.

    field: of mean zero at the points; operator: the points, x (*shape) -> y (m,); y: (m,). Raises InputError for data
    of another shape, low >= high, a noise that is not positive, and where the doubt exceeds 1e-6.
    """

    def __init__(
        self, field: Field, operator: Linear, y: Any, noise: float, low: float = 3.0, high: float = 12.0
    ) -> None:
        if not low < high or not 0 < noise < math.inf:
            raise InputError(
                f"low, high and noise: got {low!r}, {high!r} and {noise!r}, low < high and a noise > 0 are accepted"
            )
        self.low, self.high, self._latent = low, high, field.posterior(operator)
        data = torch.as_tensor(y).to(torch.float64)
        if tuple(data.shape) != self._latent.y_shape or not bool(data.isfinite().all()):
            raise InputError(f"y: got shape {tuple(data.shape)}, finite numbers {self._latent.y_shape} are accepted")
        loss = ((data - low) ** 2 - (data - high) ** 2) / (2 * noise**2)
        self.signs = torch.where(loss > 0, 1.0, -1.0).double()
        self._orthant = Orthant(self._latent.data_covariance.cpu(), self.signs)
        _, self.log_probability = self._orthant.sample(1, stream(0, "thresholded"))
        others = torch.nn.functional.softplus(-loss.abs()).sum()
        self.log_doubt = float(others.log() if others < 1e-3 else others.expm1().log()) - self.log_probability
        if not torch.isfinite(others) or self.log_doubt > _DOUBT:
            raise InputError(
                f"noise: got {noise:g} for values {low:g} and {high:g}, with which a sign is in doubt by "
                f"{math.exp(min(self.log_doubt, 0.0)):.1e}; up to 1e-6 is accepted"
            )

    def at_points(self, n: int, seed: int = 0, *, case: int = 0) -> Tensor:
        """n samples (n, m) of g at the points. The random numbers are those of (seed, case)."""
        draws, _ = self._orthant.sample(n, stream(seed, "thresholded", case))
        return torch.from_numpy(draws).to(self._latent.field.mean)

    def sample(self, n: int, seed: int = 0, *, case: int = 0) -> Tensor:
        """n independent samples (n, *shape) of g; `values` makes them fields a. Sample i is the same whatever n."""
        return self._latent.sample_each(self.at_points(n, seed, case=case), seed, case=case)

    def values(self, g: Tensor) -> Tensor:
        """a: high where g > 0, low elsewhere."""
        return torch.where(g > 0, self.high, self.low).to(g)

    def probability(self, n: int, seed: int = 0, *, case: int = 0) -> Tensor:
        """P(g > 0 | y) (*shape), the mean over n orthant samples of its exact value given g at the points."""
        points, std = self.at_points(n, seed, case=case), self._latent.std()
        total, step = torch.zeros_like(std), max(1, _BATCH // std.numel())
        for part in points.split(step):
            mean = self._latent.mean(part)
            z = mean / std.clamp(min=1e-9 * float(std.max()))  # where observed the sign is known
            total = total + torch.special.ndtr(z).sum(0)
        return total / n

    def mean(self, n: int, seed: int = 0, *, case: int = 0) -> Tensor:
        """E[a | y] (*shape) from n orthant samples."""
        return self.low + (self.high - self.low) * self.probability(n, seed, case=case)
