"""Pictures of a density run. Each function takes what a run has left and returns one figure.

The exact law is black everywhere, variance exploding blue, variance preserving vermillion, the Gaussian grey; each of
the four y has a colour of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from fokker.problems.density_metrics import EXACT, NO_NETWORK, training_pairs
from fokker.problems.density_settings import DensityRun, Method
from fokker.report.drawing import TRUTH, new

GREY = "#808080"
PROCESS_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
Y_COLORS = ("#3B0F70", "#8C2981", "#DE4968", "#FE9F6D")  # dark to light
DISTANCES = {"w1": "Wasserstein distance $W_1$", "ks": "Kolmogorov–Smirnov distance"}


@dataclass(frozen=True)
class DensityData:
    """A run: samples (4, draws) and scores (4,) by method, scores of the Gaussian and the floor too, trainings."""

    run: DensityRun
    samples: Mapping[str, NDArray]
    scores: Mapping[str, Mapping[str, NDArray]]
    training: Mapping[str, Mapping[str, Any]]

    @property
    def labels(self) -> dict[str, str]:
        """How every method is called, in the order of tables: learned ones, the Gaussian, the floor."""
        names = {method.name: label(method) for method in self.run.methods()}
        if NO_NETWORK in self.scores:
            names[NO_NETWORK] = "Gaussian, no network"
        return {**names, EXACT: "exact samples (the floor)"}


def label(method: Method) -> str:
    """default, VE, ODE."""
    return f"{method.model.recipe_name}, {process_label(method.process_name)}, {method.sampler_name.upper()}"


def process_label(name: str) -> str:
    """VE, VP(2)."""
    return "VE" if name == "ve" else f"VP({name[2:]})"


def joint(data: DensityData) -> Figure:
    """Training pairs and the exact joint density in the plane of y and x, with the four y."""
    law = data.run.law
    figure = new(10, 3.9)
    pairs, exact = figure.subplots(1, 2, sharex=True, sharey=True)
    x, y = training_pairs(data.run)
    pairs.plot(y, x, ".", ms=2, alpha=0.35, mew=0, color=TRUTH, rasterized=True)
    at_y, at_x = np.linspace(*law.y_range, 401), np.linspace(*law.x_range, 401)
    density = law.marginal(at_y) * law.pdf(at_x[:, None], at_y)
    image = exact.pcolormesh(at_y, at_x, density, cmap="Greys", rasterized=True)
    figure.colorbar(image, ax=exact, label="density $p(x, y)$", pad=0.01)
    for axes in (pairs, exact):
        for value, color in zip(law.y_values, Y_COLORS):
            axes.axvline(value, color=color, lw=1.6, label=f"$y = {value:g}$")
        axes.set(xlabel="$y$ (measured)", xlim=law.y_range, ylim=law.x_range)
    pairs.set(title=f"{data.run.pairs:,} training pairs", ylabel="$x$ (wanted)")
    exact.set_title("exact joint density")
    handles, labels = exact.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def histograms(data: DensityData) -> Figure:
    """Samples against the exact conditional density: a row for each recipe and sampler, a column for each y."""
    run, law = data.run, data.run.law
    rows = [(recipe, sampler) for recipe in run.recipes for sampler in run.samplers]
    figure = new(10.67, 1.75 * len(rows) + 0.9)
    grid = figure.subplots(len(rows), len(law.y_values), sharex=True, sharey="col", squeeze=False)
    bins, fine = np.linspace(*law.x_range, 91), np.linspace(*law.x_range, 1201)
    for row, (recipe, sampler) in zip(grid, rows):
        row[0].set_ylabel(f"{recipe}\n{sampler.upper()}")
        for column, (axes, y) in enumerate(zip(row, law.y_values)):
            for number, process in enumerate(run.processes):
                values = data.samples[f"{recipe}.{process}.{sampler}"][column]
                weights = np.full(len(values), 1 / (len(values) * (bins[1] - bins[0])))
                heights = np.histogram(values, bins, weights=weights)[0]
                style = {"fill": True, "alpha": 0.35, "lw": 0} if number == 0 else {"lw": 0.9}
                axes.stairs(heights, bins, color=PROCESS_COLORS[number % 4], **style)
            exact = law.pdf(fine, y)
            axes.plot(fine, exact, color=TRUTH, lw=1)
            axes.set(xlim=law.x_range, yticks=[])
            axes.set_ylim(0, 1.3 * exact.max())
    for axes, y, color in zip(grid[0], law.y_values, Y_COLORS):
        axes.set_title(f"$y = {y:g}$", color=color, fontweight="bold")
    for axes in grid[-1]:
        axes.set_xlabel("$x$")
    handles: list[Any] = [Line2D([], [], color=TRUTH, lw=1, label="exact $p(x \\mid y)$")]
    for number, process in enumerate(run.processes):
        color, text = PROCESS_COLORS[number % 4], f"samples, {process_label(process)}"
        handles.append(
            Patch(color=color, alpha=0.35, lw=0, label=text) if number == 0 else Line2D([], [], color=color, label=text)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def distances(data: DensityData, targets: Mapping[str, float]) -> Figure:
    """W1 and KS of every method on a logarithmic scale: dots for each y, a tick for their mean; floor and target."""
    labels = data.labels
    names = [name for name in labels if name != EXACT]
    figure = new(10, 0.36 * len(names) + 1.6)
    panels = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(names))[::-1]
    for axes, (metric, title) in zip(panels, DISTANCES.items()):
        for number, name in zip(place, names):
            each = data.scores[name][metric]
            axes.plot([each.min(), each.max()], [number, number], color=_color(data.run, name), lw=6, alpha=0.3)
            axes.plot(each.mean(), number, "|", ms=15, mew=2.5, color=_color(data.run, name))
            for value, color in zip(each, Y_COLORS):
                axes.plot(value, number, "o", ms=4, color=color)
        axes.axvline(data.scores[EXACT][metric].mean(), color=TRUTH, lw=1.2, label="floor: exact samples")
        axes.axvline(targets[metric], color=TRUTH, lw=1.2, ls="--", label="target for the default recipe")
        _logarithmic(axes)
        axes.set(title=title, yticks=place, ylim=(-0.6, len(names) - 0.4))
        axes.grid(axis="x", which="major", color="0.9", lw=0.8)
    panels[0].set_yticklabels([labels[name] for name in names])
    dots: list[Any] = [
        Line2D([], [], color=color, marker="o", ls="", ms=4, label=f"$y = {y:g}$")
        for y, color in zip(data.run.law.y_values, Y_COLORS)
    ]
    mean = Line2D([], [], color=GREY, marker="|", ls="", ms=13, mew=2.5, label="mean over $y$")
    lines = panels[0].get_legend_handles_labels()[0]
    figure.legend(handles=[*dots, mean, *lines], loc="outside lower center", ncols=len(dots) + 1 + len(lines))
    return figure


def _color(run: DensityRun, name: str) -> str:
    if name == NO_NETWORK:
        return GREY
    return PROCESS_COLORS[run.processes.index(name.split(".", 1)[1].rsplit(".", 1)[0]) % 4]


def _logarithmic(axes: Axes) -> None:
    """A logarithmic axis labelled in plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.tick_params(axis="x", which="both", labelsize=8)
