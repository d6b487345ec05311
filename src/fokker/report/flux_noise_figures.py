"""How error, spread and coverage of the flux change with the noise of the sensors: all cases of one prior mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray
from scipy.stats import norm

from fokker.problems.channel import FluxSimulator
from fokker.problems.flux_summary import LEVELS, Summary
from fokker.report.drawing import TRUTH, new
from fokker.report.flux_data import CaseData
from fokker.report.flux_figures import LOOKS, WALLS, WHERE, Look

OTHERS = (("#56B4E9", "D"), ("#CC79A7", "P"), ("#E69F00", "X"))  # of learned methods after the first
PER_ROW = 4  # noise levels side by side


def prior_std(mean: float) -> float:
    """Standard deviation of max(0, mean + g), g ~ N(0, 1)."""
    first = mean * norm.cdf(mean) + norm.pdf(mean)
    second = (mean**2 + 1) * norm.cdf(mean) + mean * norm.pdf(mean)
    return float(np.sqrt(second - first**2))


def error_by_noise(cases: list[CaseData]) -> Figure:
    """Error of the posterior mean per segment, one panel for each wall and noise level."""

    def error(data: CaseData, summary: Summary) -> NDArray:
        truth = data.truth[data.judged]
        return 100 * np.abs(summary.mean[data.judged] - truth).mean(0) / truth.mean()

    figure, panels = _panels(cases, error, "mean |E[q | y] − q|\nin % of the mean flux")
    figure.suptitle(f"Error per wall segment against the noise of the sensors: prior mean {cases[0].case.mean:g}")
    _legend(figure, panels)
    return figure


def std_by_noise(cases: list[CaseData]) -> Figure:
    """Posterior standard deviation per segment, averaged over the cases, with the prior's dashed."""
    figure, panels = _panels(cases, lambda data, summary: summary.std[data.judged].mean(0), "posterior std of $q$")
    for axes in panels:
        axes.set_ylim(0, 1.1 * max(axes.get_ylim()[1] / 1.1, 1.1 * prior_std(cases[0].case.mean)))
        axes.axhline(prior_std(cases[0].case.mean), color=TRUTH, ls="--", lw=1.2, label="prior")
    figure.suptitle(f"Posterior standard deviation per wall segment: prior mean {cases[0].case.mean:g}")
    _legend(figure, panels)
    return figure


def by_noise(cases: list[CaseData]) -> Figure:
    """Mean error, the same over the exact posterior's, and coverage of central intervals, against the noise (where
    there is any), of every way to sample.
    """
    cases = sorted((data for data in cases if data.case.noise > 0), key=lambda data: data.case.noise)
    place = [data.case.noise for data in cases]
    figure = new(14, 4.4)
    left, middle, right = figure.subplots(1, 3)
    looks = _looks(cases[0])
    errors = {name: np.full(len(cases), np.nan) for name in looks}
    inside = {name: np.full((len(LEVELS), len(cases)), np.nan) for name in looks}
    for number, data in enumerate(cases):
        truth = data.truth[data.judged]
        for name, summary in (data.compared | data.others).items():
            errors[name][number] = 100 * np.abs(summary.mean[data.judged] - truth).mean() / truth.mean()
            inside[name][:, number] = 100 * summary.covered[:, data.judged].mean((1, 2))
    for name, look in looks.items():
        style: Any = {"color": look.color, "ls": look.line, "marker": look.marker, "ms": 5, "lw": 1.2}
        left.plot(place, errors[name], **style, label=look.label)
        if name != "exact":
            middle.plot(place, errors[name] / errors["exact"], **style)
        for row in inside[name]:
            right.plot(place, row, **style)
    middle.axhline(1, color=LOOKS["exact"].color, lw=1.2)
    for level in LEVELS:
        right.axhline(100 * level, color=TRUTH, lw=0.8, ls=":", label="nominal level")
    left.set(ylabel="mean |E[q | y] − q|, % of the mean flux")
    drawn = np.concatenate(list(errors.values()))
    if np.nanmax(drawn) > 10 * np.nanmin(drawn):
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        left.yaxis.set_minor_formatter(NullFormatter())
    else:
        left.set_ylim(0, None)
    middle.set(ylabel="the same over the exact posterior's")
    right.set(ylabel="true fluxes inside central intervals, %", yticks=[100 * level for level in LEVELS])
    for axes in (left, middle, right):
        axes.set(xscale="log", xlabel="noise of the sensors")
        axes.set_xticks(place, [f"{noise:g}" for noise in place], rotation=45)
        axes.xaxis.set_minor_locator(NullLocator())
    figure.suptitle(f"Error and coverage against the noise of the sensors: prior mean {cases[0].case.mean:g}")
    _legend(figure, [left, right])
    return figure


def _looks(data: CaseData) -> dict[str, Look]:
    """How every method of a case is drawn."""
    first = f"learned ({data.case.methods[0].name})"
    looks = {name: LOOKS[name]._replace(label=first) if name == "learned" else LOOKS[name] for name in data.methods}
    for name, (color, marker) in zip(data.others, OTHERS):
        looks[name] = Look(f"learned ({name})", color, ":", marker)
    return looks


def _panels(
    cases: list[CaseData], value: Callable[[CaseData, Summary], NDArray], label: str
) -> tuple[Figure, list[Axes]]:
    """One panel for each wall and noise level, every noise level on its own scale: value(data, summary) (30,) of each
    method.
    """
    edges, half = FluxSimulator.channel.segment_edges, FluxSimulator.channel.segments
    middle = (edges[:-1] + edges[1:]) / 2
    columns = min(PER_ROW, len(cases))
    lines = -(-len(cases) // columns)
    figure = new(3.2 * columns + 1, 3.9 * lines + 0.9)
    grid = figure.subplots(2 * lines, columns, sharex=True, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    shown = []
    for number, data in enumerate(cases):
        line, column = divmod(number, columns)
        highest = max(float(value(data, summary).max()) for summary in data.compared.values())
        for wall in (0, 1):
            axes = grid[2 * line + 1 - wall, column]
            axes.set_visible(True)
            part = slice(wall * half, (wall + 1) * half)
            for name, summary in data.compared.items():
                look, found = LOOKS[name], value(data, summary)[part]
                style: Any = {"ls": look.line, "marker": look.marker, "color": look.color, "ms": 3, "lw": 1.1}
                if name == "exact":  # often under the learned one: rings around its dots
                    style |= {"ms": 6, "mfc": "none"}
                axes.plot(middle, found, **style, label=look.label)
            axes.set(xlim=(0, edges[-1]), ylim=(0, 1.25 * highest))
            axes.tick_params(labelbottom=wall == 0)
            axes.text(0.98, 0.97, WALLS[wall], transform=axes.transAxes, ha="right", va="top", fontsize=8)
            shown.append(axes)
        grid[2 * line, column].set_title(f"noise {data.case.noise:g}")
        grid[2 * line + 1, column].set_xlabel(WHERE.partition(" (")[0])
    for line in range(2 * lines):
        grid[line, 0].set_ylabel(label)
    return figure, shown


def _legend(figure: Figure, panels: list[Axes]) -> None:
    shown = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=min(5, len(shown)))
