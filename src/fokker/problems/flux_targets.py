"""What a channel problem is measured against: exact posteriors, and the targets of a case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reference:
    """Posteriors that need no learning, of M test cases.

    samples (M, n, 30); rhat, ess, resolved (M,) say which can be used; seconds of the whole; others: samples of
    approximations that are shown beside them, by name.
    """

    samples: np.ndarray
    rhat: np.ndarray
    ess: np.ndarray
    resolved: np.ndarray
    seconds: float
    others: dict[str, np.ndarray]


@dataclass(frozen=True)
class Targets:
    """What a case must reach; None: no target. Ratios are learned over exact.

    error, crps: ratios of the error of the mean and of CRPS, at most; error_percent: at most, where the exact error is
    zero; points: of coverage, at most apart from the exact; gain: CRPS below `no_network` with a paired z of at least
    this; distance: of the mean to the exact one, in exact standard deviations, root mean square, at most; spread: how
    far the mean ratio of standard deviations may be from 1; calibration: largest deviation of ranks from uniform.
    """

    error: float | None = None
    crps: float | None = None
    error_percent: float | None = None
    points: float | None = 2.0
    gain: float | None = None
    distance: float | None = None
    spread: float | None = None
    calibration: float | None = None
