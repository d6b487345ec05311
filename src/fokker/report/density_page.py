"""The report of a density run: figures/*.png and report.html, made from the files the run has left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fokker.diagnostics.optimal_transport import COSTS
from fokker.errors import InputError
from fokker.problems.density_metrics import (
    BAND,
    BAND_PAIRS,
    EXACT,
    METRICS,
    NO_NETWORK,
    REG,
    REPETITIONS,
    load,
    path_of,
)
from fokker.problems.density_settings import RUNS, DensityRun
from fokker.report import density_figures as figures
from fokker.report import drawing, files
from fokker.report.density_figures import DensityData
from fokker.report.density_verdict import TARGETS, Lookup, published_length, verdict
from fokker.report.page import Page
from fokker.storage import write_text

PUBLISHED = {  # Dasgupta et al. 2025, table 2: Sinkhorn, reg 0.01, against a band of width 0.1
    "tanh": {"ve.ode": 0.051, "ve.sde": 0.040, "vp2.ode": 0.046, "vp2.sde": 0.041},
    "bimodal": {"ve.ode": 0.059, "ve.sde": 0.043, "vp2.ode": 0.046, "vp2.sde": 0.044},
    "spiral": {"ve.ode": 0.047, "ve.sde": 0.052, "vp2.ode": 0.045, "vp2.sde": 0.041},
}
FORMULAS = {
    "tanh": "y is uniform on (−2, 2) and x = tanh y + an exponential variable of mean 0.3",
    "bimodal": "y and w are standard normal and x is the cube root of y + w",
    "spiral": "t is uniform on (3π/2, 9π/2), x = 0.1 t sin t and y = 0.1 t cos t, each with normal noise of 0.1",
}
LIMITS = (
    "The four y are our choice: the source does not say which it used. Between and beyond them nothing is measured.",
    "One seed. The targets are meant for the mean over at least three.",
    "W1 and KS are measured on finite samples: even exact samples do not have zero. That floor stands beside them.",
    "Sinkhorn values depend on the cost, the sub-sample and the reference, and the floor is a large part of them: they "
    "are here to stand beside the published ones, not to judge by.",
)


def write(out: Path) -> Path:
    """Draw all figures of the run in `out` and write its report; returns the path of report.html.

    Every file is written whole or not at all. Raises InputError, in one line, where a file of the run is missing,
    damaged or does not belong to the others, OSError where the disk fails.
    """
    run, versions = read_settings(out)
    metrics = files.read_metrics(out)
    data = load_data(out, run)
    verdict(run, metrics)  # a missing number is told before the figures are drawn
    page = build(data, metrics, draw(data, out / "figures"), versions)
    write_text(out / "report.html", page.html())
    return out / "report.html"


def read_settings(out: Path) -> tuple[DensityRun, dict[str, str]]:
    """What the run was asked to do, and versions of packages; InputError for another problem's."""
    problem = files.read_problem(out)
    kinds = {f"density-{name}": kind for name, kind in RUNS.items()}
    if problem not in kinds:
        raise InputError(f"{out / 'config.json'}: is not of a density run")
    return files.read_settings(out, problem, kinds[problem])


def load_data(out: Path, run: DensityRun) -> DensityData:
    """All that a run has left; InputError where a file is missing or does not belong to the others."""
    shape = (len(run.law.y_values), run.draws)
    names = [method.name for method in run.methods()]
    if "default" in run.recipes and path_of(out, NO_NETWORK, "scores").exists():
        names.append(NO_NETWORK)
    samples, scores = {}, {EXACT: load(path_of(out, EXACT, "scores"))}
    for name in names:
        found = load(path_of(out, name, "samples"))
        if "samples" not in found or found["samples"].shape != shape:
            raise InputError(f"{path_of(out, name, 'samples')}: is of another run, samples {shape} are accepted")
        samples[name], scores[name] = found["samples"], load(path_of(out, name, "scores"))
    for name, values in scores.items():
        if any(metric not in values or values[metric].shape != shape[:1] for metric in METRICS):
            raise InputError(f"{path_of(out, name, 'scores')}: is of another run, {', '.join(METRICS)} are accepted")
    training = {model.name: files.read_training(out / "models" / model.name) for model in run.models()}
    return DensityData(run, samples, scores, training)


