"""Posterior of a Gaussian rectified at zero, seen through a linear operator, by Hamiltonian Monte Carlo."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fokker.diagnostics.chains import ess, split_rhat
from fokker.errors import InputError
from fokker.reference.gaussian import LinearGaussian, check_data, check_prior, stream

_BLOCK = 50  # iterations between two looks at the step sizes; random numbers are drawn for a block at a time
_CASES = 256  # cases run together: bounds memory, changes no result
_DRAWS = 250  # draws kept per chain and stage, at least
_FIRST = 200  # warm-up before the first stage
_LONGEST = 100  # leapfrog steps in one trajectory, at most
_GOLDEN = (5**0.5 - 1) / 2
_RHAT, _ESS = 1.01, 400.0
_ACCEPT = 0.9
_LENGTH = 2.5  # longest trajectory, in posterior standard deviations; a Gaussian's optimum is pi / 2


@dataclass(frozen=True)
class RectifiedPosterior:
    """Samples and their convergence. A case with `resolved` False must not be used as a reference.

    samples: (M, n, d), x, evenly thinned from all chains of the last stage; rhat: (M,), largest rank-normalised
    split R-hat of the x that vary, NaN where none does; ess: (M,), smallest bulk effective sample size of all
    kept draws, likewise; resolved: (M,), rhat <= 1.01 and ess >= 400; acceptance: (M,), mean of the last stage;
    iterations: (M,), per chain, warm-up included; seconds: wall time of the call.
    """

    samples: NDArray
    rhat: NDArray
    ess: NDArray
    resolved: NDArray
    acceptance: NDArray
    iterations: NDArray
    seconds: float


class _Target:
    """U(g) = (g - m)^T K^-1 (g - m) / 2 + |y - B max(0, g)|^2 / (2 sigma^2), up to a constant."""

    def __init__(self, mean: NDArray, covariance: NDArray, operator: NDArray, noise: float) -> None:
        precision = np.linalg.inv(covariance)
        self.precision = (precision + precision.T) / 2
        self.pull = self.precision @ mean
        self.hessian = operator.T @ operator / noise**2

    def energy(self, g: NDArray, linear: NDArray) -> NDArray:
        """U of g (..., d); linear = B^T y / sigma^2, broadcastable to g."""
        x = np.maximum(g, 0.0)
        prior = g * (g @ self.precision - 2 * self.pull)
        return 0.5 * (prior + x * (x @ self.hessian - 2 * linear)).sum(-1)

    def gradient(self, g: NDArray, linear: NDArray, out: NDArray, work: NDArray) -> NDArray:
        """dU/dg into `out`; the data pull on positive entries alone. `work` holds two scratch arrays like g."""
        x, prior = work
        np.maximum(g, 0.0, out=x)
        np.matmul(x, self.hessian, out=out)
        out -= linear
        np.multiply(out, x > 0, out=out)
        np.matmul(g, self.precision, out=prior)
        prior -= self.pull
        out += prior
        return out


@dataclass
class _Chains:
    """The chains of m cases: g (m, C, d), step sizes (m, C), metric (m, d, d) and what one case needs besides."""

    g: NDArray
    step: NDArray
    metric: NDArray
    linear: NDArray
    streams: list[np.random.Generator]

    def at(self, rows: NDArray) -> "_Chains":
        streams = [self.streams[i] for i in rows]
        return _Chains(self.g[rows], self.step[rows], self.metric[rows], self.linear[rows], streams)


def rectified_posterior(
    y: ArrayLike,
    mean: ArrayLike,
    covariance: ArrayLike,
    operator: ArrayLike,
    noise: float,
    *,
    n: int = 1000,
    seed: int = 0,
    first_case: int = 0,
    chains: int = 4,
    max_iterations: int = 20_000,
) -> RectifiedPosterior:
    """Samples of x = max(0, g), g ~ N(mean, covariance), given y = operator x + N(0, noise^2 I).

    Hamiltonian Monte Carlo on the latent g, whose posterior is Gaussian in each orthant. Leapfrog with a Metropolis
    test leaves it invariant exactly, whatever the step size, although the gradient jumps at g_k = 0: a leapfrog
    step is a composition of shears, so it is reversible and preserves volume. Chains start from 1.5 times the
    spread of the Laplace approximation N(mode, (K^-1 + B_A^T B_A / noise^2)^-1), A the entries positive at the
    mode, which is also the first metric. Then stages, each twice as long as the one before: metric and step size
    are taken from earlier draws and frozen, only the draws of the stage count, and a case is finished when all its
    x that vary have rank-normalised split R-hat <= 1.01 and effective sample size >= 400. Step sizes are jittered
    by random factors in [0.6, 1.2], trajectory lengths by a fixed equidistributed sequence. All chains start around
    one mode, so R-hat cannot tell of another mode behind a barrier that none of them crossed.

    y: (M, k), M >= 1; mean: (d,) or a number; covariance: (d, d), positive definite; operator: (k, d); noise:
    standard deviation in the units of y; n: samples returned per case; max_iterations: cap per chain, warm-up
    included: cases not converged there come back with `resolved` False. Case i uses the random stream (seed,
    first_case + i) and is the same whatever other cases are in the call. noise = 0 with an invertible operator is
    the closed form: all samples are the point operator^-1 y, rhat and ess NaN, no iteration. Raises `InputError` on
    shapes that disagree, non-finite values, a covariance that is not positive definite, noise = 0 with an operator
    that has no inverse or data that no x >= 0 gives, or counts out of range.
    Source: Neal, "MCMC using Hamiltonian dynamics", 2011; Vehtari et al., Bayesian Analysis 16 (2021).
    """
    start = time.perf_counter()
    m, k, b = check_prior(mean, covariance, operator)
    data = check_data(y, len(b))
    if not (np.ndim(noise) == 0 and np.isfinite(noise) and noise >= 0):
        raise InputError(f"noise is {noise}; accepted is a standard deviation >= 0")
    for name, value, least in (("n", n, 1), ("chains", chains, 2), ("first_case", first_case, 0)):
        if value < least:
            raise InputError(f"{name} is {value}; accepted is an integer of at least {least}")
    schedule = _Schedule(n, chains, max_iterations)
    if (least := schedule.upto(0)) > max_iterations:
        raise InputError(f"max_iterations is {max_iterations}; accepted is at least {least}, one stage")
    low, high = np.linalg.eigvalsh(k)[[0, -1]]
    if not low > 1e-12 * abs(high):
        raise InputError(
            f"covariance has eigenvalues {low:.3g} to {high:.3g}; accepted is ratio > 1e-12 (add a nugget)"
        )
    if noise == 0:
        samples, rhat, size, acceptance, iterations = _point(data, b, n)
    else:
        target, guess = _Target(m, k, b, noise), LinearGaussian(m, k, b, noise).mean(data)
        parts = []
        for i in range(0, len(data), _CASES):
            some = slice(i, i + _CASES)
            streams = [stream(seed, first_case + j) for j in range(len(data))[some]]
            linear = data[some, None] @ b / noise**2  # case by case, or rounding would depend on the others
            parts.append(_run(target, guess[some], linear, streams, schedule))
        samples, rhat, size, acceptance, iterations = (np.concatenate(a) for a in zip(*parts))
    done, seconds = _converged(rhat, size), time.perf_counter() - start
    return RectifiedPosterior(samples, rhat, size, done, acceptance, iterations, seconds)


def _point(data: NDArray, operator: NDArray, n: int) -> tuple[NDArray, ...]:
    rows, d = operator.shape
    if rows != d or np.linalg.matrix_rank(operator) < d:
        raise InputError(f"noise is 0 and the operator {(rows, d)} has no inverse; accepted is noise > 0")
    x = np.linalg.solve(operator, data[..., None])[..., 0]
    if x.min() < -1e-6 * max(1.0, np.abs(x).max()):
        raise InputError(f"noise is 0 and y gives x = {x.min():.3g}; accepted is the y of some x >= 0")
    cases, nan = len(x), np.full(len(x), np.nan)
    samples = np.repeat(np.maximum(x, 0.0)[:, None], n, axis=1)
    return samples, nan, nan.copy(), np.ones(cases), np.zeros(cases, dtype=int)


@dataclass(frozen=True)
class _Schedule:
    """Iterations: a warm-up, then stages of an adaptation and 2^stage thinned iterations per kept draw."""

    n: int
    chains: int
    cap: int

    @property
    def draws(self) -> int:
        """Kept per chain, a whole number of blocks."""
        return -(-max(_DRAWS, -(-self.n // self.chains)) // _BLOCK) * _BLOCK

    def adapt(self, stage: int) -> int:
        return 100 * 2 ** min(stage, 2)

    def upto(self, stage: int) -> int:
        return _FIRST + sum(self.adapt(s) + self.draws * 2**s for s in range(stage + 1))


def _converged(rhat: NDArray, size: NDArray) -> NDArray:
    return ~(rhat > _RHAT) & ~(size < _ESS)  # NaN, nothing varies, counts as converged


def _run(
    target: _Target, guess: NDArray, linear: NDArray, streams: list[np.random.Generator], schedule: _Schedule
) -> tuple[NDArray, ...]:
    """Stages until each case has converged or the cap is reached; see `rectified_posterior`."""
    cases, d = guess.shape
    count = schedule.chains
    mode, metric = _laplace(target, guess, linear)
    spread = np.stack([s.standard_normal((count, d)) for s in streams])
    g = mode + 1.5 * spread @ np.linalg.cholesky(metric).transpose(0, 2, 1)
    state = _Chains(g, np.full((cases, count), 0.1), metric, linear, streams)
    # Chain by chain at first: a chain far out in a stiff region would stand still at a step that suits the others.
    draws, _ = _advance(target, state, _FIRST, keep=1, tune=lambda rate: rate)
    draws = draws[:, :, _FIRST // 2 :]
    state.step[:] = state.step.min(1, keepdims=True)

    samples, turn = (
        np.empty((cases, schedule.n, d)),
        np.arange(schedule.n),
    )  # one sample of each chain in turn
    rhat, size, acceptance = (np.full(cases, np.nan) for _ in range(3))
    iterations = np.empty(cases, dtype=int)
    live, stage = np.arange(cases), 0
    while live.size and schedule.upto(stage) <= schedule.cap:
        state.metric = _pooled_covariance(draws, state.metric)
        _advance(target, state, schedule.adapt(stage), keep=0, tune=lambda rate: rate.mean(1, keepdims=True))
        draws, rate = _advance(target, state, schedule.draws * 2**stage, keep=2**stage, tune=None)
        x = np.maximum(draws, 0.0)
        by_chain = x.transpose(1, 2, 0, 3)
        rhat[live] = np.fmax.reduce(split_rhat(by_chain), axis=-1)
        size[live] = np.fmin.reduce(ess(by_chain), axis=-1)
        acceptance[live], iterations[live] = rate, schedule.upto(stage)
        samples[live] = x[:, turn % count, turn // count * schedule.draws // -(-schedule.n // count)]
        left = np.flatnonzero(~_converged(rhat[live], size[live]))
        live, state, draws, stage = live[left], state.at(left), draws[left], stage + 1
    return samples, rhat, size, acceptance, iterations


def _laplace(target: _Target, guess: NDArray, linear: NDArray) -> tuple[NDArray, NDArray]:
    """A local mode of U (m, 1, d) by damped Newton steps, and the inverse of K^-1 + B_A^T B_A / sigma^2 there."""
    mode = guess[:, None].copy()
    best = target.energy(mode, linear)

    def precision() -> NDArray:
        on = (mode > 0).astype(float)
        return target.precision + on.transpose(0, 2, 1) * target.hessian * on

    for _ in range(40):
        goal = np.linalg.solve(precision(), (target.pull + (mode > 0) * linear).transpose(0, 2, 1))
        way, length, found = goal.transpose(0, 2, 1) - mode, 1.0, np.zeros(best.shape, dtype=bool)
        for _ in range(12):
            trial = mode + length * way
            energy = target.energy(trial, linear)
            better = (energy < best) & ~found
            mode = np.where(better[..., None], trial, mode)
            best, found, length = np.where(better, energy, best), found | better, length / 2
        if not found.any():
            break
    inverse = np.linalg.inv(precision())
    return mode, (inverse + inverse.transpose(0, 2, 1)) / 2


def _pooled_covariance(draws: NDArray, metric: NDArray) -> NDArray:
    """Covariance of all chains' draws (m, C, D, d), mixed with the metric before as if that were 100 more draws."""
    flat = draws.reshape(len(draws), -1, draws.shape[-1])
    flat = flat - flat.mean(1, keepdims=True)
    weight = flat.shape[1] / (flat.shape[1] + 100)
    return weight / flat.shape[1] * (flat.transpose(0, 2, 1) @ flat) + (1 - weight) * metric


