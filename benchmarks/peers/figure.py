"""Accuracy against seconds, one panel for each density."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

Record = dict[str, Any]

# Names and colours of the methods; the marker says how the samples were drawn.
METHODS = {
    "fokker": ("fokker, 125 to 4,000 steps", "#0072B2"),
    "sbi-fmpe": ("sbi FMPE", "#D55E00"),
    "sbi-npse": ("sbi NPSE", "#CC79A7"),
    "sbi-npe": ("sbi NPE, spline flow", "#808080"),
    "bayesflow-fm": ("BayesFlow flow matching", "#009E73"),
    "bayesflow-diffusion": ("BayesFlow diffusion", "#E69F00"),
    "azula": ("azula", "#56B4E9"),
}
MARKERS = {"ode": "o", "ddim": "o", "sde": "^", "ddpm": "^", "flow": "s"}


def draw(tasks: dict[str, Record], path: Path) -> None:
    """Write the figure: W1 against CPU seconds of training and 40,000 draws."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(tasks), sharex=True, sharey=True)
    for axes, (name, task) in zip(panels, tasks.items()):
        panel(axes, task)
        axes.set(title=name.capitalize(), xlabel="training + 40,000 draws, CPU seconds")
    panels[0].set_ylabel("$W_1$ to the exact conditional")
    shown = {family(row) for task in tasks.values() for row in task["methods"]}
    handles = [
        Line2D([], [], color=color, marker="o", ls="-" if method == "fokker" else "", label=label)
        for method, (label, color) in METHODS.items()
        if method in shown
    ]
    for marker, label in (("o", "ODE"), ("^", "SDE"), ("s", "one pass")):
        handles.append(Line2D([], [], color="black", marker=marker, ls="", mfc="none", label=label))
    if any(row["cut"] for task in tasks.values() for row in task["methods"]):
        handles.append(Line2D([], [], color="black", marker="x", ls="", label="cut short of its own rule"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
    figure.savefig(path, dpi=150)


def panel(axes: Axes, task: Record) -> None:
    """Rows as means over the seeds, the seeds as dots, fokker's lengths of training and the checkpoints as lines."""
    for kind, line in (("target", "--"), ("floor", ":")):
        axes.axhline(task[kind]["w1"], color="black", lw=1, ls=line)
        axes.annotate(
            kind, (0.02, task[kind]["w1"]), xycoords=("axes fraction", "data"), ha="left", va="bottom", fontsize=8
        )
    for run in task["runs"]:
        if run["curve"]:
            color = METHODS[family(run)][1]
            seconds = [point["training"]["cpu"] + point["sampling"]["cpu"] for point in run["curve"]]
            axes.plot(seconds, [np.mean(point["w1"]) for point in run["curve"]], color=color, lw=0.8, alpha=0.6)
    for row in task["methods"]:
        color = METHODS[family(row)][1]
        axes.plot(row["seconds"], row["w1"], color=color, marker="x" if row["cut"] else MARKERS[row["sampler"]], ls="")
        axes.plot([row["seconds"]] * len(row["seeds"]), row["w1_of_seeds"], ".", color=color, ms=3, alpha=0.5)
    for sampler in ("ode", "sde"):
        line = [row for row in task["methods"] if family(row) == "fokker" and row["sampler"] == sampler]
        line.sort(key=lambda row: row["seconds"])
        axes.plot([row["seconds"] for row in line], [row["w1"] for row in line], color=METHODS["fokker"][1])
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.25, which="both", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    for axis, first in ((axes.xaxis, 1), (axes.yaxis, 0.001)):
        axis.set_major_locator(FixedLocator([digit * first * 10**power for power in range(4) for digit in (1, 2, 5)]))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())


def family(row: Record) -> str:
    """The method, whatever the length of its training."""
    return "fokker" if row["method"].startswith("fokker") else row["method"]
