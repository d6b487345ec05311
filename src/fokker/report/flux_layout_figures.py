"""Error and coverage against the number of working sensors, for a problem whose sensors may be off."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from fokker.problems.boundary_flux_sensors import BoundaryFluxSensors
from fokker.problems.flux_cases import Case
from fokker.problems.flux_metrics import head
from fokker.report.drawing import TRUTH, new
from fokker.report.flux_figures import LOOKS

COVERED = (50, 80, 95)


def counts_of(case: Case) -> list[int]:
    """The numbers of working sensors that were tried."""
    return [int(name.partition("=")[2]) for name in case.run.extra_tests(case)]


def by_count(case: Case, metrics: Mapping[str, float]) -> Figure:
    """Mean error, the same over the exact posterior's, and coverage of central intervals, against the number of
    working sensors; extrapolation shaded.
    """
    run, counts = case.run, counts_of(case)
    assert isinstance(run, BoundaryFluxSensors)
    figure = new(14, 4.4)
    left, middle, right = figure.subplots(1, 3)
    exact = np.array([metrics.get(f"{head(case, 'exact', f'sensors={n}')}.error_percent", np.nan) for n in counts])
    for name, look in LOOKS.items():
        method = case.methods[0].name if name == "learned" else name
        keys = [head(case, method, f"sensors={count}") for count in counts]
        error = [metrics.get(f"{key}.error_percent", np.nan) for key in keys]
        if np.isnan(error).all():
            continue
        style = {"color": look.color, "ls": look.line, "marker": look.marker, "ms": 5, "lw": 1.2}
        left.plot(counts, error, label=look.label, **style)
        if name != "exact":
            middle.plot(counts, error / exact, **style)
        for level in COVERED:
            inside = [100 * metrics.get(f"{key}.coverage_{level}", np.nan) for key in keys]
            right.plot(counts, inside, **style)
    for level in COVERED:
        right.axhline(level, color=TRUTH, lw=0.8, ls=":", label="nominal level")
    middle.axhline(1, color=LOOKS["exact"].color, lw=1.2)
    left.set(ylabel="mean |E[q | y] − q|, % of the mean flux", ylim=(0, None))
    middle.set(ylabel="the same over the exact posterior's")
    right.set(ylabel="true fluxes inside central intervals, %", yticks=COVERED, ylim=(40, 100))
    for axes in (left, middle, right):
        axes.set(xlabel="number of working sensors", xticks=counts)
        for position, count in enumerate(counts):
            if run.extrapolates(count):
                low = (counts[max(position - 1, 0)] + count) / 2
                high = (counts[min(position + 1, len(counts) - 1)] + count) / 2
                label = "hardly any in the training"
                axes.axvspan(low, high, color="#F0E442", alpha=0.3, lw=0, label=label)
    figure.suptitle(f"Error and coverage against the number of working sensors: {case.title}")
    shown = {label: handle for axes in (left, right) for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=len(shown))
    return figure
