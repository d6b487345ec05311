"""Pictures of a run of regression. Each function takes what a run has left and returns one figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from fokker.problems.function_questions import NOISE, WITH_MEAN, distance, end_law
from fokker.problems.regression_families import FAMILIES, GRID
from fokker.problems.regression_metrics import COVERED
from fokker.problems.regression_settings import (
    AMORTIZED,
    EXACT,
    LABELS,
    METHODS,
    NO_NETWORK,
    PRIOR,
    Cases,
    RegressionRun,
)
from fokker.report.drawing import MEASURED, TRUTH, new

GREY = "#808080"
COLORS = {"amortized": "#0072B2", "guided": "#D55E00", "pigdm": "#CC79A7", NO_NETWORK: "#E69F00", EXACT: GREY}
SHOWN = ("amortized", "guided", NO_NETWORK)  # in the pictures of answers
NUMBERS = (3, 8)  # points that the functions of these pictures are told
DRAWS, BAND = 5, 0.8
GROUPS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))  # numbers of points taken together
X = GRID.points[:, 0].numpy()


@dataclass(frozen=True)
class RegressionData:
    """A run: cases by family, samples (M, n, 128), exact or sampled means (M, 128) and scores by FAMILY.METHOD,
    trainings by FAMILY.MODEL."""

    run: RegressionRun
    cases: Mapping[str, Cases]
    samples: Mapping[str, NDArray]
    means: Mapping[str, NDArray]
    scores: Mapping[str, Mapping[str, NDArray]]
    trainings: Mapping[str, Mapping[str, Any]]


def answers(data: RegressionData, family: str) -> Figure:
    """A function from a few points and one from more: truth, data, exact band, and what each method says."""
    count = data.cases[family].count.numpy()
    rows = [int(np.flatnonzero(count == m)[0]) for m in NUMBERS if (count == m).any()] or [0]
    figure = new(10.67, 2.6 * len(rows) + 0.6)
    for row, case in zip(figure.subplots(len(rows), len(SHOWN), squeeze=False, sharex=True, sharey="row"), rows):
        for axes, method in zip(row, SHOWN):
            _answer(axes, data, family, method, case)
            axes.set_title(LABELS[method])
        told = int(count[case])
        row[0].set_ylabel(f"f(x) from {told} point{'s' if told > 1 else ''}")
    for axes in figure.axes[-len(SHOWN) :]:
        axes.set_xlabel("x")
    band = f"{100 * BAND:g} %"
    shown: list[Any] = [
        Line2D([], [], color=TRUTH, lw=1.4, label="truth"),
        Line2D([], [], color=MEASURED, marker="o", ms=4, ls="", label="data, two deviations of their noise"),
        Line2D([], [], color="0.4", ls="--", label="exact mean"),
        Patch(color="0.85", label=f"exact {band} band"),
        Line2D([], [], color="0.2", lw=2, label="the method's mean (in its colour)"),
        Patch(color="0.2", alpha=0.25, label=f"its {band} band"),
        Line2D([], [], color="0.2", lw=0.6, label=f"{DRAWS} of its samples"),
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=4)
    return figure


def _answer(axes: Axes, data: RegressionData, family: str, method: str, case: int) -> None:
    tails = [(1 - BAND) / 2, (1 + BAND) / 2]
    color, key, exact = COLORS[method], f"{family}.{method}", f"{family}.{EXACT}"
    points, y, std = data.cases[family].told(case)
    axes.fill_between(X, *np.quantile(data.samples[exact][case], tails, axis=0), color="0.85", lw=0)
    axes.fill_between(X, *np.quantile(data.samples[key][case], tails, axis=0), color=color, alpha=0.25, lw=0)
    axes.plot(X, data.samples[key][case][:DRAWS].T, color=color, lw=0.6)
    axes.plot(X, data.means[exact][case], color="0.4", ls="--", lw=1.4)
    axes.plot(X, data.means[key][case], color=color, lw=2)
    axes.plot(X, data.cases[family].truth[case].numpy(), color=TRUTH, lw=1.4)
    axes.errorbar(points.numpy(), y.numpy(), 2 * std, fmt="o", color=MEASURED, ms=4, lw=1, zorder=5)
    axes.set_xlim(0, 1)


def coverage(data: RegressionData) -> Figure:
    """Coverage of central intervals by family and method, with two standard errors."""
    families, names = data.run.families, [*METHODS, EXACT]
    figure = new(10.67, 3.4)
    for axes, family in zip(figure.subplots(1, len(families), squeeze=False, sharey=True)[0], families):
        for level, color in zip(COVERED, ("#56B4E9", "#0072B2", "#000000")):
            axes.axvline(level, color=color, lw=1, ls="--", label=f"{100 * level:g} % intervals; dashed: as claimed")
            values = [data.scores[f"{family}.{name}"]["coverage"][COVERED.index(level)] for name in names]
            centre = [each.mean() for each in values]
            error = [2 * each.std(ddof=1) / np.sqrt(len(each)) for each in values]
            axes.errorbar(centre, range(len(names)), xerr=error, fmt="o", ms=5, color=color, lw=1)
        axes.set(yticks=range(len(names)), yticklabels=[LABELS[name] for name in names], title=family)
        axes.set(xlim=(0.2, 1.02), ylim=(len(names) - 0.5, -0.5), xlabel="truths inside the interval")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def by_number(data: RegressionData) -> Figure:
    """Error of the mean against the number of points told, methods beside the exact answer."""
    families = data.run.families
    figure = new(10.67, 3.4)
    for axes, family in zip(figure.subplots(1, len(families), squeeze=False)[0], families):
        count = data.cases[family].count.numpy()
        groups = [group for group in GROUPS if np.isin(count, group).any()]
        centres = [float(np.mean(group)) for group in groups]
        for method in (EXACT, *METHODS):
            error = data.scores[f"{family}.{method}"]["error"]
            means = [error[np.isin(count, group)].mean() for group in groups]
            style = {"color": "black", "lw": 2.5} if method == EXACT else {"color": COLORS[method], "lw": 1.2}
            axes.plot(centres, means, "o-", ms=4, label=LABELS[method], **style)
        axes.set(title=family, xlabel="points told", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "23457" else "")
    figure.axes[0].set_ylabel("relative error of the mean")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def training(data: RegressionData) -> Figure:
    """Validation loss of the models of every family against the step."""
    families = data.run.families
    figure = new(10.67, 3.2)
    for axes, family in zip(figure.subplots(1, len(families), squeeze=False)[0], families):
        for kind, method in ((AMORTIZED, "amortized"), (PRIOR, "guided")):
            records = data.trainings[f"{family}.{kind}"]["records"]
            label = {AMORTIZED: "told data (amortized)", PRIOR: "prior (guided, PiGDM)"}[kind]
            steps, losses = [r["step"] for r in records], [r["validation_loss"] for r in records]
            axes.plot(steps, losses, "o-", ms=3, color=COLORS[method], label=label)
        axes.set(title=family, xlabel="training step", ylim=(0, None))
    figure.axes[0].set_ylabel("weighted loss on fields held out")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def starts() -> Figure:
    """How far samples of a Gaussian process with a mean are off, by the level at which they start."""
    field, levels = FAMILIES["matern"].fields[0], np.geomspace(1, 1000, 61)  # type: ignore[attr-defined]
    data = field.eigenvalues
    mean = torch.zeros_like(data)
    mean[1] = data.sum().sqrt()  # one slow wave, as strong as the process
    laws = {
        "noise with the law of the process": data,
        "white noise of the same variance": data.sum() / len(data) + 0 * data,
    }
    figure = new(10.67, 3.6)
    for axes, (title, noise) in zip(figure.subplots(1, 2, sharey=True), laws.items()):
        for start, color in ((NOISE, "#D55E00"), (WITH_MEAN, "#0072B2")):
            for sde, style in ((False, "-"), (True, "--")):
                found = [distance(end_law(data, noise, mean, rho, start, sde), data, mean) for rho in levels]
                axes.loglog(levels, found, style, color=color, label=f"{start}, {'SDE' if sde else 'ODE'}")
        axes.axhline(0.01, color=GREY, lw=1, ls=":")
        axes.set(title=title, xlabel="level of the start, sigma / m", xlim=(1, 1000), ylim=(1e-6, 1.5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.axes[0].set_ylabel("distance of samples to the truth")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
