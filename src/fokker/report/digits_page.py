"""The report of a run of the digits: figures/*.png and report.html, made from the files the run has left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from fokker.errors import InputError
from fokker.problems.density_metrics import load, path_of
from fokker.problems.digits import BACKGROUND, CASES, GAIN, LEVELS, SHA256, SPREAD, TEST, TRAIN
from fokker.problems.digits_metrics import COVERED, NO_NETWORK, hidden
from fokker.problems.digits_settings import KINDS, REAL, SIMULATED, DigitsRun
from fokker.report import digits_figures as figures
from fokker.report import drawing, files
from fokker.report.digits_figures import NAMES, DigitsData
from fokker.report.digits_verdict import RATE, Lookup, verdict
from fokker.report.page import Page
from fokker.storage import write_text

LIMITS = (
    "Unseen digits judge prior and method together. Truths that are drawn from the learned prior judge the method "
    "alone: with such truths an exact method is calibrated exactly, however poor the prior.",
    "None of these methods is exact. Twisted SMC is in the limit of many particles, for the prior's chain of that many "
    "steps; the truths are drawn by this chain. With few particles its samples are too much alike.",
    "The Gaussian without a network is exact for its own prior and Gaussian noise, and for counts the best estimate "
    "that is linear in them. With the right mean and covariance it is nearly calibrated for any truths, on average: "
    "coverage and ranks alone do not say that an answer is good, so error and CRPS stand beside them.",
    "The images are split at random, so that those unseen come from writers whose other digits the prior has seen.",
    "Every pixel is spread by half a grey level, truths too: where pixels rest, a density needs a width.",
)


def write(out: Path) -> Path:
    """Draw all figures of the run in `out` and write its report; returns the path of report.html.

    Every file is written whole or not at all. Raises InputError, in one line, where a file of the run is missing,
    damaged or does not belong to the others, OSError where the disk fails.
    """
    run, versions = files.read_settings(out, "digits", DigitsRun)
    metrics = files.read_metrics(out)
    data = load_data(out, run)
    verdict(run, metrics)  # a missing number is told before the figures are drawn
    page = build(data, metrics, draw(data, out / "figures"), versions)
    write_text(out / "report.html", page.html())
    return out / "report.html"


def load_data(out: Path, run: DigitsRun) -> DigitsData:
    """All that a run has left; InputError where a file is missing or does not belong to the others."""
    truths, samples, scores = load(path_of(out, "truths", "samples")), {}, {}
    if any(kind not in truths or len(truths[kind]) != run.images for kind in KINDS):
        raise InputError(f"{path_of(out, 'truths', 'samples')}: is of another run, {run.images} truths are accepted")
    for case in run.cases:
        for name in (*(method.name for method in run.methods(case)), NO_NETWORK):
            for key in (f"{case}.{name}.{kind}" for kind in KINDS):
                found = load(path_of(out, key, "samples"))
                if "failed" in found:
                    continue
                if "samples" not in found or found["samples"].shape[:2] != (run.images, run.draws):
                    shape = (run.images, run.draws)
                    raise InputError(f"{path_of(out, key, 'samples')}: is of another run, samples {shape} are accepted")
                samples[key], scores[key] = found["samples"], load(path_of(out, key, "scores"))
                if not {"coverage", "ranks", "mean", "std"} <= set(scores[key]):
                    raise InputError(f"{path_of(out, key, 'scores')}: is of another run, scores are accepted")
    return DigitsData(run, truths, samples, scores, files.read_training(out / "models" / "prior"))


def draw(data: DigitsData, folder: Path) -> dict[str, Path]:
    """Write all figures into `folder`; name without suffix -> path."""
    drawn = {"prior": lambda: figures.prior(data), "loss": lambda: figures.score_loss(data)}
    for case in data.run.cases:
        drawn[case] = lambda case=case: figures.answers(data, case, data.names(case)[0])  # type: ignore[misc]
    drawn |= {
        "coverage": lambda: figures.coverage(data),
        "pixels": lambda: figures.pixels(data),
        "ranks": lambda: figures.ranks(data),
        "training": lambda: drawing.training(
            data.training, "the prior of the digits", figures.BLUE, figures.GREY, "Gaussian"
        ),
    }
    paths = {name: folder / f"{name}.png" for name in drawn}
    with matplotlib.rc_context(drawing.STYLE):
        for name, path in paths.items():
            drawing.save(drawn[name](), path)
    return paths


def build(data: DigitsData, metrics: Mapping[str, float], paths: Mapping[str, Path], versions: Any) -> Page:
    """The page, from loaded data, metrics and drawn figures by name."""
    run = data.run
    page = Page(
        "Digits through a known operator",
        f"A prior learned from {TRAIN:,} handwritten digits of 8 x 8 pixels, then three measurements that it was not "
        "trained for: hidden pixels, blur, and counts. Samples of the posterior, and how far they can be believed.",
    )
    page.section("The answer in a picture")
    for case in run.cases:
        first = data.names(case)[0]
        note = " Light blue: hidden." if hidden(CASES[case]()).any() else ""
        page.figure(
            paths[case],
            f"Truth, measurement, posterior mean, standard deviation and samples: {case}",
            f"{case}: {CASES[case]().title}. Digits that the prior has not seen, samples by {NAMES[first]}.{note}",
        )
    page.section("Can it be trusted?")
    page.checks(verdict(run, metrics))
    page.figure(
        paths["coverage"],
        "Coverage of 50, 80 and 95 % intervals by case and method",
        f"All 64 pixels of {run.images} truths of each kind; bars: two standard errors. Filled: digits that the prior "
        "has not seen, which judge prior and method together. Open: draws of the learned prior, which judge the method "
        "alone.",
    )
    page.figure(
        paths["pixels"],
        "Coverage of 80 % intervals for every pixel",
        f"By the first method of each case. White: 80 %, as claimed; blue: too few, the intervals are too narrow or "
        f"off; red: too many. Each pixel has a standard error of {100 * (0.16 / run.images) ** 0.5:.0f} %.",
    )
    page.figure(
        paths["ranks"],
        "Histograms of ranks of true pixels among samples",
        "Draws of the prior as truths; hidden pixels where there are any, else all. Exact samples are flat (dashed); "
        "high at both ends: too narrow; high in the middle: too wide. Lines: two standard errors over images.",
    )
    for kind in KINDS:
        _table(page, data, Lookup(metrics), kind)
    page.subsection("Limits")
    page.points(LIMITS)
    page.section("How it was done")
    page.text(
        f"The {TRAIN + TEST:,} digits of scikit-learn, x = grey level / {LEVELS} with a spread of {SPREAD:g} grey "
        f"levels; {TEST} of them, drawn by the seed, are held out (results/split.json), and the first {run.images} are "
        f"measured. SHA-256 of all images: {SHA256[:16]}... Counts are y ~ Poisson({GAIN:g} x + {BACKGROUND:g})."
    )
    page.figure(
        paths["prior"],
        "Unseen digits and draws of the prior",
        "What the prior has learned, below what it has not seen.",
    )
    page.figure(
        paths["loss"],
        "Score loss of the prior and a Gaussian on unseen digits",
        f"All {TEST} unseen digits. The Gaussian has the mean and covariance of the training images.",
    )
    page.figure(
        paths["training"],
        "Training curve of the prior",
        "Validation loss: on 5 % of the training images, weighted in the same way at fixed noise levels. Training "
        "loss: at the levels that the recipe draws, so the curves need not meet. The best weights are used.",
    )
    page.section("Settings")
    page.table(
        ["Setting", "Value"], [*_settings(run), *([f"Version of {k}", str(v)] for k, v in versions.items())], "", False
    )
    return page


def _table(page: Page, data: DigitsData, get: Lookup, kind: str) -> None:
    """Errors, coverage and cost of all methods for one kind of truths."""
    rows = []
    heads = [f"{100 * level:g} %" for level in COVERED]
    for case in data.run.cases:
        for name in data.names(case):
            key = f"{case}.{name}.{kind}"
            inside = [get(f"{key}.coverage{100 * level:.0f}") for level in COVERED]
            tests = [get(f"{key}.{p}") for p in ("p_ranks", "p_likelihood")]
            cost = [f"{get(f'{key}.nfe'):g}", f"{get(f'{key}.seconds'):.1f}"] if name != NO_NETWORK else ["0", "0"]
            row = [f"{case}, {NAMES[name]}", f"{get(f'{key}.rmse'):.4f}", f"{get(f'{key}.crps'):.4f}"]
            unseen = f"{case}.{name}.{kind}.hidden.coverage95"
            out = f"{100 * get(unseen):.1f}" if get.has(unseen) else "–"
            rows.append(
                [
                    *row,
                    *(f"{100 * v:.1f}" for v in inside),
                    out,
                    *(f"{p:.2g}" if p >= 1e-6 else "< 1e-6" for p in tests),
                    *cost,
                ]
            )
        bare = get(f"{case}.pseudo_inverse.{kind}.rmse")
        rows.append([f"{case}, pseudo-inverse", f"{bare:.4f}", *("–" for _ in range(9))])
    title = {REAL: "Unseen digits: prior and method", SIMULATED: "Draws of the learned prior: the method alone"}[kind]
    page.subsection(title)
    page.text(
        "Error: root mean square of the posterior mean, in units of the darkest pixel. Coverage in %; hidden: 95 % "
        "intervals of hidden pixels. p: that ranks of exact samples look as odd (66 tests, the least p-value times 66; "
        f"below {RATE:g} something is wrong); p of fit: the same for the ranks of log p(y given x) alone, which see "
        "how closely samples follow the data. Evaluations for each sample; seconds for all on one core."
    )
    header = ["Case, method", "Error", "CRPS", *heads, "Hidden", "p", "p of fit", "Evaluations", "Seconds"]
    page.table(header, rows)


def _settings(run: DigitsRun) -> list[list[str]]:
    return [
        *([name, CASES[name]().title] for name in run.cases),
        ["Truths of each kind", str(run.images)],
        ["Samples for each measurement", str(run.draws)],
        ["Particles of twisted SMC", f"{run.particles}, twisted by the first method of its case"],
        *([f"Steps of {NAMES[m.name]}, {m.case_name}", str(m.steps)] for m in run.all_methods()),
        ["Seed", str(run.seed)],
    ]
