"""Targets with the prior x = max(0, g), g ~ N(mean, covariance), and their Laplace approximation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fokker.errors import InputError
from fokker.reference.gaussian import check_prior, stream

_NEWTON = 100  # steps of the search for a mode, at most
_ACROSS, _WITHIN = 3, 12  # lengths tried of each: across kinks, then up to the first
_SMALL = 1e-6  # falls of the energy that end the search


class RectifiedTarget(ABC):
    """U(g) = (g - m)^T K^-1 (g - m) / 2 + misfit(max(0, g)), up to a constant.

    A subclass gives the misfit -log p(y given x) of its cases as a function of x (m', C, d), C points for each of
    the leading m' cases, its gradient and a positive semi-definite curvature. mean: (d,); covariance: (d, d).
    """

    def __init__(self, mean: NDArray, covariance: NDArray) -> None:
        precision = np.linalg.inv(covariance)
        self.precision = (precision + precision.T) / 2
        self.pull = self.precision @ mean

    @property
    def guide(self) -> Any:
        return self

    @abstractmethod
    def at(self, rows: NDArray) -> Any:
        """The same for these cases alone."""

    @abstractmethod
    def misfit(self, x: NDArray) -> NDArray:
        """(m', C)"""

    @abstractmethod
    def slope(self, x: NDArray, out: NDArray) -> NDArray:
        """d misfit / dx (m', C, d) into `out`."""

    @abstractmethod
    def local(self, x: NDArray) -> tuple[NDArray, NDArray]:
        """Gradient (m, d) and curvature (m, d, d) of the misfit at one x (m, d) of each case."""

    def energy(self, g: NDArray) -> NDArray:
        prior = 0.5 * (g * (g @ self.precision - 2 * self.pull)).sum(-1)
        return prior + self.misfit(np.maximum(g, 0.0))

    def gradient(self, g: NDArray, out: NDArray, work: NDArray) -> NDArray:
        """dU/dg into `out`; the data pull on positive entries alone."""
        x, prior = work
        np.maximum(g, 0.0, out=x)
        self.slope(x, out)
        np.multiply(out, x > 0, out=out)
        np.matmul(g, self.precision, out=prior)
        prior -= self.pull
        out += prior
        return out

    def values(self, g: NDArray) -> NDArray:
        return np.maximum(g, 0.0)

    def refit(self, draws: NDArray) -> None:
        """Nothing: the target is its own guide."""
        return


@dataclass(frozen=True)
class Laplace:
    """N(mode, covariance) for the latent g of each case: mode (M, d), covariance (M, d, d) =
    (K^-1 + H_A)^-1, H the curvature of the misfit at the mode and A the entries that are positive there.
    """

    mode: NDArray
    covariance: NDArray

    def sample(self, n: int, seed: int = 0, first_case: int = 0) -> NDArray:
        """x = max(0, g), (M, n, d), independent; case i uses the random stream (seed, first_case + i)."""
        if n < 1:
            raise InputError(f"n is {n}; accepted is a number of samples of at least 1")
        shape = (n, self.mode.shape[1])
        noise = np.stack([stream(seed, first_case + i).standard_normal(shape) for i in range(len(self.mode))])
        return np.maximum(self.mode[:, None] + noise @ np.linalg.cholesky(self.covariance).transpose(0, 2, 1), 0.0)


def laplace(target: RectifiedTarget, guess: NDArray) -> Laplace:
    """A local mode of each case by damped Newton (Gauss-Newton) steps, and the curvature there.

    U is smooth in each orthant with kinks at g_k = 0. Entries that a step would carry across stop at zero; from there
    they leave to the side where U falls, or rest where it rises on both. Steps are halved until U falls, at last
    within the orthant, where a small one must. guess: (m, d).
    Source: Nocedal and Wright, "Numerical optimization", 2006, sections 16.5 and 16.7 (active sets).
    """
    mode, live = guess.copy(), np.arange(len(guess))
    best = _finite(target.energy(mode[:, None])[:, 0])
    for _ in range(_NEWTON):
        part, g = target.at(live), mode[live]
        side, way = _newton(target, g, *part.local(np.maximum(g, 0.0)))
        with np.errstate(divide="ignore", invalid="ignore"):
            hits = np.where(way * side < 0, -g / way, np.inf)
        reach = np.minimum(hits.min(1) * (1 + 1e-12), 1.0)  # to the first kink, or the whole step
        before, rows, clipped = best[live], np.arange(len(live)), np.zeros(len(live), dtype=bool)
        for i in range(_ACROSS + _WITHIN):
            length = np.full(rows.size, 0.5**i) if i < _ACROSS else reach[rows] * 0.5 ** (i - _ACROSS)
            trial = g[rows] + length[:, None] * way[rows]
            trial = np.where(trial * side[rows] > 0, trial, 0.0)
            energy = _finite(part.at(rows).energy(trial[:, None])[:, 0])
            better = energy < best[live[rows]]
            done = rows[better]
            mode[live[done]], best[live[done]] = trial[better], energy[better]
            clipped[done] = ((trial[better] == 0) & (g[done] != 0)).any(1)
            rows = rows[~better]
            if not rows.size:
                break
        fell = best[live] < before  # before may be infinite
        live = live[fell & (clipped | ~(best[live] > before - _SMALL))]
        if not live.size:
            break
    precision = _hessian(target, target.local(np.maximum(mode, 0.0))[1], np.where(mode > 0, 1.0, -1.0))
    inverse = np.linalg.inv(precision)
    return Laplace(mode, (inverse + inverse.transpose(0, 2, 1)) / 2)


def _newton(target: RectifiedTarget, g: NDArray, data: NDArray, curvature: NDArray) -> tuple[NDArray, NDArray]:
    """The side of its kink on which each entry moves (m, d), 0 where it rests, and the Newton step (m, d)."""
    left = (g[:, None] @ target.precision)[:, 0] - target.pull  # case by case, or rounding depends on the others
    right = left + data
    leave = np.where(-right > left, (right < 0) * 1.0, (left > 0) * -1.0)
    side = np.where(g == 0, leave, np.sign(g))
    while True:
        slope = np.where(side > 0, right, left) * (side != 0)
        way = -np.linalg.solve(_hessian(target, curvature, side), slope[..., None])[..., 0]
        back = (g == 0) & (side != 0) & (way * side <= 0)  # pulled back across by the others: rests for now
        if not back.any():
            return side, way
        side = np.where(back, 0.0, side)


def _hessian(target: RectifiedTarget, curvature: NDArray, side: NDArray) -> NDArray:
    """K^-1 + H_A (m, d, d), A the entries of positive side; the identity for entries of side zero."""
    on, free = (side > 0) * 1.0, (side != 0) * 1.0
    whole = target.precision + on[:, :, None] * curvature * on[:, None]
    return free[:, :, None] * whole * free[:, None] + (1 - free)[:, :, None] * np.eye(side.shape[1])


def _finite(energy: NDArray) -> NDArray:
    return np.where(np.isnan(energy), np.inf, energy)


def check_latent(mean: ArrayLike, covariance: ArrayLike, operator: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """As `check_prior`, and `InputError` where the covariance is not positive definite."""
    m, k, b = check_prior(mean, covariance, operator)
    low, high = np.linalg.eigvalsh(k)[[0, -1]]
    if not low > 1e-12 * abs(high):
        raise InputError(
            f"covariance has eigenvalues {low:.3g} to {high:.3g}; accepted is ratio > 1e-12 (add a nugget)"
        )
    return m, k, b


def first_guess(mean: NDArray, covariance: NDArray, cases: int) -> NDArray:
    """Where to look for modes from, (cases, d): the prior mean, or one standard deviation where that is more."""
    return np.tile(np.maximum(mean, np.sqrt(np.diag(covariance))), (cases, 1))
