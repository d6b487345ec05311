"""The report of a run of a channel problem: figures/*.png and report.html, made from the files the run has left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from fokker.errors import InputError
from fokker.problems.flux_cases import Case
from fokker.problems.flux_metrics import EXACT, NO_NETWORK, head, model_path, result_path
from fokker.problems.flux_settings import FluxRun
from fokker.problems.flux_summary import LEVELS, Summary
from fokker.report import drawing, files, flux_layout_figures, flux_noise_figures
from fokker.report import flux_figures as figures
from fokker.report.files import read_metrics
from fokker.report.flux_data import CaseData, mass_at_zero
from fokker.report.flux_texts import TEXTS
from fokker.report.flux_verdict import METRICS, SCORES, Lookup, ratio_error, verdict
from fokker.report.page import Page
from fokker.storage import write_text

HERO = (
    "Middle: concentration in the channel, which nobody sees, and the sensors. Above and below: flux through the two "
    "walls inferred from the sensors (blue, band of one standard deviation), the exact posterior (vermillion outline) "
    "and the true flux (black). Shown is the test case of median error, if possible among those whose walls are closed "
    "in part. Bands are cut at zero. All quantities are without dimension."
)
SENSORS = (
    "Test cases whose number of working sensors is fixed, every set of so many equally likely. Without any sensor the "
    "answer is the prior, and what is shown there is how well the model has learned it: a few training layouts in a "
    "hundred have no sensor on."
)
PROCESSES = {"ve": "variance exploding", "vp": "variance preserving"}
FEW = 3  # noise levels up to which every one is shown on its own only


def write(kind: type[FluxRun], out: Path) -> Path:
    """Draw all figures of the run of this kind in `out` and write its report; returns the path of report.html.

    Every file is written whole or not at all. Raises InputError, in one line, where a file of the run is missing,
    damaged or does not belong to the others, OSError where the disk fails.
    """
    settings, versions = read_settings(kind, out)
    metrics = read_metrics(out)
    cases = [load_case(out, case) for case in settings.cases()]
    for data in cases:
        verdict(data.case, metrics)  # a missing number is told before the figures are drawn
    page = build(cases, metrics, draw(cases, metrics, out / "figures"), versions)
    write_text(out / "report.html", page.html())
    return out / "report.html"


def read_settings(kind: type[FluxRun], out: Path) -> tuple[FluxRun, dict[str, str]]:
    """`files.read_settings` of this problem."""
    return files.read_settings(out, kind.problem, kind)


def load_case(out: Path, case: Case) -> CaseData:
    """All that a run has left about one case; InputError where a file is missing or does not belong to the others."""
    names = [method.name for method in case.methods]
    path = {name: result_path(out, case, "", name) for name in (*names, EXACT, NO_NETWORK, *case.run.competitors)}
    try:
        learned, more = Summary.load(path[names[0]])
        exact, checks = Summary.load(path[EXACT])
        methods = {"learned": learned, EXACT: exact}
        methods |= {n: Summary.load(path[n])[0] for n in (NO_NETWORK, *case.run.competitors) if path[n].exists()}
        others = {name: Summary.load(path[name])[0] for name in names[1:]}
        truth, y, resolved = more["truth"], more["y"], checks["resolved"].astype(bool)
    except KeyError as error:
        raise InputError(f"{path[EXACT].parent}: a file of {case.folder} has no array {error}") from error
    for name, summary in {**methods, **others}.items():
        count = len(resolved) if name in (EXACT, *case.run.competitors) else len(truth)
        if summary.mean.shape != (count, *truth.shape[1:]) or len(resolved) > len(truth):
            raise InputError(f"{path[EXACT].parent}: {name} of {case.folder} is not of the same test cases")
    training = files.read_training(model_path(out, case.models[0]))
    return CaseData(case, truth, y, methods, others, resolved, training)


def draw(cases: list[CaseData], metrics: Mapping[str, float], folder: Path) -> dict[str, Path]:
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
        if len(cases) <= FEW:
            keep("coverage", figures.coverage(cases))
        for found in _by_mean(cases):
            if len(found) > 1:
                name = found[0].case.name
                keep(f"noise-{name}", flux_noise_figures.by_noise(found))
                keep(f"noise-error-{name}", flux_noise_figures.error_by_noise(found))
                keep(f"noise-std-{name}", flux_noise_figures.std_by_noise(found))
        for data in cases:
            keep(f"posterior-{data.case.folder}", figures.posterior(data))
            keep(f"error-{data.case.folder}", figures.error(data))
            keep(f"training-{data.case.folder}", figures.training(data))
            if flux_layout_figures.counts_of(data.case):
                keep("sensors", flux_layout_figures.by_count(data.case, metrics))
            shapes = figures.marginals(data)
            if shapes is not None:
                keep(f"marginals-{data.case.folder}", shapes)
    return paths


def _by_mean(cases: list[CaseData]) -> list[list[CaseData]]:
    """The cases of each prior mean."""
    means = dict.fromkeys(data.case.mean for data in cases)
    return [[data for data in cases if data.case.mean == mean] for mean in means]


def build(cases: list[CaseData], metrics: Mapping[str, float], paths: Mapping[str, Path], versions: Any) -> Page:
    """The page, from loaded cases, metrics and drawn figures by name."""
    run = cases[0].case.run
    texts = TEXTS[run.problem]
    page = Page(texts.title, texts.question)
    page.section("The answer in a picture")
    alt = "Channel with sensors; flux through the top and the bottom wall with its uncertainty"
    page.figure(paths["hero"], alt, HERO)
    for data in cases:
        page.figure(
            paths[f"posterior-{data.case.folder}"],
            f"Posterior of the flux on both walls, {data.title}",
            f"{data.title.capitalize()}: an easy, a median and a hard test case, by the error of the learned mean.",
        )
    for found in _by_mean(cases):
        if len(found) > 1:
            _noise(page, found, paths)
    if "sensors" in paths:
        page.figure(paths["sensors"], "Error and coverage against the number of working sensors", SENSORS)
    page.section("Can it be trusted?")
    checked = {data.case: verdict(data.case, metrics, {n: ratio_error(data, n) for n in SCORES}) for data in cases}
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
    if "coverage" in paths:
        page.subsection("Coverage")
        page.figure(
            paths["coverage"],
            "Coverage of central intervals against their nominal level",
            "On the lines: as many true fluxes inside as promised. Bars: one standard error over the test cases.",
        )
    page.subsection("Limits")
    page.points(texts.limits)
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
    learned = {m.name: f"learned, {m.name}" for m in get.case.methods}
    labels = {name: look.label for name, look in figures.LOOKS.items() if name != "learned"}
    shown = {name: label for name, label in (labels | learned).items() if get.has(name, "crps")}
    names = ("Error of the mean, % of the mean flux", "CRPS", *(f"Coverage {100 * v:g} %, in %" for v in LEVELS))
    rows = [
        [name, *(f"{get(m, key):#.3g}" if key in METRICS[:2] else f"{100 * get(m, key):.1f}" for m in shown)]
        for name, key in zip(names, METRICS)
        if shown and get.has(EXACT, key)
    ]
    if rows:
        page.table(["Resolved test cases only", *(label.capitalize() for label in shown.values())], rows)


def _noise(page: Page, cases: list[CaseData], paths: Mapping[str, Path]) -> None:
    """How everything changes with the noise, for one prior mean."""
    name, title = cases[0].case.name, f"prior mean {cases[0].case.mean:g}"
    texts = {
        "noise": ("Error and coverage against noise", "Left: error of the posterior mean. Right: coverage."),
        "noise-error": (
            "Error per segment against noise",
            "Two panels for each noise level, the top wall and the bottom wall, on a scale of their own.",
        ),
        "noise-std": ("Posterior standard deviation per segment against noise", "Dashed: the prior's."),
    }
    for key, (alt, caption) in texts.items():
        page.figure(paths[f"{key}-{name}"], f"{alt}, {title}", f"{title.capitalize()}: {caption}")


def _zeros(data: CaseData) -> str:
    """How much mass each method puts on fluxes of exactly zero."""
    mass = {name: f"{100 * value:.0f} %" for name, value in mass_at_zero(data).items()}
    methods = ", ".join(f"{figures.LOOKS[name].label} {mass[name]}" for name in figures.LOOKS if name in mass)
    return (
        f"Over all segments of the cases whose samples are kept, {mass['truth']} of the true fluxes are "
        f"zero; mean probability of zero: {methods}."
    )


def _settings(run: FluxRun) -> list[list[str]]:
    """What was asked, defaults filled in."""
    cases = run.cases()
    recipe, texts = cases[0].recipe, TEXTS[run.problem]

    means = {case.mean: case for case in cases}.values()
    pairs = [f"{c.pairs:,}{', noise redrawn at every step' if c.redrawn else ''} (mean {c.mean:g})" for c in means]
    steps = [f"{c.recipe.training.steps:,} (mean {c.mean:g})" for c in means]
    processes = [PROCESSES[name] + (f", n = {run.n:g}" if name == "vp" else "") for name in run.process]
    samplers = [f"{type(run.build_sampler(alpha)).__name__}, alpha = {alpha:g}" for alpha in run.alpha]
    return [
        ["Mean of the flux before clipping at zero", ", ".join(f"{v:g}" for v in run.means)],
        [texts.noise, ", ".join(f"{v:g}" for v in run.noise)],
        *([name, format_(run)] for name, format_ in texts.settings.items()),
        ["Training pairs", "; ".join(pairs)],
        ["Training steps, at most", "; ".join(steps)],
        ["Recipe, coordinates", f"{recipe.name}, {recipe.coordinates}"],
        ["Process", "; ".join(processes)],
        ["Sampler", f"{'; '.join(samplers)}; {run.steps or recipe.steps} steps"],
        ["Test measurements × samples for each", f"{run.test:,} × {run.samples:,}"],
        ["Test measurements with an exact posterior", f"{run.reference:,}"],
        ["Elements along and across the channel, order", f"{run.mesh[0]} × {run.mesh[1]}, {run.order}"],
        ["Seed", str(run.seed)],
    ]


def _timings(cases: list[CaseData], metrics: Mapping[str, float]) -> list[list[str]]:
    """Stage, seconds and what was done in them; a dash where the run has not noted the time."""
    run, rows = cases[0].case.run, []

    def add(stage: str, key: str, what: str) -> None:
        seconds = metrics.get(f"{key}.seconds", 0.0)
        rows.append([stage, f"{seconds:.1f}" if seconds > 0 else "–", what])

    for mean in run.means:
        pairs = Case(run, mean, run.noise[0]).pairs
        failed = metrics.get(f"mean{mean:g}.simulate.failed", 0)
        what = f"{pairs + run.test_rows:,} pairs" + (f", {failed:g} of them failed and left out" if failed else "")
        add(f"Simulate, prior mean {mean:g}", f"mean{mean:g}.simulate", what)
    for data in cases:
        case = data.case
        for model in case.models:
            which = "" if len(case.models) == 1 else f", {model.processes[0]}"
            key = head(case, "train" if not which else f"{model.processes[0]}.train")
            add(f"Train, {data.title}{which}", key, f"{data.training['records'][-1]['step']:,} steps")
        for method in case.methods:
            nfe = metrics.get(f"{head(case, method.name)}.nfe", 0)
            draws = f"{run.test:,} × {run.samples:,} samples, {nfe:g} network evaluations each"
            key = head(case, "sample" if len(case.methods) == 1 else f"{method.name}.sample")
            add(f"Sample, {data.title}, {method.name}", key, draws)
        add(f"Exact posterior, {data.title}", head(case, EXACT), f"{len(data.resolved):,} test cases")
    return rows
