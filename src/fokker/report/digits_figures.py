"""Pictures of a run of the digits. Each function takes what a run has left and returns one figure.

Images are white where x = 0 and black where x = 1, everywhere on one scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fokker.problems.digits import BACKGROUND, CASES, GAIN, SHAPE
from fokker.problems.digits_metrics import COVERED, LOSS_LEVELS, NO_NETWORK, hidden
from fokker.problems.digits_settings import KINDS, LABELS, REAL, SIMULATED, DigitsRun
from fokker.report.drawing import new

GREY, BLUE, ORANGE = "#808080", "#0072B2", "#D55E00"
LEVEL_COLORS = dict(zip(COVERED, ("#CC79A7", BLUE, ORANGE)))
INK: dict[str, Any] = {"cmap": "Greys", "vmin": 0.0, "vmax": 1.0}
SHOWN, DRAWS = 4, 3  # images of a figure, samples of each
NAMES = {**LABELS, NO_NETWORK: "Gaussian, no network"}


@dataclass(frozen=True)
class DigitsData:
    """A run: truths and measurements, samples and scores by CASE.METHOD.KIND (none where it failed), the training."""

    run: DigitsRun
    truths: Mapping[str, NDArray]
    samples: Mapping[str, NDArray]
    scores: Mapping[str, Mapping[str, NDArray]]
    training: Mapping[str, Any]

    def names(self, case: str) -> list[str]:
        """Methods of a case that have an answer for both kinds of truths, the Gaussian last."""
        names = [*(method.name for method in self.run.methods(case)), NO_NETWORK]
        return [name for name in names if all(f"{case}.{name}.{kind}" in self.scores for kind in KINDS)]


def answers(data: DigitsData, case: str, method: str) -> Figure:
    """Unseen images: truth, what is measured, posterior mean, standard deviation, samples; one row each."""
    key = f"{case}.{method}.{REAL}"
    rows, found = min(SHOWN, data.run.images), data.scores[key]
    figure = new(10, 1.36 * rows + 0.9)
    titles = ["truth", "measured", "posterior mean", "posterior standard\ndeviation"]
    grid = figure.subplots(rows, 4 + DRAWS, squeeze=False)
    deviation = float(found["std"][:rows].max())
    for row, panels in enumerate(grid):
        for axes in panels:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="0.7")
        ink = panels[0].imshow(data.truths[REAL][row], **INK)
        seen = _measured(panels[1], case, data.truths[f"y.{case}.{REAL}"][row])
        panels[2].imshow(found["mean"][row], **INK)
        spread = panels[3].imshow(found["std"][row], cmap="viridis", vmin=0, vmax=deviation)
        for axes, sample in zip(panels[4:], data.samples[key][row]):
            axes.imshow(sample, **INK)
        panels[0].set_ylabel(f"a {int(data.truths['labels'][row])}", rotation=0, ha="right", va="center")
    for axes, title in zip(grid[0], [*titles, *(f"sample {k + 1}" for k in range(DRAWS))]):
        axes.set_title(title)
    bars: dict[str, Any] = {"location": "bottom", "shrink": 0.9, "aspect": 12}
    if case == "counts":
        figure.colorbar(ink, ax=grid[:, 0], label="x", **bars)
        figure.colorbar(seen, ax=grid[:, 1], label="counts", **bars)
        figure.colorbar(ink, ax=grid[:, 2], label="x", **bars)
    else:
        figure.colorbar(ink, ax=grid[:, :3], label="x (measured: in the same units)", **{**bars, "aspect": 36})
    figure.colorbar(spread, ax=grid[:, 3], label="in units of x", **bars)
    figure.colorbar(ink, ax=grid[:, 4:], label="x", **{**bars, "aspect": 36})
    return figure


def _measured(axes: Axes, case: str, y: NDArray) -> Any:
    """The data as a picture; pixels that are hidden are blue."""
    if case == "counts":
        return axes.imshow(y, cmap="Greys", vmin=0, vmax=GAIN + BACKGROUND + 2)
    image, unseen = np.full(SHAPE, np.nan), hidden(CASES[case]())
    if unseen.any():
        image[~unseen] = y.ravel()
        axes.set_facecolor("#A6CEE3")
    else:
        image = y
    return axes.imshow(image, **INK)


def coverage(data: DigitsData) -> Figure:
    """Coverage of central intervals by case and method, for both kinds of truths, with two standard errors."""
    cases = data.run.cases
    most = max(len(data.names(case)) for case in cases)
    figure = new(10.67, 0.42 * most + 1.7)
    for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases):
        names = data.names(case)
        for level, color in LEVEL_COLORS.items():
            axes.axvline(level, color=color, lw=1, ls="--")
        for place, name in enumerate(names):
            for kind, shift in ((REAL, -0.15), (SIMULATED, 0.15)):
                values = data.scores[f"{case}.{name}.{kind}"]["coverage"].mean((2, 3))
                for each, color in zip(values, LEVEL_COLORS.values()):
                    error = 2 * each.std(ddof=1) / np.sqrt(len(each))
                    face = color if kind == REAL else "white"
                    axes.errorbar(each.mean(), place + shift, xerr=error, fmt="o", ms=5, color=color, mfc=face, lw=1)
        axes.set(yticks=range(len(names)), yticklabels=[NAMES[name] for name in names], title=case)
        axes.set(xlim=(0, 1.02), ylim=(len(names) - 0.5, -0.5), xlabel="truths inside the interval")
    levels: list[Any] = [
        Line2D([], [], color=color, marker="o", ls="--", ms=5, label=f"{100 * level:g} % intervals; dashed: as claimed")
        for level, color in LEVEL_COLORS.items()
    ]
    kinds = [
        Line2D([], [], color=GREY, marker="o", ls="", ms=5, mfc=face, label=label)
        for face, label in ((GREY, "unseen digits (prior and method)"), ("white", "draws of the prior (method alone)"))
    ]
    figure.legend(handles=[*levels, *kinds], loc="outside lower center", ncols=3)
    return figure


def pixels(data: DigitsData, level: float = 0.8) -> Figure:
    """Coverage of every pixel's central interval by the default method of each case, for both kinds of truths."""
    cases = data.run.cases
    figure = new(2.6 * len(cases) + 2.2, 5.4)
    grid = figure.subplots(len(KINDS), len(cases), squeeze=False)
    for row, kind in zip(grid, KINDS):
        for axes, case in zip(row, cases):
            name = data.names(case)[0]
            found = data.scores[f"{case}.{name}.{kind}"]["coverage"][COVERED.index(level)].mean(0)
            image = axes.imshow(found, cmap="RdBu_r", vmin=level - 0.2, vmax=level + 0.2)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel("unseen digits" if kind == REAL else "draws of the prior")
    for axes, case in zip(grid[0], cases):
        axes.set_title(f"{case}: {NAMES[data.names(case)[0]]}")
    figure.colorbar(image, ax=grid, label=f"truths inside the {100 * level:g} % interval", shrink=0.8, extend="both")
    return figure


