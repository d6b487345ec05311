"""Local calibration: the posterior is tested on new simulations near one measurement.

Truths are drawn from the prior p(x) *given that they lie in a region R* that holds the posterior of the measurement,
and simulated. For them the exact posterior is the one that was learned, restricted to R:

    p_R(x | y) = p(x | y) 1_R(x) / p(R | y),

so samples of an exact p(x | y) that lie in R rank the truth uniformly, whatever R is, and independently of y.
(Truths drawn from the posterior of the measurement would not do: they have another prior than the learned posterior.)
Source: Talts et al. 2018 for the ranks; the restriction is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom, chi2, norm

from fokker.check_region import CHUNK, Region, Regions
from fokker.check_rows import AT_ONCE
from fokker.check_simulator import Prior, Simulates, drawn_from_prior, simulated
from fokker.diagnostics.calibration import FEWEST, judge, scores_of, shift_and_width
from fokker.diagnostics.sbc import pit
from fokker.posterior.conditional import ConditionalPosterior
from fokker.rng import stream

RATE = 0.01  # at which exact samples are called wrong around a measurement, all tests together
KEPT = 99  # samples of every case that lie in the region
ROUNDS = (128, 128, 256, 512, 1024)  # samples of a case, until enough of them lie there
AT_A_TIME = 25  # simulations between two reports of progress
OWN = 2**40  # measurements of one call are counted below it: noise of the cases is apart from that of all others


@dataclass(frozen=True)
class Around:
    """What new simulations near a measurement say of the posterior there: words, whether it is wrong, numbers."""

    words: tuple[str, ...]
    wrong: bool
    numbers: dict[str, float]


class Local:
    """Tests of a posterior on `count` new simulations near one measurement after the other."""

    def __init__(
        self,
        posterior: ConditionalPosterior,
        simulator: Simulates,
        prior: Prior,
        names: Sequence[str],
        kept: NDArray,
        count: int,
        seed: int,
        progress: Callable[[str, int, int], None],
    ):
        self.posterior, self.simulator, self.names, self.kept = posterior, simulator, names, kept
        self.count, self.seed, self.progress = count, seed, progress
        self.prior = prior

    @cached_property
    def regions(self) -> Regions:
        """The prior as seen by its draws; made when the first measurement needs it."""
        shape, support = self.posterior.x_shape, self.posterior.support

        def draw(name: str, c: int) -> NDArray:
            rng = stream(self.seed, f"check/local/{name}", c)
            return drawn_from_prior(self.simulator, self.prior, CHUNK, shape, rng)

        def to_line(x: NDArray) -> NDArray:
            u = x if support is None else support.to_line(torch.from_numpy(x)).numpy()
            return u.reshape(len(x), -1)

        return Regions(draw, to_line, self.progress)

    def around(self, k: int, y: NDArray, samples: NDArray) -> Around:
        """The posterior around measurement number k, y (*y_shape), of whose posterior samples (n, *x_shape) are known.

        Exact posteriors are called wrong with a probability of at most 1 %. What y misses is hidden from the
        simulations too. Those that fail are set aside, and those of which too few samples lie in the region; both
        depend on the simulated y alone, so that the tests stay exact.
        """
        region = self.regions.around(samples)
        x, part = self.regions.inside(region, self.count, f"near measurement {k}")
        here = ~np.isnan(y)
        numbers = {"directions": len(region.half), "part_of_prior": region.part, "simulations": len(x)}
        if len(x) < FEWEST:
            text = f"around it no more than {len(x)} draws of the prior lie where its posterior does: nothing is tested"
            return Around((text,), False, numbers)
        again = self._simulated(k, x, y.shape)
        good = np.isfinite(again[:, here]).all(1)
        again, truth = np.where(here, again, np.nan)[good], x[good]
        inside, counts = self._inside(k, region, again)
        full = counts >= KEPT
        notes = [f"{(~good).sum()} failed"] if not good.all() else []
        numbers |= {"failed": int((~good).sum()), "set_aside": int((~full).sum())}
        if (none := self._far(counts, part)) is not None:
            return Around(
                (f"around it {_seen(len(x), region, notes)} the posterior is grossly wrong: {none}",), True, numbers
            )
        if not full.all():
            notes.append(f"{(~full).sum()} set aside: too few of their samples lie where x was drawn")
        seen = _seen(len(x), region, notes)
        if full.sum() < FEWEST:
            return Around((f"around it {seen} nothing can be told: too few are left",), False, numbers)
        truth = truth[full].reshape(full.sum(), -1)[:, self.kept]
        wrong = self._judged(inside[full], truth, again[full][:, here])
        if wrong:
            words = [f"around it {seen} {wrong[0]}", *(f"around it {text}" for text in wrong[1:])]
            return Around(tuple(words), True, numbers)
        deviations = norm.isf(self._level / 2) + 1  # found in five cases of six
        least = (
            f"a shift of {deviations / np.sqrt(full.sum()):.1g} deviations or a width wrong by "
            f"{100 * deviations / np.sqrt(2 * full.sum()):.0f} %"
        )
        return Around((f"around it {seen} nothing wrong is seen ({least} would mostly be)",), False, numbers)

    @property
    def _level(self) -> float:
        """Of one test of one entry."""
        return RATE / 3 / (2 * len(self.names))

    def _simulated(self, k: int, x: NDArray, y_shape: tuple[int, ...]) -> NDArray:
        parts, rng = [], stream(self.seed, "check/local/simulate", k)
        for start in range(0, len(x), AT_A_TIME):
            parts.append(simulated(self.simulator, x[start : start + AT_A_TIME], y_shape, rng))
            self.progress(f"simulations near measurement {k}", start + len(parts[-1]), len(x))
        return np.concatenate(parts)

    def _inside(self, k: int, region: Region, y: NDArray) -> tuple[NDArray, NDArray]:
        """The first KEPT samples in the region of every case, (M, KEPT, d), and how many there were, (M,).

        A group of cases at a time, so that memory stays bounded; the samples do not depend on its size.
        """
        shape, size = self.posterior.x_shape, int(np.prod(self.posterior.x_shape))
        out, counts = np.zeros((len(y), KEPT, len(self.kept))), np.zeros(len(y), dtype=int)
        for r, n in enumerate(ROUNDS):
            todo, group = np.flatnonzero(counts < KEPT), max(1, AT_ONCE // (4 * n * size))
            for start in range(0, len(todo), group):
                rows, first = todo[start : start + group], (1 + k * len(ROUNDS) + r) * OWN + start
                found = self.posterior.sample(y[rows], n, self.seed, first=first, keep_going=True)
                x = found.samples.double().numpy()
                holds = self.regions.holds(region, x.reshape(-1, *shape)).reshape(len(rows), n)
                place = counts[rows, None] + holds.cumsum(1) - 1
                case, sample = np.nonzero(holds & (place < KEPT))
                out[rows[case], place[case, sample]] = x.reshape(len(rows), n, size)[case, sample][:, self.kept]
                counts[rows] += holds.sum(1)
                self.progress(f"samples near measurement {k}", int((counts >= KEPT).sum()), len(y))
        return out, counts

    def _far(self, counts: NDArray, part: float) -> str | None:
        """What is to be said where no sample of too many cases lies in the region; the prior has `part` of it inside.

        With Z = p(R | y) exact and N samples the chance of none is E[(1 - Z)^N]; y has the density p(y) Z / p(R), so
        that this is at most max_z z (1 - z)^N / p(R) < 1 / (e N p(R)).
        """
        most, none = sum(ROUNDS), int((counts == 0).sum())
        chance = min(1.0, 1 / (np.e * most * max(part, 1e-300)))
        if binom.sf(none - 1, len(counts), chance) > RATE / 3:
            return None
        return f"none of {most} samples lies where x was drawn, in {none} of {len(counts)} simulations"

    def _judged(self, samples: NDArray, truth: NDArray, y: NDArray) -> list[str]:
        """Sums and sums of squares of normal scores first, which see most; then all that sees any set of rows."""
        cases, words, named = len(truth), [], set()
        z, (shifts, widths) = scores_of(pit(samples, truth, self.seed))[0], shift_and_width(samples, truth)
        for j, name in enumerate(self.names):
            shift, width, squares = float(shifts[j]), float(widths[j]), float(z[:, j].var(ddof=1) * (cases - 1))
            if 2 * norm.sf(abs(z[:, j].mean()) * np.sqrt(cases)) < self._level:
                side = "low" if shift > 0 else "high"
                what = f"lies too {side}, by {abs(shift):.2g} posterior standard deviations"
            elif 2 * min(chi2.sf(squares, cases - 1), chi2.cdf(squares, cases - 1)) < self._level:
                what = "over-confident" if width > 1 else "under-confident"
                what = f"is {what}: samples should be {width:.2f} times as wide"
            else:
                continue
            named.add(name)
            words.append(f"{name} {what}")
        verdict, others = judge(samples, truth, y, self.names, rate=RATE / 3, seed=self.seed), set(self.names) - named
        return words + [
            text for text in verdict.words if not named or any(text.startswith(f"{name}:") for name in others)
        ]


def _seen(count: int, region: Region, notes: Sequence[str]) -> str:
    where = "near it" if len(region.half) else "from the whole prior, its posterior being as wide"
    return f"({count} simulations {where}{''.join(f', {note}' for note in notes)})"
