"""Running a channel problem: simulate, fit, reference, sample, measure. Every stage leaves whole files that say
what they were made from, and is skipped where they are there. So a run that was killed continues where it stopped and
ends with the same numbers, and what was lost or damaged meanwhile is made again.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray

from fokker import api
from fokker.errors import InputError
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.samples import PosteriorSamples
from fokker.posterior_coordinates import Posterior as PosteriorCoordinates
from fokker.problems.flux_cases import Case, Method, Model
from fokker.problems.flux_metrics import EXACT, NO_NETWORK, measure, model_path, result_path
from fokker.problems.flux_settings import FluxRun
from fokker.problems.flux_summary import SHOWN, Summary
from fokker.problems.flux_tests import TestSet, layouts, measurements, test_sets
from fokker.problems.folder import folder_hash, group, held, is_from, saved_timings
from fokker.problems.parallel import Progress, Task, run_side_by_side
from fokker.simulation.store import SimulationStore, simulate
from fokker.storage import atomic_path, file_hash, write_json

REFERENCE_SAMPLES = 1000  # per case
MOST_FAILED = 0.01  # of the simulations; they are left out, so that more would change the prior
TEST_SEED = 2**32  # xor-ed into the seed, so that test pairs never meet training pairs
PACKAGES = ("fokker", "torch", "numpy", "scipy", "scikit-fem", "zarr", "xarray", "arviz-base")


@dataclass(frozen=True)
class Stores:
    """The simulations of one prior mean."""

    train: SimulationStore
    test: SimulationStore


@dataclass(frozen=True)
class Compute:
    """Where simulations are made; it does not change them."""

    workers: int = 0
    """Processes that simulate; 0 for one, or for all cores where simulations take long."""
    scheduler: str = ""
    """Address of a dask cluster that simulates instead, tcp://HOST:PORT."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"workers: got {self.workers}, an integer of at least 0 is accepted")
        if self.workers and self.scheduler:
            raise InputError(f"workers: got {self.workers} and a scheduler, one of the two is accepted")

    def options(self, settings: FluxRun) -> dict[str, Any]:
        """For `simulate`."""
        if self.scheduler:
            return {"scheduler": self.scheduler}
        return {"workers": self.workers or (len(os.sched_getaffinity(0)) if settings.expensive else 1)}


def run(
    settings: FluxRun,
    out: Path,
    progress: Progress,
    report: Callable[[Path], object] | None = None,
    compute: Compute = Compute(),
) -> dict[str, float]:
    """Do all that is not done yet in the folder `out` and return the metrics, which are in metrics.json too.

    `report(out)` is called at the end, while the folder is still held. Raises InputError where the folder holds a run
    with other settings or is in use, OSError where the disk fails or a cluster cannot be reached.
    """
    with held(settings.settings(), PACKAGES, out):
        timings = saved_timings(out)
        stores = {mean: _simulate(settings, mean, out, timings, compute, progress) for mean in settings.means}
        longest_first = sorted(settings.cases(), key=lambda case: -case.pairs)
        run_side_by_side(
            [Task(fit_model, (model, stores[case.mean].train, out)) for case in longest_first for model in case.models]
            + [Task(reference_case, (case, stores[case.mean].test, out)) for case in longest_first],
            progress,
        )
        for case in settings.cases():
            for test in test_sets(case, stores[case.mean].test):
                for model in case.models:
                    _sample(model, test, out, progress)
        failed = {mean: store.train.failed + store.test.failed for mean, store in stores.items()}
        metrics = measure(settings, out, timings, failed)
        write_json(out / "metrics.json", metrics)
        if report is not None:
            report(out)
        return metrics


def made_from(case: Case, **more: str) -> dict[str, str]:
    """All that decides a result: the case, every setting, and what else is given."""
    return {"case": case.folder, "settings": json.dumps(case.run.settings()), **more}


def _simulate(
    settings: FluxRun, mean: float, out: Path, timings: dict[str, float], compute: Compute, progress: Progress
) -> Stores:
    """Training and test fluxes with clean sensor values, as groups of simulations.zarr."""
    started = time.perf_counter()
    simulator = settings.simulator(mean)
    group(out / "simulations.zarr")
    pairs = Case(settings, mean, settings.noise[0]).pairs
    stores = []
    for name, count, seed in (("train", pairs, settings.seed), ("test", settings.test_rows, settings.seed ^ TEST_SEED)):

        def report(done: int, total: int, name: str = name) -> None:
            progress(f"simulate mean {mean:g}, {name}", done, total)

        path = out / "simulations.zarr" / f"mean{mean:g}-{name}"
        options: dict[str, Any] = {**compute.options(settings), "chunk": settings.chunk}
        stores.append(simulate(simulator, count, path, seed=seed, progress=report, **options))
        if stores[-1].failed > MOST_FAILED * count:
            raise InputError(
                f"{path}: {stores[-1].failed} of {count} simulations are not finite, at most {MOST_FAILED:.0%} are "
                "accepted; try a finer mesh"
            )
    key = f"mean{mean:g}.simulate.seconds"
    if key not in timings:
        timings[key] = time.perf_counter() - started
        write_json(out / "timings.json", timings)
    return Stores(*stores)


