"""The cases of the guidance battery: priors, operators and likelihoods whose posterior is known exactly.

Every case has an exact prior (a Gaussian or a mixture), so that what is measured is the method and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fokker.likelihood_counts import Poisson
from fokker.likelihoods import Gaussian, Likelihood
from fokker.operators.base import Matrix
from fokker.problems.channel import FluxSimulator
from fokker.processes import VarianceExploding
from fokker.reference.mixture import LinearMixture
from fokker.reference.quadrature import Grid
from fokker.rng import stream
from fokker.score import MixtureScore

BOX = ((-6.0, 6.0), (-6.0, 6.0))  # holds the priors of two unknowns
MEASUREMENT_SEED = 20
FLUX_MEAN = 2.0


class Exact(NamedTuple):
    """The exact posterior of M measurements: means and standard deviations (M, d), draws (M, n, d), log p(y) (M,)."""

    mean: NDArray
    std: NDArray
    draws: NDArray
    evidence: NDArray


@dataclass(frozen=True)
class Built:
    """A case ready to be solved: exact(y, n, seed) is its posterior."""

    prior: MixtureScore
    forward: Any
    likelihood: Likelihood
    exact: Callable[[NDArray, int, int], Exact]

    def measurements(self, count: int) -> Tensor:
        """y (count, m): x from the prior, data from the likelihood; the same for every method and seed."""
        rng = stream(MEASUREMENT_SEED, "battery measurements")
        which = rng.choice(len(self.prior.weights), count, p=self.prior.weights.numpy())
        values, vectors = np.linalg.eigh(self.prior.covariances.numpy()[which])
        xi = np.sqrt(np.maximum(values, 0.0)) * rng.standard_normal(values.shape)
        x = self.prior.means.numpy()[which] + np.einsum("nij,nj->ni", vectors, xi)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return self.likelihood.sample(self.forward(torch.from_numpy(x)), generator)


@dataclass(frozen=True)
class Case:
    """A row of the battery. kind: how results are gathered; words: what it is."""

    name: str
    kind: str
    words: str
    build: Callable[[], Built]
    dimension: int


@lru_cache(maxsize=1)
def all_cases() -> dict[str, Case]:
    """Every case by name."""
    found: list[Case] = []
    for family in ("gaussian", "mixture"):
        for d in (2, 8, 64):
            for shape, m in (("under", max(1, d // 4)), ("over", d + d // 4 + 1)):
                for noise in (0.05, 0.3, 1.0) if d < 64 else (0.3,):
                    words = f"{family} prior, {d} unknowns, {m} linear data, noise {noise:g}"
                    found.append(_linear(family, d, shape, m, noise, words))
    for name, (words, forward) in NONLINEAR.items():
        about = f"mixture prior, 2 unknowns, {words}, noise"
        found += [_nonlinear(name, f"{about} {noise:g}", forward, noise) for noise in (0.1, 0.5)]
    found += [_counts(gain) for gain in (1.0, 10.0, 100.0)]
    found += [_flux(noise) for noise in (0.5, 5.0, 50.0)]
    return {case.name: case for case in found}


def prior_of(family: str, d: int) -> MixtureScore:
    """Total variance about 1 in each direction; a Gaussian with eigenvalues from 1 down to 0.03, or three of them."""
    rng = stream(0, f"battery {family} {d}")
    count = 1 if family == "gaussian" else 3
    means = np.zeros((count, d)) if count == 1 else 1.2 * rng.standard_normal((count, d)) * min(1, (8 / d) ** 0.5)
    covariances = []
    for _ in range(count):
        basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
        values = np.geomspace(1.0, 0.03, d) if count == 1 else rng.uniform(0.05, 0.4, d)
        covariances.append(basis * values @ basis.T)
    weights = np.full(count, 1.0) if count == 1 else np.array([0.5, 0.3, 0.2])
    return MixtureScore(_process(), weights, means, torch.from_numpy(np.stack(covariances)))


def _process() -> VarianceExploding:
    return VarianceExploding(sigma_max=1000.0)


def _linear(family: str, d: int, shape: str, m: int, noise: float, words: str) -> Case:
    def build() -> Built:
        prior = prior_of(family, d)
        a = stream(1, f"battery operator {d} {shape}").standard_normal((m, d)) / d**0.5
        return _linear_built(prior, a, noise)

    kind = f"{family} prior, linear, {'64' if d == 64 else 'up to 8'} unknowns"
    return Case(f"{family}-{d}-{shape}-{noise:g}", kind, words, build, d)


def _linear_built(prior: MixtureScore, a: NDArray, noise: float) -> Built:
    law = LinearMixture(prior.weights, prior.means, prior.covariances, a, noise)

    def exact(y: NDArray, n: int, seed: int) -> Exact:
        mean, std = law.moments(y)
        return Exact(mean, std, law.sample(y, n, seed), law.components(y)[2])

    return Built(prior, Matrix(a), Gaussian(noise), exact)


def _squares(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0] ** 2 + x[:, 1], x[:, 1] - 0.5 * x[:, 0]], 1)


def _modulus(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0] + 0.5 * x[:, 1], x[:, 1] - 0.3 * x[:, 0]], 1).abs()


def _clipped(x: Tensor) -> Tensor:
    return (2 * torch.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], 1)).clamp(-1.5, 1.5)


NONLINEAR: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "squares": ("a square and a sum", _squares),
    "modulus": ("moduli, without signs", _modulus),
    "clipped": ("clipped sums", _clipped),
}


def _nonlinear(name: str, words: str, forward: Callable[[Tensor], Tensor], noise: float) -> Case:
    def build() -> Built:
        return _on_grid(prior_of("mixture", 2), forward, Gaussian(noise))

    return Case(f"{name}-{noise:g}", "nonlinear, 2 unknowns", words, build, 2)


def _intensity(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(torch.stack([x[:, 0], x[:, 1], x[:, 0] + x[:, 1]], 1))


def _counts(gain: float) -> Case:
    def build() -> Built:
        return _on_grid(prior_of("mixture", 2), _intensity, Poisson(gain=gain, background=0.1))

    words = f"mixture prior, 2 unknowns, three Poisson counts of about {gain:g}"
    return Case(f"counts-{gain:g}", "Poisson counts, 2 unknowns", words, build, 2)


def _flux(noise: float) -> Case:
    def build() -> Built:
        simulator = FluxSimulator(FLUX_MEAN)
        mean = torch.full((1, len(simulator.covariance)), FLUX_MEAN, dtype=torch.float64)
        prior = MixtureScore(_process(), [1.0], mean, torch.from_numpy(simulator.covariance)[None])
        return _linear_built(prior, simulator.matrix, noise)

    words = f"boundary flux before it is clipped, 30 unknowns, 30 sensors, noise {noise:g}"
    return Case(f"flux-{noise:g}", "boundary flux, 30 unknowns", words, build, 30)


def _on_grid(prior: MixtureScore, forward: Callable[[Tensor], Tensor], likelihood: Likelihood) -> Built:
    def exact(y: NDArray, n: int, seed: int) -> Exact:
        laws = [_grid(prior, forward, likelihood, row) for row in y]
        draws = np.stack([law.sample(n, seed, case) for case, law in enumerate(laws)])
        mean, std = (np.stack([getattr(law, name) for law in laws]) for name in ("mean", "std"))
        return Exact(mean, std, draws, np.array([law.log_total for law in laws]))

    return Built(prior, forward, likelihood, exact)


def _grid(prior: MixtureScore, forward: Callable[[Tensor], Tensor], likelihood: Likelihood, y: NDArray) -> Grid:
    def log_density(points: NDArray) -> NDArray:
        x = torch.from_numpy(points)
        log = prior.log_prob(x, 0.0) + likelihood.log_prob(torch.from_numpy(y)[None], forward(x))
        return log.numpy()

    return Grid(log_density, BOX)
