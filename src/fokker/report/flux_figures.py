"""Pictures of a boundary-flux run. Each function takes what a run has left and returns one figure.

One colour for each posterior everywhere: truth black, learned blue, exact vermillion, without a network grey.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fokker.problems.channel import FluxSimulator
from fokker.problems.flux_summary import LEVELS
from fokker.report import drawing
from fokker.report.drawing import MEASURED, TRUTH, new
from fokker.report.flux_data import CaseData, not_gaussian_marginals

WALLS = ("bottom wall", "top wall")
WHERE = "position $x$ along the channel (8.5 long, 2 high)"
FLUX = r"flux  $q = \kappa\,\partial c/\partial n$"


class Look(NamedTuple):
    """How a posterior is drawn and called."""

    label: str
    color: str
    line: str
    marker: str


LOOKS = {
    "learned": Look("learned posterior", "#0072B2", "-", "o"),
    "exact": Look("exact posterior", "#D55E00", "-", "s"),
    "no_network": Look("Gaussian, no network", "#808080", "--", "^"),
    "laplace": Look("Laplace approximation", "#009E73", ":", "v"),
}


def hero(data: CaseData, simulator: FluxSimulator) -> Figure:
    """The whole story in one test case (`CaseData.telling`): sensors in the channel, flux through both walls."""
    index = data.telling
    figure = new(10.67, 5.33)
    top, field, bottom = figure.subplots(3, 1, sharex=True)
    _field(field, data, simulator, index)
    field.set(aspect="auto", xlabel="")
    upper = max(_flux(axes, data, index, wall) for wall, axes in ((1, top), (0, bottom)))
    top.set(ylabel="flux $q$, top wall", xlim=(0, simulator.channel.length), ylim=(0, upper))
    bottom.set(ylabel="flux $q$, bottom wall", xlabel=WHERE, ylim=(0, upper), xlim=(0, simulator.channel.length))
    on = int((~np.isnan(data.y[index])).sum())
    title = f"{on} noisy sensors in a channel: where does the chemical enter, and how sure are we?"
    figure.suptitle(title, fontsize=12.5)
    handles, labels = top.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def instances(cases: list[CaseData], simulators: list[FluxSimulator]) -> Figure:
    """For each given case one column: flux through the walls, concentration, measurements, their noise."""
    figure = new(6.2 * len(cases), 7.6)
    rows = figure.subplots(4, len(cases), squeeze=False, gridspec_kw={"height_ratios": [1.1, 1.1, 1.1, 0.7]})
    for column, (data, simulator) in enumerate(zip(cases, simulators)):
        index, channel = data.chosen()[50], simulator.channel
        flux, field, values, noise = rows[:, column]
        sensors, clean = channel.sensors, data.clean(simulator, index)
        half = channel.segments
        for wall, line in ((0, "-"), (1, "--")):
            part = slice(wall * half, (wall + 1) * half)
            flux.stairs(
                data.truth[index, part],
                channel.segment_edges,
                baseline=None,
                color=TRUTH,
                ls=line,
                lw=1.6,
                label=WALLS[wall],
            )
            name, marker = ("lower sensors", "o") if wall == 0 else ("upper sensors", "^")
            values.plot(sensors[part, 0], clean[part], color=TRUTH, ls=line, lw=1, label=f"{name}, no noise")
            dots = {"color": MEASURED, "marker": marker, "ls": "", "ms": 5, "label": f"{name}, measured"}
            values.plot(sensors[part, 0], data.y[index, part], **dots)
            noise.plot(sensors[part, 0], data.y[index, part] - clean[part], **dots)
        _field(field, data, simulator, index)
        flux.set_ylim(min(0.0, data.truth[index].min()), 1.3 * max(data.truth[index].max(), 1e-9))
        flux.set(title=f"{data.title} (test case {index})", ylabel=FLUX)
        flux.legend(ncols=2, loc="upper right")
        values.set_ylim(0, 1.45 * max(np.nanmax(data.y[index], initial=0.0), clean.max(), 1e-9))
        values.set_ylabel("concentration  $c$")
        values.legend(ncols=2, loc="upper left", fontsize=8)
        noise.axhline(0, color=TRUTH, lw=0.8)
        noise.set(ylabel="noise\n(measured − true)", xlabel=WHERE)
        for axes in (flux, values, noise):
            axes.set_xlim(0, channel.length)
    return figure


def _field(axes: Axes, data: CaseData, simulator: FluxSimulator, index: int) -> None:
    """The concentration of a test case with the sensors on it."""
    channel = simulator.channel
    x, y, c = simulator.field(data.truth[index])
    image = axes.pcolormesh(x, y, c, shading="gouraud", cmap="viridis")
    on = ~np.isnan(data.y[index])
    axes.plot(*channel.sensors[on].T, "o", ms=4.5, mfc="white", mec="black", mew=0.8)
    axes.plot(*channel.sensors[~on].T, "x", ms=5, color="white", mew=1.6)
    axes.set(xlim=(0, channel.length), ylim=(0, channel.height), xlabel=WHERE, ylabel="height $y$", aspect="equal")
    axes.spines[["top", "right"]].set_visible(True)
    axes.figure.colorbar(image, cax=axes.inset_axes((1.01, 0, 0.015, 1)), label="concentration $c$")


def posterior(data: CaseData) -> Figure:
    """True flux, posterior means and one-standard-deviation bands on both walls, at three percentiles of the error."""
    chosen = data.chosen()
    figure = new(11.5, 5.6)
    rows = figure.subplots(2, len(chosen), sharex=True, sharey="col", squeeze=False)
    for column, (percentile, index) in enumerate(chosen.items()):
        upper = max(_flux(rows[1 - wall, column], data, index, wall) for wall in (0, 1))
        rows[0, column].set(ylim=(0, upper), title=f"test case {index}: {percentile}th percentile of the error")
        rows[1, column].set_xlabel(WHERE)
    for wall, name in enumerate(WALLS):
        rows[1 - wall, 0].set_ylabel(f"flux $q$, {name}")
    figure.suptitle(f"Flux from one measurement of the sensors: {data.title}")
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _flux(axes: Axes, data: CaseData, index: int, wall: int) -> float:
    """Truth and posteriors of a test case on one wall, bands cut at zero; returns the height that shows all."""
    edges = FluxSimulator.channel.segment_edges
    part = slice(wall * (len(edges) - 1), (wall + 1) * (len(edges) - 1))
    truth = data.truth[index, part]
    highest = truth.max()
    exact_shown = index < len(data.resolved) and data.resolved[index]
    for name, summary in data.compared.items():
        look = LOOKS[name]
        if name == "exact" and not exact_shown:
            continue
        mean, std = summary.mean[index, part], summary.std[index, part]
        low, high = np.maximum(mean - std, 0.0), np.maximum(mean + std, 0.0)
        if name not in ("learned", "exact"):
            axes.stairs(mean, edges, baseline=None, color=look.color, ls=look.line, lw=1, label=f"{look.label}: mean")
            continue
        highest = max(highest, high.max())
        if name == "learned":
            axes.stairs(
                high, edges, baseline=low, fill=True, color=look.color, alpha=0.28, lw=0, label="learned: ± 1 std"
            )
            axes.stairs(mean, edges, baseline=None, color=look.color, lw=1.6, label="learned: mean")
        else:
            axes.stairs(high, edges, baseline=low, color=look.color, lw=0.9, label="exact: ± 1 std")
    axes.stairs(truth, edges, baseline=None, color=TRUTH, lw=1.6, label="true flux", zorder=5)
    if np.isnan(data.y).any():
        off = np.isnan(data.y[index, part])
        middle = (edges[:-1] + edges[1:]) / 2
        style: Any = {"ls": "", "marker": "x", "ms": 4.5, "color": "0.45", "label": "sensor off (at the top edge)"}
        axes.plot(middle[off], 0 * middle[off] + 0.965, transform=axes.get_xaxis_transform(), **style)
    axes.set_xlim(0, edges[-1])
    return 1.08 * max(float(highest), 1e-9)


def marginals(data: CaseData) -> Figure | None:
    """Histograms where the exact posterior is not Gaussian, the mass at zero apart; None where all are Gaussian."""
    picked = not_gaussian_marginals(data)
    if not picked:
        return None
    columns = 2 if len(picked) in (2, 4) else min(3, len(picked))
    lines = -(-len(picked) // columns)
    figure = new(max(8.5, 3.9 * columns), 2.7 * lines + 0.8)  # wide enough for the title and the legend
    outer = figure.add_gridspec(lines, columns)
    half = FluxSimulator.channel.segments
    for position, (index, segment) in enumerate(picked):
        inner = outer[position].subgridspec(1, 2, width_ratios=[1, 3.2], wspace=0.02)
        atom, axes = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
        draws = {name: s.samples[index, :, segment] for name, s in data.compared.items()}
        truth = data.truth[index, segment]
        bins = np.linspace(0.0, 1.05 * max(*(np.quantile(d, 0.998) for d in draws.values()), truth, 1e-9), 36)
        for number, (name, values) in enumerate(draws.items()):
            look, filled = LOOKS[name], name == "learned"
            weights = np.full((values > 0).sum(), 1 / (len(values) * bins[1]))
            heights = np.histogram(values[values > 0], bins, weights=weights)[0]
            width = 0.0 if filled else 1.3
            axes.stairs(
                heights, bins, fill=filled, color=look.color, alpha=0.35 if filled else 1, lw=width, ls=look.line
            )
            atom.bar(number, (values == 0).mean(), color=look.color, alpha=0.6 if filled else 1, width=0.8)
        if truth > 0:
            axes.axvline(truth, color=TRUTH, lw=1.6)
        else:
            atom.plot((len(draws) - 1) / 2, 1.06, "v", color=TRUTH, ms=8)
        atom.set(ylim=(0, 1.12), yticks=np.linspace(0, 1, 6), xticks=[], xlabel="$q = 0$", ylabel="probability")
        axes.set(xlim=(0, bins[-1]), xlabel="$q > 0$")
        axes.spines["left"].set_visible(False)
        axes.spines["right"].set_visible(True)
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylabel("density")
        axes.set_title(f"case {index}, {WALLS[segment // half]}, segment {segment % half + 1}", loc="left", x=-0.3)
    figure.suptitle(f"Single fluxes whose exact posterior is not Gaussian: {data.title}")
    handles = [
        Line2D([], [], color=LOOKS[n].color, ls=LOOKS[n].line, lw=5 if n == "learned" else 1.6) for n in data.compared
    ]
    handles.append(Line2D([], [], color=TRUTH, lw=1.6, marker="v"))
    labels = [LOOKS[n].label for n in data.compared]
    figure.legend(handles, [*labels, "true flux (triangle: zero)"], loc="outside lower center", ncols=len(handles))
    return figure


def error(data: CaseData) -> Figure:
    """Error of the posterior mean per segment, in percent of the mean flux, with its standard error over the cases."""
    edges, half = FluxSimulator.channel.segment_edges, FluxSimulator.channel.segments
    middle, cases = (edges[:-1] + edges[1:]) / 2, data.judged
    figure = new(10, 3.6)
    walls = figure.subplots(1, 2, sharey=True)
    for wall, axes in enumerate(walls):
        part = slice(wall * half, (wall + 1) * half)
        for name, summary in data.compared.items():
            percent = (
                100 * np.abs(summary.mean - data.truth[: len(summary.mean)])[cases, part] / data.truth[cases].mean()
            )
            look, spread = LOOKS[name], percent.std(0) / len(cases) ** 0.5
            axes.plot(middle, percent.mean(0), look.line, marker=look.marker, color=look.color, ms=4, label=look.label)
            axes.fill_between(
                middle, percent.mean(0) - spread, percent.mean(0) + spread, color=look.color, alpha=0.15, lw=0
            )
        axes.set(title=WALLS[wall], xlabel=WHERE, xlim=(0, edges[-1]))
    walls[0].set(ylabel="mean |E[q | y] − q|\nin % of the mean flux", ylim=(0, None))
    figure.suptitle(f"Error per wall segment on {len(cases)} test cases: {data.title}")
    handles, labels = walls[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def coverage(cases: list[CaseData]) -> Figure:
    """Coverage of central intervals by nominal level, and the difference to it, for every case.

    Shaded, where there is a target: how far from the exact posterior's coverage is still good.
    """
    figure = new(max(6.0, 4.3 * len(cases)), 5.8)
    rows = figure.subplots(2, len(cases), sharex=True, sharey="row", squeeze=False)
    nominal, groups = 100 * np.array(LEVELS), np.arange(len(LEVELS))
    for column, data in enumerate(cases):
        whole, apart = rows[:, column]
        whole.hlines(nominal, groups - 0.4, groups + 0.4, color=TRUTH, lw=1, label="nominal level")
        apart.hlines(0 * nominal, groups - 0.4, groups + 0.4, color=TRUTH, lw=1)
        for number, (name, summary) in enumerate(data.compared.items()):
            per_case = 100 * summary.covered[:, data.judged].mean(2)
            found, spread = per_case.mean(1), per_case.std(1) / per_case.shape[1] ** 0.5
            look, place = LOOKS[name], groups + 0.22 * (number - (len(data.compared) - 1) / 2)
            for axes, zero in ((whole, 0 * nominal), (apart, nominal)):
                style = {"fmt": look.marker, "color": look.color, "ms": 6, "capsize": 3}
                axes.errorbar(place, found - zero, spread, **style, label=look.label)
            points = data.case.run.targets(data.case).points
            if name == "exact" and points is not None:
                target = {"color": look.color, "alpha": 0.15, "lw": 0, "label": f"exact ± {points:g} points (target)"}
                apart.bar(groups, 2 * points, 0.8, found - nominal - points, **target)
        whole.set(title=f"{data.title} ({len(data.judged)} test cases)", ylim=(40, 100))
        apart.set(xlabel="nominal level of the central interval", xticks=groups)
        apart.set_xticklabels([f"{level:g} %" for level in nominal])
    rows[0, 0].set_ylabel("true fluxes inside, %")
    rows[1, 0].set_ylabel("inside − nominal,\npercentage points")
    shown = {label: handle for axes in rows.flat for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=3)
    return figure


def training(data: CaseData) -> Figure:
    """`drawing.training` of one case."""
    grey = LOOKS["no_network"]
    return drawing.training(data.training, data.title, LOOKS["learned"].color, grey.color, grey.label)
