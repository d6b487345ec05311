"""Whether a run of a channel problem can be trusted: sentences made from its numbers, each beside its target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fokker.errors import InputError
from fokker.problems.flux_cases import Case
from fokker.problems.flux_metrics import EXACT, NO_NETWORK, head
from fokker.problems.flux_summary import LEVELS, Summary
from fokker.report.flux_data import CaseData
from fokker.report.page import Check

CLEAR = 5.0  # paired z from which a difference in CRPS counts
SCORES = {
    "error": ("the error of the learned posterior's mean", "error_percent", " %"),
    "crps": ("the learned posterior's CRPS (the error of a whole distribution)", "crps", ""),
}
METRICS = ("error_percent", "crps", *(f"coverage_{100 * level:g}" for level in LEVELS))


class Lookup:
    """Metrics of one case by method ("learned" for the first learned one) and name."""

    def __init__(self, case: Case, metrics: Mapping[str, float]):
        self.case, self.metrics = case, metrics

    def key(self, method: str, name: str) -> str:
        method = self.case.methods[0].name if method == "learned" else method
        return f"{head(self.case, method)}.{name}"

    def has(self, method: str, name: str) -> bool:
        return self.key(method, name) in self.metrics

    def __call__(self, method: str, name: str) -> float:
        if not self.has(method, name):
            raise InputError(f"metrics.json: has no {self.key(method, name)}; running the same command again makes it")
        return self.metrics[self.key(method, name)]


def ratio_error(data: CaseData, name: str) -> float:
    """Standard error of the ratio learned / exact of a score ("error": of the mean, or "crps") over the cases judged;
    0 for fewer than two.
    """
    cases = data.judged

    def per_case(summary: Summary) -> Any:
        values = summary.crps[cases] if name == "crps" else np.abs(summary.mean[cases] - data.truth[cases])
        return values.mean(1)

    if not data.resolved.any() or len(cases) < 2:
        return 0.0
    learned, exact = per_case(data.methods["learned"]), per_case(data.methods[EXACT])
    if not exact.mean() > 0:
        return 0.0
    rest = learned - learned.mean() / exact.mean() * exact
    return float(rest.std(ddof=1) / len(cases) ** 0.5 / exact.mean())


def verdict(case: Case, metrics: Mapping[str, float], spread: Mapping[str, float] | None = None) -> list[Check]:
    """Sentences about one case, computed from the run's metrics, each with its target and whether it is reached.

    spread: standard errors of the ratios to the exact posterior, by name ("error", "crps"), where known.
    Raises InputError where a metric is missing.
    """
    get = Lookup(case, metrics)
    cases, unresolved = int(get(EXACT, "cases")), int(get(EXACT, "unresolved"))
    if cases == 0:
        text = f"None of {unresolved} exact posteriors is resolved: how close the learned one is cannot be told."
        return [Check(text), *_gains(case, get), *_calibration(case, get)]
    text = f"All {cases} exact posteriors that were computed are resolved (R-hat, effective sample size)."
    if unresolved:
        text = f"{unresolved} of {cases + unresolved} exact posteriors are not resolved and are left out."
    close = [_closeness(case, get, name, (spread or {}).get(name, 0.0)) for name in SCORES]
    return [
        *close,
        *_distance(case, get),
        *_gains(case, get),
        _coverage(case, get),
        *_calibration(case, get),
        *_other_ways(case, get),
        Check(text),
    ]


def _closeness(case: Case, get: Lookup, name: str, give: float) -> Check:
    """The error of the mean, or the CRPS, against the exact posterior's."""
    what, metric, unit = SCORES[name]
    if not get.has(EXACT, metric):
        return Check(f"There is no flux, so {what} is not measured against it.")
    learned, exact = get("learned", metric), get(EXACT, metric)
    ratio = learned / exact if exact > 0 else math.inf
    text = (
        f"On {get(EXACT, 'cases'):g} test cases with a resolved exact posterior {what} is {learned:#.3g}{unit}"
        f"{' of the mean flux' if name == 'error' else ''}, the exact posterior's is {exact:#.3g}{unit} "
        f"(ratio {ratio:.3f}{f' ± {give:.3f}' if give else ''})"
    )
    for other in (NO_NETWORK, *case.run.competitors):
        if get.has(other, metric):
            who = "the Gaussian without any network" if other == NO_NETWORK else f"the {other.capitalize()} posterior"
            text += f", that of {who} {get(other, metric):#.3g}{unit}"
    targets = case.run.targets(case)
    if name == "error" and targets.error_percent is not None:
        return Check(f"{text}. Target: at most {targets.error_percent:g} %.", learned <= targets.error_percent)
    target = getattr(targets, name)
    if target is None:
        return Check(f"{text}. No target is set for this.")
    return Check(f"{text}. Target: ratio at most {target}.", ratio <= target)


