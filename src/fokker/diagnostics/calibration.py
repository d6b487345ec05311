"""What is wrong with posterior samples, in words: too narrow, too wide, shifted, or right on average only.

All tests rest on one fact. For exact samples the randomised probability integral transform of every entry of the truth
is uniform *and independent of y*; so are its normal score z = Phi^-1(PIT) ~ N(0, 1) and its spread score
v = Phi^-1(|2 PIT - 1|) ~ N(0, 1). Ranks test the law of z; the F-test of a regression of z, or v, on functions of y,
exact because z and v are normal, tests that neither depends on y: what is right on average only is seen there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import f as fisher

from fokker.diagnostics.sbc import p_value, pit, ranks
from fokker.diagnostics.scores import matched
from fokker.diagnostics.tarp import tarp_ranks
from fokker.errors import InputError

RATE = 0.01  # at which exact samples are called wrong in some way, all tests together
FEATURES = 20  # directions of y that a regression looks at, at most
FEWEST = 50  # cases


@dataclass(frozen=True)
class Entry:
    """Calibration of one entry of x.

    shift: mean of (truth - mean of the samples) / their standard deviation. width: the standard deviation of the same,
    the factor by which samples should be wider. Standard errors of exact samples are 1 / sqrt(M) and, of posteriors
    close to normal, 1 / sqrt(2 M). contraction: 1 - mean posterior variance / variance of the truths, None where that
    is zero. p: of the ranks, of a shift that depends on y, of a width that depends on y.
    """

    name: str
    shift: float
    width: float
    contraction: float | None
    p_ranks: float
    p_shift: float
    p_width: float


@dataclass(frozen=True)
class Verdict:
    """Entries, p-values of the distances of whole vectors (TARP) by kind of reference, and what follows, in words."""

    cases: int
    entries: tuple[Entry, ...]
    p_joint: dict[str, float]
    words: tuple[str, ...]

    @property
    def calibrated(self) -> bool:
        """Whether nothing is called wrong."""
        return not self.words


def judge(
    samples: ArrayLike,
    truth: ArrayLike,
    y: ArrayLike,
    names: Sequence[str] | None = None,
    from_y: ArrayLike | None = None,
    rate: float = RATE,
    seed: int = 0,
) -> Verdict:
    """Calibration of samples (M, n, d) for truths (M, d) and measurements y (M, *y_shape), NaN where y is missing.

    names: of the d entries. from_y: points (M, d) made from y without the truths, as references of TARP. Exact samples
    are called wrong in some way with a probability of at most `rate` (Bonferroni over all tests, each of them exact).

    Raises `InputError` for shapes that disagree, fewer than 50 cases, values that are not finite.
    Source: Talts et al. 2018 (ranks); Lemos et al. 2023 (TARP); Linhart, Gramfort and Rodrigues 2023 ask the same
    question of y by a classifier; the regression of normal scores is ours.
    """
    x, true = matched(samples, truth, least=2)
    if true.ndim != 2 or len(true) < FEWEST:
        raise InputError(f"truth: got shape {true.shape}, (M, d) of at least {FEWEST} cases is accepted")
    size, n = true.shape[1], x.shape[1]
    names = [f"x[{i}]" for i in range(size)] if names is None else list(names)
    features = features_of(np.asarray(y, dtype=np.float64).reshape(len(true), -1))
    place, rank = pit(x, true, seed), ranks(x, true, seed)
    z, v = scores_of(place)
    left, (shift, width) = contraction_of(x, true), shift_and_width(x, true)
    p_ranks = np.atleast_1d(p_value(rank, n))
    entries = tuple(
        Entry(
            names[j],
            float(shift[j]),
            float(width[j]),
            left[j],
            float(p_ranks[j]),
            depends(z[:, j], features),
            depends(v[:, j], features),
        )
        for j in range(size)
    )
    joint = {"prior": float(p_value(tarp_ranks(x, true, "prior", seed), n))}
    if from_y is not None:
        joint["y"] = float(p_value(tarp_ranks(x, true, from_y, seed), n))
    level = rate / (3 * size + len(joint))
    words = [text for entry in entries for text in _words(entry, level, len(true))]
    if not words and min(joint.values()) < level:
        words = [
            "the entries are right one by one but not together: their correlations, or how they depend on the "
            f"measurement, are wrong (distances of whole vectors, p = {min(joint.values()):.1g})"
        ]
    return Verdict(len(true), entries, joint, tuple(words))


def shift_and_width(samples: NDArray, truth: NDArray) -> tuple[NDArray, NDArray]:
    """Mean and standard deviation of (truth - mean of the samples) / their standard deviation, of every entry (d,).

    From the variance is taken what n samples know wrongly of their own deviation, shift^2 / (2 (n - 1)).
    """
    x = np.asarray(samples, dtype=np.float64)
    gap, std = np.asarray(truth, dtype=np.float64) - x.mean(1), x.std(1, ddof=1)
    away = gap / np.where(std > 0, std, np.where(gap == 0, 1.0, np.abs(gap) / 1e6 + 1e-300))
    shift = away.mean(0)
    own = np.square(shift) / (2 * (x.shape[1] - 1))
    return shift, np.sqrt(np.maximum(away.var(0, ddof=1) - own, 0.0))


def contraction_of(samples: NDArray, truth: NDArray) -> list[float | None]:
    """1 - mean posterior variance / variance of the truths, of every entry; None where the truths do not vary."""
    within = np.asarray(samples, dtype=np.float64).var(1, ddof=1).mean(0)
    whole = np.asarray(truth, dtype=np.float64).var(0, ddof=1)
    return [float(1 - part / all_of_it) if all_of_it > 0 else None for part, all_of_it in zip(within, whole)]


def scores_of(place: NDArray) -> tuple[NDArray, NDArray]:
    """Normal scores z and spread scores v of the randomised probability integral transform."""
    inside = np.clip(place, 1e-12, 1 - 1e-12)
    return ndtri(inside), ndtri(np.clip(np.abs(2 * inside - 1), 1e-12, 1 - 1e-12))


def features_of(y: NDArray) -> NDArray:
    """Functions of y (M, D) for a regression: its leading directions, whitened, and their squares; (M, K).

    At most `FEATURES` directions and a tenth of M functions; what is missing counts as its mean.
    """
    centred = np.nan_to_num(y - np.nanmean(y, 0))
    std = centred.std(0)
    centred = centred[:, std > 0] / std[std > 0]
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    kept = min(FEATURES, len(y) // 20, int((values > 1e-8 * values.max(initial=0)).sum()))
    directions = left[:, :kept] * np.sqrt(len(y))
    return np.concatenate([directions, directions**2 - 1], 1)


def depends(score: NDArray, features: NDArray) -> float:
    """p-value of the F-test that independent normal scores (M,) do not depend on the features (M, K)."""
    cases = len(score)
    design = np.concatenate([np.ones((cases, 1)), features], 1)
    basis, values, _ = np.linalg.svd(design, full_matrices=False)
    basis = basis[:, values > 1e-10 * values[0]]
    freedom = basis.shape[1] - 1
    if freedom < 1:
        return 1.0
    total = float(np.square(score - score.mean()).sum())
    fitted = float(np.square(basis.T @ score).sum()) - cases * float(score.mean()) ** 2
    rest = max(total - fitted, 1e-300)
    return float(fisher.sf(fitted / freedom / (rest / (cases - freedom - 1)), freedom, cases - freedom - 1))


def _words(entry: Entry, level: float, cases: int) -> list[str]:
    """What is wrong with one entry."""
    found = []
    if entry.p_ranks < level:
        shifted = abs(entry.shift) * np.sqrt(cases) > 3 * max(entry.width, 1.0)
        wide = abs(entry.width - 1) > max(3 / np.sqrt(2 * cases), 0.02 * abs(entry.shift), 0.05)
        if shifted:
            side = "low" if entry.shift > 0 else "high"
            found.append(
                f"{entry.name}: samples lie too {side}, by {abs(entry.shift):.2g} posterior standard deviations"
            )
        if wide and entry.width > 1:
            found.append(
                f"{entry.name}: over-confident {by_about(entry.width)}: its samples should be {entry.width:.2f} times "
                "as wide"
            )
        elif wide:
            found.append(
                f"{entry.name}: under-confident {by_about(1 / entry.width)}: its samples should be "
                f"{entry.width:.2f} times as wide"
            )
        if not found:
            found.append(f"{entry.name}: the shape of its distribution is wrong, its centre and width are not")
    for p, what in ((entry.p_shift, "where its samples lie"), (entry.p_width, "how wide its samples are")):
        if p < level and not (found and p > 1e-3 * level):
            found.append(f"{entry.name}: {what} is wrong in a way that depends on the measurement (p = {p:.1g})")
    return found


def by_about(factor: float) -> str:
    """A factor above 1 in words: "by about a quarter"."""
    steps = (
        (1.15, "by about a tenth"),
        (1.29, "by about a quarter"),
        (1.42, "by about a third"),
        (1.75, "by about half"),
    )
    for limit, text in steps:
        if factor < limit:
            return text
    return "by a factor of about two" if factor < 2.5 else f"by a factor of {factor:.1f} or more"
