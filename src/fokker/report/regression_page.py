"""The report of a run of regression: figures/*.png and report.html, made from the files the run has left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from fokker.errors import InputError
from fokker.problems.density_metrics import load, path_of
from fokker.problems.regression_families import CELLS, TITLES
from fokker.problems.regression_metrics import COVERED, scores
from fokker.problems.regression_settings import (
    AMORTIZED,
    EXACT,
    LABELS,
    METHODS,
    MOST,
    NO_NETWORK,
    NOISE,
    PRIOR,
    Cases,
    RegressionRun,
)
from fokker.report import drawing, files
from fokker.report import regression_figures as figures
from fokker.report.page import Check, Page
from fokker.report.regression_figures import RegressionData
from fokker.storage import write_text

NUMBERS = {1: "A law", 2: "Two laws", 3: "Three laws"}
WAYS = (
    "amortized: a network trained with observations at random cells; told data anywhere, it needs no approximation.",
    "guided: a prior trained without data. Data come in by the exact update of a Gaussian around what the network "
    "expects at each level; exact where functions are Gaussian.",
    "PiGDM: the same prior, guided by gradients through the network with an isotropic Gaussian.",
    "no network: the Gaussian with mean and covariance of the training fields. For matern this is the truth up to the "
    "error of an estimated spectrum, so that a network can add nothing there and should take nothing away.",
    "exact: for matern and switch closed, for waves importance sampling whose effective sample size is in the table.",
)


def write(out: Path) -> Path:
    """Draw all figures of the run in `out` and write its report; returns the path of report.html.

    Every file is written whole or not at all. Raises InputError, in one line, where a file of the run is missing,
    damaged or does not belong to the others, OSError where the disk fails.
    """
    run, versions = files.read_settings(out, "regression-1d", RegressionRun)
    metrics = files.read_metrics(out)
    checks = verdict(run, metrics)  # a missing number is told before the figures are drawn
    data = load_data(out, run)
    page = build(data, metrics, checks, draw(data, out / "figures"), versions)
    write_text(out / "report.html", page.html())
    return out / "report.html"


def load_data(out: Path, run: RegressionRun) -> RegressionData:
    """All that a run has left; InputError where a file is missing or does not belong to the others."""
    cases = {family: Cases.of(run, family) for family in run.families}
    samples, means, shape = {}, {}, (run.cases, run.draws, CELLS)
    for key in run.answers():
        path = path_of(out, key, "samples")
        found = load(path)
        if not {"samples", "mean"} <= set(found) or found["samples"].shape != shape:
            raise InputError(f"{path}: is of another run, samples {shape} are accepted")
        samples[key], means[key] = found["samples"], found["mean"]
    found_scores = {key: scores(values, cases[key.split(".")[0]].truth.numpy()) for key, values in samples.items()}
    models = [f"{family}.{kind}" for family in run.families for kind in (AMORTIZED, PRIOR)]
    trainings = {name: files.read_training(out / "models" / name) for name in models}
    return RegressionData(run, cases, samples, means, found_scores, trainings)


def draw(data: RegressionData, folder: Path) -> dict[str, Path]:
    """Write all figures into `folder`; name without suffix -> path."""
    drawn: dict[str, Callable[[], Figure]] = {
        family: partial(figures.answers, data, family) for family in data.run.families
    }
    drawn["coverage"] = partial(figures.coverage, data)
    drawn["points"] = partial(figures.by_number, data)
    drawn["starts"] = figures.starts
    drawn["training"] = partial(figures.training, data)
    paths = {name: folder / f"{name}.png" for name in drawn}
    with matplotlib.rc_context(drawing.STYLE):
        for name, path in paths.items():
            drawing.save(drawn[name](), path)
    return paths


def verdict(run: RegressionRun, metrics: Mapping[str, float]) -> list[Check]:
    """For every family which method is nearest to exact, and whether the network adds anything.

    Raises InputError where a metric is missing.
    """

    def get(name: str) -> float:
        if name not in metrics:
            raise InputError(f"metrics.json: has no {name}; running the same command again makes it")
        return metrics[name]

    checks = []
    for family in run.families:
        found = {method: get(f"{family}.{method}.crps_ratio") for method in METHODS}
        learned = {method: value for method, value in found.items() if method != NO_NETWORK}
        best = min(learned, key=lambda name: learned[name])
        inside = get(f"{family}.{best}.coverage95")
        text = (
            f"{family}, {TITLES[family]}: nearest to exact is {LABELS[best]}, its CRPS {found[best]:.3f} ± "
            f"{get(f'{family}.{best}.crps_ratio_se'):.3f} times that of exact samples, the error of its mean "
            f"{get(f'{family}.{best}.error_ratio'):.3f} times; {100 * inside:.1f} % of values lie inside their 95 % "
            f"intervals (exact samples: {100 * get(f'{family}.{EXACT}.coverage95'):.1f} %). Without a network: "
            f"{found[NO_NETWORK]:.3f} and {get(f'{family}.{NO_NETWORK}.error_ratio'):.3f} times."
        )
        checks.append(Check(text + ("" if found[best] < found[NO_NETWORK] else " The network adds nothing.")))
    return checks


def build(
    data: RegressionData,
    metrics: Mapping[str, float],
    checks: list[Check],
    paths: Mapping[str, Path],
    versions: Mapping[str, str],
) -> Page:
    """The page, from loaded data, metrics, sentences and drawn figures by name."""
    run = data.run
    page = Page(
        "Functions of one variable from a few noisy values",
        f"{NUMBERS[len(run.families)]} of functions, known only by {run.fields:,} examples; then functions that nobody "
        f"has seen, told at 1 to {MOST} points anywhere. What the models answer, beside the exact posterior.",
    )
    page.section("The answer in a picture")
    for family in run.families:
        page.figure(
            paths[family],
            f"Truth, data, exact band and the answers of three methods: {family}",
            f"{family}: {TITLES[family]}. Grey and dashed: the exact posterior.",
        )
    page.section("Can it be trusted?")
    page.checks(checks)
    page.figure(
        paths["coverage"],
        "Coverage of 50, 80 and 95 % intervals by family and method",
        f"All {CELLS} cells of {run.cases} functions; bars: two standard errors over functions. By ranks, which are "
        "exact for any number of samples.",
    )
    page.figure(
        paths["points"],
        "Error of the mean against the number of points told",
        "Relative error of the mean of the samples, averaged over functions told so many points (two numbers at a "
        "time). Black: exact samples, as many.",
    )
    _table(page, run, metrics)
    page.section("Where should a sampler start?")
    page.text(
        "In training the last state still holds some of the function, m f + sigma g; sampling often starts from the "
        "noise sigma g alone. For a Gaussian process the error of this is known without any sampling. It falls as m / "
        "sigma by the ODE, and as its square by the SDE, which forgets its start; the mean alone, m mean + sigma g, "
        "brings the ODE to the square as well. The right law of the last state, from which all methods here start, "
        "leaves none at any level. White noise of the same variance spreads it evenly over all waves, so that the slow "
        "and strong ones still show through at levels six times as high."
    )
    page.figure(
        paths["starts"],
        "Distance of samples to a Gaussian process against the level of the start",
        "2-Wasserstein distance in units of the root mean square norm of the functions, for an exact sampler. A Matern "
        "process and a mean as strong as it, one slow wave. Dotted: 1 %. The right law would be at 0.",
    )
    page.section("How it was done")
    page.points(WAYS)
    page.text(
        f"Functions are seen by the models at {CELLS} cells and continued between them by cosines. Points are uniform, "
        f"the noise of each case has a deviation between {NOISE[0]:g} and {NOISE[1]:g}, uniform in log, and is told. "
        "Times are wall clock with two processes side by side."
    )
    page.figure(
        paths["training"],
        "Training curves of all models",
        "Loss over noise levels, on 5 % of the examples (at most 256; 64 with data). It starts where the Gaussian is.",
    )
    page.section("Settings")
    told: list[list[str]] = [[name, str(value)] for name, value in run.settings().items() if name != "problem"]
    weights = f"trained here, {run.train} steps each" if run.train else "those of the package"
    told.append(["Weights", weights])
    page.table(["Setting", "Value"], [*told, *([f"Version of {k}", str(v)] for k, v in versions.items())], "", False)
    return page


def _table(page: Page, run: RegressionRun, metrics: Mapping[str, float]) -> None:
    """Errors, CRPS and their ratios to exact samples, coverage and cost."""
    page.subsection("All numbers")
    page.text(
        "Error: relative, of the mean of the samples. Ratios: over exact samples, as many and on the same functions, "
        "with their standard errors. Coverage in %. Warned: answers with a warning that samples fit neither the data "
        "nor the prior. Seconds: for all functions."
    )
    rows: list[list[str]] = []
    for family in run.families:
        for method in (*METHODS, EXACT):
            head = f"{family}.{method}"
            cells: list[Any] = [f"{family}, {LABELS[method]}"]
            for name in ("error", "crps"):
                told = f"{head}.{name}_ratio"
                cells.append(f"{metrics[f'{head}.{name}']:.4f}")
                cells.append("1" if method == EXACT else f"{metrics[told]:.3f} ± {metrics[f'{told}_se']:.3f}")
            cells += [f"{100 * metrics[f'{head}.coverage{100 * level:.0f}']:.1f}" for level in COVERED]
            warned = "" if method == EXACT else f"{100 * metrics[f'{head}.doubted']:.0f} %"
            rows.append([*cells, warned, f"{metrics[f'{head}.seconds']:.1f}"])
    covered = (f"{100 * v:g} %" for v in COVERED)
    header = ["Family, method", "Error", "Ratio", "CRPS", "Ratio", *covered, "Warned", "Seconds"]
    page.table(header, rows)
    found = [
        f"{f}: {metrics[f'{f}.{EXACT}.least_ess']:,.0f}" for f in run.families if f"{f}.{EXACT}.least_ess" in metrics
    ]
    if found:
        page.text(f"Least effective sample size of an exact answer: {', '.join(found)}.")