def fit_model(model: Model, store: SimulationStore, out: Path, progress: Progress) -> None:
    """Train one model in models/NAME."""
    case, run = model.case, model.case.run
    x, clean = store.load()
    y: np.ndarray | torch.Tensor = clean
    likelihood, omega = (case.likelihood, run.training_layouts) if case.redrawn else (None, None)
    if not case.redrawn:
        noisy, seen = measurements(case, clean, "train"), layouts(run, len(clean), clean.shape[1], "train")
        y = run.encoded(noisy if seen is None else torch.where(seen, noisy, torch.nan))
    api.fit(
        x,
        y,
        process=run.build_process(model.processes[0]),
        recipe=case.recipe,
        omega=omega,
        likelihood=likelihood,
        clip=(0.0, None),
        seed=run.seed,
        out=model_path(out, model),
        progress=lambda record: progress(f"train {model.folder}", record.step, record.steps),
    )


def reference_case(case: Case, store: SimulationStore, out: Path, progress: Progress) -> None:
    """Exact posteriors of the test cases that get one, and what is shown beside them, in results/."""
    for test in test_sets(case, store):
        _reference(case, test, out, progress)


def _reference(case: Case, test: TestSet, out: Path, progress: Progress) -> None:
    path, count = result_path(out, case, test.name, EXACT), test.reference
    others = {name: result_path(out, case, test.name, name) for name in case.run.competitors}
    if all(is_from(each, made_from(case)) for each in (*others.values(), path)):
        return
    stage, x = f"reference {test.title(case)}", test.x[:count]
    progress(stage, 0, count)
    y, omega = test.y[:count].numpy(), None if test.omega is None else test.omega[:count]
    exact = case.run.exact(case, y, omega, REFERENCE_SAMPLES, lambda done: progress(stage, done, count))
    for name, each in others.items():
        Summary.of(exact.others[name], x).save(each, made_from(case))
    checks = {"rhat": exact.rhat, "ess": exact.ess, "resolved": exact.resolved, "seconds": np.array(exact.seconds)}
    Summary.of(exact.samples, x).save(path, made_from(case), **checks)


def _sample(model: Model, test: TestSet, out: Path, progress: Progress) -> None:
    """The learned posterior by each of its methods, and the baseline, on every test case, in results/."""
    case, run = model.case, model.case.run
    group(out / "posterior.zarr")
    fitted = ConditionalPosterior.load(model_path(out, model))
    origin = made_from(case, weights=file_hash(model_path(out, model) / "weights.safetensors"))
    y = run.encoded(test.y)
    gaussian = isinstance(fitted.coordinates, PosteriorCoordinates)
    centre = fitted.no_network().mean(y).numpy() if gaussian else None
    for method in model.methods:
        path = result_path(out, case, test.name, method.name)
        kept = None if test.name else kept_path(out, method)
        if is_from(path, _with_kept(origin, kept)):
            continue
        which = f"{test.title(case)} {method.name}"
        drawn = _draw(method, fitted, y, f"sample {which}", progress)
        progress(f"score {which}", 0, 1)
        if kept is not None:
            _keep(drawn, test.x, kept)
        more = {"nfe": np.array(drawn.nfe), "seconds": np.array(drawn.seconds), "truth": test.x, "y": test.y.numpy()}
        Summary.of(drawn.samples.numpy(), test.x, centre).save(path, _with_kept(origin, kept), **more)
        progress(f"score {which}", 1, 1)
    path = result_path(out, case, test.name, NO_NETWORK)
    if gaussian and not is_from(path, origin):
        baseline = fitted.no_network().sample(y, run.samples, run.seed)
        Summary.of(baseline.samples.numpy(), test.x, centre).save(path, origin)


def _draw(
    method: Method, fitted: ConditionalPosterior, y: torch.Tensor, stage: str, progress: Progress
) -> PosteriorSamples:
    run = method.model.case.run
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "nothing is observed")  # the summary and the page say so
        return fitted.on(run.build_process(method.process)).sample(
            y,
            run.samples,
            run.seed,
            sampler=run.build_sampler(method.alpha),
            steps=run.steps or None,
            progress=lambda done, total: progress(stage, done, total),
        )


def kept_path(out: Path, method: Method) -> Path:
    """The group of the first cases' samples: the first method has the name of the case alone."""
    case = method.model.case
    name = case.folder if method == case.methods[0] else f"{case.folder}-{method.name}"
    return out / "posterior.zarr" / name


def _with_kept(origin: dict[str, str], kept: Path | None) -> dict[str, str]:
    return origin if kept is None else {**origin, "samples": folder_hash(kept)}


def _keep(drawn: PosteriorSamples, x: np.ndarray, path: Path) -> None:
    """The first cases with their true fluxes, as a group in ArviZ's layout."""
    kept = replace(drawn, samples=drawn.samples[:SHOWN], y=drawn.y[:SHOWN])
    tree = kept.to_arviz()
    tree["constant_data"] = xarray.DataTree(xarray.Dataset({"x_true": (("measurement", "x_dim_0"), x[:SHOWN])}))
    with atomic_path(path) as temporary:
        tree.to_zarr(temporary, consolidated=False)
