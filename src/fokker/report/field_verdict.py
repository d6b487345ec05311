"""Whether a run of fields reaches what it is to reach: sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Mapping

from fokker.errors import InputError
from fokker.problems.field_metrics import COVERED, part_name
from fokker.problems.field_settings import COVARIANCE, EXACT, NETWORK, NO_NETWORK, FieldRun
from fokker.report.page import Check

ERROR = {"poisson": 1.15, "helmholtz": 1.15, "warp": 1.2, "threshold": 1.3}  # of the exact limit, at most
CRPS = {"poisson": 1.10, "helmholtz": 1.10, "warp": 1.2, "threshold": 1.3}  # of exact samples
COVERAGE = 0.03
TRAINING, SAMPLING, MEMORY = 15 * 60, 10.0, 4096.0  # seconds, seconds of a case, MiB
GRID = {"poisson": 64, "helmholtz": 64, "threshold": 32}  # for which targets are stated


class Lookup:
    """Metrics of a run by name, without the family they share."""

    def __init__(self, run: FieldRun, metrics: Mapping[str, float]):
        self.head, self.metrics = run.family, metrics

    def __call__(self, name: str) -> float:
        """InputError where it was not measured."""
        full = name if name.startswith("train.") else f"{self.head}.{name}"
        if full not in self.metrics:
            raise InputError(f"metrics.json: has no {full}; running the same command again makes it")
        return self.metrics[full]

    def has(self, name: str) -> bool:
        """Whether it was."""
        return f"{self.head}.{name}" in self.metrics


def verdict(run: FieldRun, metrics: Mapping[str, float], memory: float | None) -> list[Check]:
    """Every target, by task and noise, then cost. memory: MiB, None where it is not known.

    Raises InputError where a metric is missing.
    """
    get, checks = Lookup(run, metrics), list[Check]()
    for task, noise in run.parts():
        checks += _of_part(run, get, part_name(task, noise), f"{task}, noise {100 * noise:g} %")
    seconds = get("train.seconds")
    checks.append(
        Check(
            f"Training took {seconds / 60:.1f} minutes, {TRAINING // 60} are allowed on two cores.", seconds <= TRAINING
        )
    )
    slowest = max(get(f"{part_name(*part)}.{NETWORK}.seconds") for part in run.parts())
    checks.append(
        Check(
            f"{run.draws} samples of a case took {slowest:.1f} seconds on one core, {SAMPLING:g} are allowed.",
            slowest <= SAMPLING,
        )
    )
    if memory is not None:
        text = f"The largest process held {memory / 1024:.1f} GiB, {MEMORY / 1024:g} are allowed."
        checks.append(Check(text, memory < MEMORY))
    return checks


def _of_part(run: FieldRun, get: Lookup, part: str, title: str) -> list[Check]:
    family, head = run.family, f"{part}.{NETWORK}"
    stated = GRID.get(family, run.n)
    note = "" if stated == run.n else f" (the target is stated for {stated} x {stated})"
    error, score = get(f"{head}.limit_ratio"), get(f"{head}.crps_ratio")
    checks = [
        Check(
            f"{title}: the error of the mean of {run.draws} samples is {get(f'{head}.error_percent'):.1f} %, "
            f"{error:.3f} times that of the exact mean; at most {ERROR[family]:g} times is the target{note}.",
            error <= ERROR[family],
        ),
        Check(
            f"{title}: its CRPS is {score:.3f} times that of exact samples, at most {CRPS[family]:g} times is the "
            f"target{note}.",
            score <= CRPS[family],
        ),
    ]
    if get.has(f"{head}.coverage_80"):
        checks.append(_coverage(get, head, part, title))
    if family in ("warp", "threshold"):
        rivals = {get(f"{part}.{name}.crps_ratio") for name in (NO_NETWORK, COVARIANCE)}
        text = (
            f"{title}: the Gaussians without a network have {min(rivals):.3f} times the CRPS of exact samples or more."
        )
        finding = "" if score < min(rivals) else " The network adds nothing."
        checks.append(Check(f"{text}{finding} The network is to be better.", score < min(rivals)))
    return checks


def _coverage(get: Lookup, head: str, part: str, title: str) -> Check:
    """Within three points at every level; None where so few cases cannot tell a miss from chance."""
    gaps = [abs(get(f"{head}.coverage_{100 * level:.0f}") - level) for level in COVERED]
    chance = [2 * get(f"{head}.coverage_{100 * level:.0f}_se") for level in COVERED]
    held = ", ".join(f"{100 * get(f'{head}.coverage_{100 * level:.0f}'):.1f}" for level in COVERED)
    exact = ", ".join(f"{100 * get(f'{part}.{EXACT}.coverage_{100 * level:.0f}'):.1f}" for level in COVERED)
    within = all(gap <= COVERAGE for gap in gaps)
    told = within or any(gap > max(COVERAGE, two) for gap, two in zip(gaps, chance))
    text = (
        f"{title}: 50, 80 and 95 % intervals hold {held} %, those of exact samples {exact} %; within 3 points is asked."
    )
    return Check(text if told else f"{text} So few cases do not tell.", within if told else None)
