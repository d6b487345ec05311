"""Simulation-based calibration: ranks of the truth among posterior samples, and whether they are uniform.

`ranks` counts; `ecdf_difference`, `deviation`, `p_value` and `bands` judge any integers that should be uniform on 0..n,
those of `tarp_ranks` too. A test function f(x, y) needs no code here: pass its values, f(X_i, y) as samples (M, n) and
f(x, y) of the true x as truth (M,).

What ranks cannot see: entry by entry, a wrong correlation (projections show it); as functions of x alone, samples of
the prior in place of the posterior (the log-likelihood log p(y | x) shows them, and TARP with references made from y).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc
from scipy.stats import binom, poisson

from fokker.diagnostics.scores import matched, paired
from fokker.errors import InputError
from fokker.rng import stream

_CHUNK = 4_000_000  # values compared at a time: 32 MB
_TIE = 1 + 1e-9  # two tail probabilities this close are one value
_TINY = 1e-9  # p-values below it come from Bonferroni's bound, not from one minus a probability


def ranks(samples: ArrayLike, truth: ArrayLike, seed: int = 0, first: int = 0) -> NDArray:
    """Rank of each truth among its samples, 0..n, ties broken at random.

        rank = #{X_i < x} + floor(u (#{X_i = x} + 1)),    u ~ Uniform(0, 1),

    uniform on 0..n for every entry if truth and samples follow one law given y, atoms included (flux clipped at zero).
    u depends on the seed, the number of the case and the number of entries of a truth alone: cases may be passed in
    parts, `first` the number of the first, and give the same ranks.

    samples: (M, n, *shape), n >= 1; truth: (M, *shape). Returns integers (M, *shape). Raises `InputError` on shapes
    that disagree, non-finite values, a wrong seed or first. O(n) per entry. Source: Talts et al., "Validating Bayesian
    inference algorithms with simulation-based calibration", 2018.
    """
    less, within = _place(samples, truth, seed, first)
    return less + within.astype(np.int64)


def pit(samples: ArrayLike, truth: ArrayLike, seed: int = 0, first: int = 0) -> NDArray:
    """Randomised probability integral transform (#{X_i < x} + u (#{X_i = x} + 1)) / (n + 1), continuous.

    Exactly Uniform(0, 1) where `ranks` are uniform; the u are those of `ranks`, so that rank = floor((n + 1) pit).
    Arguments and errors as `ranks`; returns (M, *shape) in [0, 1]. Source: Czado, Gneiting and Held, "Predictive model
    assessment for count data", Biometrics 65 (2009).
    """
    less, within = _place(samples, truth, seed, first)
    return (less + within) / (np.shape(samples)[1] + 1)


def ecdf_difference(rank: ArrayLike, n: int) -> NDArray:
    """Empirical distribution function of ranks (M, *shape) less the uniform's, at the ranks k = 0..n: (*shape, n + 1).

        #{rank <= k} / M - (k + 1) / (n + 1)

    First above, then below zero: ranks pile up at both ends (samples too narrow); the reverse: too wide; above
    throughout: truths lie low among the samples. Raises `InputError` for ranks that are not integers from 0 to n.
    """
    return _counts(rank, n) / len(np.asarray(rank)) - np.arange(1, n + 2) / (n + 1)


def deviation(rank: ArrayLike, n: int) -> NDArray:
    """Kolmogorov's distance of ranks (M, *shape) from uniform, max_k |ecdf_difference|: (*shape), in [0, 1).

    Of exact samples it exceeds 1.36 / sqrt(M) in 5 % of data sets at most. Raises as `ecdf_difference`.
    """
    return np.abs(ecdf_difference(rank, n)).max(-1)


def p_value(rank: ArrayLike, n: int) -> NDArray:
    """Probability that M independent uniform ranks look at least as odd as these (M, *shape): (*shape).

    The oddness is the least pointwise tail, t = min_k min(P(N <= N_k), P(N >= N_k)) with N_k = #{rank <= k} and
    N ~ Binomial(M, (k + 1) / (n + 1)), the statistic of `bands`: sensitive at the ends, where Kolmogorov's is not. Its
    law is exact for any M and n (below 1e-9, the bound 2 n t is returned). Each entry is a test of its own: for d
    entries at a rate a, compare with a / d.

    O(n sqrt(M)) per entry: 10 ms for M = 4,000, n = 1,000. Raises as `ecdf_difference`.
    Source: Saeilynoja, Buerkner and Vehtari, "Graphical test for discrete uniformity and its applications", Statistics
    and Computing 32 (2022).
    """
    counts = _counts(rank, n)[..., :-1]
    cases = len(np.asarray(rank))
    grid = np.arange(1, n + 1) / (n + 1)
    tails = np.minimum(bdtr(counts, cases, grid), bdtrc(counts - 1.0, cases, grid)).min(-1)
    distinct, where = np.unique(tails, return_inverse=True)
    bound = 2 * n * distinct
    exact = [1 - _probability_inside(cases, n, tail) if 2 * n * tail > _TINY else 0.0 for tail in distinct]
    return np.clip(np.where(bound > _TINY, exact, bound), 0.0, 1.0)[where].reshape(tails.shape)


def bands(cases: int, n: int, level: float = 0.95) -> tuple[NDArray, NDArray]:
    """Simultaneous lower and upper bands of `ecdf_difference`, each (n + 1,).

    The whole of it lies inside, edges included, for a fraction `level` of exact data sets or slightly more (counts are
    discrete). Central binomial intervals, with one tail probability for every k: the largest at which the simultaneous
    probability for M = `cases` independent uniform ranks, computed exactly, is still the level.

    Raises `InputError` for cases or n below 1, a level outside (0, 1). Source: Saeilynoja et al. 2022, as `p_value`.
    """
    for name, value in (("cases", cases), ("n", n)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"{name}: got {value!r}, an integer of at least 1 is accepted")
    if not 0 < level < 1:
        raise InputError(f"level: got {level!r}, a number between 0 and 1, both excluded, is accepted")
    low, high = np.log((1 - level) / (2 * n)), np.log((1 - level) / 2)  # Bonferroni's tail is small enough
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if _probability_inside(cases, n, np.exp(middle)) >= level else (low, middle)
    grid = np.arange(1, n + 2) / (n + 1)
    lower, upper = _limits(cases, n, np.exp(low))
    return lower / cases - grid, upper / cases - grid


def parts(samples: NDArray) -> Iterator[slice]:
    """Slices of cases that together hold a bounded number of values."""
    step = max(1, _CHUNK // samples[0].size)
    return (slice(first, first + step) for first in range(0, len(samples), step))


def _place(samples: ArrayLike, truth: ArrayLike, seed: int, first: int) -> tuple[NDArray, NDArray]:
    """#{X_i < x} and u (#{X_i = x} + 1), both (M, *shape)."""
    x, y = matched(samples, truth, least=1)
    if isinstance(first, bool) or not isinstance(first, int | np.integer) or first < 0:
        raise InputError(f"first: got {first!r}, an integer of at least 0 is accepted")
    less, equal = np.empty(y.shape, np.int64), np.empty(y.shape, np.int64)
    for part in parts(x):
        values, true = paired(x[part], y[part], least=1)
        less[part] = np.count_nonzero(values < true[:, None], axis=1)
        equal[part] = np.count_nonzero(values == true[:, None], axis=1)
    # Philox makes four numbers a step of its counter: whole steps for each case let any case be the first.
    steps = -(-y[0].size // 4)
    source = stream(seed, "diagnostics/ties")
    source.bit_generator.advance(int(first) * steps)  # type: ignore[attr-defined]
    u = source.random((len(y), 4 * steps))[:, : y[0].size].reshape(y.shape)
    return less, u * (equal + 1)


def _counts(rank: ArrayLike, n: int) -> NDArray:
    """#{rank <= k} for k = 0..n: (*shape, n + 1)."""
    r = np.asarray(rank)
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise InputError(f"n: got {n!r}, the number of samples that were ranked is accepted, an integer of at least 1")
    if r.ndim < 1 or r.size == 0 or r.dtype.kind not in "iu":
        raise InputError(f"rank: got {r.dtype} of shape {r.shape}, integers (M, *shape), M >= 1, are accepted")
    if r.min() < 0 or r.max() > n:
        raise InputError(f"rank: got values from {r.min()} to {r.max()}, 0 to n = {n} is accepted")
    flat = r.reshape(len(r), -1).astype(np.int64)
    entries = flat.shape[1]
    cells = np.bincount((flat + (n + 1) * np.arange(entries)).ravel(), minlength=entries * (n + 1))
    return cells.reshape(*r.shape[1:], n + 1).cumsum(-1)


def _limits(cases: int, n: int, tail: float) -> tuple[NDArray, NDArray]:
    """Least and greatest counts #{rank <= k}, k = 0..n, both of whose tail probabilities exceed `tail`."""
    grid = np.arange(1, n + 1) / (n + 1)
    low = np.maximum(binom.ppf(tail * _TIE, cases, grid), 0)
    low = (low + (bdtr(low, cases, grid) <= tail * _TIE)).astype(np.int64)
    high = cases - low[::-1]  # cases - count has the law of 1 - grid
    return np.append(low, cases), np.append(high, cases)


def _probability_inside(cases: int, n: int, tail: float) -> float:
    """P(all counts #{rank <= k} are within `_limits`) for independent uniform ranks, exactly.

    The numbers of ranks at 0, 1, ..., n are independent Poisson variables given that their sum is `cases`, so one
    convolution per k, cut to the limits, carries the law of the count along. Source: Moscovich and Nadler, "Fast
    calculation of boundary crossing probabilities for Poisson processes", Statistics & Probability Letters 123 (2017).
    """
    mean = cases / (n + 1)
    law = poisson.pmf(np.arange(int(mean + 10 * np.sqrt(mean)) + 41), mean)  # the rest is below 1e-20
    weight, start = np.ones(1), 0
    for low, high in zip(*(limit.tolist() for limit in _limits(cases, n, tail))):
        weight = np.convolve(weight, law)[low - start : max(high - start + 1, 0)]
        if not len(weight):
            return 0.0
        start = low
    return float(weight[0] / poisson.pmf(cases, cases))