def draw(data: DensityData, folder: Path) -> dict[str, Path]:
    """Write all figures into `folder`; name without suffix -> path."""
    paths = {}

    def keep(name: str, figure: Any) -> None:
        paths[name] = folder / f"{name}.png"
        drawing.save(figure, paths[name])

    with matplotlib.rc_context(drawing.STYLE):
        keep("joint", figures.joint(data))
        keep("histograms", figures.histograms(data))
        keep("distances", figures.distances(data, TARGETS[data.run.density]))
        for model in data.run.models():
            title, gaussian = figures.model_label(model), "Gaussian, no network"
            lines = drawing.training(
                data.training[model.name], title, figures.PROCESS_COLORS[0], figures.GREY, gaussian
            )
            keep(f"training-{model.name}", lines)
    return paths


def build(data: DensityData, metrics: Mapping[str, float], paths: Mapping[str, Path], versions: Any) -> Page:
    """The page, from loaded data, metrics and drawn figures by name."""
    run = data.run
    short = f" The published recipe had {published_length(run)}." if "published" in run.recipes else ""
    page = Page(
        f"A conditional density: {run.density}",
        f"From {run.pairs:,} pairs (x, y) to samples of x for a given y. Here {FORMULAS[run.density]}: the answer is "
        "known exactly.",
    )
    page.section("The answer in a picture")
    page.figure(
        paths["histograms"],
        "Histograms of samples against the exact conditional density at four y",
        f"{run.draws:,} samples for each y (bars and outlines) against the exact conditional density (black).{short}"
        + _coincide(data),
    )
    page.section("Can it be trusted?")
    checks = verdict(run, metrics)
    targets = [check.reached for check in checks if check.reached is not None]
    if targets:
        page.text(f"{sum(targets)} of {len(targets)} targets are reached.")
    page.checks(checks)
    page.figure(
        paths["distances"],
        "Wasserstein and Kolmogorov-Smirnov distances of every method",
        f"Dots: each y; ticks: their mean. Solid line: what {run.draws:,} exact samples have. Dashed: the "
        f"target of the default recipe.{short}",
    )
    _distances(page, data)
    page.subsection("Beside the published table")
    page.text(
        f"Entropic transport (Sinkhorn, regularisation {REG:g}), converged until both marginals hold to 1e-6, between "
        f"{run.points:,} samples and {run.points:,} reference points: exact draws at y, or the published kind, those "
        f"of {BAND_PAIRS:,} joint samples with y within {BAND / 2:g}. The source does not say which cost, "
        f"sub-sample, y and stopping rule its numbers have: they can be compared in order of magnitude only.{short}"
    )
    _transport(page, data)
    page.subsection("Limits")
    page.points(LIMITS)
    page.section("How it was done")
    page.text(
        "A diffusion model of x given y is trained on the pairs. The default recipe trains one model, and samples it "
        "by every process; the published recipe (noise prediction, uniform times, no preconditioning, 500 Euler steps; "
        "the width of its network is our guess) trains one for each process."
    )
    page.figure(paths["joint"], "Training pairs and exact joint density", "Lines: the four y of this page.")
    for model in run.models():
        page.figure(
            paths[f"training-{model.name}"],
            f"Training curve, {figures.model_label(model)}",
            "Validation loss: weighted in the same way for every recipe, at fixed noise levels; in posterior "
            "coordinates 1 is the Gaussian without a network. Training loss: in the recipe's own weighting and noise "
            "levels, so the curves need not meet. The weights used are those of the last step, in the default recipe "
            "averaged over the last ones.",
        )
    page.section("Settings")
    page.table(
        ["Setting", "Value"], [*_settings(data), *([f"Version of {k}", str(v)] for k, v in versions.items())], "", False
    )
    page.section("Timings")
    page.table(["Stage", "Seconds", "What"], _timings(data, Lookup(run, metrics)))
    return page


