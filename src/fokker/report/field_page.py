"""The report of a run of fields: figures/*.png and report.html, made from the files the run has left."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

from fokker.errors import InputError
from fokker.problems.density_metrics import load, path_of
from fokker.problems.field_data import ALPHA, HIGH, LOW, SHIFT, TAU
from fokker.problems.field_metrics import COVERED, DOUBT, block_name, part_name
from fokker.problems.field_settings import EXACT, LABELS, METHODS, NETWORK, FieldRun
from fokker.report import drawing, files
from fokker.report import field_figures as figures
from fokker.report.field_figures import FieldData
from fokker.report.field_verdict import Lookup, verdict
from fokker.report.page import Page
from fokker.storage import read_json, write_text

TITLES = {
    "poisson": ("Poisson's equation from a few values", "Lap u = g on the unit square, u = 0 on the boundary."),
    "helmholtz": (
        "The Helmholtz equation from a few values",
        "Lap u + u = g on the square, u = 0 on the boundary.",
    ),
    "warp": ("A log-normal field from a few values", "x = exp(g / s), s the standard deviation of g."),
    "threshold": ("A field of two values from a few of them", f"x = {HIGH:g} where g > 0, else {LOW:g}."),
}
TASKS = {
    "inverse": "inverse: values of u are seen, g is wanted",
    "forward": "forward: values of g are seen, u is wanted",
    "direct": "direct: values of x are seen, x is wanted",
}
LIMITS = {
    True: (
        "The prior of g is Gaussian and both equations are linear, so the exact posterior is known, and a network has "
        "nothing to add to the Gaussian of the training fields: these tasks show what an exact treatment of the data "
        "is worth, not what a network learns.",
        "Published figures are of one sample for each truth on 128 x 128 cells with 500 points; the error of one "
        "sample is about 1.4 times that of the mean. Compare them with the open circles, of a run with --n 128.",
        "The mean of finitely many samples has an error of its own: with 64 exact ones 1.008 times the limit.",
    ),
    False: (
        "The exact posterior is known because x is a function of a Gaussian field; the methods are not told so, they "
        "see training fields of x alone.",
        "Errors are relative to the norm of x, in which its mean counts: they look smaller than those of a field of "
        "mean zero.",
        "CRPS is an average over cells in units of x: cases with large values count more.",
    ),
}


def write(kind: type[FieldRun], out: Path) -> Path:
    """Draw all figures of the run in `out` and write its report; returns the path of report.html.

    Every file is written whole or not at all. Raises InputError, in one line, where a file of the run is missing,
    damaged or does not belong to the others, OSError where the disk fails.
    """
    run, versions = files.read_settings(out, f"{kind.family}-field", kind)
    metrics, memory = files.read_metrics(out), peak_memory(out)
    verdict(run, metrics, memory)  # a missing number is told before the figures are drawn
    data = FieldData(run, metrics, _shown(out, run), files.read_training(out / "models" / "prior"))
    page = build(data, draw(data, out / "figures"), versions, memory)
    write_text(out / "report.html", page.html())
    return out / "report.html"


def peak_memory(out: Path) -> float | None:
    """MiB of the largest process of the run, None where that is lost."""
    try:
        return max(float(read_json(path)["mib"]) for path in (out / "results").glob("memory-*.json"))
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _shown(out: Path, run: FieldRun) -> dict[str, dict[str, Any]]:
    found = {}
    for part in run.parts():
        path = path_of(out, block_name(*part, 0), "scores")
        shown = {n.removeprefix("shown."): v for n, v in load(path).items() if n.startswith("shown.")}
        if not {"truth", "limit", "points", f"{NETWORK}.mean"} <= set(shown):
            raise InputError(f"{path}: is of another run, cases that are shown are accepted")
        found[part_name(*part)] = shown
    return found


def draw(data: FieldData, folder: Path) -> dict[str, Path]:
    """Write all figures into `folder`; name without suffix -> path."""
    drawn: dict[str, Any] = {part_name(*part): partial(figures.answers, data, *part) for part in data.run.parts()}
    drawn |= {name: partial(getattr(figures, name), data) for name in ("errors", "ratios", "coverage")}
    drawn["training"] = lambda: drawing.training(
        data.training, f"{data.run.family}, {data.run.n} x {data.run.n}", figures.BLUE, figures.GREY, ""
    )
    paths = {name: folder / f"{name}.png" for name in drawn}
    with matplotlib.rc_context(drawing.STYLE):
        for name, path in paths.items():
            drawing.save(drawn[name](), path)
    return paths


def build(data: FieldData, paths: Mapping[str, Path], versions: Any, memory: float | None) -> Page:
    """The page, from loaded data and drawn figures by name."""
    run, metrics = data.run, data.metrics
    title, law = TITLES[run.family]
    parts = run.parts()
    count = run.problem(*parts[0]).count
    page = Page(
        title,
        f"{law} {count} values at random points of {run.n} x {run.n}: samples of the field, beside the exact law.",
    )
    page.section("The answer in a picture")
    for task, noise in parts:
        page.figure(
            paths[part_name(task, noise)],
            f"Truth, exact mean, mean, standard deviation and samples of the network: {task}, noise {noise:g}",
            f"{TASKS[task].capitalize()}; noise {100 * noise:g} %. Dots: where values are seen. Colours of a row have "
            "one scale, the standard deviation its own.",
        )
    page.section("How near to the limit?")
    page.checks(verdict(run, metrics, memory))
    page.figure(
        paths["errors"],
        "Relative errors of the exact limit, the methods and published ones",
        "Bars: two standard errors over the cases, which all methods share.",
    )
    page.figure(paths["ratios"], "Error and CRPS over those of exact samples", "1 is the limit.")
    among = (
        f" Of two values only cells count where either has a probability of {100 * DOUBT:g} % or more."
        if run.family == "threshold" else ""
    )  # fmt: skip
    page.figure(
        paths["coverage"],
        "Coverage of 50, 80 and 95 % intervals",
        "By the rank of the truth among the samples, ties broken at random, which exact samples cover as claimed; "
        f"cells that are observed themselves do not count.{among} Bars: two standard errors over the cases.",
    )
    _table(page, run, Lookup(run, metrics))
    page.subsection("Limits")
    page.points(LIMITS[run.family in SHIFT])
    page.section("How it was done")
    page.text(
        f"g is Gaussian with covariance (-Lap + {TAU**2:g})^-{ALPHA:g}, Neumann boundary, its mean over the square "
        f"removed. {law} " + "; ".join(TASKS[task] for task in dict.fromkeys(task for task, _ in parts)) + ". "
        "Noise is relative to the standard deviation of what is seen over the prior"
        + (", for two values to half their gap." if run.family == "threshold" else ".")
    )
    page.figure(
        paths["training"],
        "Training curve",
        "Validation loss on 5 % of the training fields. Where step 0 is the best, the untrained network is used, which "
        "is the Gaussian.",
    )
    page.section("Settings")
    page.table(
        ["Setting", "Value"], [*_settings(data), *([f"Version of {k}", str(v)] for k, v in versions.items())], "", False
    )
    return page


def _table(page: Page, run: FieldRun, get: Lookup) -> None:
    two = run.family == "threshold"
    rows = []
    for task, noise in run.parts():
        head, title = part_name(task, noise), f"{task}, {100 * noise:g} %"
        limit = get(f"{head}.{EXACT}.limit_percent")
        rows.append([f"{title}: exact mean", f"{limit:.2f}", "1.000", *("–" for _ in range(6 + two)), "–"])
        for name in METHODS:
            key = f"{head}.{name}"
            inside = [f"{key}.coverage_{100 * level:.0f}" for level in COVERED]
            rows.append(
                [
                    f"{title}: {LABELS[name]}",
                    f"{get(f'{key}.error_percent'):.2f}",
                    f"{get(f'{key}.limit_ratio'):.3f}",
                    f"{get(f'{key}.sample_error_percent'):.2f}",
                    f"{get(f'{key}.crps'):.4g}",
                    f"{get(f'{key}.crps_ratio'):.3f}",
                    *(f"{100 * get(one):.1f}" if get.has(one) else "–" for one in inside),
                    *([f"{get(f'{key}.wrong_percent'):.2f}"] if two else []),
                    f"{get(f'{key}.seconds'):.2f}",
                ]
            )
    page.subsection("All numbers")
    page.text(
        f"Error: relative L2 error of the mean of {run.draws} samples in %, averaged over {run.cases} cases; then over "
        "that of the exact mean. One: the error of a single sample. CRPS: fair, the mean over all cells; then over "
        "that of exact samples. Coverage in %."
        + (" Wrong: cells in % where most samples have the other value." if two else "")
        + " Seconds of processor time of a case."
    )
    heads = [f"{100 * level:g} %" for level in COVERED] + (["Wrong"] if two else [])
    page.table(["Task, noise: method", "Error", "/ limit", "One", "CRPS", "/ exact", *heads, "Seconds"], rows)


def _settings(data: FieldData) -> list[list[str]]:
    run, training = data.run, data.training
    return [
        ["Grid", f"{run.n} x {run.n}"],
        ["Observed points", str(run.problem(*run.parts()[0]).count)],
        ["Cases", str(run.cases)],
        ["Samples of each", str(run.draws)],
        ["Steps of the sampler", str(run.steps)],
        ["Weights", f"trained here, {run.training_steps} steps" if run.training_steps else "those of the package"],
        ["Training", f"{training['records'][-1]['step']} steps, {training['seconds'] / 60:.1f} minutes"],
        ["Training fields, sample covariance", str(run.field_count)],
        ["Seed", str(run.seed)],
    ]
