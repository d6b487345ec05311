"""One measurement: is it like the training data, is the posterior right around it, does that explain it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from fokker.check_local import Local
from fokker.check_rows import Rows, baseline_of, drawn_at, gaps_are_known
from fokker.check_simulator import Simulates, simulated
from fokker.diagnostics import novelty
from fokker.diagnostics.calibration import scores_of, shift_and_width
from fokker.diagnostics.novelty import Novelty
from fokker.diagnostics.sbc import pit
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.gaussian_conditional import GaussianConditional
from fokker.rng import stream
from fokker.screening import NEW, judge_of, placeholders

AGAIN = 499  # samples for a measurement, each simulated again
LARGE = 0.99  # p-value that is not told further: twice the smaller of two is cut at 1
NEAR, PART = 100, 0.2  # rows around a measurement, and the part of all that these are at most
BLANK = "nothing of it is observed, and the answer is the prior that the model has learned"
LOCAL = 10  # measurements around which is simulated anew, at most


@dataclass(frozen=True)
class Measured:
    """One measurement: p-values, distance from the Gaussian, whether it is unlike the others or unexplained, words.

    wrong_around: whether the posterior is found wrong around it. local: numbers of the simulations near it.
    """

    p_like_training: float | None
    p_predictive: float | None
    gaussian_shift: float | None
    strange: bool
    words: tuple[str, ...]
    wrong_around: bool = False
    local: dict[str, float] | None = None


def measured_one_by_one(
    posterior: ConditionalPosterior,
    rows: Rows,
    y: NDArray,
    cond: dict[str, NDArray],
    names: Sequence[str],
    names_of_y: Sequence[str],
    kept: NDArray,
    simulator: Simulates | None,
    local: Local | None,
    seed: int,
) -> list[Measured]:
    """Each measurement judged by itself; around the first LOCAL of them by new simulations where `local` is given."""
    seen = Rows(y, y, cond).seen  # x plays no part
    with gaps_are_known():
        found = posterior.sample(y, AGAIN, seed, cond=cond or None, keep_going=True).samples
    lost = found.isnan().flatten(1).any(1).tolist()
    odd_entries = placeholders(rows.seen, seen, names_of_y, posterior.masked)
    flat = found.flatten(2)[:, :, kept].double().numpy()
    baseline = baseline_of(posterior)
    plain = None if baseline is None else drawn_at(baseline, Rows(y, y, cond), seed, kept)
    known: dict[bytes, tuple[NDArray, Novelty | None]] = {}
    out = []
    for k in range(len(y)):
        here = ~np.isnan(seen[k])
        if here.tobytes() not in known:
            known[here.tobytes()] = judge_of(rows.seen, here, seed)
        whole, judge_of_y = known[here.tobytes()]
        words, p_like, p_predictive, shift, strange, wrong, numbers = [], None, None, None, False, False, None
        if judge_of_y is None:
            why = "too few rows have the same entries" if here.any() else BLANK
            words.append(f"whether it looks like the training data cannot be told: {why}")
        else:
            p_like, strange, text = _outlying(judge_of_y, seen[k][here])
            far = ", so far that no samples can be drawn" if lost[k] else ": hardly any is as unusual"
            words.append(
                f"the measurement lies outside the training data{far} ({text})"
                if strange
                else f"the measurement looks like the training data ({text})"
            )
        if odd_entries[k]:
            words.append(odd_entries[k])
        if lost[k] and not strange:
            words.append("no samples can be drawn: they are not finite")
        if strange:
            words.append("nothing is near it, so that nothing can be said of the posterior there")
        if strange or lost[k]:
            if simulator is not None:
                words.append("not possible: simulations from its posterior or near it, as its samples mean nothing")
            out.append(Measured(p_like, None, None, True, tuple(words)))
            continue
        if local is not None and k < LOCAL and here.any():
            around = local.around(k, y[k], found[k].double().numpy())
            words, wrong, numbers = [*words, *around.words], around.wrong, around.numbers
        elif judge_of_y is not None:
            one = Rows(y, y, cond).part([k])
            wrong, texts = _nearby(posterior, baseline, rows.part(whole), one, names, kept, seed)
            words += texts
        if plain is not None:
            shift = float((np.abs(flat[k].mean(0) - plain[k].mean(0)) / np.maximum(plain[k].std(0), 1e-300)).max())
            words.append(f"its means are up to {shift:.2g} deviations from those of the no-network Gaussian")
        if simulator is not None:
            p_predictive, odd, text = _predicted(simulator, found[k].double().numpy(), y[k], seed)
            strange = strange or odd
            words.append(text)
        out.append(Measured(p_like, p_predictive, shift, strange, tuple(words), wrong, numbers))
    return out


def _nearby(
    posterior: ConditionalPosterior,
    baseline: GaussianConditional | None,
    rows: Rows,
    one: Rows,
    names: Sequence[str],
    kept: NDArray,
    seed: int,
) -> tuple[bool, list[str]]:
    """Calibration of the rows nearest to a measurement, the entries it misses hidden from them too: wrong?, in words.

    Near is where the Gaussian without a network has a similar mean of x, in deviations of these means: a function of y
    alone, so that for exact samples the normal scores of the chosen rows are N(0, 1) still. Their sums and sums of
    squares have known laws, and all tests together call exact samples wrong in one case of 100.
    """
    gaps = np.isnan(one.y[0])
    if gaps.any():
        rows = Rows(rows.x, np.where(gaps, np.nan, rows.y), rows.cond)
    if baseline is None:
        places, place = (np.nan_to_num((r.seen - rows.seen.mean(0)) / _std(rows.seen)) for r in (rows, one))
    else:
        places, place = (baseline.mean(r.y, cond=r.cond or None).flatten(1).numpy() for r in (rows, one))
        scale = _std(places)
        places, place = places / scale, place / scale
    count = min(NEAR, round(PART * len(rows.x)))
    near = rows.part(np.linalg.norm(places - place, axis=1).argsort(kind="stable")[:count])
    samples, truth = drawn_at(posterior, near, seed, kept), near.x.reshape(count, -1)[:, kept]
    z, (shifts, widths) = scores_of(pit(samples, truth, seed))[0], shift_and_width(samples, truth)
    words, level = [], NEW / (2 * len(names))
    for j, name in enumerate(names):
        shift, width = float(shifts[j]), float(widths[j])
        if 2 * norm.sf(abs(z[:, j].mean()) * np.sqrt(count)) < level:
            side = "low" if shift > 0 else "high"
            words.append(f"around it {name} lies too {side}, by {abs(shift):.2g} posterior standard deviations")
            continue
        squares = (count - 1) * z[:, j].var(ddof=1)
        if 2 * min(chi2.sf(squares, count - 1), chi2.cdf(squares, count - 1)) < level:
            what = "over-confident" if width > 1 else "under-confident"
            words.append(f"around it {name} is {what}: samples should be {width:.2f} times as wide")
    if words:
        words[-1] += f" (of exact posteriors, {100 * NEW:g} in 100 measurements are told so)"
    seen = f"on the {count} nearest of {len(rows.x)} rows"
    least = f"a shift of {4 / np.sqrt(count):.1g} deviations or a width wrong by {100 * 3 / np.sqrt(2 * count):.0f} %"
    return bool(words), words or [f"around it, {seen}, nothing wrong is seen ({least} would mostly be)"]


def _std(values: NDArray) -> NDArray:
    std = values.std(0)
    return np.where(std > 0, std, 1.0)


def _outlying(judge: Novelty, y: NDArray) -> tuple[float, bool, str]:
    """p-value of a measurement (D,), whether that is at most 1 % (or as small as so few others allow), and its text."""
    p, smallest = float(judge.p_value(y[None])[0]), judge.smallest
    shown = f"p = {p:.2g}" if p < LARGE else f"p >= {LARGE}"
    text = f"{shown}, told from {max(NEW, smallest):.2g} down" + (
        ", the least that so few rows allow" if smallest > NEW else ""
    )
    return p, p <= max(NEW, smallest), text


def _predicted(simulator: Simulates, x: NDArray, y: NDArray, seed: int) -> tuple[float | None, bool, str]:
    """p-value of y among simulations from samples of its own posterior, whether it is small, and what it says."""
    again = simulated(simulator, x, y.shape, stream(seed, "check/predictive")).reshape(len(x), -1)
    here = ~np.isnan(y.ravel())
    good = np.isfinite(again[:, here]).all(1)
    failed = f" ({(~good).sum()} of {len(x)} simulations failed)" if not good.all() else ""
    if good.sum() < novelty.FEWEST or not here.any():
        return None, False, f"its own posterior cannot be simulated{failed}"
    p, odd, text = _outlying(Novelty(again[good][:, here], seed), y.ravel()[here])
    if odd:
        return p, odd, f"its own posterior does not explain it: simulated again, hardly any is like it ({text}){failed}"
    return p, odd, f"its own posterior does not contradict it ({text}){failed}"
