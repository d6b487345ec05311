"""Posterior of a Gaussian rectified at zero, seen through an expensive nonlinear map, by few exact solves."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fokker.errors import InputError
from fokker.reference.gaussian import check_data, stream
from fokker.reference.hmc import ChainPosterior, Schedule, sample
from fokker.reference.rectified_prior import Laplace, check_latent, first_guess, laplace
from fokker.reference.surrogate import ForwardMap, LeastSquares, Map, Surrogate, gauss_newton


@dataclass(frozen=True)
class LatentPosterior(ChainPosterior):
    """As `ChainPosterior`, with the Laplace approximation it started from and what it cost, by case.

    solves, jacobians: (M,), rows asked of forward and of jacobian, the search for the mode included; failed: (M,), how
    many of them were not finite: proposals rejected, or points left out of the guide.
    """

    laplace: Laplace
    solves: NDArray
    jacobians: NDArray
    failed: NDArray


class _Exact(LeastSquares):
    """misfit = |y - F(x)|^2 / (2 sigma^2), with a `Surrogate` as its guide. y: (m, k); cases: (m,) of the call."""

    def __init__(self, mean: NDArray, covariance: NDArray, forward: ForwardMap, noise: float, y: NDArray) -> None:
        super().__init__(mean, covariance)
        self.forward, self.noise, self.y, self.cases = forward, noise, y, np.arange(len(y))
        self.surrogate = Surrogate(self, y, noise, np.sqrt(np.diag(covariance)))

    @property
    def guide(self) -> Surrogate:
        return self.surrogate

    def at(self, rows: NDArray) -> _Exact:
        part = object.__new__(_Exact)
        part.__dict__.update(self.__dict__)
        part.y, part.cases, part.surrogate = self.y[rows], self.cases[rows], self.surrogate.at(rows)
        return part

    def misfit(self, x: NDArray) -> NDArray:
        values = self.forward.values(x, self.cases[: len(x)])
        return 0.5 * ((values - self.y[: len(x), None]) ** 2).sum(-1) / self.noise**2

    def local(self, x: NDArray) -> tuple[NDArray, NDArray]:
        residual, slopes = (a[:, 0] for a in self._residual(x[:, None]))
        good = np.isfinite(residual).all(1) & np.isfinite(slopes).all((1, 2))  # elsewhere the prior alone counts
        residual, slopes = np.where(good[:, None], residual, 0.0), np.where(good[:, None, None], slopes, 0.0)
        return gauss_newton(residual, slopes, self.noise)

    def _residual(self, x: NDArray) -> tuple[NDArray, NDArray]:
        """F(x) - y (m', C, k) and the Jacobian (m', C, k, d)."""
        cases = self.cases[: len(x)]
        return self.forward.values(x, cases) - self.y[: len(x), None], self.forward.slopes(x, cases)

    def refit(self, draws: NDArray) -> None:
        """The guide anew from exact values and Jacobians at 2 d draws of each case, evenly taken from (m, S, d)."""
        some = draws[:, np.linspace(0, draws.shape[1] - 1, 2 * draws.shape[2]).astype(int)]
        for i, points in enumerate(np.maximum(some, 0.0)):
            case = self.cases[i : i + 1]
            values, slopes = (ask(points[None], case)[0] for ask in (self.forward.values, self.forward.slopes))
            self.surrogate.fit(i, points, values, slopes)


def latent_laplace(
    y: ArrayLike, mean: ArrayLike, covariance: ArrayLike, forward: Map, jacobian: Map, noise: float
) -> Laplace:
    """The Laplace approximation alone, N(mode, (K^-1 + A^T J^T J A / noise^2)^-1) on the latent g, A the entries
    positive at the mode: a few solves per case, wrong by what its samples show beside `latent_posterior`'s.

    Arguments and errors as for `latent_posterior`.
    """
    return _start(y, mean, covariance, forward, jacobian, noise)[1]


def latent_posterior(
    y: ArrayLike,
    mean: ArrayLike,
    covariance: ArrayLike,
    forward: Map,
    jacobian: Map,
    noise: float,
    *,
    n: int = 1000,
    seed: int = 0,
    first_case: int = 0,
    chains: int = 4,
    max_iterations: int = 5_000,
) -> LatentPosterior:
    """Samples of x = max(0, g), g ~ N(mean, covariance), given y = forward(x) + N(0, noise^2 I).

    Hamiltonian Monte Carlo on the latent g with one forward solve per iteration and chain: trajectories follow a
    quadratic model of `forward`, made for each case by regressing exact Jacobians on x at points drawn from the
    Laplace approximation, then at points drawn with the model; the Metropolis test uses `forward` itself. Leapfrog
    steps by any force that depends on position alone are reversible and preserve volume, so the samples are exact
    however wrong the model or `jacobian`: that shows in the acceptance. Long trajectories are shortened where fewer
    than 65 % are accepted. What counts as converged, and what that cannot tell, is said in `hmc.sample`.

    y: (M, k), M >= 1; mean: (d,) or a number; covariance: (d, d), positive definite; forward: x (N, d), all >= 0, to
    (N, k), row by row, in float64, with NaN in a row that could not be solved: a proposal there is rejected, as if
    its probability were zero, and counted; jacobian: x (N, d) to (N, k, d), likewise; both are given 1 to
    max(256 chains, 2 d) rows at a time; noise: standard deviation > 0 in the units of y; n: samples returned per case;
    max_iterations: cap per chain on iterations that ask `forward`: cases not converged there come back with `resolved`
    False. Case i uses the random stream (seed, first_case + i) and is the same whatever other cases are in the call,
    if a row of `forward` is. Raises `InputError` on shapes that disagree, non-finite values, a covariance that is not
    positive definite, noise that is not positive, a forward map not finite where the search for a mode begins,
    max(mean, prior standard deviation), or counts out of range.
    Source: Neal, "MCMC using Hamiltonian dynamics", 2011, section 5.5 (approximate forces); Rasmussen, "Gaussian
    processes to speed up hybrid Monte Carlo", 2003.
    """
    begin = time.perf_counter()
    schedule = Schedule(n, chains, max_iterations, frugal=True)
    if first_case < 0:
        raise InputError(f"first_case is {first_case}; accepted is an integer of at least 0")
    target, start = _start(y, mean, covariance, forward, jacobian, noise)
    streams = [stream(seed, first_case + i) for i in range(len(start.mode))]
    design = np.stack([s.standard_normal((2 * start.mode.shape[1], start.mode.shape[1])) for s in streams])
    target.refit(start.mode[:, None] + design @ np.linalg.cholesky(start.covariance).transpose(0, 2, 1))
    found = sample(target, start.mode, start.covariance, streams, schedule)
    asked, law = target.forward, vars(found) | {"seconds": time.perf_counter() - begin}
    return LatentPosterior(**law, laplace=start, solves=asked.solves, jacobians=asked.jacobians, failed=asked.failed)


def _start(
    y: ArrayLike, mean: ArrayLike, covariance: ArrayLike, forward: Map, jacobian: Map, noise: float
) -> tuple[_Exact, Laplace]:
    m, k, _ = check_latent(mean, covariance, np.zeros((1, len(np.atleast_1d(covariance)))))
    if not (np.ndim(noise) == 0 and np.isfinite(noise) and noise > 0):
        raise InputError(f"noise is {noise}; accepted is a standard deviation > 0")
    guess = first_guess(m, k, 1)
    value, slope = (np.asarray(f(guess.copy()), dtype=np.float64) for f in (forward, jacobian))
    if value.ndim != 2 or slope.shape != (1, value.shape[1], len(m)):
        raise InputError(
            f"forward and jacobian give shapes {value.shape} and {slope.shape} for x {guess.shape}; "
            "accepted are (N, k) and (N, k, d)"
        )
    if not (np.isfinite(value).all() and np.isfinite(slope).all()):
        raise InputError(f"forward or jacobian is not finite at x = {guess[0].max():.3g}; accepted is a map that is")
    data = check_data(y, value.shape[1])
    target = _Exact(m, k, ForwardMap(forward, jacobian, len(data)), noise, data)
    return target, laplace(target, np.repeat(guess, len(data), axis=0))
