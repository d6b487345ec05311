"""May this posterior be believed, in general and for one measurement? Words first, numbers after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from fokker.diagnostics import novelty
from fokker.diagnostics.calibration import Verdict, judge, scores_of
from fokker.diagnostics.novelty import Novelty
from fokker.diagnostics.sbc import pit
from fokker.diagnostics.scores import crps, energy_score
from fokker.errors import InputError
from fokker.posterior.conditional import ConditionalPosterior
from fokker.rng import stream

DRAWS = 199  # samples for each row
NEAR, PART = 100, 0.2  # rows around a measurement, and the part of all that these are at most
NEW = 0.01  # p-value below which a measurement is called unlike the others
CLEAR = 3.0  # standard errors beyond which a difference is told
MOST = 100  # entries of x that are judged one by one


class Simulates(Protocol):
    """What a check needs of a simulator."""

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


@dataclass(frozen=True)
class Rows:
    """Pairs that played no part in the fit: x (M, *x_shape), y (M, *y_shape), further conditions by name."""

    x: NDArray
    y: NDArray
    cond: dict[str, NDArray] = field(default_factory=dict)

    @property
    def seen(self) -> NDArray:
        """y and the conditions as one vector (M, D), NaN where y is missing."""
        return np.concatenate([v.reshape(len(self.x), -1) for v in (self.y, *self.cond.values())], 1)


@dataclass(frozen=True)
class Measured:
    """One measurement: p-values, what its neighbours say of every entry, words."""

    p_like_training: float | None
    p_predictive: float | None
    gaussian_shift: float | None
    words: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """The verdict on the rows, that on the Gaussian without a network, scores (ours, its, z), and each measurement."""

    verdict: Verdict
    gaussian: Verdict | None
    scores: dict[str, tuple[float, float, float]]
    words: tuple[str, ...]
    steps: tuple[str, ...]
    measured: tuple[Measured, ...]
    not_possible: tuple[str, ...]
    normal_scores: NDArray

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
    size = int(np.prod(posterior.x_shape))
    names = [f"x[{i}]" for i in range(size)] if names is None else list(names)
    kept = np.unique(np.linspace(0, size - 1, min(size, MOST)).round().astype(int))
    truth = rows.x.reshape(len(rows.x), -1)[:, kept]
    learned = _drawn(posterior, rows, seed, kept, lambda done, total: progress("check", done, total))
    not_possible, scores, gaussian, guess = [], {}, None, None
    if len(kept) < size:
        not_possible.append(f"a verdict on each of {size} entries of x: {len(kept)} of them, evenly spaced, are judged")
    try:
        baseline = posterior.no_network()
    except InputError:
        not_possible.append("a comparison with the Gaussian without a network: these coordinates have none")
    else:
        plain = _drawn(baseline, rows, seed, kept)
        guess = plain.mean(1)
        gaussian = judge(plain, truth, rows.seen, [names[i] for i in kept], guess, seed=seed)
        spread = truth.std(0)
        ours, its = ((crps(v, truth) / np.where(spread > 0, spread, 1)).mean(1) for v in (learned, plain))
        scores["crps"] = _compared(ours, its)
        if len(kept) > 1:
            scores["energy_score"] = _compared(energy_score(learned, truth), energy_score(plain, truth))
    verdict = judge(learned, truth, rows.seen, [names[i] for i in kept], guess, seed=seed)
    z = scores_of(pit(learned, truth, seed))[0]
    measured: list[Measured] = []
    if y is None:
        not_possible.append("a verdict on one measurement: none is given (--y FILE)")
    else:
        if posterior.extra and simulator is not None:
            not_possible.append("a posterior predictive check: simulate(x, rng) knows nothing of further conditions")
            simulator = None
        elif simulator is None:
            not_possible.append("a posterior predictive check: no simulator (--simulator FILE)")
        measured = _measurements(posterior, rows, y, cond or {}, z, [names[i] for i in kept], kept, simulator, seed)
    words = [*(verdict.words or _clean(verdict)), *_beside(scores), *_learned(verdict)]
    return Checked(
        verdict, gaussian, scores, tuple(words), _next(verdict, scores, measured), tuple(measured),
        tuple(not_possible), z,
    )  # fmt: skip


def _drawn(
    posterior: Any, rows: Rows, seed: int, kept: NDArray, progress: Callable[[int, int], None] | None = None
) -> NDArray:
    """Samples (M, DRAWS, d) of the kept entries."""
    more: dict[str, Any] = {} if progress is None else {"progress": progress}
    found = posterior.sample(rows.y, DRAWS, seed, cond=rows.cond or None, **more).samples
    return found.flatten(2)[:, :, kept].double().numpy()


def _compared(ours: NDArray, its: NDArray) -> tuple[float, float, float]:
    gap = its - ours
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    return float(ours.mean()), float(its.mean()), float(gap.mean() / error) if error > 0 else 0.0


def _clean(verdict: Verdict) -> list[str]:
    return [f"calibrated: nothing is wrong on {verdict.cases} rows that the fit has not seen (false alarms: 1 in 100)"]


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
    blind = [entry.name for entry in verdict.entries if entry.contraction < 0.05]
    if not blind:
        return []
    shown = ", ".join(blind[:5]) + (", ..." if len(blind) > 5 else "")
    return [f"the measurement says nothing about {shown}: the posterior is as wide as the prior there"]


def _next(verdict: Verdict, scores: dict[str, tuple[float, float, float]], measured: list[Measured]) -> tuple[str, ...]:
    steps = []
    if not verdict.calibrated:
        steps.append("fit to more pairs (`fokker simulate -n`), or with noise drawn anew where its law is known")
    if scores and all(z <= CLEAR for _, _, z in scores.values()):
        steps.append("use posterior.no_network(), which needs no network, or fit to more pairs")
    if any(m.p_like_training is not None and m.p_like_training <= NEW for m in measured):
        steps.append(
            "widen the prior, or mend the measurement or the simulator, until it looks like the simulated ones"
        )
    return tuple(steps)


def _measurements(
    posterior: ConditionalPosterior,
    rows: Rows,
    y: NDArray,
    cond: dict[str, NDArray],
    z: NDArray,
    names: Sequence[str],
    kept: NDArray,
    simulator: Simulates | None,
    seed: int,
) -> list[Measured]:
    """Each measurement judged by itself."""
    seen = np.concatenate([v.reshape(len(v), -1).repeat(len(y) // len(v), 0) for v in (y, *cond.values())], 1)
    found = posterior.sample(y, DRAWS, seed, cond=cond or None).samples
    flat = found.flatten(2)[:, :, kept].double().numpy()
    try:
        plain: Any = posterior.no_network().sample(y, DRAWS, seed, cond=cond or None).samples.flatten(2)[:, :, kept]
    except InputError:
        plain = None
    out = []
    for k in range(len(y)):
        words, here = [], ~np.isnan(seen[k])
        known = rows.seen[:, here]
        whole = ~np.isnan(known).any(1)
        p_like = None
        if whole.sum() >= novelty.FEWEST and here.any():
            judge_of_y = Novelty(known[whole], seed)
            p_like, level = _outlying(judge_of_y, seen[k][here])
            if p_like <= level:
                words.append(
                    "the measurement lies outside the training data: at most "
                    f"{100 * level:.2g} % of simulated ones are as unusual"
                )
            else:
                words.append(f"the measurement looks like the training data (p = {p_like:.2g})")
            near = judge_of_y.nearest(seen[k][here], known[whole], min(NEAR, round(PART * whole.sum())))
            words += _nearby(z[whole][near], names, int(whole.sum()))
        else:
            words.append("whether it looks like the training data cannot be told: too few rows have the same entries")
        shift = None
        if plain is not None:
            other = plain[k].double().numpy()
            shift = float(np.abs((flat[k].mean(0) - other.mean(0)) / np.maximum(other.std(0), 1e-300)).max())
            words.append(f"its means are up to {shift:.2g} deviations from the Gaussian's without a network")
        p_predictive = None
        if simulator is not None:
            p_predictive, text = _predicted(simulator, found[k].double().numpy(), y[k].ravel(), seed)
            words.append(text)
        out.append(Measured(p_like, p_predictive, shift, tuple(words)))
    return out


def _nearby(z: NDArray, names: Sequence[str], known: int) -> list[str]:
    """Calibration of the rows nearest to a measurement, out of those known, whose normal scores are z (count, d).

    For exact samples these are N(0, 1) whatever the measurement: sums and sums of squares have known laws, and all
    tests together call exact samples wrong in one case of 100.
    """
    count, words, level = len(z), [], NEW / (2 * len(names))
    for j, name in enumerate(names):
        shift, width = float(z[:, j].mean()), float(z[:, j].std(ddof=1))
        if 2 * norm.sf(abs(shift) * np.sqrt(count)) < level:
            side = "low" if shift > 0 else "high"
            words.append(f"around it {name} lies too {side}, by {abs(shift):.2g} posterior standard deviations")
        squares = (count - 1) * width**2
        if 2 * min(chi2.sf(squares, count - 1), chi2.cdf(squares, count - 1)) < level:
            what = "over-confident" if width > 1 else "under-confident"
            words.append(f"around it {name} is {what}: samples should be {width:.2f} times as wide")
    seen = f"on the {count} nearest of {known} rows"
    return words or [f"around it, {seen}, nothing is wrong (a shift of {4 / np.sqrt(count):.1g} deviations would show)"]


def _outlying(judge: Novelty, y: NDArray) -> tuple[float, float]:
    """p-value of a measurement (D,), and the level at which it is told: 1 %, or what so few others allow."""
    return float(judge.p_value(y[None])[0]), max(NEW, 1 / (1 + len(judge.scores)))


def _predicted(simulator: Simulates, x: NDArray, y: NDArray, seed: int) -> tuple[float | None, str]:
    """p-value of y (D,) among simulations from samples of its own posterior, and what it says."""
    again = np.asarray(simulator.simulate(x.copy(), stream(seed, "check/predictive")), dtype=np.float64)
    here = ~np.isnan(y)
    again = again.reshape(len(x), -1)[:, here]
    good = np.isfinite(again).all(1)
    failed = f" ({(~good).sum()} of {len(x)} simulations failed)" if not good.all() else ""
    if good.sum() < novelty.FEWEST:
        return None, f"its own posterior cannot be simulated{failed}"
    p, level = _outlying(Novelty(again[good], seed), y[here])
    if p <= level:
        return p, f"its own posterior does not explain it: simulated again, hardly any is like it (p = {p:.2g}){failed}"
    return p, f"its own posterior explains it (p = {p:.2g}){failed}"
