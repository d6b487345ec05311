"""What a run of regression measures: errors and coverage, each beside those of exact samples on the same cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fokker.diagnostics.coverage import coverage_per_case
from fokker.diagnostics.scores import crps, relative_error
from fokker.problems.density_metrics import load, path_of
from fokker.problems.regression_settings import AMORTIZED, EXACT, LABELS, METHODS, PRIOR, Cases, RegressionRun
from fokker.storage import read_json

COVERED = (0.5, 0.8, 0.95)
Scores = Mapping[str, NDArray]


def scores(samples: NDArray, truth: NDArray) -> dict[str, NDArray]:
    """Of samples (M, n, 128) for truths (M, 128): error of their mean (relative, L2) and CRPS (M,), coverage (3, M)."""
    x = samples.astype(np.float64)
    return {
        "error": relative_error(x.mean(1), truth),
        "crps": crps(x, truth).mean(1),
        "coverage": coverage_per_case(x, truth, COVERED).mean(2),
    }


def ratio(values: NDArray, limit: NDArray) -> tuple[float, float]:
    """mean(values) / mean(limit) over the same cases (M,), and its standard error (delta method, cases paired)."""
    found = values.mean() / limit.mean()
    left = (values - found * limit).std(ddof=1) / np.sqrt(len(values))
    return float(found), float(left / limit.mean())


def all_scores(run: RegressionRun, out: Path) -> dict[str, dict[str, NDArray]]:
    """`scores` of every answer, by FAMILY.METHOD."""
    truths = {family: Cases.of(run, family).truth.numpy() for family in run.families}
    return {
        key: scores(load(path_of(out, key, "samples"))["samples"], truths[key.split(".")[0]]) for key in run.answers()
    }


def measure(run: RegressionRun, out: Path) -> dict[str, float]:
    """All numbers of the run, by name.

    FAMILY.METHOD.METRIC, METHOD exact, amortized, guided, pigdm or no_network: error (of the mean of the samples,
    relative), crps, coverage50, 80 and 95 over all cells and cases, with _se the standard error over cases; for all but
    exact error_ratio and crps_ratio to exact samples as many, on the same cases, and their _se, and doubted, the share
    of cases whose samples came with a warning; seconds.
    FAMILY.exact.least_ess where the exact answer is by importance sampling. FAMILY.MODEL.train.steps, MODEL amortized
    or prior (of the guided methods).
    """
    metrics, found, drawn, trained = dict[str, float](), all_scores(run, out), 0.0, 0.0
    for key, values in found.items():
        kept, limit = load(path_of(out, key, "samples")), found[f"{key.split('.')[0]}.{EXACT}"]
        for name in ("error", "crps"):
            metrics[f"{key}.{name}"] = float(values[name].mean())
            if values is not limit:
                metrics[f"{key}.{name}_ratio"], metrics[f"{key}.{name}_ratio_se"] = ratio(values[name], limit[name])
        for level, each in zip(COVERED, values["coverage"]):
            metrics[f"{key}.coverage{100 * level:.0f}"] = float(each.mean())
            metrics[f"{key}.coverage{100 * level:.0f}_se"] = float(each.std(ddof=1) / np.sqrt(len(each)))
        if values is limit and np.isfinite(kept["ess"]).all():
            metrics[f"{key}.least_ess"] = float(kept["ess"].min())
        if values is not limit:
            metrics[f"{key}.doubted"] = float(kept["doubted"].mean())
        metrics[f"{key}.seconds"] = float(kept["seconds"])
        drawn += float(kept["seconds"])
    for name in (f"{family}.{kind}" for family in run.families for kind in (AMORTIZED, PRIOR)):
        training = read_json(out / "models" / name / "training.json")
        metrics[f"{name}.train.steps"] = training["records"][-1]["step"]
        metrics[f"{name}.train.seconds"] = training["seconds"]
        trained += training["seconds"]
    return {**metrics, "train.seconds": trained, "sample.seconds": drawn}


def summary_lines(run: RegressionRun, metrics: Mapping[str, float]) -> list[str]:
    """The answer in a few lines: error and CRPS over the exact posterior's, and coverage."""
    lines = []
    for family in run.families:
        exact = f"{family}.{EXACT}"
        lines.append(f"{family}: {run.cases} functions; error of the mean and CRPS over exact, coverage of 95 %")
        for method in METHODS:
            head = f"{family}.{method}"
            both = "  ".join(f"{metrics[f'{head}.{name}_ratio']:.3f}" for name in ("error", "crps"))
            warned = metrics[f"{head}.doubted"]
            more = f"  (warned of {100 * warned:.0f} % of them)" if warned else ""
            lines.append(f"  {LABELS[method]:12s}  {both}  {metrics[f'{head}.coverage95']:.3f}{more}")
        both = "  ".join(f"{metrics[f'{exact}.{name}']:.3f}" for name in ("error", "crps"))
        lines.append(f"  {LABELS[EXACT]:12s}  {both}  {metrics[f'{exact}.coverage95']:.3f}  (themselves)")
    return lines