def ranks(data: DigitsData) -> Figure:
    """Histograms of the ranks of true pixels among the samples, truths drawn from the prior; hidden pixels if any."""
    cases, run = data.run.cases, data.run
    columns = max(len(data.names(case)) for case in cases)
    bins = max(k for k in range(1, 11) if (run.draws + 1) % k == 0)
    bins = bins if bins >= 5 else run.draws + 1
    figure = new(10.67, 1.75 * len(cases) + 0.6)
    grid = figure.subplots(len(cases), columns, squeeze=False, sharex=True, sharey=True)
    for row, case in zip(grid, cases):
        unseen = hidden(CASES[case]()).ravel()
        chosen = unseen if unseen.any() else ~unseen
        for axes in row[len(data.names(case)) :]:
            axes.axis("off")
        for axes, name in zip(row, data.names(case)):
            rank = data.scores[f"{case}.{name}.{SIMULATED}"]["ranks"][:, :64][:, chosen]
            found = np.stack([np.bincount(r * bins // (run.draws + 1), minlength=bins) for r in rank]) / rank.shape[1]
            error = 2 * found.std(0, ddof=1) / np.sqrt(len(found))
            centres = (np.arange(bins) + 0.5) / bins
            color = GREY if name == NO_NETWORK else BLUE
            axes.bar(centres, bins * found.mean(0), 0.9 / bins, color=color, yerr=bins * error, ecolor="0.2")
            axes.axhline(1, color="black", lw=1, ls="--")
            axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
            axes.set_title(NAMES[name])
        row[0].set_ylabel(f"{case}\ndensity of ranks")
    for column in grid.T:
        last = [axes for axes in column if axes.axison][-1]
        last.set_xlabel("rank / samples")
        last.tick_params(labelbottom=True)
    return figure


def prior(data: DigitsData) -> Figure:
    """Unseen digits above draws of the learned prior."""
    count = min(10, data.run.images)
    figure = new(10, 2.5)
    grid = figure.subplots(2, count, squeeze=False)
    for row, kind in zip(grid, KINDS):
        for axes, image in zip(row, data.truths[kind]):
            last = axes.imshow(image, **INK)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="0.7")
        label = "unseen\ndigits" if kind == REAL else "draws of\nthe prior"
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
    figure.colorbar(last, ax=grid, label="x", shrink=0.8)
    return figure


def score_loss(data: DigitsData) -> Figure:
    """Score loss of the prior and of a Gaussian on unseen images by noise level."""
    figure = new(6, 3)
    axes = figure.subplots()
    axes.semilogx(LOSS_LEVELS, data.truths["loss.gaussian"], "s--", color=GREY, label=NAMES[NO_NETWORK])
    axes.semilogx(LOSS_LEVELS, data.truths["loss.prior"], "o-", color=BLUE, label="learned prior")
    axes.set(xlabel="noise level, standard deviations of the data", ylabel="weighted score loss", ylim=(0, None))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend()
    return figure
