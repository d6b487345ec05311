"""May this posterior be believed, in general and for one measurement? Words first, numbers after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from fokker.diagnostics import novelty
from fokker.diagnostics.calibration import FEWEST, Verdict, judge, scores_of, shift_and_width
from fokker.diagnostics.novelty import Novelty
from fokker.diagnostics.sbc import pit
from fokker.diagnostics.scores import crps, energy_score
from fokker.errors import InputError
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.gaussian_conditional import GaussianConditional
from fokker.rng import stream
from fokker.simulation.chunks import called

DRAWS = 199  # samples for each row
AGAIN = 499  # samples for a measurement, each simulated again
NEAR, PART = 100, 0.2  # rows around a measurement, and the part of all that these are at most
NEW = 0.01  # p-value below which a measurement is called unlike the others
CLEAR = 3.0  # standard errors beyond which a difference is told
MOST = 100  # entries of x that are judged one by one
MOST_ROWS = 2000
AT_ONCE = 2**24  # numbers that are sampled at a time


class Simulates(Protocol):
    """What a check needs of a simulator."""

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


@dataclass(frozen=True)
class Rows:
    """Pairs that played no part in the fit: x (M, *x_shape), y (M, *y_shape), further conditions by name."""

    x: NDArray
    y: NDArray
    cond: dict[str, NDArray] = field(default_factory=dict)

    def part(self, which: Any) -> Rows:
        """Some of the rows."""
        return Rows(self.x[which], self.y[which], {name: value[which] for name, value in self.cond.items()})

    @property
    def seen(self) -> NDArray:
        """y and the conditions as one vector (M, D), NaN where y is missing."""
        return np.concatenate([v.reshape(len(self.x), -1) for v in (self.y, *self.cond.values())], 1)


@dataclass(frozen=True)
class Measured:
    """One measurement: p-values, distance from the Gaussian, whether it is unlike the others or unexplained, words."""

    p_like_training: float | None
    p_predictive: float | None
    gaussian_shift: float | None
    strange: bool
    words: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """The verdict on the rows, scores (ours, the Gaussian's without a network, z), and each measurement."""

    verdict: Verdict
    scores: dict[str, tuple[float, float, float]]
    words: tuple[str, ...]
    steps: tuple[str, ...]
    measured: tuple[Measured, ...]
    not_possible: tuple[str, ...]

    def numbers(self) -> dict[str, Any]:
        """Everything as JSON."""
        entries = [vars(entry) for entry in self.verdict.entries]
        return {
            "calibrated": self.verdict.calibrated,
            "cases": self.verdict.cases,
            "words": list(self.words),
            "next": list(self.steps),
            "entries": entries,
            "p_joint": self.verdict.p_joint,
            "scores": {name: dict(zip(("learned", "no_network", "z"), v)) for name, v in self.scores.items()},
            "measurements": [{**vars(m), "words": list(m.words)} for m in self.measured],
            "not_possible": list(self.not_possible),
        }


def check(
    posterior: ConditionalPosterior,
    rows: Rows,
    *,
    names: Sequence[str] | None = None,
    y: NDArray | None = None,
    cond: dict[str, NDArray] | None = None,
    simulator: Simulates | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Checked:
    """Calibration on rows that played no part in the fit, and of each measurement y (K, *y_shape) with its conditions.

    names: of the entries of x. simulator: for the posterior predictive check of the measurements.

    Raises `InputError` for fewer than 50 rows and what `ConditionalPosterior.sample` refuses.
    """
    if len(rows.x) < FEWEST:
        raise InputError(f"rows: got {len(rows.x)}, at least {FEWEST} cases are accepted")
    rows = rows.part(slice(None, MOST_ROWS))
    if simulator is not None and not posterior.extra:
        simulated(simulator, rows.x[:2], posterior.y_shape, seed)  # a mistake in it is told at once
    size = int(np.prod(posterior.x_shape))
    names = [f"x[{i}]" for i in range(size)] if names is None else list(names)
    kept = np.unique(np.linspace(0, size - 1, min(size, MOST)).round().astype(int))
    truth = rows.x.reshape(len(rows.x), -1)[:, kept]
    learned = _drawn(posterior, rows, seed, kept, lambda done, total: progress("check", done, total))
    not_possible, scores, guess = [], {}, None
    if len(kept) < size:
        not_possible.append(f"a verdict on each of {size} entries of x: {len(kept)} of them, evenly spaced, are judged")
    baseline = _baseline(posterior)
    if baseline is None:
        not_possible.append("a comparison with the Gaussian without a network: these coordinates have none")
    else:
        plain = _drawn(baseline, rows, seed, kept)
        guess = plain.mean(1)
        spread = truth.std(0)
        ours, its = ((crps(v, truth) / np.where(spread > 0, spread, 1)).mean(1) for v in (learned, plain))
        scores["crps"] = _compared(ours, its)
        if len(kept) > 1:
            scores["energy_score"] = _compared(energy_score(learned, truth), energy_score(plain, truth))
    verdict = judge(learned, truth, rows.seen, [names[i] for i in kept], guess, seed=seed)
    measured: list[Measured] = []
    if y is None:
        not_possible.append("a verdict on one measurement: none is given (--y FILE)")
    else:
        if posterior.extra and simulator is not None:
            not_possible.append("a posterior predictive check: simulate(x, rng) knows nothing of further conditions")
            simulator = None
        elif simulator is None:
            not_possible.append("a posterior predictive check: no simulator (--simulator FILE)")
        measured = _measurements(posterior, rows, y, cond or {}, [names[i] for i in kept], kept, simulator, seed)
    words = [*(verdict.words or _clean(verdict)), *_beside(scores), *_learned(verdict)]
    return Checked(
        verdict, scores, tuple(words), _next(verdict, scores, measured), tuple(measured), tuple(not_possible)
    )


def _drawn(
    posterior: Any, rows: Rows, seed: int, kept: NDArray, progress: Callable[[int, int], None] | None = None
) -> NDArray:
    """Samples (M, DRAWS, d) of the kept entries, a group of rows at a time, so that memory stays bounded."""
    group, parts = max(1, AT_ONCE // (DRAWS * int(np.prod(posterior.x_shape)))), []
    for start in range(0, len(rows.x), group):
        part = rows.part(slice(start, start + group))
        found = posterior.sample(part.y, DRAWS, seed, cond=part.cond or None, first=start).samples
        parts.append(found.flatten(2)[:, :, kept].double().numpy())
        if progress is not None:
            progress(min(start + group, len(rows.x)), len(rows.x))
    return np.concatenate(parts)


def _compared(ours: NDArray, its: NDArray) -> tuple[float, float, float]:
    gap = its - ours
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    return float(ours.mean()), float(its.mean()), float(gap.mean() / error) if error > 0 else 0.0


def _clean(verdict: Verdict) -> list[str]:
    return [
        f"calibrated, as far as {verdict.cases} rows that the fit has not seen can show: a shift of "
        f"{4.5 / np.sqrt(verdict.cases):.1g} posterior standard deviations would be found (false alarms: 1 in 100)"
    ]


def _beside(scores: dict[str, tuple[float, float, float]]) -> list[str]:
    """What the network adds to the Gaussian without one."""
    if not scores:
        return []
    ours, its, z = scores["energy_score" if "energy_score" in scores else "crps"]
    if z > CLEAR:
        lower = 100 * (1 - ours / its)
        return [f"better than the Gaussian without a network: its score is {lower:.1f} % lower (z = {z:.0f})"]
    if z < -CLEAR:
        higher = 100 * (ours / its - 1)
        return [f"worse than the Gaussian without a network: its score is {higher:.1f} % higher (z = {z:.0f})"]
    return ["no clear difference from the Gaussian without a network: the network adds nothing that these rows show"]


def _learned(verdict: Verdict) -> list[str]:
    """What y tells about x."""
    blind = [e.name for e in verdict.entries if e.contraction is not None and abs(e.contraction) < 0.05]
    if not blind or not verdict.calibrated:
        return []
    shown = ", ".join(blind[:5]) + (", ..." if len(blind) > 5 else "")
    return [f"the posterior's standard deviation of {shown} is that of the prior: the measurement does not reduce it"]


def _next(verdict: Verdict, scores: dict[str, tuple[float, float, float]], measured: list[Measured]) -> tuple[str, ...]:
    steps = []
    if not verdict.calibrated:
        steps.append("fit to more pairs (`fokker simulate -n`), or with noise drawn anew where its law is known")
    if scores and all(z <= CLEAR for _, _, z in scores.values()):
        steps.append("use posterior.no_network(), which needs no network, or fit to more pairs")
    if any(m.strange for m in measured):
        steps.append(
            "widen the prior, or mend the measurement or the simulator, until it looks like the simulated ones"
        )
    return tuple(steps)


def _measurements(
    posterior: ConditionalPosterior,
    rows: Rows,
    y: NDArray,
    cond: dict[str, NDArray],
    names: Sequence[str],
    kept: NDArray,
    simulator: Simulates | None,
    seed: int,
) -> list[Measured]:
    """Each measurement judged by itself."""
    seen = Rows(y, y, cond).seen  # x plays no part
    found = posterior.sample(y, AGAIN, seed, cond=cond or None).samples
    flat = found.flatten(2)[:, :, kept].double().numpy()
    baseline = _baseline(posterior)
    plain = None if baseline is None else _drawn(baseline, Rows(y, y, cond), seed, kept)
    known: dict[bytes, tuple[NDArray, Novelty | None]] = {}
    out = []
    for k in range(len(y)):
        here = ~np.isnan(seen[k])
        if here.tobytes() not in known:
            whole = ~np.isnan(rows.seen[:, here]).any(1)
            enough = whole.sum() >= novelty.FEWEST and here.any()
            known[here.tobytes()] = whole, Novelty(rows.seen[whole][:, here], seed) if enough else None
        whole, judge_of_y = known[here.tobytes()]
        words, p_like, p_predictive, shift, strange = [], None, None, None, False
        if judge_of_y is None:
            words.append("whether it looks like the training data cannot be told: too few rows have the same entries")
        else:
            p_like, strange, text = _outlying(judge_of_y, seen[k][here])
            words.append(
                f"the measurement lies outside the training data: hardly any is as unusual ({text})"
                if strange
                else f"the measurement looks like the training data ({text})"
            )
            words += _nearby(posterior, baseline, rows.part(whole), Rows(y, y, cond).part([k]), names, kept, seed)
        if plain is not None:
            shift = float((np.abs(flat[k].mean(0) - plain[k].mean(0)) / np.maximum(plain[k].std(0), 1e-300)).max())
            words.append(f"its means are up to {shift:.2g} deviations from the Gaussian's without a network")
        if simulator is not None:
            p_predictive, odd, text = _predicted(simulator, found[k].double().numpy(), y[k], seed)
            strange = strange or odd
            words.append(text)
        out.append(Measured(p_like, p_predictive, shift, strange, tuple(words)))
    return out


def _baseline(posterior: ConditionalPosterior) -> GaussianConditional | None:
    try:
        return posterior.no_network()
    except InputError:
        return None


def _nearby(
    posterior: ConditionalPosterior,
    baseline: GaussianConditional | None,
    rows: Rows,
    one: Rows,
    names: Sequence[str],
    kept: NDArray,
    seed: int,
) -> list[str]:
    """Calibration of the rows nearest to a measurement, the entries it misses hidden from them too.

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
    samples, truth = _drawn(posterior, near, seed, kept), near.x.reshape(count, -1)[:, kept]
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
    seen = f"on the {count} nearest of {len(rows.x)} rows"
    return words or [f"around it, {seen}, nothing is wrong (a shift of {4 / np.sqrt(count):.1g} deviations would show)"]


def _std(values: NDArray) -> NDArray:
    std = values.std(0)
    return np.where(std > 0, std, 1.0)


def _outlying(judge: Novelty, y: NDArray) -> tuple[float, bool, str]:
    """p-value of a measurement (D,), whether that is at most 1 % (or as small as so few others allow), and its text."""
    p, smallest = float(judge.p_value(y[None])[0]), judge.smallest
    text = f"p = {p:.2g}" + (f", with so few rows no less than {smallest:.2g}" if smallest > NEW else "")
    return p, p <= max(NEW, smallest), text


def _predicted(simulator: Simulates, x: NDArray, y: NDArray, seed: int) -> tuple[float | None, bool, str]:
    """p-value of y among simulations from samples of its own posterior, whether it is small, and what it says."""
    again = simulated(simulator, x, y.shape, seed).reshape(len(x), -1)
    here = ~np.isnan(y.ravel())
    good = np.isfinite(again[:, here]).all(1)
    failed = f" ({(~good).sum()} of {len(x)} simulations failed)" if not good.all() else ""
    if good.sum() < novelty.FEWEST or not here.any():
        return None, False, f"its own posterior cannot be simulated{failed}"
    p, odd, text = _outlying(Novelty(again[good][:, here], seed), y.ravel()[here])
    if odd:
        return p, odd, f"its own posterior does not explain it: simulated again, hardly any is like it ({text}){failed}"
    return p, odd, f"its own posterior explains it ({text}){failed}"


def simulated(simulator: Simulates, x: NDArray, y_shape: tuple[int, ...], seed: int) -> NDArray:
    """y (n, *y_shape) of the simulator at x (n, *x_shape); InputError where it raises or returns another shape."""
    prior = getattr(simulator, "prior", None)
    if x.shape[1:] == (1,) and callable(prior) and np.ndim(prior(stream(seed, "check/prior"), 2)) == 1:
        x = x[:, 0]  # one number a row, without an axis of its own
    name = f"{type(simulator).__name__}.simulate"
    y = called(name, len(x), lambda: simulator.simulate(x.copy(), stream(seed, "check/predictive")))
    if y.shape != (len(x), *y_shape) and not (y.ndim == 1 and y_shape == (1,)):
        raise InputError(f"{name} returned an array of shape {y.shape}; expected {(len(x), *y_shape)}")
    return y
