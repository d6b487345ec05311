"""Posterior of a Gaussian rectified at zero, seen through a linear operator, by Hamiltonian Monte Carlo."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fokker.errors import InputError
from fokker.reference.gaussian import stream
from fokker.reference.hmc import ChainPosterior, Schedule, sample
from fokker.reference.rectified_prior import RectifiedTarget, check_latent, first_guess, laplace


class Likelihood(Protocol):
    """p(y given clean), independent from entry to entry: `Gaussian(std)`, `LogNormal`, `Saturating`."""

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """Log density of each row (B,)."""

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """Its derivative by clean, of its shape, which torch can differentiate once more."""


class _Gaussian(RectifiedTarget):
    """misfit = |y - B x|^2 / (2 sigma^2) over the sensors that are on, as x^T H x / 2 - x^T b up to a constant.

    linear: (m, 1, d), b; hessian: (m, d, d) or (1, d, d), H, shared where all cases see the same.
    """

    linear: NDArray
    hessian: NDArray

    @classmethod
    def of(
        cls, mean: NDArray, covariance: NDArray, operator: NDArray, noise: float, y: NDArray, on: NDArray
    ) -> _Gaussian:
        self = cls(mean, covariance)
        seen = (on[:1] if (on == on[0]).all() else on)[:, :, None] * operator
        self.hessian = seen.transpose(0, 2, 1) @ seen / noise**2
        self.linear = (y * on)[:, None] @ operator / noise**2  # case by case, or rounding would depend on the others
        return self

    def at(self, rows: NDArray) -> _Gaussian:
        part = object.__new__(_Gaussian)
        part.precision, part.pull, part.linear = self.precision, self.pull, self.linear[rows]
        part.hessian = self.hessian if len(self.hessian) == 1 else self.hessian[rows]
        return part

    def misfit(self, x: NDArray) -> NDArray:
        cases = len(x)
        return (x * (0.5 * (x @ self.hessian[:cases]) - self.linear[:cases])).sum(-1)

    def slope(self, x: NDArray, out: NDArray) -> NDArray:
        cases = len(x)
        np.matmul(x, self.hessian[:cases], out=out)
        out -= self.linear[:cases]
        return out

    def local(self, x: NDArray) -> tuple[NDArray, NDArray]:
        slope = self.slope(x[:, None], np.empty_like(x[:, None]))[:, 0]
        return slope, np.broadcast_to(self.hessian, (len(x), *self.hessian.shape[1:]))


class _General(RectifiedTarget):
    """misfit = -sum_j log p(y_j given (B x)_j) over the sensors j that are on. y, on: (m, k)."""

    def __init__(
        self, mean: NDArray, covariance: NDArray, operator: NDArray, likelihood: Likelihood, y: NDArray, on: NDArray
    ) -> None:
        super().__init__(mean, covariance)
        self.operator, self.likelihood, self.y, self.on = operator, likelihood, torch.from_numpy(y), on

    def at(self, rows: NDArray) -> _General:
        part = object.__new__(_General)
        part.__dict__.update(self.__dict__)
        part.y, part.on = self.y[rows], self.on[rows]
        return part

    def misfit(self, x: NDArray) -> NDArray:
        y, clean, on = self._seen(x)
        each = self.likelihood.log_prob(y.reshape(-1, 1), clean.reshape(-1, 1))
        return -np.where(on, each.reshape(clean.shape).numpy(), 0.0).sum(-1)

    def slope(self, x: NDArray, out: NDArray) -> NDArray:
        y, clean, on = self._seen(x)
        return np.matmul(np.where(on, -self.likelihood.slope(y, clean).numpy(), 0.0), self.operator, out=out)

    def local(self, x: NDArray) -> tuple[NDArray, NDArray]:
        y, clean, on = self._seen(x[:, None])
        slope = -self.likelihood.slope(y, clean.requires_grad_())
        (curvature,) = torch.autograd.grad(slope.sum(), clean)
        weight = np.where(on, np.maximum(np.nan_to_num(curvature.numpy()), 0.0), 0.0)  # the convex part
        slope_x = np.where(on, slope.detach().numpy(), 0.0) @ self.operator
        return slope_x[:, 0], (self.operator.T * weight) @ self.operator

    def _seen(self, x: NDArray) -> tuple[Tensor, Tensor, NDArray]:
        """Data (m', C, k), clean values (m', C, k) and which sensors are on (m', 1, k), of x (m', C, d)."""
        cases, clean = len(x), torch.from_numpy(x @ self.operator.T)
        return self.y[:cases, None].expand(clean.shape), clean, self.on[:cases, None]


def rectified_posterior(
    y: ArrayLike,
    mean: ArrayLike,
    covariance: ArrayLike,
    operator: ArrayLike,
    noise: float | None = None,
    *,
    omega: ArrayLike | None = None,
    likelihood: Likelihood | None = None,
    n: int = 1000,
    seed: int = 0,
    first_case: int = 0,
    chains: int = 4,
    max_iterations: int = 20_000,
) -> ChainPosterior:
    """Samples of x = max(0, g), g ~ N(mean, covariance), given y = operator x + N(0, noise^2 I).

    Hamiltonian Monte Carlo on the latent g, whose posterior is Gaussian in each orthant, whitened by the Laplace
    approximation N(mode, (K^-1 + B_A^T B_A / noise^2)^-1), A the entries positive at the mode; what counts as
    converged, and what that cannot tell, is said in `hmc.sample`.

    y: (M, k), M >= 1; mean: (d,) or a number; covariance: (d, d), positive definite; operator: (k, d); noise: standard
    deviation in the units of y; omega: (M, k) bool, sensor j of case i was read only where it is True, and y may hold
    anything elsewhere: a case that has no sensor on gets the prior; likelihood: in place of `noise`, the law of each
    y_j given (operator x)_j, an object with the methods of `Likelihood`; n: samples returned per case; max_iterations:
    cap per chain, warm-up included: cases not converged there come back with `resolved` False. So do cases whose y no x
    near the mode can give, such as y = 0 under a `LogNormal`, which happens only where all fluxes upstream are zero.
    Case i uses the random stream (seed, first_case + i) and is the same whatever other cases are in the call. noise = 0
    with an invertible operator is the closed form: all samples are the point operator^-1 y, rhat and ess NaN, no
    iteration. Raises `InputError` on shapes that disagree, non-finite values, a covariance that is not positive
    definite, both or neither of noise and likelihood, noise = 0 with an operator that has no inverse, a sensor that is
    off (the posterior would lie on a surface) or data that no x >= 0 gives, or counts out of range.
    Source: Neal, "MCMC using Hamiltonian dynamics", 2011; Vehtari et al., Bayesian Analysis 16 (2021).
    """
    start = time.perf_counter()
    m, k, b = check_latent(mean, covariance, operator)
    data, on = _check_seen(y, omega, len(b))
    if (noise is None) == (likelihood is None):
        raise InputError(f"noise is {noise} and likelihood is {likelihood!r}; exactly one of the two is accepted")
    if noise is not None and not (np.ndim(noise) == 0 and np.isfinite(noise) and noise >= 0):
        raise InputError(f"noise is {noise}; accepted is a standard deviation >= 0")
    if first_case < 0:
        raise InputError(f"first_case is {first_case}; accepted is an integer of at least 0")
    schedule, streams = Schedule(n, chains, max_iterations), [stream(seed, first_case + i) for i in range(len(data))]
    if noise == 0:
        found = _point(data, on, b, n)
    else:
        target: RectifiedTarget
        if likelihood is not None:
            _check_entries(likelihood, data, on, b @ first_guess(m, k, 1)[0])
            target = _General(m, k, b, likelihood, data, on)
        else:
            assert noise is not None
            target = _Gaussian.of(m, k, b, noise, data, on)
        start_at = laplace(target, first_guess(m, k, len(data)))
        found = sample(target, start_at.mode, start_at.covariance, streams, schedule)
    return replace(found, seconds=time.perf_counter() - start)


def _check_seen(y: ArrayLike, omega: ArrayLike | None, sensors: int) -> tuple[NDArray, NDArray]:
    """Data (M, k), zero where a sensor is off, and which are on."""
    data = np.asarray(y, dtype=np.float64)
    if data.ndim != 2 or data.shape[1] != sensors or len(data) == 0:
        raise InputError(f"y has shape {data.shape}; accepted are finite numbers of shape (M, {sensors}), M >= 1")
    on = np.ones(data.shape, dtype=bool) if omega is None else np.asarray(omega)
    if on.shape != data.shape or on.dtype != bool:
        raise InputError(f"omega is {on.dtype} of shape {on.shape}; accepted is bool of y's shape {data.shape}")
    if not np.isfinite(data[on]).all():
        raise InputError("y holds NaN or infinity where a sensor is on; accepted are finite numbers there")
    return np.where(on, data, 0.0), on


def _check_entries(likelihood: Likelihood, y: NDArray, on: NDArray, clean: NDArray) -> None:
    case = int(on.sum(1).argmax())
    rows = [torch.from_numpy(a[on[case]])[:, None] for a in (y[case], clean)]
    whole = likelihood.log_prob(*(a.T for a in rows))
    try:
        each = likelihood.log_prob(*rows)
        fits = each.shape == (len(rows[0]),) and np.isclose(float(each.sum()), float(whole.sum()), rtol=1e-6)
    except (RuntimeError, InputError):
        fits = False
    if not fits:
        raise InputError(
            f"likelihood is a {type(likelihood).__name__} that ties sensors together; "
            "accepted is a law that is independent from entry to entry"
        )


def _point(data: NDArray, on: NDArray, operator: NDArray, n: int) -> ChainPosterior:
    rows, d = operator.shape
    if not on.all():
        case = int((~on).any(1).argmax())
        raise InputError(f"noise is 0 and case {case} has {on[case].sum()} of {rows} sensors on; accepted is noise > 0")
    if rows != d or np.linalg.matrix_rank(operator) < d:
        raise InputError(f"noise is 0 and the operator {(rows, d)} has no inverse; accepted is noise > 0")
    x = np.linalg.solve(operator, data[..., None])[..., 0]
    if x.min() < -1e-6 * max(1.0, np.abs(x).max()):
        raise InputError(f"noise is 0 and y gives x = {x.min():.3g}; accepted is the y of some x >= 0")
    cases, nan = len(x), np.full(len(x), np.nan)
    samples = np.repeat(np.maximum(x, 0.0)[:, None], n, axis=1)
    done, none = np.ones(cases, dtype=bool), np.zeros(cases, dtype=int)
    return ChainPosterior(samples, nan, nan.copy(), done, np.ones(cases), none, 0.0)
