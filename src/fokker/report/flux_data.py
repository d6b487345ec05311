"""What the figures of a boundary-flux run show: one case, which of its test cases are drawn, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from fokker.problems.channel import FluxSimulator
from fokker.problems.flux_cases import Case
from fokker.problems.flux_summary import Summary

NOT_GAUSSIAN = 0.1  # largest distance of a marginal's distribution function from a Gaussian's; a half-normal has 0.09
PERCENTILES = (10, 50, 90)


@dataclass(frozen=True)
class CaseData:
    """One case of a run: truth, y (M, 30) with NaN where a sensor is off, and which reference cases are resolved.

    methods: summaries by name, "learned" for the first learned one; others: the further learned ones; training: what
    training.json says, of the first model.
    """

    case: Case
    truth: NDArray
    y: NDArray
    methods: dict[str, Summary]
    others: dict[str, Summary]
    resolved: NDArray
    training: dict[str, Any]

    @property
    def judged(self) -> NDArray:
        """Indices of the test cases that all methods are judged on: those with a resolved exact posterior.

        All test cases where there is none; then `compared` leaves the exact posterior out.
        """
        return self.resolved.nonzero()[0] if self.resolved.any() else np.arange(len(self.truth))

    @property
    def compared(self) -> dict[str, Summary]:
        """The methods that can be shown."""
        return {name: s for name, s in self.methods.items() if name != "exact" or self.resolved.any()}

    @property
    def title(self) -> str:
        """Which case it is, for people."""
        return self.case.title

    def clean(self, simulator: FluxSimulator, index: int) -> NDArray:
        """Sensor values (30,) of the true flux of a test case, without noise."""
        return simulator.simulate(self.truth[index][None], np.random.default_rng(0))[0]

    def chosen(self, cases: NDArray | None = None) -> dict[int, int]:
        """Percentile -> test case of `cases` (default: judged) at that percentile of the learned mean's error."""
        cases = self.judged if cases is None else cases
        error = np.abs(self.methods["learned"].mean - self.truth)[cases].mean(1)
        order = cases[np.argsort(error, kind="stable")]
        return {p: int(order[round(p / 100 * (len(order) - 1))]) for p in PERCENTILES}

    @property
    def telling(self) -> int:
        """The test case of median error among those with a flux that is zero in a fifth to three fifths of the walls.

        Of all judged cases where there is none.
        """
        zero = (self.truth[self.judged] == 0).mean(1)
        partly = self.judged[(zero >= 0.2) & (zero <= 0.6)]
        return self.chosen(partly if len(partly) else None)[50]


def not_gaussian(samples: NDArray) -> NDArray:
    """How far marginals are from Gaussian: samples (M, n, d) -> (M, d), the largest distance between the empirical
    distribution function and that of the Gaussian with the same mean and standard deviation; 0 where nothing varies.
    """
    x, n = np.sort(samples.astype(np.float64), axis=1), samples.shape[1]
    std = x.std(1, keepdims=True)
    gaussian = ndtr((x - x.mean(1, keepdims=True)) / np.where(std > 0, std, 1.0))
    rank = np.arange(1, n + 1)[None, :, None] / n
    distance = np.maximum(rank - gaussian, gaussian - rank + 1 / n).max(1)
    return np.where(std[:, 0] > 0, distance, 0.0)


def not_gaussian_marginals(data: CaseData, count: int = 6) -> list[tuple[int, int]]:
    """(test case, segment) of exact marginals farther than NOT_GAUSSIAN from Gaussian, at most one per case and wall.

    They are spread evenly from the smallest mass at zero to the largest (at most 90 %: there is little else to see
    above); empty where all marginals are Gaussian.
    """
    exact = data.methods["exact"].samples
    atom = (exact == 0).mean(1)
    far = (not_gaussian(exact) >= NOT_GAUSSIAN) & data.resolved[: len(exact), None] & (atom <= 0.9)
    found = [(int(i), int(s)) for i, s in np.argwhere(far)]
    half, picked = FluxSimulator.channel.segments, list[tuple[int, int]]()
    for wanted in np.linspace(atom[far].min(), atom[far].max(), count) if found else ():
        seen = {(i, s // half) for i, s in picked}
        left = [(i, s) for i, s in found if (i, s // half) not in seen]
        if left:
            picked.append(min(left, key=lambda entry: abs(atom[entry] - wanted)))
    return picked


def mass_at_zero(data: CaseData) -> dict[str, float]:
    """Mean posterior probability that a flux is exactly zero, by method, and the fraction of zeros in the "truth",
    over the test cases whose samples are kept and whose exact posterior is resolved; empty where there are none.
    """
    cases = data.resolved[: len(data.methods["exact"].samples)].nonzero()[0]
    if not len(cases):
        return {}
    masses = {name: float((summary.samples[cases] == 0).mean()) for name, summary in data.methods.items()}
    return {**masses, "truth": float((data.truth[cases] == 0).mean())}