def _advance(
    target: _Target, state: _Chains, iterations: int, keep: int, tune: Callable[[NDArray], NDArray] | None
) -> tuple[NDArray, NDArray]:
    """Run all chains; every keep-th draw (m, C, D, d) (keep = 0: none) and each case's acceptance (m,).

    tune turns the acceptance (m, C) into what the step sizes follow: Robbins-Monro towards 0.9, then their mean
    over the second half; None freezes them.
    """
    m, count, d = state.g.shape
    draws = np.empty((m, count, iterations // keep if keep else 0, d))
    total, log_steps = np.zeros((m, count)), np.zeros((m, count))
    roots = np.linalg.inv(np.linalg.cholesky(state.metric))
    for block in range(0, iterations, _BLOCK):
        # Longest trajectories first: the cases still moving after l steps are then a leading slice.
        lengths = _LENGTH / np.exp(np.log(state.step).mean(1))
        order = np.argsort(-lengths, kind="stable")
        part, root, lengths = state.at(order), roots[order], lengths[order]
        normal = np.stack([s.standard_normal((_BLOCK, count, d)) for s in part.streams])
        uniform = np.stack([s.random((_BLOCK, count, 2)) for s in part.streams])
        work = np.empty((4, *part.g.shape))
        for j in range(_BLOCK):
            i = block + j
            leaps = np.ceil(lengths * (0.4 + 0.6 * ((i * _GOLDEN) % 1))).astype(int)
            step = part.step * (0.6 + 0.6 * uniform[:, j, :, 1])
            momentum = normal[:, j] @ root  # N(0, metric^-1)
            new, change = _trajectory(target, part, momentum, step, np.minimum(leaps, _LONGEST), work)
            rate = np.exp(np.minimum(0.0, np.nan_to_num(change, nan=-np.inf)))
            np.copyto(part.g, new, where=(uniform[:, j, :, 0] < rate)[..., None])
            total[order] += rate
            if tune is not None:
                gain = 0.5 / (1 + i / 8) ** 0.6
                part.step = np.clip(part.step * np.exp(gain * (tune(rate) - _ACCEPT)), 1e-4, 1.2)
                if 2 * i >= iterations:
                    log_steps[order] += np.log(part.step)
            if keep and (i + 1) % keep == 0:
                draws[order, :, (i + 1) // keep - 1] = part.g
        state.g[order], state.step[order] = part.g, part.step
    if tune is not None:
        state.step = np.exp(2 * log_steps / iterations)
    return draws, total.mean(1) / iterations


def _trajectory(
    target: _Target, part: _Chains, momentum: NDArray, step: NDArray, leaps: NDArray, work: NDArray
) -> tuple[NDArray, NDArray]:
    """Leapfrog end points (m, C, d) and the fall in total energy (m, C); leaps (m,) must not increase."""
    speed, force, scratch = work[0], work[1], work[2:]
    size = step[..., None]
    np.matmul(momentum, part.metric, out=speed)
    before = target.energy(part.g, part.linear) + 0.5 * (momentum * speed).sum(-1)
    # In w = step * p the drift needs no step size: g += metric w, w -= step^2 grad U.
    w, squared, g = momentum * size, size**2, part.g.copy()
    w -= 0.5 * squared * target.gradient(g, part.linear, force, scratch)
    moving = (leaps[:, None] > np.arange(leaps[0] + 1)).sum(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for now, later in pairwise(moving):
            g[:now] += np.matmul(w[:now], part.metric[:now], out=speed[:now])
            target.gradient(g[:now], part.linear[:now], force[:now], scratch[:, :now])
            force[:now] *= squared[:now]
            force[later:now] *= 0.5
            w[:now] -= force[:now]
        w /= size
        after = target.energy(g, part.linear) + 0.5 * (w * np.matmul(w, part.metric, out=speed)).sum(-1)
        return g, before - after
