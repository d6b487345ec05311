"""A Gaussian restricted to an orthant: independent exact samples, and its probability, by minimax tilting."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import root
from scipy.special import log_ndtr, ndtri_exp

from fokker.errors import InputError

_BATCH, _LONGEST = 8192, 10**7  # proposals at a time, and for one case altogether


class Orthant:
    """N(0, covariance) given the sign of every entry: exact, independent samples by rejection.

    With s_i g_i = (L x)_i, L the Cholesky factor of the signed covariance, the orthant is x_k > t_k(x_1 .. x_{k-1}).
    Proposals draw x_k ~ N(mu_k, 1) beyond t_k in turn; log of target over proposal is

        psi(x, mu) = sum_k mu_k^2 / 2 - mu_k x_k + log P(Z > t_k(x) - mu_k),

    convex in mu and concave in x, so its saddle point gives the mu whose bound on the weight is least: draws are
    accepted with probability exp(psi(x, mu) - psi*). Variables are taken in the order of least probability first.

    covariance: (m, m), positive definite; signs: (m,) of -1 and 1. Raises InputError otherwise, and where the saddle
    point is not found. Source: Botev, "The normal law under linear restrictions", JRSS B 79 (2017).
    """

    def __init__(self, covariance: ArrayLike, signs: ArrayLike) -> None:
        c, s = np.asarray(covariance, np.float64), np.asarray(signs, np.float64)
        if c.ndim != 2 or c.shape != (s.size, s.size) or s.ndim != 1 or s.size == 0 or not (np.abs(s) == 1).all():
            raise InputError(
                f"covariance and signs: got shapes {c.shape} and {s.shape}, (m, m) and m of -1 or 1 are accepted"
            )
        self._signs, signed = s, c * np.outer(s, s)
        self._order, factor = _ordered(signed)
        self._scale = factor.diagonal().copy()
        self._slope = np.tril(factor / self._scale[:, None], -1)
        self._factor, size = factor, s.size
        found = root(self._gradient, np.zeros(2 * (size - 1)), jac=self._jacobian) if size > 1 else None
        if found is not None and np.abs(self._gradient(found.x)).max() > 1e-6:
            raise InputError(f"covariance: got a Gaussian in {size} dimensions too near to singular; no samples of it")
        half = np.zeros(0) if found is None else found.x
        self._mu = np.append(half[size - 1 :], 0.0)
        x = np.append(half[: size - 1], 0.0)
        self.log_bound = float(self._psi(x[None], -x @ self._slope.T)[0])
        """log of an upper bound on the probability of the orthant, usually close."""
        self.acceptance = math.nan
        """Share of the proposals of the last `sample` that were accepted."""

    def sample(self, n: int, rng: np.random.Generator) -> tuple[NDArray, float]:
        """n samples (n, m), and the log of an unbiased estimate of the orthant's probability from all proposals."""
        kept: list[NDArray] = []
        tried, total, count = 0, 0.0, 0
        while count < n:
            if tried >= _LONGEST:
                raise InputError(f"covariance: {count} of {tried} proposals fell in the orthant, too few to go on")
            x, thresholds = self._propose(rng)
            log_weight = self._psi(x, thresholds) - self.log_bound
            some = x[np.log(rng.random(_BATCH)) < log_weight]
            kept.append(some)
            tried, count, total = tried + _BATCH, count + len(some), total + np.exp(log_weight).sum()
        out = np.empty((n, self._signs.size))
        out[:, self._order] = np.concatenate(kept)[:n] @ self._factor.T
        self.acceptance = count / tried
        return out * self._signs, self.log_bound + math.log(total / tried)

    def _propose(self, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        x, thresholds = np.zeros((2, _BATCH, self._signs.size))
        for k, mu in enumerate(self._mu):
            thresholds[:, k] = -x[:, :k] @ self._slope[k, :k]
            tail = log_ndtr(mu - thresholds[:, k])
            x[:, k] = mu - ndtri_exp(tail + np.log1p(-rng.random(_BATCH)))
        return x, thresholds

    def _psi(self, x: NDArray, thresholds: NDArray) -> NDArray:
        mu = self._mu
        return (0.5 * mu**2 - x * mu + log_ndtr(mu - thresholds)).sum(-1)

    def _parts(self, both: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """x and mu with the zeros of the last variable, the hazard h of each Gaussian tail, and h (h - z)."""
        size = self._signs.size
        x, mu = np.append(both[: size - 1], 0.0), np.append(both[size - 1 :], 0.0)
        z = -self._slope @ x - mu
        hazard = np.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - log_ndtr(-z))
        return x, mu, hazard, hazard * (hazard - z)

    def _gradient(self, both: NDArray) -> NDArray:
        x, mu, hazard, _ = self._parts(both)
        return np.concatenate([(self._slope.T @ hazard - mu)[:-1], (mu - x + hazard)[:-1]])

    def _jacobian(self, both: NDArray) -> NDArray:
        *_, curve = self._parts(both)
        eye, bent = np.eye(len(curve)), curve[:, None] * self._slope
        across = (-self._slope.T * curve - eye)[:-1, :-1]
        return np.block([[-(self._slope.T @ bent)[:-1, :-1], across], [across.T, (eye - np.diag(curve))[:-1, :-1]]])


def _ordered(c: NDArray) -> tuple[NDArray, NDArray]:
    """An order of the variables and the Cholesky factor in it: next comes the one least likely to be positive, given
    the mean values of those before. Source: Gibson, Glasbey and Elston 1994."""
    size, c = len(c), c.copy()
    order, factor, x = np.arange(size), np.zeros((size, size)), np.zeros(size)
    for j in range(size):
        left = c.diagonal()[j:] - (factor[j:, :j] ** 2).sum(1)
        if not left.min() > 1e-14 * c.diagonal().max():
            raise InputError("covariance: got a singular matrix, a positive definite one is accepted")
        threshold = -(factor[j:, :j] @ x[:j]) / np.sqrt(left)
        k = j + int(np.argmax(threshold))
        for rows in (order, factor, c):
            rows[[j, k]] = rows[[k, j]]
        c[:, [j, k]] = c[:, [k, j]]
        factor[j, j] = math.sqrt(c[j, j] - (factor[j, :j] ** 2).sum())
        factor[j + 1 :, j] = (c[j + 1 :, j] - factor[j + 1 :, :j] @ factor[j, :j]) / factor[j, j]
        t = -(factor[j, :j] @ x[:j]) / factor[j, j]
        x[j] = math.exp(-0.5 * t * t - 0.5 * math.log(2 * math.pi) - float(log_ndtr(-t)))
    return order, factor
