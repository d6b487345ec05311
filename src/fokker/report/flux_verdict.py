"""Whether a boundary-flux run can be trusted: sentences made from its numbers, each beside its target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fokker.errors import InputError
from fokker.problems.boundary_flux import FEW_CLIPPED, Case
from fokker.problems.flux_metrics import LEVELS, Summary
from fokker.report.flux_data import CaseData
from fokker.report.page import Check

RATIO_FEW_CLIPPED, RATIO = 1.02, 1.05  # most that error and CRPS may be, over those of the exact posterior
NEARLY_NOISELESS = 0.5  # below this noise the ratio for few clipped fluxes has no target
POINTS = 2.0  # most that coverage may differ from the exact posterior's
CLEAR = 5.0  # paired z from which a difference in CRPS counts
METRICS = ("error_percent", "crps", *(f"coverage_{100 * level:g}" for level in LEVELS))


def ratio_error(data: CaseData, name: str) -> float:
    """Standard error of the ratio learned / exact of a score ("mean": error of the mean, or "crps") over the cases
    judged; 0 for fewer than two.
    """
    cases = data.judged

    def per_case(summary: Summary) -> Any:
        values = summary.crps[cases] if name == "crps" else np.abs(summary.mean[cases] - data.truth[cases])
        return values.mean(1)

    if not data.resolved.any() or len(cases) < 2:
        return 0.0
    learned, exact = per_case(data.methods["learned"]), per_case(data.methods["exact"])
    rest = learned - learned.mean() / exact.mean() * exact
    return float(rest.std(ddof=1) / len(cases) ** 0.5 / exact.mean())


def verdict(case: Case, metrics: Mapping[str, float], spread: Mapping[str, float] | None = None) -> list[Check]:
    """Sentences about one case, computed from the run's metrics, each with its target and whether it is reached.

    spread: standard errors of the ratios to the exact posterior, by name ("mean", "crps"), where known.
    Raises InputError where a metric is missing.
    """
    get = Lookup(case, metrics)
    cases, unresolved = int(get("exact", "cases")), int(get("exact", "unresolved"))
    if cases == 0:
        text = f"None of {unresolved} exact posteriors is resolved: how close the learned one is cannot be told."
        return [Check(text), *_gain(case, get)]
    text = f"All {cases} exact posteriors that were computed are resolved (R-hat, effective sample size)."
    if unresolved:
        text = f"{unresolved} of {cases + unresolved} exact posteriors are not resolved and are left out."
    close = [_closeness(case, get, name, (spread or {}).get(name, 0.0)) for name in ("mean", "crps")]
    return [*close, *_gain(case, get), _coverage(get), Check(text)]


def _closeness(case: Case, get: Lookup, name: str, give: float) -> Check:
    """The error of the mean, or the CRPS, against the exact posterior's."""
    what, metric, unit = {
        "mean": ("the error of the learned posterior's mean", "error_percent", " %"),
        "crps": ("the learned posterior's CRPS (the error of a whole distribution)", "crps", ""),
    }[name]
    if not get.has("exact", metric):
        return Check(f"There is no flux, so {what} is not measured against it.")
    learned, exact = get("learned", metric), get("exact", metric)
    ratio = learned / exact if exact > 0 else math.inf
    text = (
        f"On {get('exact', 'cases'):g} test cases with a resolved exact posterior {what} is {learned:#.3g}{unit}"
        f"{' of the mean flux' if name == 'mean' else ''}, the exact posterior's is {exact:#.3g}{unit} "
        f"(ratio {ratio:.3f}{f' ± {give:.3f}' if give else ''})"
    )
    if get.has("no_network", metric):
        text += f", that of the Gaussian without any network {get('no_network', metric):#.3g}{unit}"
    target = RATIO if case.mean < FEW_CLIPPED else None
    if case.mean >= FEW_CLIPPED and name == "mean" and case.noise >= NEARLY_NOISELESS:
        target = RATIO_FEW_CLIPPED
    if target is None:
        return Check(f"{text}. No target is set for this.")
    return Check(f"{text}. Target: ratio at most {target}.", ratio <= target)


def _gain(case: Case, get: Lookup) -> list[Check]:
    """What the network adds to the Gaussian."""
    if not get.has("no_network", "crps_all"):
        return [Check("These coordinates have no Gaussian to compare with: what the network adds cannot be told.")]
    ours, theirs = get("learned", "crps_all"), get("no_network", "crps_all")
    z = get("learned", "crps_z") if get.has("learned", "crps_z") else 0.0  # no z: the two never differ
    finding = "the network adds little or nothing."
    if abs(z) >= CLEAR:
        finding = "the network adds something." if z > 0 else "the network makes it worse."
    text = (
        f"Over all test cases the learned posterior's CRPS is {ours:#.4g}, that of the Gaussian without a network "
        f"{theirs:#.4g} (paired z = {z:.1f}): {finding}"
    )
    if case.mean >= FEW_CLIPPED:
        return [Check(f"{text} No target is set where so few fluxes are clipped.")]
    return [Check(f"{text} Target: below, with z at least {CLEAR:g}.", z >= CLEAR and ours < theirs)]


def _coverage(get: Lookup) -> Check:
    """Coverage against the exact posterior's."""
    found, right = ([100 * get(method, name) for name in METRICS[2:]] for method in ("learned", "exact"))
    apart = max(abs(a - b) for a, b in zip(found, right))
    levels = "/".join(f"{100 * level:g}" for level in LEVELS)
    ours, theirs = ("/".join(f"{c:.1f}" for c in values) for values in (found, right))
    text = (
        f"Central intervals of {levels} % contain {ours} % of the true fluxes, the exact posterior's {theirs} %: "
        f"at most {apart:.1f} points apart. Target: within {POINTS:g} points."
    )
    return Check(text, apart <= POINTS)


class Lookup:
    """Metrics of one case by method ("learned", "exact", "no_network") and name."""

    def __init__(self, case: Case, metrics: Mapping[str, float]):
        self.case, self.metrics = case, metrics

    def key(self, method: str, name: str) -> str:
        method = self.case.method if method == "learned" else method
        return f"{self.case.name}.{method}.noise={self.case.noise:g}.{name}"

    def has(self, method: str, name: str) -> bool:
        return self.key(method, name) in self.metrics

    def __call__(self, method: str, name: str) -> float:
        if not self.has(method, name):
            raise InputError(f"metrics.json: has no {self.key(method, name)}; running the same command again makes it")
        return self.metrics[self.key(method, name)]
