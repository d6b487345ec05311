"""Whether a run of the digits can be trusted: sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Mapping

from fokker.errors import InputError
from fokker.problems.digits_metrics import COVERED, NO_NETWORK
from fokker.problems.digits_settings import LABELS, REAL, SIMULATED, DigitsRun
from fokker.report.page import Check

RATE = 0.01  # at which ranks of exact samples are called wrong


class Lookup:
    """Metrics of a run by name, without the head they share."""

    def __init__(self, metrics: Mapping[str, float]):
        self.metrics = metrics

    def has(self, name: str) -> bool:
        """Whether it was measured."""
        return f"digits.{name}" in self.metrics

    def __call__(self, name: str) -> float:
        """InputError where it was not."""
        if not self.has(name):
            raise InputError(f"metrics.json: has no digits.{name}; running the same command again makes it")
        return self.metrics[f"digits.{name}"]

    def gap(self, key: str) -> float:
        """Mean distance of the coverage from 50, 80 and 95 %."""
        return sum(abs(self(f"{key}.coverage{100 * level:.0f}") - level) for level in COVERED) / len(COVERED)


def verdict(run: DigitsRun, metrics: Mapping[str, float]) -> list[Check]:
    """What the prior is worth, and for every case what the default method gives and which is best calibrated.

    Raises InputError where a metric is missing.
    """
    get = Lookup(metrics)
    loss, gaussian = get("prior.loss"), get("prior.gaussian_loss")
    adds = "less than" if loss < gaussian else "the network adds nothing to"
    checks = [Check(f"The score loss of the prior on unseen digits is {loss:.3f}, {adds} a Gaussian's {gaussian:.3f}.")]
    for case in run.cases:
        there = {method.name: not get.has(f"{case}.{method.name}.{REAL}.failed") for method in run.methods(case)}
        there = {n: ok and not get.has(f"{case}.{n}.{SIMULATED}.failed") for n, ok in there.items()}
        alive = [name for name, ok in there.items() if ok]
        failed = (LABELS[name] for name, ok in there.items() if not ok)
        checks += [Check(f"{case}: {name} diverges: its steps are too long for this noise.") for name in failed]
        if alive:
            checks += _of_case(case, alive, get)
    return checks


def _of_case(case: str, alive: list[str], get: Lookup) -> list[Check]:
    first = alive[0]
    key, rival = f"{case}.{first}.{REAL}", f"{case}.{NO_NETWORK}.{REAL}"
    error, without = get(f"{key}.rmse"), get(f"{rival}.rmse")
    finding = "" if error < without else " The network adds nothing."
    inside, se = get(f"{key}.coverage95"), get(f"{key}.coverage95_se")
    best = min(alive, key=lambda name: get.gap(f"{case}.{name}.{REAL}"))
    text = (
        f"{case}, unseen digits: the mean of {LABELS[first]} is off by {error:.3f}, that of a Gaussian without a "
        f"network by {without:.3f}, the pseudo-inverse by {get(f'{case}.pseudo_inverse.{REAL}.rmse'):.3g}; "
        f"{100 * inside:.1f} ± {100 * se:.1f} % of pixels lie inside their 95 % intervals.{finding} Best calibrated "
        f"here: {LABELS[best]}."
    )
    wrong = [name for name in alive if get(f"{case}.{name}.{SIMULATED}.p_ranks") < RATE]
    judged = sorted(alive, key=lambda name: get.gap(f"{case}.{name}.{SIMULATED}"))
    said = ", ".join(
        f"{LABELS[name]} {100 * get(f'{case}.{name}.{SIMULATED}.coverage95'):.1f} %"
        + (" (its ranks are wrong)" if name in wrong else "")
        for name in judged
    )
    return [Check(text), Check(f"{case}, draws of the prior, the best calibrated first: 95 % intervals hold {said}.")]
