"""A region of x that holds the posterior of one measurement, in few directions, and the prior's draws inside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fokker.errors import InputError

PILOT, CHUNK, MOST = 16, 4096, 256  # chunks of prior draws that choose regions; rows of one; most chunks for cases
LEAST = 1e-3  # part of the prior's draws that lie in a region, at least (of the pilot's)
AXES = 40  # principal directions of the prior among which a region has its own, at most
CONTRACTED = 0.5  # variance of the posterior in units of the prior's, from which down a direction is used
CENTRAL, WIDER = 0.99, 1.5  # part of the samples whose interval a slab is made from, and by what it is widened
THINNEST = 1e-3  # half the width of a slab, in standard deviations of the prior, at least

Draw = Callable[[str, int], NDArray]
"""A chunk of the prior's draws x (CHUNK, *x_shape), by what it is for and its number."""


@dataclass(frozen=True)
class Region:
    """Slabs |a_j (u - mean) - centre_j| <= half_j of vectors u, all of space where there is none.

    axes: the a_j as columns (D, k). part: of the pilot's draws that lie inside.
    """

    mean: NDArray
    axes: NDArray
    centre: NDArray
    half: NDArray
    part: float

    def holds(self, u: NDArray) -> NDArray:
        """Which of u (n, D) lie inside, (n,); those that are not finite do not."""
        finite = np.isfinite(u).all(1)
        away = np.abs((np.where(finite[:, None], u, 0.0) - self.mean) @ self.axes - self.centre)
        return finite & (away <= self.half).all(1)


class Regions:
    """The prior seen through a pilot of its draws; `around` makes regions, `inside` draws from the prior in one.

    to_line: x (n, *x_shape) as vectors (n, D), on the real line where x has bounds. Directions are those in which
    samples vary least against the prior, among its leading principal directions. Raises InputError where the prior's
    draws never vary, and where hardly any is finite and within the bounds.
    """

    def __init__(self, draw: Draw, to_line: Callable[[NDArray], NDArray], progress: Callable[[str, int, int], None]):
        self.draw, self.to_line, self.progress = draw, to_line, progress
        first = to_line(draw("pilot", 0))
        first = first[np.isfinite(first).all(1)]
        if len(first) < CHUNK // 10:
            raise InputError(
                f"prior: {len(first)} of {CHUNK} draws are finite and within the model's bounds, nearly all must be"
            )
        self.mean = first.mean(0)
        std = first.std(0)
        if not std.any():
            raise InputError("prior: its draws are all the same, a prior that varies is accepted")
        std = np.where(std > 0, std, 1.0)
        scaled = (first - self.mean) / std
        values, vectors = np.linalg.eigh(scaled.T @ scaled / len(first))
        kept = np.flatnonzero(values > 1e-8 * values.max(initial=1e-300))[-AXES:]
        self.white = vectors[:, kept] / np.sqrt(values[kept]) / std[:, None]
        self.pilot = np.empty((PILOT * CHUNK, len(kept)))
        for c in range(PILOT):
            self.pilot[c * CHUNK : (c + 1) * CHUNK] = self._white(to_line(draw("pilot", c)))
            progress("draws of the prior", c + 1, PILOT)

    def around(self, samples: NDArray) -> Region:
        """A region with nearly all samples (n, *x_shape) of a posterior in it, and at least LEAST of the prior's draws.

        Half of the samples choose the directions, the others the widths. A slab that would leave too few of the
        prior's draws is widened until it does not, and is the last.
        """
        places = self._white(self.to_line(samples))
        choosing, measuring = places[::2], places[1::2]
        _, directions = np.linalg.eigh(np.cov(choosing, rowvar=False).reshape(places.shape[1], -1))
        along, prior = measuring @ directions, self.pilot @ directions
        low, high = np.quantile(along, [(1 - CENTRAL) / 2, (1 + CENTRAL) / 2], axis=0)
        centre, half = (low + high) / 2, np.maximum(WIDER * (high - low) / 2, THINNEST)
        inside, used, enough = np.isfinite(prior).all(1), [], int(np.ceil(LEAST * len(prior)))
        enough = min(enough, int(inside.sum()))
        for j in np.flatnonzero(along.var(0) < CONTRACTED):
            away = np.abs(prior[:, j] - centre[j])
            within = inside & (away <= half[j])
            used.append(j)
            if within.sum() < enough:
                half[j] = np.sort(away[inside])[enough - 1]
                inside &= away <= half[j]
                break
            inside = within
        return Region(self.mean, self.white @ directions[:, used], centre[used], half[used], float(inside.mean()))

    def inside(self, region: Region, count: int, name: str) -> tuple[NDArray, float]:
        """`count` draws of the prior given that they lie inside, fewer where these are too rare, and their frequency.

        The frequency is a lower limit, four standard errors below what was seen.
        """
        found: list[NDArray] = []
        total = 0
        for c in range(MOST):
            x = self.draw(name, c)
            found.append(x[self.holds(region, x)])
            total += len(found[-1])
            self.progress(f"draws of the prior, {name}", min(total, count), count)
            if total >= count:
                break
        part = total / (CHUNK * len(found))
        return np.concatenate(found)[:count], part * max(0.0, 1 - 4 / np.sqrt(max(total, 1)))

    def holds(self, region: Region, x: NDArray) -> NDArray:
        """Which of x (n, *x_shape) lie inside, (n,)."""
        return region.holds(self.to_line(x))

    def _white(self, u: NDArray) -> NDArray:
        """u (n, D) along the principal directions, of variance 1 in the prior; NaN where it is not finite."""
        return np.where(np.isfinite(u).all(1, keepdims=True), u - self.mean, np.nan) @ self.white
