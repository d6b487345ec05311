"""The report of a guidance battery: figures/*.png and report.html, made from the files the run has left."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np

from fokker.problems.battery_cases import all_cases
from fokker.problems.battery_methods import METHODS
from fokker.problems.battery_run import EXACT, METRICS, GuidanceBattery
from fokker.problems.battery_summary import Row, best, results, rows
from fokker.report import battery_figures as figures
from fokker.report import drawing, files
from fokker.report.page import Page
from fokker.storage import read_tensors, write_text

PICTURES = ("squares-0.1", "modulus-0.5", "mixture-2-under-0.3", "counts-10")
HEADER = (
    "method",
    "steps",
    "cases",
    "diverged",
    "distance",
    "worst",
    "bias",
    "variance",
    "80 % hold",
    "nfe",
    "seconds",
)
READING = (
    "distance: sliced Wasserstein distance to the exact posterior, over that of as many exact samples: 1 is exact. "
    "bias: of the mean, in standard deviations of the posterior. variance: smallest and largest ratio to the exact "
    "one. 80 % hold: what part of the exact posterior lies in the intervals that hold 80 % of the samples. Seconds of "
    "one core for a case; particles are 4,096 for each measurement, whatever the number of samples. A row is of the "
    "cases that a method takes (Monte Carlo: two unknowns) and on which it did not diverge: the geometric mean of "
    "distances, the worst of them, means of the rest. Where particles look worse with more steps, another seed changes "
    "them by as much."
)
LIMITS = (
    "Priors are exact here: what a learned prior adds is not in these numbers.",
    "DPS in its released form has one scale, 0.3; its best scale depends on the case and is not searched for.",
    "Distances compare entries in units of their own standard deviation; directions that are much narrower than the "
    "entries count little.",
)


def write(out: Path) -> Path:
    """Draw all figures of the run in `out` and write its report; returns the path of report.html.

    Raises InputError, in one line, where a file of the run is missing, damaged or of another run, OSError where the
    disk fails.
    """
    settings, versions = files.read_settings(out, GuidanceBattery.problem, GuidanceBattery)
    metrics = files.read_metrics(out)
    found = rows(metrics)
    paths = {}
    with matplotlib.rc_context(drawing.STYLE):
        paths["costs"] = out / "figures" / "costs.png"
        drawing.save(figures.costs(found), paths["costs"])
        for name in PICTURES:
            if name in settings.cases:
                tensors, _ = read_tensors(out / "results" / f"{name}.safetensors")
                samples = {key: np.asarray(value) for key, value in tensors.items()}
                paths[name] = out / "figures" / f"{name}.png"
                drawing.save(figures.clouds(name, all_cases()[name].words, samples), paths[name])
    page = _build(settings, found, metrics, paths, versions)
    write_text(out / "report.html", page.html())
    return out / "report.html"


def table(found: list[Row], kind: str) -> list[list[str]]:
    """The rows of a kind, as texts; see HEADER."""
    return [
        [
            METHODS[row.method].words, str(row.steps), str(row.cases), str(row.diverged or ""),
            *(("diverges", *[""] * 6) if math.isnan(row.apart) else (
                f"{row.apart:.2f}", f"{row.worst:.2f}", f"{row.bias:.2f}",
                f"{row.variance[0]:.2g} to {row.variance[1]:.2g}", f"{100 * row.coverage:.0f} %",
                f"{row.nfe:.0f}", f"{row.seconds:.1f}",
            )),
        ]
        for row in found
        if row.kind == kind
    ]  # fmt: skip


def choice(found: list[Row], kind: str) -> str:
    """Which method to take for a kind, in a sentence."""
    row, known = best(found, kind), best(found, kind, exact_prior=True)
    text = (
        f"{METHODS[row.method].words}, {row.steps} steps: {row.apart:.2f} times the distance of exact samples, 80 % "
        f"intervals that hold {100 * row.coverage:.0f} %, {row.seconds:.1f} s."
    )
    if known.method != row.method:
        text += (
            f" With a prior in closed form: {METHODS[known.method].words} ({known.apart:.2f}, {known.seconds:.1f} s)."
        )
    return text


def _build(
    settings: GuidanceBattery, found: list[Row], metrics: dict[str, float], paths: dict[str, Path], versions: dict
) -> Page:
    page = Page(
        "Guided posteriors against exact ones",
        f"{len({row.method for row in found})} methods on {len(settings.cases)} problems whose posterior is known: "
        "which one to take, and how wrong each is.",
    )
    page.section("Which method for my problem")
    kinds = list(dict.fromkeys(row.kind for row in found))
    page.table(("kind of problem", "take"), [(kind, choice(found, kind)) for kind in kinds], numbers=False)
    page.figure(
        paths["costs"],
        "Distance from the exact posterior against seconds, a panel for each kind of problem.",
        "Lower is nearer to the exact posterior, left is cheaper. Lines join the numbers of steps of a method.",
    )
    page.text(READING)
    for name in PICTURES:
        if name in paths:
            page.figure(paths[name], f"Samples of {name} by several methods.", f"One measurement of {name}.")
    page.section("All numbers")
    for kind in kinds:
        page.table(HEADER, table(found, kind), caption=kind)
    page.section("Case by case")
    page.table(("case", "what", *METRICS), _cases(metrics), caption="What exact samples give: the floor")
    page.section("Limits")
    page.points(LIMITS)
    page.section("How it was made")
    page.text(
        f"{settings.measurements} measurements of each case, {settings.draws} samples each, {settings.repeats} times, "
        f"seed {settings.seed}; reference: 4,096 exact draws. "
        + ", ".join(f"{name} {value}" for name, value in versions.items())
    )
    return page


def _cases(metrics: dict[str, float]) -> list[list[str]]:
    return [
        [name, all_cases()[name].words, *(f"{one[key]:.3f}" for key in METRICS)]
        for (name, method, _), one in results(metrics).items()
        if method == EXACT
    ]
