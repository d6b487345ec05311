"""Distances between two samples of vectors, each with its floor: what two samples of one law have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fokker.diagnostics.optimal_transport import sinkhorn
from fokker.errors import InputError
from fokker.rng import stream

FEWEST = 20
DIRECTIONS = 200
SINKHORN = 2000  # points at most: the plan is a full matrix
_BLOCK = 2000  # rows of a kernel matrix at a time


def c2st(x: ArrayLike, y: ArrayLike, seed: int = 1) -> float:
    """Classifier two-sample test: accuracy of telling x (n, d) from y (m, d); 0.5 where the laws are one.

    The protocol of the simulation-based inference benchmark: both in units of the mean and standard deviation of x; a
    perceptron of two hidden layers of 10 d rectified units, Adam, at most 10,000 epochs, scikit-learn's other defaults;
    mean accuracy of a cross-validation in five shuffled folds. Give as many of each: with n > m, 0.5 is not the floor.

    Raises `InputError` for other shapes, fewer than 20 rows, values that are not finite; ImportError without
    scikit-learn. Source: Lopez-Paz and Oquab 2017; Lueckmann et al. 2021.
    """
    a, b = _points(x, y)
    try:
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise ImportError("c2st needs scikit-learn: pip install 'fokker[check]'") from error
    mean, std = a.mean(0), a.std(0, ddof=1)
    std = np.where(std > 0, std, 1.0)
    width = 10 * a.shape[1]
    classifier = MLPClassifier((width, width), max_iter=10_000, random_state=seed)
    rows = np.concatenate([(a - mean) / std, (b - mean) / std])
    label = np.repeat([0.0, 1.0], [len(a), len(b)])
    folds = KFold(5, shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, rows, label, cv=folds, scoring="accuracy").mean())


def sliced_wasserstein(x: ArrayLike, y: ArrayLike, seed: int = 0) -> float:
    """Mean over 200 random directions of the Wasserstein-1 distance of the projections of x (n, d) and y (m, d).

    Raises `InputError` as `c2st`. Source: Rabin et al. 2012; Bonneel et al. 2015.
    """
    a, b = _points(x, y)
    directions = stream(seed, "diagnostics/directions").standard_normal((DIRECTIONS, a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    one, other = np.sort(a @ directions.T, axis=0), np.sort(b @ directions.T, axis=0)
    if len(a) != len(b):  # both as quantile functions, constant between their joint steps
        edges = np.union1d(np.arange(len(a) + 1) / len(a), np.arange(len(b) + 1) / len(b))
        middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
        gap = one[(middle * len(a)).astype(int)] - other[(middle * len(b)).astype(int)]
        return float((np.abs(gap) * width[:, None]).sum(0).mean())
    return float(np.abs(one - other).mean())


def mmd(x: ArrayLike, y: ArrayLike, scale: float | None = None) -> float:
    """Squared maximum mean discrepancy of x (n, d) and y (m, d), unbiased: 0 on average where the laws are one.

        mean k(x_i, x_j), i != j,  +  mean k(y_i, y_j), i != j,  -  2 mean k(x_i, y_j),   k = exp(-|.|^2 / (2 s^2))

    scale: s, the median distance among 1,000 of the rows unless given. May be negative. Raises `InputError` as `c2st`,
    and for a scale that is not positive. Source: Gretton et al. 2012, lemma 6.
    """
    a, b = _points(x, y)
    if scale is None:
        both = np.concatenate([a[:500], b[:500]])
        apart = _squared(both, both)[np.triu_indices(len(both), 1)]
        scale = float(np.sqrt(np.median(apart))) or 1.0
    if not scale > 0:
        raise InputError(f"scale: got {scale!r}, a positive number is accepted")

    def mean_kernel(u: NDArray, v: NDArray) -> float:
        parts = (u[i : i + _BLOCK] for i in range(0, len(u), _BLOCK))
        return sum(float(np.exp(-_squared(part, v) / (2 * scale**2)).sum()) for part in parts)

    n, m = len(a), len(b)
    own = (mean_kernel(a, a) - n) / (n * (n - 1)) + (mean_kernel(b, b) - m) / (m * (m - 1))
    return own - 2 * mean_kernel(a, b) / (n * m)


def compare(samples: ArrayLike, reference: ArrayLike, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Distances of samples (n, d) from a reference (m, d), each with its floor: {name: (distance, floor)}.

    h = min(n, m // 2) rows are used: samples against the first h of the reference, and for the floor the next h of the
    reference against those, so that distance and floor compare. c2st, sliced_wasserstein, mmd, and sinkhorn (Euclidean,
    regularised by 0.01, of at most 2,000 rows), all but c2st in standard deviations of the reference.

    Raises `InputError` as `c2st`.
    """
    a, b = _points(samples, reference)
    rows = min(len(a), len(b) // 2)
    if rows < FEWEST:
        raise InputError(f"reference: got {len(b)} rows, at least {2 * FEWEST} are accepted")
    std = b.std(0, ddof=1)
    scaled = [v / np.where(std > 0, std, 1.0) for v in (a, b)]
    ours, first, second = scaled[0][:rows], scaled[1][:rows], scaled[1][rows : 2 * rows]
    measures: dict[str, Callable[[NDArray, NDArray], float]] = {
        "c2st": lambda u, v: c2st(u, v, seed + 1),
        "sliced_wasserstein": lambda u, v: sliced_wasserstein(u, v, seed),
        "mmd": mmd,
        "sinkhorn": lambda u, v: sinkhorn(u[:SINKHORN], v[:SINKHORN]),
    }
    return {name: (measure(first, ours), measure(first, second)) for name, measure in measures.items()}


def _squared(u: NDArray, v: NDArray) -> NDArray:
    return np.maximum(np.square(u).sum(1)[:, None] + np.square(v).sum(1) - 2 * u @ v.T, 0.0)


def _points(x: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
    a, b = (np.asarray(v, dtype=np.float64) for v in (x, y))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < FEWEST:
        raise InputError(
            f"samples: got shapes {a.shape} and {b.shape}, (n, d) and (m, d), n, m >= {FEWEST} are accepted"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("samples: got NaN or infinity, finite numbers are accepted")
    return a, b
