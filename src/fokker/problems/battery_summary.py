"""What a guidance battery says: for each kind of problem and each method, how far from exact and at what cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fokker.errors import InputError
from fokker.problems.battery_cases import all_cases
from fokker.problems.battery_methods import METHODS
from fokker.problems.battery_run import EXACT, METRICS

EXACT_PRIORS = ("known", "monte-carlo")  # methods that need a prior in closed form
AS_GOOD = 1.1  # a method within this factor of the best is as good: the cheaper one is taken
KEY = re.compile(r"(?P<case>.+?)\.(?P<method>[a-z-]+)\.(?:steps=(?P<steps>\d+)\.)?(?P<metric>\w+)")


@dataclass(frozen=True)
class Row:
    """A method with a number of steps on all cases of a kind that it takes.

    apart: geometric mean of the sliced Wasserstein distance over that of exact samples; worst: its largest. bias: mean,
    in posterior standard deviations. variance: smallest and largest ratio. coverage: mean of what the 80 % intervals
    hold. seconds and nfe: mean. diverged: cases that failed in some repeat; all measures are of the others.
    """

    kind: str
    method: str
    steps: int
    cases: int
    diverged: int
    apart: float
    worst: float
    bias: float
    variance: tuple[float, float]
    coverage: float
    seconds: float
    nfe: float


def results(metrics: Mapping[str, float]) -> dict[tuple[str, str, int], dict[str, float]]:
    """Metrics by (case, method, steps); steps 0 for exact samples. InputError for any other key."""
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    for key, value in metrics.items():
        match = KEY.fullmatch(key)
        if match is None or match["case"] not in all_cases() or match["method"] not in (EXACT, *METHODS):
            raise InputError(f"metrics: got {key!r}, those of a guidance battery are accepted")
        found.setdefault((match["case"], match["method"], int(match["steps"] or 0)), {})[match["metric"]] = value
    return found


def rows(metrics: Mapping[str, float]) -> list[Row]:
    """One for each kind, method and number of steps, in the order of the cases and methods."""
    found = results(metrics)
    cases = [name for name in all_cases() if (name, EXACT, 0) in found]
    out = []
    for kind in dict.fromkeys(all_cases()[name].kind for name in cases):
        for method in METHODS.values():
            for steps in method.steps:
                mine = {
                    name: found[name, method.name, steps]
                    for name in cases
                    if all_cases()[name].kind == kind and (name, method.name, steps) in found
                }
                if mine:
                    floors = {name: found[name, EXACT, 0]["sliced_wasserstein"] for name in mine}
                    out.append(_row(kind, method.name, steps, mine, floors))
    return out


def _row(kind: str, method: str, steps: int, mine: dict[str, dict[str, float]], floors: dict[str, float]) -> Row:
    alive = {name: one for name, one in mine.items() if METRICS[0] in one}
    diverged = sum(one["diverged"] > 0 for one in mine.values())
    if not alive:
        nothing = (math.nan,) * 6
        return Row(kind, method, steps, len(mine), diverged, *nothing[:3], (math.nan, math.nan), *nothing[3:])
    apart = [one["sliced_wasserstein"] / floors[name] for name, one in alive.items()]
    ratio = [one["variance_ratio"] for one in alive.values()]

    def mean(name: str) -> float:
        return sum(one[name] for one in alive.values()) / len(alive)

    return Row(
        kind, method, steps, len(mine), diverged,
        apart=math.exp(sum(map(math.log, apart)) / len(apart)), worst=max(apart), bias=mean("bias"),
        variance=(min(ratio), max(ratio)), coverage=mean("coverage_80"), seconds=mean("seconds"), nfe=mean("nfe"),
    )  # fmt: skip


def best(found: list[Row], kind: str, *, exact_prior: bool = False) -> Row:
    """The method for a kind: it takes every case and never diverges, is the nearest to exact, and the cheapest of those
    within a tenth of it. exact_prior: methods that need a prior in closed form may be chosen too.
    """
    mine = [row for row in found if row.kind == kind and (exact_prior or row.method not in EXACT_PRIORS)]
    most = max(row.cases for row in mine)
    able = [row for row in mine if row.cases == most and not row.diverged]
    nearest = max(1.0, min(row.apart for row in able))  # nearer than exact samples is chance
    return min((row for row in able if row.apart <= AS_GOOD * nearest), key=lambda row: row.seconds)


def summary_lines(settings: Any, metrics: Mapping[str, float]) -> list[str]:
    """For each kind, the method to take and how near to exact it comes."""
    found = rows(metrics)
    return [
        f"{kind}: {METHODS[row.method].words}, {row.steps} steps: {row.apart:.2f} times the distance of exact samples, "
        f"80 % intervals hold {100 * row.coverage:.0f} %"
        for kind in dict.fromkeys(row.kind for row in found)
        for row in [best(found, kind)]
    ]
