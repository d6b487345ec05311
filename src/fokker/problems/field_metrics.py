"""What a run of fields measures, case by case, beside samples of the exact posterior of the same cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fokker.diagnostics.coverage import coverage_per_case
from fokker.diagnostics.scores import crps, relative_error
from fokker.problems.density_metrics import load, path_of
from fokker.problems.field_data import HIGH, LOW, FieldProblem
from fokker.problems.field_settings import EXACT, LABELS, METHODS, FieldRun
from fokker.storage import read_json

COVERED = (0.5, 0.8, 0.95)
DOUBT = 0.05  # a cell of two values is in doubt where either has at least this probability
BLOCK = 5  # cases of one file


def part_name(task: str, noise: float) -> str:
    """TASK.noise=S, in file names and metric keys."""
    return f"{task}.noise={noise:g}"


def block_name(task: str, noise: float, first: int) -> str:
    """The file of the cases from `first` on."""
    return f"{part_name(task, noise)}.{first:04d}"


def compared(problem: FieldProblem, points: Tensor, limit: Tensor) -> NDArray:
    """Cells (n, n) whose coverage means something: none that is observed itself, and of two values those in doubt.

    limit: the exact posterior mean (n, n). It depends on the data alone, so that the choice favours nobody.
    """
    open_cells = torch.ones(problem.n**2, dtype=torch.bool)
    if problem.task == "direct":
        open_cells[points] = False
    open_cells = open_cells.unflatten(0, (problem.n, problem.n))
    if problem.family == "threshold":
        p = (limit - LOW) / (HIGH - LOW)
        open_cells &= (p > DOUBT) & (p < 1 - DOUBT)
    return open_cells.numpy()


def scores(problem: FieldProblem, samples: NDArray, truth: NDArray, cells: NDArray) -> dict[str, NDArray]:
    """Measures of samples (K, n, n) of one case with its truth (n, n); cells (n, n): where coverage is taken.

    error of the mean of the samples and sample_error, the mean error of one, relative in L2; crps, fair, the mean over
    all cells; coverage (3,) of central intervals by ranks, ties broken at random (in expectation), and `covered`, on
    how many cells; for two values also wrong, the share of cells where most samples have the other value. Coverage of
    these takes the nearer value of each sample: ranks among others would only tell how far from 3 and 12 they are.
    """
    x = samples.astype(np.float64)
    out = {
        "error": relative_error(x.mean(0)[None], truth[None])[0],
        "sample_error": relative_error(x, np.broadcast_to(truth, x.shape)).mean(),
        "crps": crps(x[None], truth[None]).mean(),
        "covered": cells.sum(),
    }
    ranked = x
    if problem.family == "threshold":
        ranked = np.where(x > (LOW + HIGH) / 2, HIGH, LOW)
        votes = (ranked == truth).mean(0)
        out["wrong"] = ((votes < 0.5) + 0.5 * (votes == 0.5)).mean()
    inside = coverage_per_case(ranked[None][..., cells], truth[None][..., cells], COVERED) if cells.any() else None
    out["coverage"] = np.zeros(len(COVERED)) if inside is None else inside.mean((1, 2))
    return {name: np.asarray(value, dtype=np.float64) for name, value in out.items()}


def load_part(run: FieldRun, out: Path, task: str, noise: float) -> dict[str, NDArray]:
    """METHOD.MEASURE (cases, ...) and limit (cases,) of a part, from all its files."""
    files = [load(path_of(out, block_name(task, noise, first), "scores")) for first in range(0, run.cases, BLOCK)]
    names = [name for name in files[0] if not name.startswith("shown.")]
    return {name: np.concatenate([found[name] for found in files]) for name in names}


def measure(run: FieldRun, out: Path) -> dict[str, float]:
    """All numbers of the run, by name.

    FAMILY.TASK.noise=S.METHOD.METRIC, METHOD network, no_network (the Gaussian with the estimated spectrum),
    sample_covariance (that with the sample covariance) or exact (samples of the exact posterior): error_percent, the
    relative L2 error of the mean of all samples, its mean over cases, with _se its standard error;
    sample_error_percent, that of one sample; crps; coverage_50, _80 and _95, with _se; wrong_percent for two values;
    error_ratio and crps_ratio, over those of exact samples; limit_ratio, error over that of the exact posterior mean;
    doubted, the share of cases whose samples came with a warning; seconds of a case, of processor time.
    exact.limit_percent is the error of the exact mean. train.seconds and sample.seconds are totals.
    """
    metrics: dict[str, float] = {}
    drawn = 0.0
    for task, noise in run.parts():
        found, head = load_part(run, out, task, noise), f"{run.family}.{part_name(task, noise)}"
        limit = float(found["limit"].mean())
        metrics[f"{head}.{EXACT}.limit_percent"] = 100 * limit
        for method in METHODS:
            own = {name.removeprefix(f"{method}."): v for name, v in found.items() if name.startswith(f"{method}.")}
            metrics |= {f"{head}.{method}.{name}": value for name, value in _numbers(own).items()}
            metrics[f"{head}.{method}.limit_ratio"] = float(own["error"].mean()) / limit
            for name in ("error", "crps"):
                metrics[f"{head}.{method}.{name}_ratio"] = float(own[name].mean() / found[f"{EXACT}.{name}"].mean())
            drawn += float(own["seconds"].sum())
    training = read_json(out / "models" / "prior" / "training.json")
    metrics["train.steps"] = training["records"][-1]["step"]
    return {**metrics, "train.seconds": training["seconds"], "sample.seconds": drawn}


def _numbers(own: Mapping[str, NDArray]) -> dict[str, float]:
    out = {
        "error_percent": 100 * float(own["error"].mean()),
        "error_percent_se": 100 * _se(own["error"]),
        "sample_error_percent": 100 * float(own["sample_error"].mean()),
        "crps": float(own["crps"].mean()),
        "seconds": float(own["seconds"].mean()),
        "doubted": float(own["doubted"].mean()),
    }
    if "wrong" in own:
        out["wrong_percent"] = 100 * float(own["wrong"].mean())
    inside = own["coverage"][own["covered"] > 0]
    for level, values in zip(COVERED, inside.T):
        if len(values) > 1:
            out[f"coverage_{100 * level:.0f}"] = float(values.mean())
            out[f"coverage_{100 * level:.0f}_se"] = _se(values)
    return out


def _se(values: NDArray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def summary_lines(run: FieldRun, metrics: Mapping[str, float]) -> list[str]:
    """The answer in a few lines: error and CRPS of each method, beside exact samples."""
    lines = []
    for task, noise in run.parts():
        head = f"{run.family}.{part_name(task, noise)}"
        limit = metrics[f"{head}.{EXACT}.limit_percent"]
        lines.append(
            f"{run.family} {task}, noise {100 * noise:g} %, {run.n} x {run.n}, {run.cases} cases: the exact posterior "
            f"mean is off by {limit:.1f} %"
        )
        for method in METHODS:
            own = {name: metrics[f"{head}.{method}.{name}"] for name in ("error_percent", "limit_ratio", "crps_ratio")}
            doubted = metrics[f"{head}.{method}.doubted"]
            warned = f"  (warned of {100 * doubted:.0f} %)" if doubted else ""
            lines.append(
                f"  {LABELS[method]:27s}  error {own['error_percent']:6.2f} %  {own['limit_ratio']:.3f} of the limit   "
                f"CRPS {own['crps_ratio']:.3f} of exact{warned}"
            )
    return lines
