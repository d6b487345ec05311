"""The figures of docs/functions.md, from the results of discretisation.py and context_points.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fokker.problems.field_data import HIGH, LOW
from fokker.report.drawing import new

BLUE, ORANGE, GREEN, PINK, YELLOW, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#808080"
NOISES = {"trace": "noise of trace class", "white": "white noise on the cells"}
LOOKS = {"trace": {"color": BLUE, "marker": "o"}, "white": {"color": ORANGE, "marker": "s"}}
SAME = {
    "prior": "prior of two-valued fields",
    "posterior": "posterior of a log-normal field",
    "two_values": "true fields of two values",
    "one_evaluation": "one evaluation of the prior",
    "prior_no_network": "prior, no network",
    "posterior_no_network": "posterior, no network",
}
SIZES = (32, 64, 128)
MODELS = {
    "operator": ("operator, trained with 8", BLUE, "o"),
    "varied": ("operator, trained with 1 to 32", GREEN, "D"),
    "told": ("without the Gaussian, trained with 8", ORANGE, "s"),
    "told_varied": ("without the Gaussian, 1 to 32", YELLOW, "^"),
    "sets": ("network of sets, trained with 8", PINK, "v"),
    "gaussian": ("no network, on the grid", "black", "x"),
    "gaussian_sets": ("no network, on the context of the sets", GREY, "+"),
}


def discretisation(found: dict[str, Any], fields: Any) -> Figure:
    """Draws of both priors on three grids, and what changes with the grid."""
    figure = new(11, 6.9)
    above, below = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    images = above.subplots(2, 6)
    for row, name in zip(images, NOISES):
        for draw in range(2):
            for axes, n in zip(row[3 * draw :], SIZES):
                image = axes.imshow(
                    fields[f"{name}-{n}"][draw].astype(float).T, origin="lower", extent=(0, 1, 0, 1),
                    vmin=LOW - 1, vmax=HIGH + 1, cmap="viridis", interpolation="nearest",
                )  # fmt: skip
                axes.set(xticks=[], yticks=[])
                if name == "trace":
                    axes.set_title(f"seed {'AB'[draw]}, {n} x {n}")
        row[0].set_ylabel(NOISES[name].replace(" on", "\non").replace(" of", "\nof"))
    above.colorbar(image, ax=images, shrink=0.75, label="value (3 or 12 in training)")
    above.suptitle("One seed on three grids, unit square, network trained on 32 x 32")
    apart, length, spectrum = below.subplots(1, 3)
    _apart(apart, found)
    _length(length, found["law"])
    _spectrum(spectrum, found["law"])
    return figure


def _apart(axes: Axes, found: dict[str, Any]) -> None:
    shown = {
        "prior": ("cells", "o-", BLUE), "two_values": ("cells", "x:", "black"),
        "one_evaluation": ("cells", "s--", GREY), "posterior": ("points", "D-", GREEN),
    }  # fmt: skip
    for name, (places, line, color) in shown.items():
        values = (found["one_evaluation"] if name == "one_evaluation" else found["same"][name])[places]
        axes.loglog([int(n) for n in values], list(values.values()), line, color=color, ms=5, label=SAME[name])
    axes.set(xlabel="cells of an axis, n", ylabel="L2 difference to 128 x 128,\nstandard deviations of the field")
    axes.set(title="Trace class: the same function", xlim=(28, 110), ylim=(0.006, 4))
    axes.set_xticks([32, 64, 96], ["32", "64", "96"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=7.5, loc="upper right")


def _length(axes: Axes, law: dict[str, Any]) -> None:
    for name, label in NOISES.items():
        pairs = [(law[f"{name}-{n}"], law[f"true-{n}"]["length"]) for n in SIZES]
        values, errors = ([one[key] / true for one, true in pairs] for key in ("length", "length_se"))
        axes.errorbar(SIZES, values, errors, capsize=3, lw=1.5, ms=5, label=label, **LOOKS[name])
    axes.axhline(1, color="black", ls=":", label="true fields")
    axes.set(title="Correlation length", xlabel="cells of an axis, n", ylabel="over that of true fields on the grid")
    axes.set(xscale="log", ylim=(0, None))
    axes.set_xticks(SIZES, [str(n) for n in SIZES])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=7.5, loc="lower right")


def _spectrum(axes: Axes, law: dict[str, Any]) -> None:
    k = np.arange(1, 32)
    for name in NOISES:
        for n, style in zip(SIZES, ("-", "--", ":")):
            over = np.array(law[f"{name}-{n}"]["spectrum"]) / np.array(law[f"true-{n}"]["spectrum"])
            label = f"{'trace class' if name == 'trace' else 'white'}, {n}"
            axes.loglog(k, over[1:], style, color=LOOKS[name]["color"], lw=1.4, label=label)
    axes.axhline(1, color="black", lw=1)
    axes.set(title="Energy by wave number", xlabel="wave number |k|, half waves on the square")
    axes.set(ylabel="over that of true fields on the grid", ylim=(0.04, 6))
    axes.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=7, ncols=2, loc="lower left")


def context(found: dict[str, Any]) -> Figure:
    """CRPS over exact for each study."""
    figure, studies = new(11, 7.2), found["studies"]
    (number, place), (points, spread) = figure.subplots(2, 2)
    _lines(number, studies["number"], "observations (8 in training, or 1 to 32)", {})
    _bars(place, studies["place"], "places of 8 observations (uniform in training)")
    most = {"operator": 128, "varied": 128, "sets": 24, "gaussian_sets": 24}
    _lines(points, studies["context"], "points of the state at sampling, over the most in training", most)
    _bars(spread, studies["context_place"], "places of 24 points of the state (uniform in training)")
    number.set_title("How many observations")
    number.set_yscale("log")
    number.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    number.yaxis.set_minor_locator(NullLocator())
    place.set_title("Where the observations are")
    points.set_title("How many points carry the state")
    spread.set_title("Where the points of the state are")
    handles, labels = number.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _lines(axes: Axes, study: dict[str, Any], xlabel: str, over: dict[str, int]) -> None:
    for name, rows in study.items():
        label, color, mark = MODELS[name]
        x = [int(n) / over.get(name, 1) for n in rows]
        axes.errorbar(x, [r["crps"] for r in rows.values()], [r["crps_se"] for r in rows.values()], color=color,
                      marker=mark, ms=5, lw=1.4, capsize=2, label=label)  # fmt: skip
    axes.axhline(1, color="black", lw=1, ls=":")
    axes.set(xlabel=xlabel, ylabel="CRPS over exact samples'", xscale="log")
    ticks = [0.25, 0.5, 1, 2, 4] if over else [2, 4, 8, 16, 32]
    axes.set_xticks(ticks, [f"{v:g}" for v in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _bars(axes: Axes, study: dict[str, Any], xlabel: str) -> None:
    places = list(next(iter(study.values())))
    for index, (name, rows) in enumerate(study.items()):
        label, color, mark = MODELS[name]
        x = np.arange(len(places)) + 0.09 * (index - (len(study) - 1) / 2)
        axes.errorbar(x, [rows[p]["crps"] for p in places], [rows[p]["crps_se"] for p in places], color=color,
                      marker=mark, ms=6, ls="none", capsize=2, label=label)  # fmt: skip
    axes.axhline(1, color="black", lw=1, ls=":")
    axes.set(xlabel=xlabel, ylabel="CRPS over exact samples'", xlim=(-0.5, len(places) - 0.5))
    names = {"uniform": "uniform", "clustered": "in one half", "regular": "equally apart", "beta": "Beta(2, 5)"}
    axes.set_xticks(range(len(places)), [names[p] for p in places])