def _distance(case: Case, get: Lookup) -> Iterator[Check]:
    """Means and spreads against the exact posterior's, where a target is set."""
    targets = case.run.targets(case)
    if targets.distance is not None and get.has("learned", "mean_distance"):
        found = get("learned", "mean_distance")
        text = (
            f"Learned means are {found:.3f} exact standard deviations from the exact means (root mean square)"
            f"{_of_others(case, get, 'mean_distance')}. Target: at most {targets.distance:g}."
        )
        yield Check(text, found <= targets.distance)
    if targets.spread is not None and get.has("learned", "std_ratio"):
        found = get("learned", "std_ratio")
        text = (
            f"Learned standard deviations are {found:.3f} times the exact ones on average"
            f"{_of_others(case, get, 'std_ratio')}. Target: within {targets.spread:g} of 1."
        )
        yield Check(text, abs(found - 1) <= targets.spread)


def _of_others(case: Case, get: Lookup, metric: str) -> str:
    """The same number of what is shown beside the learned posterior, in brackets."""
    names = [name for name in (NO_NETWORK, *case.run.competitors) if get.has(name, metric)]
    found = ", ".join(f"{name.replace('_', ' ')} {get(name, metric):.3f}" for name in names)
    return f" ({found})" if found else ""


def _gains(case: Case, get: Lookup) -> Iterator[Check]:
    """What the network adds to the Gaussian, and to the competitors."""
    target = case.run.targets(case).gain
    if not get.has(NO_NETWORK, "crps_all"):
        yield Check("These coordinates have no Gaussian to compare with: what the network adds cannot be told.")
    for name in (NO_NETWORK, *case.run.competitors):
        metric, key = ("crps_all", "crps_z") if name == NO_NETWORK else ("crps", f"crps_z_{name}")
        if not get.has(name, metric):
            continue
        ours, theirs = get("learned", metric), get(name, metric)
        z = get("learned", key) if get.has("learned", key) else 0.0  # no z: the two never differ
        finding = "no clear difference."
        if abs(z) >= CLEAR:
            finding = "the network is better." if z > 0 else "the network is worse."
        who = "the Gaussian without a network" if name == NO_NETWORK else f"the {name.capitalize()} posterior"
        where = "all test cases" if metric == "crps_all" else "the test cases with an exact posterior"
        text = (
            f"Over {where} the learned posterior's CRPS is {ours:#.4g}, that of {who} {theirs:#.4g} "
            f"(paired z = {z:.1f}): {finding}"
        )
        if target is None:
            yield Check(f"{text} No target is set here.")
        elif name == NO_NETWORK:
            yield Check(f"{text} Target: below, with z at least {target:g}.", z >= target and ours < theirs)
        else:
            yield Check(f"{text} Target: below.", ours < theirs)


def _coverage(case: Case, get: Lookup) -> Check:
    """Coverage against the exact posterior's."""
    found, right = ([100 * get(method, name) for name in METRICS[2:]] for method in ("learned", EXACT))
    apart = max(abs(a - b) for a, b in zip(found, right))
    levels = "/".join(f"{100 * level:g}" for level in LEVELS)
    ours, theirs = ("/".join(f"{c:.1f}" for c in values) for values in (found, right))
    text = (
        f"Central intervals of {levels} % contain {ours} % of the true fluxes, the exact posterior's {theirs} %: "
        f"at most {apart:.1f} points apart."
    )
    points = case.run.targets(case).points
    return Check(text) if points is None else Check(f"{text} Target: within {points:g} points.", apart <= points)


def _calibration(case: Case, get: Lookup) -> Iterator[Check]:
    """Ranks and distances of the truth among its samples, over all test cases, where a target is set."""
    target = case.run.targets(case).calibration
    kinds = {
        "sbc_deviation_all": "Ranks of the true fluxes among their samples",
        "tarp_deviation_all": "Coverage by balls around other cases' fluxes (TARP)",
        "tarp_from_y_deviation_all": "Coverage by balls around a guess made from the measurement (TARP)",
    }
    for metric, what in kinds.items():
        if target is not None and get.has("learned", metric):
            found = get("learned", metric)
            text = f"{what}: {found:.3f} from what calibrated posteriors have, at most{_of_others(case, get, metric)}."
            yield Check(f"{text} Target: at most {target:g}.", found <= target)


def _other_ways(case: Case, get: Lookup) -> Iterator[Check]:
    """The error of all other learned ways to sample, against the exact posterior's."""
    names, exact = [m.name for m in case.methods[1:]], get(EXACT, "error_percent") if get.has(EXACT, METRICS[0]) else 0
    if not names or not exact > 0:
        return
    ratios = {name: get(name, "error_percent") / exact for name in names}
    text = "Error over the exact posterior's by other processes and samplers: "
    text += ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items())
    target = case.run.targets(case).error
    if target is None:
        yield Check(f"{text}.")
    else:
        yield Check(f"{text}. Target: at most {target}.", max(ratios.values()) <= target)
