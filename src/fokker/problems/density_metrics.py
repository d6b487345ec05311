"""What a density run measures: how far samples are from the exact conditional, at four y."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fokker.diagnostics.optimal_transport import COSTS, kolmogorov_smirnov, sinkhorn, wasserstein_1d
from fokker.problems.density_settings import DensityRun
from fokker.rng import stream
from fokker.storage import read_json, read_tensors, write_tensors

REG = 0.01  # of entropic transport, as published
BAND = 0.1  # width in y of the published kind of reference
BAND_PAIRS = 100_000  # joint samples from which the band takes its own
REPETITIONS = 3  # of the floor
METRICS = ("w1", "ks", *(f"sinkhorn_{cost}{kind}" for kind in ("", "_band") for cost in COSTS))
NO_NETWORK, EXACT = "no_network", "exact"


def path_of(out: Path, name: str, what: str) -> Path:
    """The file of a method's `samples` or `scores`."""
    return out / "results" / f"{name}-{what}.safetensors"


def training_pairs(run: DensityRun) -> tuple[NDArray, NDArray]:
    """x (pairs, 1), y (pairs, 1), fixed by the seed."""
    return run.law.sample(run.pairs, stream(run.seed, f"density-{run.density}/train"))


def references(run: DensityRun) -> dict[str, list[NDArray]]:
    """Points that entropic transport compares with, (points,) for each y, of two kinds.

    "": exact draws at y. "_band": of 100,000 joint samples those with y within 0.05, as published, `points` of them.
    """
    rng = stream(run.seed, f"density-{run.density}/reference")
    exact = [run.law.conditional(np.full(run.points, y), rng) for y in run.law.y_values]
    x, y = (value[:, 0] for value in run.law.sample(BAND_PAIRS, rng))
    band = [rng.permutation(x[np.abs(y - at) <= BAND / 2])[: run.points] for at in run.law.y_values]
    return {"": exact, "_band": band}


def exact_draws(run: DensityRun, repetition: int) -> NDArray:
    """Exact samples (4, draws) in place of a method's: what is left of a distance is its floor."""
    rng = stream(run.seed, f"density-{run.density}/exact", repetition)
    return np.stack([run.law.conditional(np.full(run.draws, y), rng) for y in run.law.y_values])


def scores(run: DensityRun, samples: NDArray, progress: Callable[[int, int], None]) -> dict[str, NDArray]:
    """METRICS of samples (4, draws) at each y, (4,): w1 and ks of all draws, sinkhorn of the first `points`."""
    law, points = run.law, references(run)
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for index, y in enumerate(law.y_values):
        x = samples[index].astype(np.float64)

        def cdf(at: NDArray, y: float = y) -> NDArray:
            return law.cdf(at, y)

        found["w1"].append(wasserstein_1d(x, cdf, law.support(y)))
        found["ks"].append(kolmogorov_smirnov(x, cdf))
        for kind, cost in ((kind, cost) for kind in points for cost in COSTS):
            found[f"sinkhorn_{cost}{kind}"].append(sinkhorn(x[: run.points], points[kind][index], REG, cost))
        progress(index + 1, len(law.y_values))
    return {name: np.array(values) for name, values in found.items()}


def save(path: Path, arrays: Mapping[str, NDArray], made_from: Mapping[str, str]) -> None:
    """Named arrays as one safetensors file that says what they were made from."""
    write_tensors(path, {name: torch.from_numpy(np.array(a, order="C")) for name, a in arrays.items()}, made_from)


def load(path: Path) -> dict[str, NDArray]:
    """What `save` wrote."""
    return {name: value.numpy() for name, value in read_tensors(path)[0].items()}


def measure(run: DensityRun, out: Path) -> dict[str, float]:
    """All numbers of the run, by name.

    CASE.RECIPE.METHOD.SAMPLER.METRIC is the mean over the four y, with y=Y before METRIC one of them: w1 and ks
    against the exact conditional, sinkhorn_COST against exact draws of it, sinkhorn_COST_band against the published
    kind of reference; nfe. CASE.no_network.METRIC is the Gaussian conditional's, CASE.exact.METRIC the floor: exact
    samples in place of a method's, averaged over repetitions. CASE.MODEL.train.steps is the length of a training.
    """
    metrics: dict[str, float] = {}
    case, trained, drawn = run.density, 0.0, 0.0
    baseline = [NO_NETWORK] if "default" in run.recipes and path_of(out, NO_NETWORK, "scores").exists() else []
    for name in (*(method.name for method in run.methods()), *baseline, EXACT):
        found = load(path_of(out, name, "scores"))
        for metric, values in ((metric, found[metric]) for metric in METRICS):
            metrics[f"{case}.{name}.{metric}"] = float(values.mean())
            for y, value in zip(run.law.y_values, values):
                metrics[f"{case}.{name}.y={y:g}.{metric}"] = float(value)
    for method in run.methods():
        samples = load(path_of(out, method.name, "samples"))
        metrics[f"{case}.{method.name}.nfe"] = int(samples["nfe"])
        metrics[f"{case}.{method.name}.seconds"] = float(samples["seconds"])
        drawn += float(samples["seconds"])
    for model in run.models():
        training = read_json(out / "models" / model.name / "training.json")
        head = f"{case}.{model.name.replace('-', '.')}.train"
        metrics[f"{head}.steps"] = training["records"][-1]["step"]
        metrics[f"{head}.seconds"] = training["seconds"]
        trained += training["seconds"]
    return {**metrics, "train.seconds": trained, "sample.seconds": drawn}


def summary_lines(run: DensityRun, metrics: Mapping[str, float]) -> list[str]:
    """The answer in a few lines: W1 and KS of each method beside the floor."""
    lines = [f"{run.density}: mean over y = {', '.join(f'{y:g}' for y in run.law.y_values)}"]
    labels = {m.name: " ".join((m.model.recipe_name, m.process_name, m.sampler_name)) for m in run.methods()}
    for name, label in {**labels, NO_NETWORK: "no network", EXACT: "exact (the floor)"}.items():
        if f"{run.density}.{name}.w1" in metrics:
            w1, ks = metrics[f"{run.density}.{name}.w1"], metrics[f"{run.density}.{name}.ks"]
            lines.append(f"  {label:18s}  W1 {w1:.4f}   KS {ks:.4f}")
    return lines
