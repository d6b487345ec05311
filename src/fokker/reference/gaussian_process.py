"""Gaussian processes on points of any dimension: prior, posterior, evidence, and the exact diffusion denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.rng import Key, Rows

Kernel = Callable[[Tensor, Tensor], Any]
_ROUNDING = 16 * 2.0**-52  # times the number of points and their variance: a pivot that is rounding alone


class Basis(Protocol):
    """A field sum_k xi_k b_k(x) with independent xi ~ N(0, 1), for instance `fokker.CosineField`."""

    def basis(self, points: Tensor) -> Tensor: ...


class GaussianProcess:
    """f ~ GP(0, k) in float64.

    kernel: a function of points (P, d) and (Q, d) that returns k (P, Q), or a field with `basis(points)` (P, K), then
    k(a, b) = basis(a) basis(b)^T. Points are float64 tensors or arrays (P, d), P from 0 on.
    """

    def __init__(self, kernel: Kernel | Basis) -> None:
        if not callable(getattr(kernel, "basis", kernel)):
            raise InputError(f"kernel: got {type(kernel).__name__}, a function of two sets of points is accepted")
        self.kernel = kernel

    def covariance(self, a: Any, b: Any = None) -> Tensor:
        """k(a, b) (P, Q), with a for b where it is left out."""
        first, second = _points("points", a), _points("points", a if b is None else b)
        if first.shape[1] != second.shape[1]:
            raise InputError(
                f"points: got dimensions {first.shape[1]} and {second.shape[1]}, points of one dimension are accepted"
            )
        if hasattr(self.kernel, "basis"):
            return self.kernel.basis(first) @ self.kernel.basis(second).T
        return torch.as_tensor(self.kernel(first, second), dtype=torch.float64).to(first)

    def draw(self, points: Any, n: int, seed: int = 0) -> Tensor:
        """n draws (n, P) of f at the points, distinct or not; draw i is the same whatever n."""
        return _draw(self.covariance(points), Key(seed, Rows.grid(1, n), part="process"))

    def posterior(self, points: Any, noise: float | Tensor = 0.0) -> ProcessPosterior:
        """The law of f given y = f(points) + e, e ~ N(0, noise^2 I), or N(0, noise) for a covariance matrix (P, P).

        Points may coincide where there is noise. No point at all gives the prior. Raises InputError for a negative
        noise, a matrix of another shape, and for a covariance of the data that is singular: points that coincide
        without noise, more points than the field has coefficients, or points too near for the kernel in float64.
        """
        return ProcessPosterior(self, _points("points", points), noise)

    def denoise(
        self,
        z: Tensor,
        rho: float,
        context: Any,
        query: Any,
        noise: Tensor | GaussianProcess,
        *,
        points: Any = None,
        y: Tensor | None = None,
        std: float = 0.0,
    ) -> Tensor:
        """E[f(query) | z], z = f(context) + rho g(context) with g ~ GP(0, C): k(q, X) (k(X, X) + rho^2 C)^-1 z.

        For a process f_t = m f + sigma g these are z = f_t / m and rho = sigma / m. noise: C at the context points
        (P, P), or the process of g. With `points` (M, d) and y (..., M) also given y = f(points) + N(0, std^2 I), whose
        errors are independent of g. z: (..., P); returns (..., Q). Raises InputError as `posterior`.
        """
        where = _points("context", context)
        if isinstance(rho, bool) or not isinstance(rho, int | float) or not 0 <= rho < math.inf:
            raise InputError(f"rho: got {rho!r}, a number from 0 on is accepted")
        c = noise.covariance(where) if isinstance(noise, GaussianProcess) else _matrix(noise, len(where))
        if points is None:
            return self.posterior(where, rho**2 * c).mean(z, query)
        if y is None:
            raise InputError("y: got none, the values at `points` are accepted")
        seen = _points("points", points)
        both = torch.block_diag(rho**2 * c, _std("std", std) ** 2 * torch.eye(len(seen), dtype=torch.float64))
        lead = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
        data = torch.cat([v.to(torch.float64).expand(*lead, v.shape[-1]) for v in (z, y)], -1)
        return self.posterior(torch.cat([where, seen]), both).mean(data, query)


class ProcessPosterior:
    """The law of a `GaussianProcess` given noisy values y (..., P) at points (P, d); see its `posterior`."""

    def __init__(self, process: GaussianProcess, points: Tensor, noise: float | Tensor) -> None:
        self.process, self.points = process, points
        size = len(points)
        if isinstance(noise, Tensor) and noise.ndim:
            error = _matrix(noise, size)
        else:
            error = _std("noise", noise) ** 2 * torch.eye(size, dtype=torch.float64)
        total = process.covariance(points) + error.to(points)
        self._factor, info = torch.linalg.cholesky_ex(total)
        pivots, least = self._factor.diagonal() ** 2, _ROUNDING * size * total.diagonal()
        if bool(info) or not bool((pivots > least).all()):
            raise InputError(
                f"points: got {size} whose values follow from each other within rounding (points that coincide, or "
                "more than the field has coefficients); distinct points or a larger noise are accepted"
            )

    def mean(self, y: Tensor, query: Any) -> Tensor:
        """E[f(query) | y] (..., Q)."""
        return self._solve(self._data(y)) @ self._whiten_to(query)

    def covariance(self, query: Any) -> Tensor:
        """Cov[f(query) | y] (Q, Q), the same for every y."""
        gain = self._whiten_to(query)
        return self.process.covariance(query) - gain.T @ gain

    def std(self, query: Any) -> Tensor:
        """Standard deviations (Q,) of f(query), without the noise of a new observation."""
        return self.covariance(query).diagonal().clamp(min=0).sqrt()

    def sample(self, y: Tensor, query: Any, n: int, seed: int = 0) -> Tensor:
        """n joint samples (..., n, Q) of f at the query points; sample i of row j of y is the same whatever n."""
        mean = self.mean(y, query)
        cases = math.prod(mean.shape[:-1])
        noise = _draw(self.covariance(query), Key(seed, Rows.grid(cases, n), part="process/posterior"))
        return mean[..., None, :] + noise.reshape(*mean.shape[:-1], n, mean.shape[-1])

    def log_evidence(self, y: Tensor) -> Tensor:
        """log p(y) (...), the log marginal likelihood; 0 where there is no point."""
        white = self._solve(self._data(y))
        log_det = 2 * self._factor.diagonal().log().sum()
        return -0.5 * (white.square().sum(-1) + log_det + white.shape[-1] * math.log(2 * math.pi))

    def _data(self, y: Tensor) -> Tensor:
        values = torch.as_tensor(y).to(self.points)
        if values.ndim == 0 or values.shape[-1] != len(self.points):
            raise InputError(f"y: got shape {tuple(values.shape)}, (..., {len(self.points)}) is accepted")
        if not bool(values.isfinite().all()):
            raise InputError("y: got NaN or infinity, finite numbers are accepted")
        return values

    def _solve(self, y: Tensor) -> Tensor:
        """L^-1 y for rows (..., P)."""
        rows = y.reshape(-1, y.shape[-1]) if y.shape[-1] else y.new_zeros(math.prod(y.shape[:-1]), 0)
        return torch.linalg.solve_triangular(self._factor, rows.T, upper=False).T.reshape(y.shape)

    def _whiten_to(self, query: Any) -> Tensor:
        """L^-1 k(points, query) (P, Q)."""
        return torch.linalg.solve_triangular(self._factor, self.process.covariance(self.points, query), upper=False)


def _draw(covariance: Tensor, key: Key) -> Tensor:
    """A draw of N(0, covariance) for each row of the key; the covariance may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    # the symmetric root, which does not know signs and rotations of the eigenvectors
    return key.normal((len(covariance),)).to(covariance) @ (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _points(name: str, points: Any) -> Tensor:
    found = torch.as_tensor(points if isinstance(points, Tensor) else np.asarray(points)).to(torch.float64)
    if found.ndim != 2 or found.shape[1] == 0 or not bool(found.isfinite().all()):
        raise InputError(f"{name}: got shape {tuple(found.shape)}, finite points (P, d) are accepted")
    return found


def _matrix(noise: Any, size: int) -> Tensor:
    found = torch.as_tensor(noise).to(torch.float64)
    if found.shape != (size, size) or not bool(found.isfinite().all()) or not torch.allclose(found, found.mT):
        raise InputError(
            f"noise: got shape {tuple(found.shape)}, a number or a symmetric matrix ({size}, {size}) is accepted"
        )
    return found


def _std(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{name}: got {value!r}, a standard deviation from 0 on is accepted")
    return float(value)
