"""The figures of a guidance battery: distance against cost for each kind of problem, and samples to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fokker.problems.battery_methods import METHODS
from fokker.problems.battery_summary import Row
from fokker.report import drawing

LOOKS = {  # method: (colour, marker)
    "dps": ("#d55e00", "v"), "dps-released": ("#e69f00", "^"), "pigdm": ("#0072b2", "o"), "moments": ("#009e73", "o"),
    "ddrm": ("#cc79a7", "s"), "daps": ("#999999", "D"), "smc-pigdm": ("#0072b2", "*"), "smc-moments": ("#009e73", "*"),
    "smc-dps": ("#d55e00", "*"), "monte-carlo": ("#56b4e9", "P"), "known": ("black", "P"),
}  # fmt: skip
FAR = 100.0  # times the floor; what is farther is drawn at the upper edge
SHOWN = ("dps-released", "dps", "pigdm", "moments", "daps", "smc-pigdm", "known")


def costs(found: list[Row]) -> Figure:
    """For each kind of problem the distance from exact against the seconds, a line for each method over its steps."""
    kinds = list(dict.fromkeys(row.kind for row in found))
    columns = min(4, len(kinds))
    lines = math.ceil(len(kinds) / columns)
    figure = drawing.new(max(7.0, 3.1 * columns), 2.9 * lines + 1.2)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, kind in zip(grid.flat, kinds):
        for method, (colour, marker) in LOOKS.items():
            mine = [row for row in found if row.kind == kind and row.method == method]
            alive = [row for row in mine if not math.isnan(row.apart)]
            y = [min(row.apart, FAR) for row in alive]
            axes.plot([row.seconds for row in alive], y, "-", color=colour, lw=1)
            for row, at in zip(alive, y):
                face = "none" if row.diverged else colour
                axes.plot(row.seconds, at, marker, color=colour, mfc=face, ms=8 if marker == "*" else 5.5)
        axes.axhline(1, color=drawing.TRUTH, lw=1, ls="--")
        axes.set(xscale="log", yscale="log", ylim=(0.75, 1.25 * FAR), title=kind)
        axes.set_yticks([1, 2, 5, 10, 30, 100], ["1", "2", "5", "10", "30", "100+"])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for axes in grid.flat[len(kinds) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("distance / that of exact samples")
    for axes in grid.flat[max(0, len(kinds) - columns) : len(kinds)]:
        axes.set_xlabel("seconds for a case, one core")
    handles = [
        Line2D([], [], color=c, marker=m, ls="", ms=8 if m == "*" else 5.5, label=METHODS[name].words)
        for name, (c, m) in LOOKS.items()
        if any(row.method == name for row in found)
    ]
    handles.append(Line2D([], [], color="black", ls="--", lw=1, label="exact samples"))
    handles.append(Line2D([], [], color="black", marker="o", mfc="none", ls="", label="open: diverged on some cases"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, max(2, columns)), fontsize=8)
    return figure


def clouds(name: str, words: str, samples: Mapping[str, np.ndarray]) -> Figure:
    """Samples of two unknowns by the exact posterior and by each method, at its largest number of steps."""
    last: dict[str, tuple[int, np.ndarray]] = {}
    for key, value in samples.items():
        method, _, steps = key.partition(".steps=")
        if steps and int(steps) >= last.get(method, (0, value))[0]:
            last[method] = (int(steps), value)
    shown = [method for method in SHOWN if method in last]
    exact = samples["exact"]
    low, high = exact.min(0), exact.max(0)
    margin = 0.6 * (high - low)
    figure = drawing.new(2.4 * (len(shown) + 1), 2.9)
    axes = figure.subplots(1, len(shown) + 1, sharex=True, sharey=True)
    panels = {"exact": exact, **{f"{METHODS[m].words}\n{last[m][0]} steps": last[m][1] for m in shown}}
    for one, (title, points) in zip(axes, panels.items()):
        one.plot(*exact.T, ".", color="#bbbbbb", ms=2)
        if title != "exact":
            one.plot(*points.T, ".", color="#0072b2", ms=2)
        outside = np.mean(((points < low - margin) | (points > high + margin)).any(1))
        note = f"\n{100 * outside:.0f} % outside" if outside > 0.005 else ""
        one.set(title=title + note, xlim=(low[0] - margin[0], high[0] + margin[0]), xlabel="first unknown")
        one.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes[0].set_ylabel("second unknown")
    figure.suptitle(f"{name}: {words}. Grey: exact samples", fontsize=9.5)
    return figure
