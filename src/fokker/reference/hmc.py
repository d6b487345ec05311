"""Hamiltonian Monte Carlo for many posteriors of one dimension at once, in rounds, until each has converged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fokker.diagnostics.chains import ess, split_rhat
from fokker.errors import InputError

_BLOCK = 50  # iterations between two looks at the trajectory lengths; random numbers are drawn for a block at a time
_CASES = 256  # cases run together: bounds memory, changes no result
_DRAWS = 250  # draws kept per chain and round, at least
_FIRST = 200  # warm-up before the first round
_PIECES = 4  # a frugal round looks for convergence this often before it adapts anew; twice as often in the next
_LONGEST = 100  # leapfrog steps in one trajectory, at most
_GOLDEN = (5**0.5 - 1) / 2
_RHAT, _ESS = 1.01, 400.0
_ACCEPT = 0.9  # what step sizes are tuned to
_ENOUGH = 0.65  # below it the trajectories of a guided target are shortened
_LENGTH = 2.5  # longest trajectory, in posterior standard deviations; a Gaussian's optimum is pi / 2


class Target(Protocol):
    """Densities exp(-energy(g)) of m cases over g (d,), each up to a constant.

    g is (m', C, d), C chains of each of the leading m' <= m cases. `guide` is the target itself, or a cheap
    approximation of it: then warm-up and step sizes use the guide alone, trajectories follow its gradient, and only
    the Metropolis test asks the target, once per trajectory. That is exact whatever the guide: see `sample`.
    """

    @property
    def guide(self) -> Target: ...

    def at(self, rows: NDArray) -> Any:
        """The same for these cases (indices, or a slice) alone."""

    def energy(self, g: NDArray) -> NDArray:
        """U (m', C); infinite or NaN where the density is zero or cannot be had."""

    def gradient(self, g: NDArray, out: NDArray, work: NDArray) -> NDArray:
        """dU/dg into `out`; `work` holds two scratch arrays like g."""

    def values(self, g: NDArray) -> NDArray:
        """What is judged and returned, a function of g (..., d) entry by entry."""

    def refit(self, draws: NDArray) -> None:
        """Make the guide anew around draws of all chains (m, S, d); nothing where it is the target itself."""


@dataclass(frozen=True)
class ChainPosterior:
    """Samples and their convergence. A case with `resolved` False must not be used as a reference.

    samples: (M, n, d), x, evenly thinned from all chains of the last round; rhat: (M,), largest rank-normalised
    split R-hat of the x that vary, NaN where none does; ess: (M,), smallest bulk effective sample size of all
    kept draws, likewise; resolved: (M,), rhat <= 1.01 and ess >= 400; acceptance: (M,), mean of the last round;
    iterations: (M,), per chain, warm-up included; seconds: wall time. Where no start has a density above zero,
    samples are NaN, rhat is infinite, ess 0.
    """

    samples: NDArray
    rhat: NDArray
    ess: NDArray
    resolved: NDArray
    acceptance: NDArray
    iterations: NDArray
    seconds: float


@dataclass(frozen=True)
class Schedule:
    """Rounds: an adaptation, then draws that count, thinned to as many in each round as in the first.

    frugal: iterations are what costs. Warm-up is left to the guide, no draw is thinned away, and a round looks for
    convergence every time it has as many new draws.
    """

    n: int
    chains: int
    cap: int
    frugal: bool = False

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("chains", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; accepted is an integer of at least {least}")
        if self.cap < (least := self.first + self.adapt(0) + self.draws):
            raise InputError(f"max_iterations is {self.cap}; accepted is at least {least}, one round")

    @property
    def first(self) -> int:
        return 0 if self.frugal else _FIRST

    @property
    def draws(self) -> int:
        """Per chain, a whole number of blocks."""
        return -(-max(_DRAWS, -(-self.n // self.chains)) // _BLOCK) * _BLOCK

    def adapt(self, turn: int) -> int:
        return 100 * 2 ** min(turn, 2)

    def pieces(self, turn: int) -> list[int]:
        """Iterations of a round, from one look at the convergence to the next."""
        return [self.draws] * (_PIECES * 2**turn) if self.frugal else [self.draws * 2**turn]

    def keep(self, turn: int) -> int:
        return 1 if self.frugal else 2**turn


@dataclass
class Chains:
    """The chains of m cases: g (m, C, d), step sizes (m, C), metric (m, d, d), longest trajectories (m,)."""

    target: Target
    g: NDArray
    step: NDArray
    metric: NDArray
    length: NDArray
    streams: list[np.random.Generator]

    def at(self, rows: NDArray) -> Chains:
        streams, target = [self.streams[i] for i in rows], self.target.at(rows)
        return Chains(target, self.g[rows], self.step[rows], self.metric[rows], self.length[rows], streams)


def sample(
    target: Target, mode: NDArray, covariance: NDArray, streams: list[np.random.Generator], schedule: Schedule
) -> ChainPosterior:
    """Chains for every case until it has converged, or the schedule's cap is reached.

    A leapfrog step is a composition of shears: it is reversible and preserves volume for any force that depends on
    the position alone, so the Metropolis test with the target's energy leaves the target invariant exactly,
    whatever the step size, though the gradient jumps or is another function's. Chains start from 1.5 times the
    spread of N(mode, covariance), which is also the first metric. Then rounds, each twice as long as the one
    before: metric, step sizes and guide are taken from earlier draws and frozen, only the draws of the round count,
    and a case is done when all its values that vary have rank-normalised split R-hat <= 1.01 and effective sample
    size >= 400. Step sizes are jittered by random factors, trajectory lengths by a fixed equidistributed sequence.
    All chains start around one mode: R-hat cannot tell of another behind a barrier that none of them crossed.

    mode: (m, d); covariance: (m, d, d); streams: one per case, which is the same whatever other cases are there.
    Source: Neal, "MCMC using Hamiltonian dynamics", 2011; Vehtari et al., Bayesian Analysis 16 (2021).
    """
    begin, parts = time.perf_counter(), []
    for i in range(0, len(mode), _CASES):
        some = np.arange(i, min(i + _CASES, len(mode)))
        spread = np.stack([streams[j].standard_normal((schedule.chains, mode.shape[1])) for j in some])
        g = mode[some, None] + 1.5 * spread @ np.linalg.cholesky(covariance[some]).transpose(0, 2, 1)
        step, length = np.full(g.shape[:2], 0.1), np.full(len(some), _LENGTH)
        state = Chains(target.at(some), g, step, covariance[some], length, [streams[j] for j in some])
        parts.append(_run(state, schedule))
    samples, rhat, size, acceptance, iterations = (np.concatenate(a) for a in zip(*parts))
    done, seconds = _converged(rhat, size), time.perf_counter() - begin
    return ChainPosterior(samples, rhat, size, done, acceptance, iterations, seconds)


def _converged(rhat: NDArray, size: NDArray) -> NDArray:
    return ~(rhat > _RHAT) & ~(size < _ESS)  # NaN, nothing varies, counts as converged


def _run(state: Chains, schedule: Schedule) -> tuple[NDArray, ...]:
    cases, count, d = state.g.shape
    guided = state.target.guide is not state.target
    # Chain by chain at first: a chain far out in a stiff region would stand still at a step that suits the others.
    draws, _ = advance(state, _FIRST, keep=1, tune=lambda rate: rate, exact=False)
    state.step[:] = state.step.min(1, keepdims=True)
    if guided:  # the first guide was made from the Laplace approximation, this one from draws
        state.target.refit(draws[:, :, _FIRST // 2 :].reshape(cases, -1, d))
        draws, _ = advance(state, _FIRST, keep=1, tune=_together, exact=False)
    draws = draws[:, :, _FIRST // 2 :]

    samples = np.full((cases, schedule.n, d), np.nan)
    rhat, size, acceptance = np.full(cases, np.inf), np.zeros(cases), np.zeros(cases)
    spent, iterations = schedule.first, np.full(cases, schedule.first)
    live = np.flatnonzero(np.isfinite(state.target.energy(state.g)).any(1))
    state, draws, turn = state.at(live), draws[live], 0
    while live.size and spent + schedule.adapt(turn) + schedule.pieces(turn)[0] <= schedule.cap:
        pooled = draws.reshape(len(draws), -1, d)
        state.target.refit(pooled)
        state.metric = _pooled_covariance(pooled, state.metric)
        advance(state, schedule.adapt(turn), keep=0, tune=_together, exact=False)
        if guided:
            advance(state, schedule.adapt(turn), keep=0, tune=_together)
        spent += schedule.adapt(turn)
        draws, total, length = draws[:, :, :0], np.zeros(len(live)), 0
        for piece in schedule.pieces(turn):
            if not live.size or spent + piece > schedule.cap:
                break
            new, rate = advance(state, piece, schedule.keep(turn), tune=None)
            draws = np.concatenate([draws, new], 2)
            total, length, spent = total + rate * piece, length + piece, spent + piece
            x = state.target.values(draws)
            by_chain, acceptance[live], iterations[live] = x.transpose(1, 2, 0, 3), total / length, spent
            rhat[live] = np.fmax.reduce(split_rhat(by_chain), axis=-1)
            size[live] = np.fmin.reduce(ess(by_chain), axis=-1)
            pick = np.arange(schedule.n)  # one sample of each chain in turn
            samples[live] = x[:, pick % count, pick // count * x.shape[2] // -(-schedule.n // count)]
            left = np.flatnonzero(~_converged(rhat[live], size[live]))
            live, state, draws, total = live[left], state.at(left), draws[left], total[left]
        turn += 1
    return samples, rhat, size, acceptance, iterations


def _together(rate: NDArray) -> NDArray:
    return rate.mean(1, keepdims=True)


def _pooled_covariance(draws: NDArray, metric: NDArray) -> NDArray:
    """Covariance of all chains' draws (m, S, d), mixed with the metric before as if that were 100 more draws."""
    flat = draws - draws.mean(1, keepdims=True)
    weight = flat.shape[1] / (flat.shape[1] + 100)
    return weight / flat.shape[1] * (flat.transpose(0, 2, 1) @ flat) + (1 - weight) * metric


def advance(
    state: Chains, iterations: int, keep: int, tune: Callable[[NDArray], NDArray] | None, exact: bool = True
) -> tuple[NDArray, NDArray]:
    """Run all chains; every keep-th draw (m, C, D, d) (keep = 0: none) and each case's acceptance (m,).

    tune turns the acceptance (m, C) into what the step sizes follow: Robbins-Monro towards 0.9, then their mean over
    the second half. Where the target has a guide, that is done on the guide alone (exact False), and on the target
    the trajectories are shortened until enough of them are accepted. None freezes both.
    """
    m, count, d = state.g.shape
    draws = np.empty((m, count, iterations // keep if keep else 0, d))
    total, log_steps = np.zeros((m, count)), np.zeros((m, count))
    guided = exact and state.target.guide is not state.target
    roots = np.linalg.inv(np.linalg.cholesky(state.metric))
    energy = _energy(state.target if exact else state.target.guide, state.g)
    for block in range(0, iterations, _BLOCK):
        # Longest trajectories first: the cases still moving after l steps are then a leading slice.
        lengths = state.length / np.exp(np.log(state.step).mean(1))
        order = np.argsort(-lengths, kind="stable")
        part, root, lengths, now = state.at(order), roots[order], lengths[order], energy[order]
        guide, accepted = part.target.guide, np.zeros((m, count))
        judge = part.target if exact else guide
        normal = np.stack([s.standard_normal((_BLOCK, count, d)) for s in part.streams])
        uniform = np.stack([s.random((_BLOCK, count, 2)) for s in part.streams])
        work = np.empty((4, *part.g.shape))
        for j in range(_BLOCK):
            i = block + j
            leaps = np.ceil(lengths * (0.4 + 0.6 * ((i * _GOLDEN) % 1))).astype(int)
            step = part.step * (0.6 + 0.6 * uniform[:, j, :, 1])
            momentum = normal[:, j] @ root  # N(0, metric^-1)
            new, fall = trajectory(guide, part, momentum, step, np.minimum(leaps, _LONGEST), work)
            with np.errstate(over="ignore", invalid="ignore"):
                ahead = _energy(judge, new)
                rate = np.exp(np.minimum(0.0, np.nan_to_num(now - ahead + fall, nan=-np.inf)))
            moved = uniform[:, j, :, 0] < rate
            np.copyto(part.g, new, where=moved[..., None])
            np.copyto(now, ahead, where=moved)
            accepted += rate
            if tune is not None and not guided:
                gain = 0.5 / (1 + i / 8) ** 0.6
                part.step = np.clip(part.step * np.exp(gain * (tune(rate) - _ACCEPT)), 1e-4, 1.2)
                if 2 * i >= iterations:
                    log_steps[order] += np.log(part.step)
            if keep and (i + 1) % keep == 0:
                draws[order, :, (i + 1) // keep - 1] = part.g
        total[order] += accepted
        if tune is not None and guided:
            part.length = np.clip(part.length * np.exp(accepted.mean(1) / _BLOCK - _ENOUGH), 0.05, _LENGTH)
        state.g[order], state.step[order], state.length[order], energy[order] = part.g, part.step, part.length, now
    if tune is not None and not guided:
        state.step = np.exp(2 * log_steps / iterations)
    return draws, total.mean(1) / iterations


def _energy(target: Target, g: NDArray) -> NDArray:
    energy = target.energy(g)
    return np.where(np.isnan(energy), np.inf, energy)


def trajectory(
    target: Target, part: Chains, momentum: NDArray, step: NDArray, leaps: NDArray, work: NDArray
) -> tuple[NDArray, NDArray]:
    """Leapfrog end points (m, C, d) and the fall in kinetic energy (m, C); leaps (m,) must not increase."""
    speed, force, scratch = work[0], work[1], work[2:]
    size = step[..., None]
    np.matmul(momentum, part.metric, out=speed)
    before = (momentum * speed).sum(-1)
    # In w = step * p the drift needs no step size: g += metric w, w -= step^2 grad U.
    w, squared, g = momentum * size, size**2, part.g.copy()
    w -= 0.5 * squared * target.gradient(g, force, scratch)
    moving = (leaps[:, None] > np.arange(leaps[0] + 1)).sum(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for now, later in pairwise(moving):
            g[:now] += np.matmul(w[:now], part.metric[:now], out=speed[:now])
            target.gradient(g[:now], force[:now], scratch[:, :now])
            force[:now] *= squared[:now]
            force[later:now] *= 0.5
            w[:now] -= force[:now]
        w /= size
        return g, 0.5 * (before - (w * np.matmul(w, part.metric, out=speed)).sum(-1))
