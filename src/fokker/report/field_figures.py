"""Pictures of a run of fields. Each function takes what a run has left and returns one figure.

Fields are drawn over the unit square, x to the right and y upwards, on one scale for each case.
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

from fokker.problems.field_data import HIGH, LOW
from fokker.problems.field_metrics import COVERED, part_name
from fokker.problems.field_settings import COVARIANCE, EXACT, LABELS, METHODS, NETWORK, NO_NETWORK, FieldRun
from fokker.report.drawing import new

GREY, BLUE, ORANGE, GREEN, BLACK = "#808080", "#0072B2", "#D55E00", "#009E73", "black"
COLORS = {NETWORK: BLUE, NO_NETWORK: GREY, COVARIANCE: "#B0B0B0", EXACT: BLACK}
MARKS = {NETWORK: "o", NO_NETWORK: "s", COVARIANCE: "D", EXACT: "x"}
SYMBOL = {"inverse": "g", "forward": "u", "direct": "x"}

# Relative L2 error in percent, 500 of 128 x 128 values without noise, one sample for each truth. Huang et al. 2024
# (DiffusionPDE) as run again by Yao et al. 2025 (FunDPS); DDIS and FNO from the same comparisons.
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "poisson": {
        "inverse": {"FunDPS": 20.47, "DiffusionPDE": 21.10, "DDIS": 15.78, "FNO": 232.7},
        "forward": {"FunDPS": 1.99, "DiffusionPDE": 4.88, "FNO": 100.9},
    },
    "helmholtz": {
        "inverse": {"FunDPS": 17.16, "DiffusionPDE": 19.07, "DDIS": 15.08, "FNO": 218.2},
        "forward": {"FunDPS": 2.13, "DiffusionPDE": 12.64, "FNO": 98.2},
    },
}


@dataclass(frozen=True)
class FieldData:
    """A run: its numbers, per case by TASK.noise=S, the fields that are shown, and the training."""

    run: FieldRun
    metrics: Mapping[str, float]
    shown: Mapping[str, Mapping[str, NDArray]]
    training: Mapping[str, Any]

    def get(self, name: str) -> float:
        """A metric without the family."""
        return self.metrics[f"{self.run.family}.{name}"]


def answers(data: FieldData, task: str, noise: float) -> Figure:
    """Three cases: truth with the points, exact mean, mean of the network's samples, their deviation, two samples."""
    found, run = data.shown[part_name(task, noise)], data.run
    rows = len(found["truth"])
    figure = new(11, 1.55 * rows + 0.5)
    titles = ["truth", "exact mean", "mean of samples", "standard deviation", "sample 1", "sample 2"]
    grid = figure.subplots(rows, len(titles), squeeze=False)
    for row, panels in enumerate(grid):
        truth, style = found["truth"][row], _style(run.family, found["truth"][row])
        fields = [truth, found["limit"][row], found[f"{NETWORK}.mean"][row], found[f"{NETWORK}.std"][row]]
        fields += list(found[f"{NETWORK}.samples"][row])
        for column, (axes, values) in enumerate(zip(panels, fields)):
            own: dict[str, Any] = {"cmap": "magma", "vmin": 0.0} if column == 3 else style
            image = axes.imshow(values, origin="lower", extent=(0, 1, 0, 1), **own)
            axes.set(xticks=[], yticks=[])
            if column in (3, 5):
                beyond = "max" if column == 5 and run.family == "warp" else "neither"  # rare high values are cut
                bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03, extend=beyond)
                bar.ax.tick_params(labelsize=7)
                bar.set_label(SYMBOL[task] if column == 5 else f"in units of {SYMBOL[task]}", fontsize=8)
        _points(panels[0], found["points"][row], run.n)
        panels[0].set_ylabel(f"case {row + 1}")
    for axes, title in zip(grid[0], titles):
        axes.set_title(title)
    return figure


def _told(task: str, noise: float) -> str:
    return f"{task}, noise {100 * noise:g} %" if noise else f"{task}, no noise"


def _style(family: str, truth: NDArray) -> dict[str, Any]:
    if family == "threshold":
        return {"cmap": "viridis", "vmin": LOW, "vmax": HIGH}
    if family == "warp":
        return {"cmap": "viridis", "vmin": 0.0, "vmax": float(np.quantile(truth, 0.99))}
    most = float(np.abs(truth).max())
    return {"cmap": "RdBu_r", "vmin": -most, "vmax": most}


def _points(axes: Axes, points: NDArray, n: int) -> None:
    down, across = np.divmod(points, n)
    style: dict[str, Any] = {"c": "white", "edgecolors": "black", "linewidths": 0.4}
    if len(points) > 200:  # rings would hide the field
        style = {"c": "black", "linewidths": 0.0}
    size = 5.0 if len(points) < 60 else 2.0
    axes.scatter((across + 0.5) / n, (down + 0.5) / n, s=size, **style)


