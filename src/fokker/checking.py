"""May this posterior be believed, in general and for one measurement? Words first, numbers after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fokker.check_advice import CLEAR, UNKNOWN, Fitted, advice, other_simulator
from fokker.check_local import Local
from fokker.check_measurement import LOCAL, Measured, measured_one_by_one
from fokker.check_rows import MOST_ROWS, Rows, baseline_of, drawn_at
from fokker.check_simulator import Simulates, arranged, drawn_from_prior, prior_of, simulated
from fokker.diagnostics.calibration import FEWEST, Verdict, judge
from fokker.diagnostics.scores import crps, energy_score
from fokker.errors import InputError
from fokker.posterior.conditional import ConditionalPosterior
from fokker.rng import stream

MOST = 100  # entries of x that are judged one by one
NEAR = 200  # simulations near a measurement


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
    names_of_y: Sequence[str] | None = None,
    y: NDArray | None = None,
    cond: dict[str, NDArray] | None = None,
    simulator: Simulates | None = None,
    near: int = NEAR,
    fitted: Fitted = UNKNOWN,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Checked:
    """Calibration on rows that played no part in the fit, and of each measurement y (K, *y_shape) with its conditions.

    names, names_of_y: of the entries of x and y. simulator: simulates again from the posterior of each measurement (499
    times) and, with a prior(rng, n) of its own, near each of the first 10 (`near` times; 0 for none), see
    `check_local`. fitted: what is known of the fit, for the advice.

    Raises `InputError` for fewer than 50 rows, another `near` below 50, a simulator that raises, returns other shapes
    or needs more than the x of the fit, and what `ConditionalPosterior.sample` refuses.
    """
    if near != 0 and near < FEWEST:
        raise InputError(f"near: got {near}, 0 or at least {FEWEST} simulations are accepted")
    if len(rows.x) < FEWEST:
        raise InputError(f"rows: got {len(rows.x)}, at least {FEWEST} cases are accepted")
    rows, given = rows.part(slice(None, MOST_ROWS)), simulator
    if simulator is not None and not posterior.extra:  # a mistake in it is told at once
        simulator = arranged(simulator, fitted.names)
        if near and (prior := prior_of(simulator)) is not None:
            drawn_from_prior(simulator, prior, 2, posterior.x_shape, stream(seed, "check/prior"))
        simulated(simulator, rows.x[:2], posterior.y_shape, stream(seed, "check/simulator"))
    size = int(np.prod(posterior.x_shape))
    names = [f"x[{i}]" for i in range(size)] if names is None else list(names)
    kept = np.unique(np.linspace(0, size - 1, min(size, MOST)).round().astype(int))
    truth = rows.x.reshape(len(rows.x), -1)[:, kept]
    learned = drawn_at(posterior, rows, seed, kept, lambda done, total: progress("check", done, total))
    not_possible, scores, guess = [], {}, None
    if len(kept) < size:
        not_possible.append(f"a verdict on each of {size} entries of x: {len(kept)} of them, evenly spaced, are judged")
    baseline = baseline_of(posterior)
    if baseline is None:
        not_possible.append("a comparison with the Gaussian without a network: these coordinates have none")
    else:
        plain = drawn_at(baseline, rows, seed, kept)
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
        names_kept = [names[i] for i in kept]
        not_possible += _not_simulated(posterior, simulator, near)
        if posterior.extra:
            simulator = None
        local = None
        if simulator is not None and (prior := prior_of(simulator)) is not None and near:
            local = Local(posterior, simulator, prior, names_kept, kept, near, seed, progress)
            if len(y) > LOCAL:
                not_possible.append(f"local re-simulation of {len(y)} measurements: the first {LOCAL} are served")
        names_of_y = names_of_y or [f"y[{i}]" for i in range(int(np.prod(posterior.y_shape)))]
        measured = measured_one_by_one(
            posterior, rows.complete, y, cond or {}, names_kept, names_of_y, kept, simulator, local, seed
        )
    words = [*(verdict.words or _clean(verdict, rows.origin)), *_beside(scores), *_learned(verdict)]
    if different := other_simulator(given, fitted):
        words.append(f"{different}: where it and the posterior disagree, either may be wrong")
    steps = advice(verdict, scores, measured, fitted, given)
    return Checked(verdict, scores, tuple(words), steps, tuple(measured), tuple(not_possible))


def _not_simulated(posterior: ConditionalPosterior, simulator: Simulates | None, near: int) -> list[str]:
    """Checks of a measurement that need more of a simulator than there is."""
    again, local = "a posterior predictive check", "local re-simulation"
    if simulator is None:
        return [f"{what}: no simulator (--simulator FILE)" for what in (again, local)]
    if posterior.extra:
        return [f"{what}: simulate(x, rng) knows nothing of further conditions" for what in (again, local)]
    if prior_of(simulator) is None:
        return [f"{local}: the simulator has no prior(rng, n)"]
    return [] if near else [f"{local}: no simulations near a measurement are asked for"]


def _compared(ours: NDArray, its: NDArray) -> tuple[float, float, float]:
    gap = its - ours
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    return float(ours.mean()), float(its.mean()), float(gap.mean() / error) if error > 0 else 0.0


def _clean(verdict: Verdict, origin: str) -> list[str]:
    return [
        f"calibrated, as far as {verdict.cases} {origin} can show: a shift of "
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
