"""Tests of accuracy with random points (TARP): calibration of whole vectors by distances from reference points."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fokker.diagnostics.sbc import ecdf_difference, parts, ranks
from fokker.diagnostics.scores import matched, paired
from fokker.errors import InputError
from fokker.rng import stream

REFERENCES = ("prior", "uniform")
_BOX = 2.0  # half the side of the uniform box, in standard deviations


def tarp_ranks(samples: ArrayLike, truth: ArrayLike, references: str | ArrayLike = "prior", seed: int = 0) -> NDArray:
    """Rank of each truth x among its samples X_i by distance from a reference point r, 0..n: (M,).

        rank of |x - r| among |X_i - r|,    |v|^2 = sum_j (v_j / s_j)^2,

    s_j the standard deviation of entry j over all samples and truths together. Samples of the right posterior give
    ranks that are uniform on 0..n, exactly, ties broken at random, whatever r is made from as long as it has not seen
    x but through y. Judge them by `deviation`, `bands` and `p_value` of `sbc`; `coverage_curve` is TARP's own picture.

    references: "prior", the truth of another case, all cases in one random cycle; "uniform", in the box of +-2 s_j
    about the mean of samples and truths; or points (M, *shape), made from y or not, never from x.

    What it cannot see: with references that do not depend on y, the first two, TARP passes samples of the prior in
    place of the posterior, as ranks of the entries do; points made from y, such as any estimate of x from y that was
    fitted to other cases, show them. A bias towards the reference in half of the cases and away from it in the other
    half partly cancels: "uniform" is weak against biases, ranks of the entries are better. No choice sees everything.

    samples: (M, n, *shape); truth: (M, *shape), M >= 2 for "prior", different cases independent. Raises `InputError` on
    shapes that disagree, non-finite values, unknown references. Time and memory: about three readings of the samples.
    Source: Lemos, Coogan, Hezaveh and Perreault-Levasseur, "Sampling-based accuracy testing of posterior estimators for
    general inference", ICML 2023.
    """
    x, y = matched(samples, truth, least=1)
    mean, std = _moments(x, y)
    points = _points(references, np.asarray(y, dtype=np.float64), mean, std, seed)
    near, nearer = np.empty(x.shape[:2]), np.empty(len(y))
    for part in parts(x):
        near[part] = _squared_distance(x[part], points[part, None], std, axis=2)
        nearer[part] = _squared_distance(y[part], points[part], std, axis=1)
    return ranks(near, nearer, seed)


def coverage_curve(rank: ArrayLike, n: int) -> tuple[NDArray, NDArray]:
    """Credibility alpha (n + 2,) and expected coverage (*shape, n + 2) of ranks (M, *shape) from `tarp_ranks`.

        alpha = k / (n + 1),    coverage = #{rank < k} / M,    k = 0..n + 1:

    how often the truth lies in the ball about the reference that holds a fraction alpha of the posterior. The diagonal
    for the right posterior; max |coverage - alpha| is `sbc.deviation`. Raises `InputError` for ranks that are not
    integers from 0 to n.
    """
    apart = ecdf_difference(rank, n)
    alpha = np.arange(n + 2) / (n + 1)
    return alpha, np.concatenate([np.zeros((*apart.shape[:-1], 1)), apart + alpha[1:]], axis=-1)


def _moments(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Mean and standard deviation of each entry over samples and truths together; 1 where an entry is constant.

    Together, because then neither changes when a truth and one of its samples are exchanged, and ranks stay uniform.
    """
    origin = np.asarray(y, dtype=np.float64).mean(0)
    first, second = np.zeros(origin.shape), np.zeros(origin.shape)
    for part in parts(x):
        values, true = paired(x[part], y[part], least=1)
        both = np.concatenate([values, true[:, None]], axis=1) - origin
        first += both.sum((0, 1))
        second += np.square(both, out=both).sum((0, 1))
    count = len(x) * (x.shape[1] + 1)
    std = np.sqrt(np.maximum(second / count - (first / count) ** 2, 0.0))
    return origin + first / count, np.where(std > 0, std, 1.0)


def _points(references: str | ArrayLike, truth: NDArray, mean: NDArray, std: NDArray, seed: int) -> NDArray:
    if isinstance(references, str):
        if references not in REFERENCES:
            raise InputError(f"references: got {references!r}, {' or '.join(REFERENCES)} or points are accepted")
        draw = stream(seed, "diagnostics/tarp")
        if references == "uniform":
            return mean + std * draw.uniform(-_BOX, _BOX, truth.shape)
        if len(truth) < 2:
            raise InputError("references: got 'prior' with 1 case, which needs another; uniform or points are accepted")
        order = draw.permutation(len(truth))
        points = np.empty_like(truth)
        points[order] = truth[np.roll(order, 1)]
        return points
    points = np.asarray(references, dtype=np.float64)
    if points.shape != truth.shape or not np.isfinite(points).all():
        raise InputError(f"references: got shape {points.shape}, finite points of shape {truth.shape} are accepted")
    return points


def _squared_distance(x: NDArray, points: NDArray, std: NDArray, axis: int) -> NDArray:
    """Sum over the axes from `axis` on; in C order, so that equal vectors have equal sums, to the last bit."""
    gap = np.ascontiguousarray((x - points) / std).reshape(*x.shape[:axis], -1)
    return np.square(gap, out=gap).sum(-1)