def errors(data: FieldData) -> Figure:
    """Relative error by task and noise: the exact limit, our methods and published ones on one logarithmic axis."""
    run, parts = data.run, data.run.parts()
    peers = PUBLISHED.get(run.family, {})
    figure = new(9.5, 0.62 * len(parts) + 1.75)
    axes = figure.subplots()
    for place, (task, noise) in enumerate(parts):
        head = part_name(task, noise)
        limit = data.get(f"{head}.{EXACT}.limit_percent")
        axes.plot([limit, limit], [place - 0.36, place + 0.36], color=BLACK, lw=2)
        for method, shift in zip(METHODS[:3], (0.0, 0.16, 0.28)):
            value, se = (data.get(f"{head}.{method}.error_percent{end}") for end in ("", "_se"))
            axes.errorbar(value, place + shift, xerr=2 * se, fmt=MARKS[method], ms=5, color=COLORS[method], lw=1)
        one = data.get(f"{head}.{NETWORK}.sample_error_percent")
        axes.plot(one, place, "o", ms=6, color=BLUE, mfc="white")
        told = sorted(peers.get(task, {}).items(), key=lambda peer: peer[1]) if noise == 0 else []
        last, up = 0.0, 4
        for name, value in told:
            axes.plot(value, place - 0.22, "v", ms=6, color=ORANGE)
            last, up = value, up + 8 if value < 1.6 * last else 4  # names of close ones would overlap
            axes.annotate(name, (value, place - 0.22), (0, up), textcoords="offset points", ha="center", fontsize=7)
    axes.set(yticks=range(len(parts)), yticklabels=[_told(task, noise) for task, noise in parts])
    axes.set(ylim=(len(parts) - 0.45, -1.0 if peers else -0.75), xscale="log", xlabel="relative L2 error, %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    axes.set_title(f"{run.n} x {run.n}, {run.problem(*parts[0]).count} points, {run.cases} cases")
    handles: list[Any] = [Line2D([], [], color=BLACK, lw=2, label="exact posterior mean: the limit")]
    for method in METHODS[:3]:
        label = f"{LABELS[method]}: mean of {run.draws} samples"
        handles.append(Line2D([], [], color=COLORS[method], marker=MARKS[method], ls="", ms=5, label=label))
    handles.insert(2, Line2D([], [], color=BLUE, marker="o", mfc="white", ls="", ms=6, label="network: one sample"))
    if peers:
        label = "published, one sample, 128 x 128 with 500 points"
        handles.append(Line2D([], [], color=ORANGE, marker="v", ls="", ms=6, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def ratios(data: FieldData) -> Figure:
    """Error and CRPS as multiples of those of exact samples of the same cases."""
    parts = data.run.parts()
    figure = new(9.5, 0.5 * len(parts) + 1.7)
    labels = [_told(task, noise) for task, noise in parts]
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, title) in zip(panels, (("limit_ratio", "error / error of the exact mean"),
                                            ("crps_ratio", "CRPS / CRPS of exact samples"))):  # fmt: skip
        axes.axvline(1, color=BLACK, lw=1, ls="--")
        for k, method in enumerate(METHODS[:3]):
            values = [data.get(f"{part_name(*part)}.{method}.{name}") for part in parts]
            axes.barh(np.arange(len(parts)) + 0.26 * (k - 1), values, 0.24, color=COLORS[method])
        axes.set(xlabel=title, yticks=range(len(parts)), yticklabels=labels, ylim=(len(parts) - 0.5, -0.5))
    handles = [Patch(color=COLORS[method], label=LABELS[method]) for method in METHODS[:3]]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def coverage(data: FieldData) -> Figure:
    """Coverage of 50, 80 and 95 % intervals by method, with two standard errors over the cases."""
    parts = data.run.parts()
    figure = new(9.5, 0.62 * len(parts) + 1.6)
    levels = dict(zip(COVERED, ("#CC79A7", BLUE, ORANGE)))
    axes = figure.subplots()
    for level, color in levels.items():
        axes.axvspan(level - 0.03, level + 0.03, color=color, alpha=0.15, lw=0)
        axes.axvline(level, color=color, lw=1, ls="--")
    for place, part in enumerate(parts):
        for k, method in enumerate(METHODS):
            for level, color in levels.items():
                name = f"{part_name(*part)}.{method}.coverage_{100 * level:.0f}"
                if f"{data.run.family}.{name}" in data.metrics:
                    at, se = data.get(name), data.get(f"{name}_se")
                    y = place + 0.18 * (k - 1.5)
                    axes.errorbar(at, y, xerr=2 * se, fmt=MARKS[method], ms=5, color=color, lw=1)
    axes.set(yticks=range(len(parts)), yticklabels=[_told(task, noise) for task, noise in parts])
    axes.set(xlim=(0.2, 1.02), ylim=(len(parts) - 0.5, -0.5), xlabel="truths inside the interval; bands: 3 points")
    handles = [Line2D([], [], color=GREY, marker=MARKS[m], ls="", ms=5, label=LABELS[m]) for m in METHODS]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure
