"""Importance weights, smoothed, with what tells whether they may be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fokker.errors import InputError

FEWEST = 50  # weights
TRUSTED = 0.7  # k-hat above which averages with these weights mean little


@dataclass(frozen=True)
class Weights:
    """log_weights (..., n), normalised: their exponentials sum to 1. ess (...): 1 / sum of squares. k_hat (...): the
    tail index; above 0.7 averages with these weights are not to be trusted. log_mean (...): log of the mean weight.
    """

    log_weights: NDArray
    ess: NDArray
    k_hat: NDArray
    log_mean: NDArray


def smoothed(log_weights: ArrayLike) -> Weights:
    """Pareto-smoothed importance weights from log weights (..., n) known up to a constant, n >= 50.

    The largest weights are replaced by expected order statistics of the generalised Pareto law fitted to them; log_mean
    is that of the weights as they are, an unbiased estimate of a ratio of constants. -inf is a weight of zero.

    Raises `InputError` for fewer weights, NaN, +inf, or rows without any weight; ImportError without arviz-stats.
    Source: Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", JMLR 25 (2024).
    """
    try:
        from arviz_stats.base import array_stats
    except ImportError as error:
        raise ImportError("smoothed weights need arviz-stats: pip install 'fokker[arviz]'") from error
    raw = np.asarray(log_weights, dtype=np.float64)
    if raw.ndim < 1 or raw.shape[-1] < FEWEST:
        raise InputError(f"log_weights: got shape {raw.shape}, (..., n) with n of at least {FEWEST} is accepted")
    if np.isnan(raw).any() or np.isposinf(raw).any() or np.isneginf(raw).all(-1).any():
        raise InputError("log_weights: got NaN, +inf or no weight above zero, finite numbers and -inf are accepted")
    top = raw.max(-1, keepdims=True)
    log_mean = np.log(np.exp(raw - top).mean(-1)) + top[..., 0]
    found = np.maximum(raw - top, -700.0)  # the smoothing wants finite logarithms; e^-700 is none
    k_hat = np.zeros(raw.shape[:-1])
    tail = int(np.ceil(min(raw.shape[-1] / 5, 3 * np.sqrt(raw.shape[-1]))))
    for row in np.ndindex(*k_hat.shape):
        largest = np.partition(found[row], -tail)[-tail:]
        if np.ptp(largest) > 1e-10:  # equal weights need no smoothing
            found[row], k_hat[row] = array_stats.psislw(-found[row])  # it takes the logarithms of the inverse weights
    found = found - np.logaddexp.reduce(found, -1, keepdims=True)
    ess = 1 / np.square(np.exp(found)).sum(-1)
    return Weights(found, np.asarray(ess), k_hat, log_mean)