def _coincide(data: DensityData) -> str:
    """That the processes of one model give the same samples, measured."""
    run = data.run
    if "default" not in run.recipes or len(run.processes) < 2 or "ode" not in run.samplers:
        return ""
    first, *others = (data.samples[f"default.{process}.ode"] for process in run.processes)
    apart = max(float(np.abs(other - first).max()) for other in others)
    return (
        " The default recipe's processes share one model and one grid of noise levels, on which they are the same "
        f"algorithm: their ODE samples differ by at most {apart:.1g}."
    )


def _distances(page: Page, data: DensityData) -> None:
    """W1 and KS at every y."""
    values = data.run.law.y_values
    for metric, name in (("w1", "W1"), ("ks", "KS")):
        rows = [
            [label, *(f"{v:.4f}" for v in data.scores[key][metric]), f"{data.scores[key][metric].mean():.4f}"]
            for key, label in data.labels.items()
        ]
        rows.append(["Target (default recipe)", *("" for _ in values), f"{TARGETS[data.run.density][metric]:.3f}"])
        page.table([f"{name} to the exact conditional", *(f"y = {y:g}" for y in values), "Mean"], rows)


def _transport(page: Page, data: DensityData) -> None:
    """Sinkhorn of every method, mean over the four y, beside the published number."""
    kinds = [f"sinkhorn_{cost}{kind}" for kind in ("", "_band") for cost in COSTS]
    rows = []
    for key, label in data.labels.items():
        published = PUBLISHED[data.run.density].get(key.split(".", 1)[-1])
        there = f"{published:.3f}" if published is not None and key.startswith("published.") else "–"
        rows.append([label, *(f"{data.scores[key][kind].mean():.4f}" for kind in kinds), there])
    where = [f"{cost.capitalize()}, {kind}" for kind in ("exact", "band") for cost in COSTS]
    page.table(["Mean over the four y", *where, "Published"], rows)


def _settings(data: DensityData) -> list[list[str]]:
    """What was asked, and what the recipes were when their models were trained."""
    run = data.run
    rows = [
        ["Density", run.density],
        ["Training pairs", f"{run.pairs:,}"],
        ["y", ", ".join(f"{y:g}" for y in run.law.y_values)],
        ["Processes", ", ".join(figures.process_label(name) for name in run.processes)],
        ["Samples for each y", f"{run.draws:,}"],
        ["Points of entropic transport", f"{run.points:,}"],
        ["Repetitions of the floor, averaged", f"{REPETITIONS}"],
        ["Seed", str(run.seed)],
    ]
    for model in {name: m for name in run.recipes for m in run.models() if m.recipe_name == name}.values():
        name, recipe = model.recipe_name, data.training[model.name]["settings"]["recipe"]
        sizes = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in recipe["network"].items() if k != "kind")
        rows.append([f"Recipe {name}: coordinates, network", f"{recipe['coordinates']}; {sizes}"])
        length = f"{recipe['training']['steps']:,} training steps at most"
        rows.append([f"Recipe {name}: length", published_length(run) if name == "published" else length])
        rows.append([f"Recipe {name}: sampler", f"{recipe['sampler']['name']}, {recipe['steps']} steps"])
    return rows


def _timings(data: DensityData, get: Lookup) -> list[list[str]]:
    """Stage, seconds on one core and what was done in them."""
    rows, total = [], data.run.draws * len(data.run.law.y_values)
    for model in data.run.models():
        head = f"{model.name.replace('-', '.')}.train"
        rows.append(
            [f"Train, {figures.model_label(model)}", f"{get(head, 'seconds'):.1f}", f"{get(head, 'steps'):,g} steps"]
        )
    for method in data.run.methods():
        what = f"{total:,} samples, {get(method.name, 'nfe'):g} network evaluations each"
        rows.append([f"Sample, {figures.label(method)}", f"{get(method.name, 'seconds'):.2f}", what])
    return rows
