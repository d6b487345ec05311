"""What a run of a channel problem measures, from posterior summaries on its test cases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fokker.diagnostics import sbc
from fokker.problems.flux_cases import Case, Model
from fokker.problems.flux_settings import FluxRun
from fokker.problems.flux_summary import LEVELS, Summary
from fokker.storage import read_json

EXACT, NO_NETWORK = "exact", "no_network"
ALMOST_SURE = 1e-3  # exact standard deviation, where the prior's is about 1, below which a flux is all but known: zero


def model_path(out: Path, model: Model) -> Path:
    """The folder of a model."""
    return out / "models" / model.folder


def result_path(out: Path, case: Case, test: str, method: str) -> Path:
    """The file of a summary on these test cases: METHOD is ve.ode, ..., exact, no_network or a competitor."""
    name = "-".join(part for part in (case.folder, test, method) if part)
    return out / "results" / f"{name}.safetensors"


def test_names(case: Case) -> list[str]:
    """The sets of test cases, the run's own first."""
    return ["", *case.run.extra_tests(case)]


def head(case: Case, method: str, test: str = "") -> str:
    """CASE.METHOD.SAMPLER.noise=S, and the set of test cases where it is not the run's own."""
    return ".".join(part for part in (case.name, method, f"noise={case.noise:g}", test) if part)


def measure(
    settings: FluxRun, out: Path, timings: Mapping[str, float], failed: Mapping[float, int]
) -> dict[str, float]:
    """All numbers of the run, by name. failed: simulations that were left out, for each prior mean.

    CASE.METHOD.SAMPLER.noise=S.METRIC is taken over the test cases whose reference is resolved, for the learned
    posteriors, `exact`, `no_network` and competitors alike; METRIC_all over every test case. error_percent is the mean
    of |E[q given y] - q| over the mean flux; crps the fair one; coverage_L the fraction of fluxes inside central L %
    intervals. crps_z is the paired z of CRPS, `no_network` minus learned, over all test cases; crps_z_NAME against a
    competitor, over the cases that it has. mean_distance is the root mean square, over cases and fluxes, of the
    difference to the exact mean in exact standard deviations, std_ratio the mean ratio of standard deviations; fluxes
    that are almost surely zero are left out. sbc_deviation and tarp_deviation are those of `calibration`. A set of
    test cases with a name of its own has it before METRIC. What is not a finite number (no case resolved, no flux at
    all) is left out.
    """
    metrics: dict[str, float] = {}
    for case in settings.cases():
        for test in test_names(case):
            metrics.update(_of_tests(case, test, out))
        for model in case.models:
            trained = read_json(model_path(out, model) / "training.json")["seconds"]
            key = "train" if len(case.models) == 1 else f"{model.processes[0]}.train"
            metrics[f"{head(case, key)}.seconds"] = trained
    for mean in settings.means:
        metrics[f"mean{mean:g}.simulate.failed"] = failed[mean]
        metrics[f"mean{mean:g}.simulate.seconds"] = timings[f"mean{mean:g}.simulate.seconds"]
    for stage in ("simulate", "train", "sample"):
        parts = [v for k, v in metrics.items() if f".{stage}." in k and k.endswith(".seconds")]
        metrics[f"{stage}.seconds"] = sum(parts)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _of_tests(case: Case, test: str, out: Path) -> Iterator[tuple[str, float]]:
    """The numbers of one case on one set of test cases."""
    learned = {m.name: Summary.load(result_path(out, case, test, m.name)) for m in case.methods}
    exact, checks = Summary.load(result_path(out, case, test, EXACT))
    truth = next(iter(learned.values()))[1]["truth"]
    resolved, everything = checks["resolved"].nonzero()[0], np.arange(len(truth))
    methods = {name: summary for name, (summary, _) in learned.items()} | {EXACT: exact}
    others = [name for name in (NO_NETWORK, *case.run.competitors) if result_path(out, case, test, name).exists()]
    methods |= {name: Summary.load(result_path(out, case, test, name))[0] for name in others}
    for name, summary in methods.items():
        key = head(case, name, test)
        for metric, value in scores(summary, truth, resolved).items():
            yield f"{key}.{metric}", value
        if len(summary.mean) == len(truth):
            for metric, value in scores(summary, truth, everything).items():
                yield f"{key}.{metric}_all", value
            for metric, value in calibration(summary).items():
                yield f"{key}.{metric}_all", value
        if name != EXACT:
            for metric, value in closeness(summary, exact, resolved).items():
                yield f"{key}.{metric}", value
    for name, (summary, more) in learned.items():
        key = head(case, name, test)
        for other in others:
            z = paired_z(methods[other].crps, summary.crps)
            yield f"{key}.crps_z" if other == NO_NETWORK else f"{key}.crps_z_{other}", z
        yield f"{key}.nfe", int(more["nfe"])
        sample = head(case, "sample" if len(learned) == 1 else f"{name}.sample", test)
        yield f"{sample}.seconds", float(more["seconds"])
    key = head(case, EXACT, test)
    yield f"{key}.cases", len(resolved)
    yield f"{key}.unresolved", len(checks["resolved"]) - len(resolved)
    yield f"{key}.seconds", float(checks["seconds"])


