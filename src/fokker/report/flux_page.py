"""The report of a boundary-flux run: figures/*.png and report.html, made from the files the run has left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from fokker.errors import InputError
from fokker.problems.boundary_flux import BoundaryFlux, Case
from fokker.problems.flux_metrics import LEVELS, Summary, model_path, result_path
from fokker.report import drawing, files
from fokker.report import flux_figures as figures
from fokker.report.files import read_metrics
from fokker.report.flux_data import CaseData, mass_at_zero
from fokker.report.flux_verdict import METRICS, POINTS, Lookup, ratio_error, verdict
from fokker.report.page import Page
from fokker.storage import write_text

PROCESSES = {"ve": "variance exploding", "vp": "variance preserving"}
LIMITS = (
    "The test fluxes come from the same prior and simulator as the training pairs. Another law of the flux, another "
    "flow or another kind of noise has not been tried here.",
    "The exact posterior is itself a sample: a Markov chain, with a Monte-Carlo error of a few percent of one "
    "posterior standard deviation in each mean. Cases whose chains had not converged are left out, and counted above.",
    "Coverage is an average over wall segments and test cases. It does not promise the same for every measurement.",
    "Numbers after ± are one standard error over the test cases; verdicts compare the numbers without it.",
)


def write(out: Path) -> Path:
    """Draw all figures of the run in `out` and write its report; returns the path of report.html.

    Every file is written whole or not at all. Raises InputError, in one line, where a file of the run is missing,
    damaged or does not belong to the others, OSError where the disk fails.
    """
    settings, versions = read_settings(out)
    metrics = read_metrics(out)
    cases = [load_case(out, case) for case in settings.cases()]
    for data in cases:
        verdict(data.case, metrics)  # a missing number is told before the figures are drawn
    page = build(cases, metrics, draw(cases, out / "figures"), versions)
    write_text(out / "report.html", page.html())
    return out / "report.html"


def read_settings(out: Path) -> tuple[BoundaryFlux, dict[str, str]]:
    """`files.read_settings` of this problem."""
    return files.read_settings(out, "boundary-flux", BoundaryFlux)


def load_case(out: Path, case: Case) -> CaseData:
    """All that a run has left about one case; InputError where a file is missing or does not belong to the others."""
    path = {name: result_path(out, case, name) for name in ("posterior", "reference", "no_network")}
    try:
        learned, more = Summary.load(path["posterior"])
        exact, checks = Summary.load(path["reference"])
        methods = {"learned": learned, "exact": exact}
        if path["no_network"].exists():
            methods["no_network"] = Summary.load(path["no_network"])[0]
        truth, y, resolved = more["truth"], more["y"], checks["resolved"].astype(bool)
    except KeyError as error:
        raise InputError(f"{path['posterior'].parent}: a file of {case.folder} has no array {error}") from error
    for name, summary in methods.items():
        count = len(resolved) if name == "exact" else len(truth)
        if summary.mean.shape != (count, *truth.shape[1:]) or len(resolved) > len(truth):
            raise InputError(f"{path['posterior'].parent}: {name} of {case.folder} is not of the same test cases")
    training = files.read_training(model_path(out, case))
    return CaseData(case, truth, y, methods, resolved, training)


def draw(cases: list[CaseData], folder: Path) -> dict[str, Path]:
    """Write all figures into `folder`; name without suffix -> path."""
    paths = {}

    def keep(name: str, figure: Any) -> None:
        paths[name] = folder / f"{name}.png"
        drawing.save(figure, paths[name])

    with matplotlib.rc_context(drawing.STYLE):
        means = {data.case.mean: data for data in reversed(cases)}  # the first noise of each mean
        firsts = [data for data in cases if means[data.case.mean] is data]
        simulators = [data.case.run.simulator(data.case.mean) for data in firsts]
        most_clipped = min(range(len(firsts)), key=lambda i: firsts[i].case.mean)
        keep("hero", figures.hero(firsts[most_clipped], simulators[most_clipped]))
        keep("instances", figures.instances(firsts, simulators))
        keep("coverage", figures.coverage(cases, POINTS))
        for data in cases:
            keep(f"posterior-{data.case.folder}", figures.posterior(data))
            keep(f"error-{data.case.folder}", figures.error(data))
            keep(f"training-{data.case.folder}", figures.training(data))
            shapes = figures.marginals(data)
            if shapes is not None:
                keep(f"marginals-{data.case.folder}", shapes)
    return paths


def build(cases: list[CaseData], metrics: Mapping[str, float], paths: Mapping[str, Path], versions: Any) -> Page:
    """The page, from loaded cases, metrics and drawn figures by name."""
    run = cases[0].case.run
    page = Page(
        "Boundary flux from 30 sensors",
        "Where does a chemical enter the channel, and how sure can one be, when all that is seen are 30 noisy sensors?",
    )
    page.section("The answer in a picture")
    page.figure(
        paths["hero"],
        "Channel with sensors; flux through the top and the bottom wall with its uncertainty",
        "Middle: concentration in the channel, which nobody sees, and the sensors. Above and below: flux through the "
        "two walls inferred from the sensors (blue, band of one standard deviation), the exact posterior (vermillion "
        "outline) and the true flux (black). Shown is the test case of median error, if possible among those whose "
        "walls are closed in part. Bands are cut at zero. All quantities are without dimension.",
    )
    for data in cases:
        page.figure(
            paths[f"posterior-{data.case.folder}"],
            f"Posterior of the flux on both walls, {data.title}",
            f"{data.title.capitalize()}: an easy, a median and a hard test case, by the error of the learned mean.",
        )
    page.section("Can it be trusted?")
    checked = {
        data.case: verdict(data.case, metrics, {n: ratio_error(data, n) for n in ("mean", "crps")}) for data in cases
    }
    targets = [c.reached for checks in checked.values() for c in checks if c.reached is not None]
    page.text(f"{sum(targets)} of {len(targets)} targets are reached.")
    for data in cases:
        page.subsection(data.title.capitalize())
        page.checks(checked[data.case])
        _table(page, Lookup(data.case, metrics))
        page.figure(
            paths[f"error-{data.case.folder}"], f"Error per wall segment, {data.title}", "Shaded: one standard error."
        )
        if f"marginals-{data.case.folder}" in paths:
            page.figure(
                paths[f"marginals-{data.case.folder}"],
                f"Histograms of single fluxes, {data.title}",
                "Left of each pair: probability that the flux is exactly zero. Right: density of what is above zero. "
                + _zeros(data),
            )
    page.subsection("Coverage")
    page.figure(
        paths["coverage"],
        "Coverage of central intervals against their nominal level",
        "On the lines: as many true fluxes inside as promised. Bars: one standard error over the test cases.",
    )
    page.subsection("Limits")
    page.points(LIMITS)
    page.section("How it was done")
    page.text(
        "Simulated pairs of flux and sensor values train a diffusion model of the flux given the sensors; it is then "
        "sampled for test measurements that it has never seen, and compared with a Markov chain on the exact posterior."
    )
    page.figure(
        paths["instances"],
        "Flux through the walls, concentration, sensor values and their noise",
        "One test case for each prior mean: flux, concentration with the sensors, measurements, and their noise.",
    )
    for data in cases:
        page.figure(
            paths[f"training-{data.case.folder}"],
            f"Training curve, {data.title}",
            "Score loss, weighted so that in posterior coordinates a Gaussian without any network has 1 at every noise "
            "level: below 1 the network has learned something. Training and validation average over different noise "
            "levels, so the curves need not meet.",
        )
    page.section("Settings")
    page.table(
        ["Setting", "Value"], [*_settings(run), *([f"Version of {k}", str(v)] for k, v in versions.items())], "", False
    )
    page.section("Timings")
    page.table(["Stage", "Seconds", "What"], _timings(cases, metrics))
    return page


def _table(page: Page, get: Lookup) -> None:
    """Errors and coverage of all methods side by side; nothing where no case is resolved."""
    shown = [method for method in ("exact", "learned", "no_network") if get.has(method, "crps")]
    names = ("Error of the mean, % of the mean flux", "CRPS", *(f"Coverage {100 * v:g} %, in %" for v in LEVELS))
    rows = [
        [name, *(f"{get(m, key):#.3g}" if key in METRICS[:2] else f"{100 * get(m, key):.1f}" for m in shown)]
        for name, key in zip(names, METRICS)
        if shown and get.has("exact", key)
    ]
    if rows:
        page.table(["Resolved test cases only", *(figures.LOOKS[m].label.capitalize() for m in shown)], rows)


def _zeros(data: CaseData) -> str:
    """How much mass each method puts on fluxes of exactly zero."""
    mass = {name: f"{100 * value:.0f} %" for name, value in mass_at_zero(data).items()}
    methods = ", ".join(
        f"{figures.LOOKS[name].label} {mass[name]}" for name in ("exact", "learned", "no_network") if name in mass
    )
    return (
        f"Over all segments of the cases whose samples are kept, {mass['truth']} of the true fluxes are "
        f"zero; mean probability of zero: {methods}."
    )


def _settings(run: BoundaryFlux) -> list[list[str]]:
    """What was asked, defaults filled in."""
    cases = run.cases()
    recipe = cases[0].recipe

    means = {case.mean: case for case in cases}.values()
    pairs = [f"{c.pairs:,}{', noise redrawn at every step' if c.redrawn else ''} (mean {c.mean:g})" for c in means]
    steps = [f"{c.recipe.training.steps:,} (mean {c.mean:g})" for c in means]
    process = PROCESSES[run.process] + (f", n = {run.n:g}" if run.process == "vp" else "")
    return [
        ["Mean of the flux before clipping at zero", ", ".join(f"{v:g}" for v in run.prior_mean)],
        ["Standard deviation of the sensor noise", ", ".join(f"{v:g}" for v in run.noise)],
        ["Training pairs", "; ".join(pairs)],
        ["Training steps, at most", "; ".join(steps)],
        ["Recipe, coordinates", f"{recipe.name}, {recipe.coordinates}"],
        ["Process", process],
        ["Sampler", f"{type(run.build_sampler()).__name__}, alpha = {run.alpha:g}, {run.steps or recipe.steps} steps"],
        ["Test measurements × samples for each", f"{run.test:,} × {run.samples:,}"],
        ["Test measurements with an exact posterior", f"{run.reference:,}"],
        ["Elements along and across the channel, order", f"{run.mesh[0]} × {run.mesh[1]}, {run.order}"],
        ["Seed", str(run.seed)],
    ]


def _timings(cases: list[CaseData], metrics: Mapping[str, float]) -> list[list[str]]:
    """Stage, seconds and what was done in them; a dash where the run has not noted the time."""
    run, rows = cases[0].case.run, []

    def add(stage: str, key: str, what: str) -> None:
        seconds = metrics.get(key, 0.0)
        rows.append([stage, f"{seconds:.1f}" if seconds > 0 else "–", what])

    for mean in run.prior_mean:
        pairs = Case(run, mean, run.noise[0]).pairs
        add(f"Simulate, prior mean {mean:g}", f"mean{mean:g}.simulate.seconds", f"{pairs + run.test:,} pairs")
    for data in cases:
        case, tail = data.case, f"noise={data.case.noise:g}"
        nfe = metrics.get(f"{case.name}.{case.method}.{tail}.nfe", 0)
        draws = f"{run.test:,} × {run.samples:,} samples, {nfe:g} network evaluations each"
        add(
            f"Train, {data.title}",
            f"{case.name}.train.{tail}.seconds",
            f"{data.training['records'][-1]['step']:,} steps",
        )
        add(f"Sample, {data.title}", f"{case.name}.sample.{tail}.seconds", draws)
        add(f"Exact posterior, {data.title}", f"{case.name}.exact.{tail}.seconds", f"{len(data.resolved):,} test cases")
    return rows
