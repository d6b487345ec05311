"""What the figures of all problems share: style, size, saving, and the picture of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fokker.storage import atomic_path

DPI = 150
STYLE: dict[str, Any] = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "axes.formatter.useoffset": False, "text.parse_math": True,
}  # fmt: skip
TRUTH, MEASURED = "black", "#009E73"


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; OSError naming `path` where the disk fails."""
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(STYLE), atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def new(width: float, height: float) -> Figure:
    """An empty figure of this size in inches; its parts are placed so that they do not overlap."""
    return Figure(figsize=(width, height), layout="constrained")


def training(training: Mapping[str, Any], title: str, blue: str, grey: str, gaussian: str) -> Figure:
    """Training and validation loss against the step, and the validation loss by noise level at the best step.

    training: a model's training.json. blue: colour of the validation loss; grey and gaussian: colour and name of the
    line at 1, where the Gaussian without a network is in posterior coordinates.
    """
    records, settings = training["records"], training["settings"]
    steps, best = [r["step"] for r in records], records[-1]["best_step"]
    figure = new(10, 3.6)
    curve, levels = figure.subplots(1, 2, width_ratios=[1.5, 1])
    curve.plot(steps, [r["training_loss"] for r in records], "o--", color=MEASURED, ms=4, label="training loss")
    curve.plot(steps, [r["validation_loss"] for r in records], "o-", color=blue, ms=4, label="validation loss")
    curve.axvline(best, color=TRUTH, ls=":", lw=1.2, label="best step" if best else "best: the untrained network")
    shown = next((r for r in records if r["step"] == best), records[-1])
    by_level = {float(level): loss for level, loss in shown["validation_levels"].items()}
    levels.semilogx(list(by_level), list(by_level.values()), "o-", color=blue, ms=5)
    if settings.get("coordinates") == "posterior":
        for axes in (curve, levels):
            axes.axhline(1, color=grey, ls="--", label=gaussian if axes is curve else None)
    curve.set(xlabel="training step", ylabel="weighted score loss", xlim=(0, 1.03 * steps[-1]))
    curve.legend(frameon=True, facecolor="white", edgecolor="none", framealpha=1.0)
    levels.set(title=f"validation loss at step {shown['step']}", ylabel="weighted score loss")
    levels.set_xlabel("noise level, standard deviations of the data")
    levels.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.suptitle(f"Training: {title}")
    return figure
