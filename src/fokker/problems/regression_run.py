"""Running regression: learn the functions with and without data, or take the models of the package; sample every
posterior beside the exact one, measure.

Every stage leaves whole files that say what they were made from, and is skipped where they are there.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fokker.fields.fitting import fit_functions
from fokker.fields.prior import FunctionPrior
from fokker.posterior.doubts import collected
from fokker.posterior.samples import PosteriorSamples
from fokker.problems import shipped
from fokker.problems.density_metrics import path_of, save
from fokker.problems.folder import folder_hash, group, held, is_from
from fokker.problems.parallel import Progress, Task, run_side_by_side
from fokker.problems.regression_families import FAMILIES
from fokker.problems.regression_metrics import measure
from fokker.problems.regression_settings import (
    AMORTIZED,
    EXACT,
    METHODS,
    OBSERVATIONS,
    PRIOR,
    Cases,
    RegressionRun,
    build,
)
from fokker.rng import stream
from fokker.storage import atomic_path, file_hash, write_json

PACKAGES = ("fokker", "torch", "numpy", "scipy", "zarr", "xarray", "arviz-base")


def run(
    settings: RegressionRun, out: Path, progress: Progress, report: Callable[[Path], object] | None = None
) -> dict[str, float]:
    """Do all that is not done yet in the folder `out` and return the metrics, which are in metrics.json too.

    `report(out)` is called at the end, while the folder is still held. Raises InputError where the folder holds a run
    with other settings or is in use, OSError where the disk fails.
    """
    with held(settings.settings(), PACKAGES, out):
        group(out / "posterior.zarr")
        learned = [Task(infer, (settings, f, kind, out)) for kind in (PRIOR, AMORTIZED) for f in settings.families]
        run_side_by_side([*learned, *(Task(exact, (settings, f, out)) for f in settings.families)], progress)
        metrics = measure(settings, out)
        write_json(out / "metrics.json", metrics)
        if report is not None:
            report(out)
        return metrics


def infer(run: RegressionRun, family: str, kind: str, out: Path, progress: Progress) -> None:
    """The model in models/FAMILY.KIND, and samples of the posteriors of its methods."""
    prior = learned(run, family, kind, out / "models" / f"{family}.{kind}", progress)
    weights = file_hash(out / "models" / f"{family}.{kind}" / "weights.safetensors")
    for method in (method for method, of in METHODS.items() if of == kind):
        _keep(run, family, method, out, _sampled(run, family, method, prior), progress, weights)


def learned(run: RegressionRun, family: str, kind: str, folder: Path, progress: Progress) -> FunctionPrior:
    """The model in `folder`, trained or as the package has it."""
    if not run.train:
        shipped.take(f"regression-{family}-{kind}", folder)
        return FunctionPrior.load(folder)
    return fit_functions(
        FAMILIES[family].draw(run.fields, run.seed, f"{family}/training").cells,
        observations=OBSERVATIONS if kind == AMORTIZED else None,
        recipe=run.recipe(family, kind),
        seed=run.seed,
        out=folder,
        progress=lambda record: progress(f"train {family}.{kind}", record.step, record.steps),
    )


class Answer(NamedTuple):
    """Of a case: samples (n, 128), their mean (128,), ESS (infinite where nothing is weighted), whether it was warned
    of."""

    samples: torch.Tensor
    mean: torch.Tensor
    ess: float = math.inf
    doubted: bool = False


Draw = Callable[[Cases, int], Answer]


def _sampled(run: RegressionRun, family: str, method: str, prior: FunctionPrior) -> Draw:
    seeds = stream(run.seed, f"regression/{family}/{method}").integers(2**63, size=run.cases)

    def draw(cases: Cases, case: int) -> Answer:
        points, y, std = cases.told(case)
        with collected() as doubts:  # counted: how far each method is from exact is what the run measures
            found = build(method, prior, points, std).sample(y, run.draws, int(seeds[case]), steps=run.steps)
        return Answer(found.samples, found.mean(), doubted=bool(doubts))

    return draw


def exact(run: RegressionRun, family: str, out: Path, progress: Progress) -> None:
    """The exact posterior of every case."""

    def draw(cases: Cases, case: int) -> Answer:
        found = FAMILIES[family].posterior(*cases.told(case), run.draws, run.seed, case)
        return Answer(found.samples, found.mean, found.ess)

    _keep(run, family, EXACT, out, draw, progress)


def _keep(
    run: RegressionRun, family: str, method: str, out: Path, draw: Draw, progress: Progress, weights: str = ""
) -> None:
    """Draw unless that is done: results/FAMILY.METHOD-samples and a group of posterior.zarr.

    The file holds samples (M, n, 128), mean (M, 128), ess and doubted (M,), see `Answer`, and seconds.
    """
    key = f"{family}.{method}"
    path, kept = path_of(out, key, "samples"), out / "posterior.zarr" / key
    origin = {"method": key, "settings": json.dumps(run.settings()), "weights": weights}
    if is_from(path, {**origin, "kept": folder_hash(kept)}):
        return
    cases, started, found = Cases.of(run, family), time.perf_counter(), []
    for case in range(run.cases):
        progress(f"sample {key}", case, run.cases)
        found.append(draw(cases, case))
    seconds = time.perf_counter() - started
    samples, mean = (torch.stack(part).float() for part in ([a.samples for a in found], [a.mean for a in found]))
    told = PosteriorSamples(samples, cases.shown, True, 0, 0.0, {"method": method})
    with atomic_path(kept) as temporary:
        told.to_arviz().to_zarr(temporary, consolidated=False)
    arrays = {
        "samples": samples.numpy(),
        "mean": mean.numpy(),
        "ess": np.array([answer.ess for answer in found]),
        "doubted": np.array([answer.doubted for answer in found], np.uint8),
        "seconds": np.array(seconds),
    }
    save(path, arrays, {**origin, "kept": folder_hash(kept)})
    progress(f"sample {key}", run.cases, run.cases)
