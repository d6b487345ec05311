"""Preconditioned Crank-Nicolson: a chain whose acceptance does not fall as the grid of a Gaussian field refines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_ndtr
from torch import Tensor

from fokker.diagnostics.chains import ess, split_rhat
from fokker.errors import InputError
from fokker.rng import Key, Rows

_TARGET = 0.25  # accepted share that the step is tuned to


@dataclass(frozen=True)
class PCNChains:
    """samples: (M, C, D, *shape), draws after burn-in, thinned; acceptance, step: (M,), after burn-in; seconds: CPU.

    rhat: (M,), the largest rank-normalised split R-hat of the entries; ess: (M,), the smallest bulk effective sample
    size, of all chains together. Entries that never vary do not count.
    """

    samples: Tensor
    acceptance: NDArray
    step: NDArray
    rhat: NDArray
    ess: NDArray
    seconds: float


def pcn(
    draw: Callable[[Key], Tensor],
    log_likelihood: Callable[[Tensor], Tensor],
    *,
    cases: int = 1,
    chains: int = 4,
    burn: int = 2000,
    draws: int = 1000,
    thin: int = 1,
    start: Tensor | None = None,
    temper: int = 0,
    of: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> PCNChains:
    """Chains with the law N(0, C) weighted by a likelihood, for M cases of C chains each, side by side.

    The proposal x' = sqrt(1 - b^2) x + b xi, xi ~ N(0, C), leaves N(0, C) invariant, so it is accepted with
    probability min(1, L(x') / L(x)): the likelihood alone, well defined for functions. The step b, one for the chains
    of a case, is tuned to an acceptance of 25 % during the burn-in by Robbins-Monro and frozen after it. Where the
    likelihood sees the field at some points alone, its values there are such a chain by themselves, with C at those
    points: cheaper by far, and the rest of the field follows by conditioning.

    draw: xi of N(0, C) (M C, *shape) for the rows of a key, M times C with chains running fastest. log_likelihood:
    x (M, C, *shape) to (M, C), each by itself; minus infinity where x is impossible. burn, draws, thin: iterations, and
    draws kept, each `thin` iterations apart. start: (M, C, *shape), else prior draws. temper: over so many iterations
    of the burn-in, at most all, the likelihood's power rises from 0.001 to 1, geometrically: against chains that stick
    where they started. of: what is kept of x (M, C, *shape), itself unless given. Chain c of case i is the same
    whatever other cases there are. Raises InputError for counts out of range and a likelihood that is NaN.
    Source: Cotter, Roberts, Stuart and White, "MCMC methods for functions", Statistical Science 28 (2013).
    """
    for name, value, least in (
        ("cases", cases, 1), ("chains", chains, 1), ("burn", burn, 0), ("draws", draws, 4), ("thin", thin, 1)
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}: got {value!r}, a whole number from {least} on is accepted")
    if not 0 <= temper <= burn:
        raise InputError(f"temper: got {temper!r}, a whole number from 0 to burn = {burn} is accepted")
    begin, key = time.process_time(), Key(seed, Rows.grid(cases, chains), part="pcn")

    def proposal(step: int) -> Tensor:
        return draw(key.at(step=step)).unflatten(0, (cases, chains))

    x = proposal(0) if start is None else start.clone()
    if tuple(x.shape[:2]) != (cases, chains):
        raise InputError(f"start: got shape {tuple(x.shape)}, ({cases}, {chains}, *shape) is accepted")
    now, log_step = _checked(log_likelihood(x)), np.full(cases, math.log(0.5))
    kept, accepted = [], np.zeros(cases)
    for it in range(1, burn + draws * thin + 1):
        b = np.exp(log_step)[:, None].repeat(chains, 1)
        blend = torch.from_numpy(b).to(x).reshape(cases, chains, *(1,) * (x.ndim - 2))
        other = (1 - blend**2).sqrt() * x + blend * proposal(it)
        new = _checked(log_likelihood(other))
        power = 10.0 ** (-3 * (1 - it / temper)) if it < temper else 1.0
        # from one impossible place to another every move is allowed
        gain = np.where(np.isneginf(now), np.inf, power * (new - np.where(np.isneginf(now), 0.0, now)))
        uniform = log_ndtr(key.at(step=it, part="accept").normal(()).double().numpy()).reshape(cases, chains)
        take = uniform < gain
        x = torch.where(torch.from_numpy(take).to(x.device).reshape(blend.shape), other, x)
        now = np.where(take, new, now)
        if it <= burn:
            log_step = np.minimum(log_step + (take.mean(1) - _TARGET) / math.sqrt(it), 0.0)
            continue
        accepted += take.mean(1)
        if (it - burn) % thin == 0:
            kept.append((x if of is None else of(x)).clone())
    samples = torch.stack(kept, 2)
    rhat, size = (np.empty(cases) for _ in range(2))
    for case, values in enumerate(samples.cpu().numpy()):
        rhat[case] = np.nanmax(split_rhat(values), initial=-math.inf)
        size[case] = np.nanmin(ess(values), initial=math.inf)
    return PCNChains(samples, accepted / (draws * thin), np.exp(log_step), rhat, size, time.process_time() - begin)


def _checked(value: Tensor) -> NDArray:
    found = value.detach().double().cpu().numpy()
    if np.isnan(found).any():
        raise InputError("log_likelihood: got NaN, numbers or minus infinity are accepted")
    return found
