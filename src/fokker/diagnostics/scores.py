"""Proper scores of posterior samples."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fokker.errors import InputError

_CHUNK = 4_000_000  # values sorted at a time: 32 MB


def matched(samples: ArrayLike, truth: ArrayLike, least: int) -> tuple[NDArray, NDArray]:
    """Samples (M, n, *shape) and truth (M, *shape) as arrays, neither copied nor converted.

    Raises `InputError` unless the shapes agree, n is at least `least` and M is at least 1.
    """
    x, y = np.asarray(samples), np.asarray(truth)
    if x.ndim < 2 or y.shape != x.shape[:1] + x.shape[2:]:
        raise InputError(
            f"samples have shape {x.shape} and truth {y.shape}; accepted are (M, n, *shape) and (M, *shape)"
        )
    if x.shape[1] < least or y.size == 0:
        raise InputError(f"samples have shape {x.shape}; accepted are at least 1 case and {least} samples each")
    return x, y


def paired(samples: ArrayLike, truth: ArrayLike, least: int) -> tuple[NDArray, NDArray]:
    """As `matched`, as float64; raises `InputError` also where a value is not finite."""
    x, y = (values.astype(np.float64, copy=False) for values in matched(samples, truth, least))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("samples or truth hold NaN or infinity; accepted are finite numbers")
    return x, y


def relative_error(estimate: ArrayLike, truth: ArrayLike) -> NDArray:
    """|estimate - truth| / |truth| of each case, in the norm of all its entries (the relative L2 error): (M,), float64.

    estimate and truth: (M, *shape). For samples (M, n, *shape) score their mean over n: a single sample of an exact
    posterior has about sqrt(2) times its error. Raises `InputError` on shapes that disagree, non-finite values and a
    truth that is zero everywhere.
    """
    x, y = paired(np.asarray(estimate)[:, None], truth, least=1)
    size, gap = (np.linalg.norm(values.reshape(len(y), -1), axis=1) for values in (y, x[:, 0] - y))
    if not size.all():
        raise InputError(f"truth: case {int(np.argmin(size))} is zero everywhere; accepted is a field that is not")
    return gap / size


def crps(samples: ArrayLike, truth: ArrayLike) -> NDArray:
    """The fair continuous ranked probability score of each entry.

        CRPS = mean_i |X_i - y| - 1 / (2 n (n - 1)) sum_{i, j} |X_i - X_j|

    Its expectation over the n samples is E|X - y| - E|X - X'| / 2 whatever n, so scores from different
    numbers of samples compare (the plain estimate, with n^2, punishes small n). A single value may be negative.
    The double sum comes from the order statistics: sum_{i<j} |X_i - X_j| = sum_i (2 i - n - 1) X_(i), i = 1..n.

    samples: (M, n, *shape), n >= 2; truth: (M, *shape). Returns (M, *shape), in the units of the truth,
    float64; lower is better. Raises `InputError` on shapes that disagree, fewer than 2 samples, non-finite
    values. O(n log n) per entry. Source: Ferro, "Fair scores for ensemble forecasts", QJRMS 140 (2014);
    Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA 102 (2007).
    """
    x, y = paired(samples, truth, least=2)
    n = x.shape[1]
    weight = (2 * np.arange(1, n + 1) - n - 1) / (n * (n - 1))
    out = np.empty(y.shape)
    step = max(1, _CHUNK // max(1, x[0].size))
    for first in range(0, len(x), step):
        part = slice(first, first + step)
        # Relative to the truth: the score does not change, and a large common offset cannot round it away.
        gap = np.moveaxis(x[part] - y[part, None], 1, -1)
        out[part] = np.abs(gap).mean(-1) - np.sort(gap, axis=-1) @ weight
    return out


def energy_score(samples: ArrayLike, truth: ArrayLike, scale: ArrayLike | None = None) -> NDArray:
    """The energy score of whole vectors, an unbiased estimate: (M,), float64; lower is better.

        ES = mean_i |X_i - x| - 1/2 mean_i |X_i - X_(i+1)|,    |v|^2 = sum_j (v_j / s_j)^2,

    the samples taken in a ring, so that the cost is O(n); its expectation is E|X - x| - E|X - X'| / 2 whatever n.
    scale: s (*shape), the standard deviation of the truths unless given (1 where that is zero). Any entry of a vector
    and any of their correlations count.

    samples: (M, n, *shape), n >= 2, independent; truth: (M, *shape). Raises `InputError` as `crps`, and for a scale
    that is not positive. Source: Gneiting and Raftery 2007.
    """
    x, y = paired(samples, truth, least=2)
    if scale is None:
        spread = y.std(0)
        s = np.where(spread > 0, spread, 1.0)
    else:
        s = np.asarray(scale, dtype=np.float64)
        if s.shape not in ((), y.shape[1:]) or not (np.isfinite(s).all() and (s > 0).all()):
            raise InputError(f"scale: got {scale!r}, positive numbers of shape {y.shape[1:]} are accepted")
    out = np.empty(len(y))
    for i in range(len(y)):  # case by case: the differences stay as small as one case's samples
        case = (x[i] / s).reshape(x.shape[1], -1)
        far = np.linalg.norm(case - (y[i] / s).ravel(), axis=1).mean()
        out[i] = far - 0.5 * np.linalg.norm(case - np.roll(case, 1, axis=0), axis=1).mean()
    return out
