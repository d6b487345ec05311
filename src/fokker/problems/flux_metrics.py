"""What a boundary-flux run measures, from posterior summaries on its test cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fokker.diagnostics.coverage import coverage_per_case
from fokker.diagnostics.scores import crps
from fokker.problems.boundary_flux import BoundaryFlux, Case
from fokker.storage import read_json, read_tensors, write_tensors

LEVELS = (0.5, 0.8, 0.95)
SHOWN = 20  # test cases whose samples are kept


@dataclass(frozen=True)
class Summary:
    """A posterior on M test cases: mean, std, crps (M, 30), covered (levels, M, 30), samples (SHOWN, n, 30)."""

    mean: np.ndarray
    std: np.ndarray
    crps: np.ndarray
    covered: np.ndarray
    samples: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, truth: np.ndarray) -> Summary:
        """From samples (M, n, 30) and true fluxes (M, 30)."""
        return cls(
            samples.mean(1, dtype=np.float64),
            samples.std(1, dtype=np.float64, ddof=1),
            crps(samples, truth),
            coverage_per_case(samples, truth, LEVELS),
            samples[:SHOWN].astype(np.float32),
        )

    def save(self, path: Path, made_from: Mapping[str, str], **more: np.ndarray) -> None:
        """As one safetensors file that says what it was made from."""
        arrays = {**vars(self), **more}
        tensors = {name: torch.from_numpy(np.array(a, order="C")) for name, a in arrays.items()}
        write_tensors(path, tensors, made_from)

    @classmethod
    def load(cls, path: Path) -> tuple[Summary, dict[str, np.ndarray]]:
        """What `save` wrote: the summary, and what else was given."""
        tensors, _ = read_tensors(path)
        arrays = {name: value.numpy() for name, value in tensors.items()}
        own = {name: arrays.pop(name) for name in cls.__dataclass_fields__}
        return cls(**own), arrays


def model_path(out: Path, case: Case) -> Path:
    """The folder of a case's model."""
    return out / "models" / case.folder


def result_path(out: Path, case: Case, method: str) -> Path:
    """The file of a summary: METHOD is posterior, no_network or reference."""
    return out / "results" / f"{case.folder}-{method}.safetensors"


def measure(settings: BoundaryFlux, out: Path, timings: dict[str, float]) -> dict[str, float]:
    """All numbers of the run, by name.

    CASE.METHOD.SAMPLER.noise=S.METRIC is taken over the test cases whose reference is resolved, for the learned
    posterior, `exact` and `no_network` alike; METRIC_all over every test case; crps_z is the paired z of
    CRPS, `no_network` minus learned, over all of them. error_percent is the mean of
    |E[q given y] - q| over the mean flux; crps the fair one; coverage_L the fraction of fluxes inside
    central L % intervals. What is not a finite number (no case resolved, no flux at all) is left out.
    """
    metrics: dict[str, float] = {}
    for case in settings.cases():
        learned, more = Summary.load(result_path(out, case, "posterior"))
        exact, checks = Summary.load(result_path(out, case, "reference"))
        resolved, truth = checks["resolved"].nonzero()[0], more["truth"]
        tail = f"noise={case.noise:g}"
        methods = {case.method: learned, "exact": exact}
        if result_path(out, case, "no_network").exists():
            methods["no_network"] = Summary.load(result_path(out, case, "no_network"))[0]
        for method, summary in methods.items():
            head = f"{case.name}.{method}.{tail}"
            for name, value in scores(summary, truth, resolved).items():
                metrics[f"{head}.{name}"] = value
            if method != "exact":
                for name, value in scores(summary, truth, np.arange(len(truth))).items():
                    metrics[f"{head}.{name}_all"] = value
        if "no_network" in methods:
            gain = (methods["no_network"].crps - learned.crps).mean(1)
            z = _ratio(gain.mean(), gain.std(ddof=1)) * len(gain) ** 0.5
            metrics[f"{case.name}.{case.method}.{tail}.crps_z"] = z
        metrics[f"{case.name}.{case.method}.{tail}.nfe"] = int(more["nfe"])
        metrics[f"{case.name}.exact.{tail}.cases"] = len(resolved)
        metrics[f"{case.name}.exact.{tail}.unresolved"] = len(checks["resolved"]) - len(resolved)
        metrics[f"{case.name}.exact.{tail}.seconds"] = float(checks["seconds"])
        trained = read_json(model_path(out, case) / "training.json")["seconds"]
        metrics[f"{case.name}.train.{tail}.seconds"] = trained
        metrics[f"{case.name}.sample.{tail}.seconds"] = float(more["seconds"])
    for mean in settings.prior_mean:
        metrics[f"mean{mean:g}.simulate.seconds"] = timings[f"mean{mean:g}.simulate.seconds"]
    for stage in ("simulate", "train", "sample"):
        parts = [v for k, v in metrics.items() if f".{stage}." in k and k.endswith(".seconds")]
        metrics[f"{stage}.seconds"] = sum(parts)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def summary_lines(settings: BoundaryFlux, metrics: Mapping[str, float]) -> list[str]:
    """The answer in a few lines: error, CRPS and coverage of each method on the cases with an exact posterior."""
    lines = []
    for case in settings.cases():
        lines.append(f"prior mean {case.mean:g}, noise {case.noise:g}:")
        for label, method in (("fokker", case.method), ("exact", "exact"), ("no network", "no_network")):
            head = f"{case.name}.{method}.noise={case.noise:g}"
            if f"{head}.crps" in metrics:
                covered = "/".join(f"{100 * metrics[f'{head}.coverage_{level}']:.0f}" for level in (50, 80, 95))
                error, crps = metrics[f"{head}.error_percent"], metrics[f"{head}.crps"]
                line = f"  {label:10s}  error {error:5.2f} %   CRPS {crps:.4f}   coverage of 50/80/95 % intervals"
                lines.append(f"{line} {covered}")
        if not metrics[f"{case.name}.exact.noise={case.noise:g}.cases"]:
            lines.append("  no exact posterior is resolved to compare with")
    return lines


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


def _ratio(above: float, below: float) -> float:
    return float(above) / float(below) if below else math.nan