def scores(summary: Summary, truth: np.ndarray, cases: np.ndarray) -> dict[str, float]:
    """error_percent, crps and coverage of a posterior on these cases; nothing for no case."""
    if len(cases) == 0:
        return {}
    covered = summary.covered[:, cases].mean((1, 2))
    return {
        "error_percent": 100 * _ratio(np.abs(summary.mean[cases] - truth[cases]).mean(), truth[cases].mean()),
        "crps": float(summary.crps[cases].mean()),
        **{f"coverage_{100 * level:g}": float(c) for level, c in zip(LEVELS, covered)},
    }


def closeness(summary: Summary, exact: Summary, cases: np.ndarray) -> dict[str, float]:
    """mean_distance and std_ratio over these cases and the fluxes that are not almost surely zero; nothing for none."""
    spread = exact.std[cases]
    some = spread > ALMOST_SURE
    if not some.any():
        return {}
    apart = ((summary.mean[cases] - exact.mean[cases]) / np.where(some, spread, 1.0))[some]
    ratio = (summary.std[cases] / np.where(some, spread, 1.0))[some]
    return {"mean_distance": float(np.sqrt((apart**2).mean())), "std_ratio": float(ratio.mean())}


def calibration(summary: Summary) -> dict[str, float]:
    """Kolmogorov's distances from uniform: sbc_deviation of the ranks of fluxes (the largest over the fluxes), of TARP
    with references from the prior (tarp_deviation) and made from y (tarp_from_y_deviation), where there are any.
    """
    names, n = ("tarp_deviation", "tarp_from_y_deviation"), int(summary.draws)
    found = {name: float(sbc.deviation(ranks, n)) for name, ranks in zip(names, summary.tarp)}
    return {"sbc_deviation": float(sbc.deviation(summary.rank, n).max()), **found}


def paired_z(theirs: np.ndarray, ours: np.ndarray) -> float:
    """z of the mean over cases of how much lower our CRPS (M, 30) is than theirs (M' <= M, 30)."""
    gain = (theirs - ours[: len(theirs)]).mean(1)
    return _ratio(gain.mean(), gain.std(ddof=1)) * len(gain) ** 0.5


def _ratio(above: float, below: float) -> float:
    return float(above) / float(below) if below else math.nan


def summary_lines(settings: FluxRun, metrics: Mapping[str, float]) -> list[str]:
    """The answer in a few lines: error, CRPS and coverage of each method on the cases with an exact posterior."""
    failed = {mean: int(metrics[f"mean{mean:g}.simulate.failed"]) for mean in settings.means}
    lines = [f"prior mean {mean:g}: {n} simulations have failed and are left out" for mean, n in failed.items() if n]
    for case in settings.cases():
        lines.append(f"{case.title}:")
        learned = {m.name: "fokker" if len(case.methods) == 1 else f"fokker {m.name}" for m in case.methods}
        rest = {EXACT: "exact", NO_NETWORK: "no network", **{name: name for name in settings.competitors}}
        width = max(map(len, (learned | rest).values()))
        for method, label in (learned | rest).items():
            key = head(case, method)
            if f"{key}.crps" in metrics:
                covered = "/".join(f"{100 * metrics[f'{key}.coverage_{level}']:.0f}" for level in (50, 80, 95))
                error = metrics.get(f"{key}.error_percent", math.nan)
                line = f"  {label:{width}s}  error {error:#.3g} %   CRPS {metrics[f'{key}.crps']:#.3g}"
                lines.append(f"{line}   coverage of 50/80/95 % intervals {covered}")
        if not metrics[f"{head(case, EXACT)}.cases"]:
            lines.append("  no exact posterior is resolved to compare with")
        for test in test_names(case)[1:]:
            found = [(label, f"{head(case, method, test)}.error_percent") for method, label in (learned | rest).items()]
            errors = ", ".join(f"{label} {metrics[key]:.1f} %" for label, key in found if key in metrics)
            lines.append(f"  {case.run.describe(test)}: error {errors}")
    return lines
