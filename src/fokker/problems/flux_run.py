"""Running boundary flux: simulate, fit, reference, sample, measure. Every stage leaves whole files that say
what they were made from, and is skipped where they are there. So a run that was killed continues where it stopped and
ends with the same numbers, and what was lost or damaged meanwhile is made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import xarray

from fokker import api
from fokker.coordinates import Posterior as PosteriorCoordinates
from fokker.errors import InputError
from fokker.likelihoods import Gaussian
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.samples import PosteriorSamples
from fokker.problems.boundary_flux import BoundaryFlux, Case
from fokker.problems.flux_metrics import SHOWN, Summary, measure, model_path, result_path
from fokker.problems.folder import folder_hash, group, held, is_from, saved_timings
from fokker.problems.parallel import Progress, Task, run_side_by_side
from fokker.reference.rectified import rectified_posterior
from fokker.rng import torch_generator
from fokker.simulation.store import SimulationStore, simulate
from fokker.storage import atomic_path, file_hash, write_json

REFERENCE_SAMPLES = 1000  # per case
TEST_SEED = 2**32  # xor-ed into the seed, so that test pairs never meet training pairs
PACKAGES = ("fokker", "torch", "numpy", "scipy", "scikit-fem", "zarr", "xarray", "arviz-base")


@dataclass(frozen=True)
class Stores:
    """The simulations of one prior mean."""

    train: SimulationStore
    test: SimulationStore


def run(
    settings: BoundaryFlux, out: Path, progress: Progress, report: Callable[[Path], object] | None = None
) -> dict[str, float]:
    """Do all that is not done yet in the folder `out` and return the metrics, which are in metrics.json too.

    `report(out)` is called at the end, while the folder is still held. Raises InputError where the folder holds a run
    with other settings or is in use, OSError where the disk fails.
    """
    with held(settings.settings(), PACKAGES, out):
        timings = saved_timings(out)
        stores = {mean: _simulate(settings, mean, out, timings, progress) for mean in settings.prior_mean}
        longest_first = sorted(settings.cases(), key=lambda case: -case.pairs)
        run_side_by_side(
            [Task(fit_case, (case, stores[case.mean], out)) for case in longest_first]
            + [Task(reference_case, (case, stores[case.mean], out)) for case in longest_first],
            progress,
        )
        for case in settings.cases():
            _sample(case, stores[case.mean], out, progress)
        metrics = measure(settings, out, timings)
        write_json(out / "metrics.json", metrics)
        if report is not None:
            report(out)
        return metrics


def made_from(case: Case, **more: str) -> dict[str, str]:
    """All that decides a result: the case, every setting, and what else is given."""
    return {"case": case.folder, "settings": json.dumps(case.run.settings()), **more}


def _simulate(settings: BoundaryFlux, mean: float, out: Path, timings: dict[str, float], progress: Progress) -> Stores:
    """Training and test fluxes with clean sensor values, as groups of simulations.zarr."""
    started = time.perf_counter()
    simulator = settings.simulator(mean)
    group(out / "simulations.zarr")
    pairs = Case(settings, mean, settings.noise[0]).pairs
    stores = []
    for name, count, seed in (("train", pairs, settings.seed), ("test", settings.test, settings.seed ^ TEST_SEED)):

        def report(done: int, total: int, name: str = name) -> None:
            progress(f"simulate mean {mean:g}, {name}", done, total)

        path = out / "simulations.zarr" / f"mean{mean:g}-{name}"
        stores.append(simulate(simulator, count, path, seed=seed, progress=report))
        if stores[-1].failed:
            raise InputError(f"{path}: {stores[-1].failed} simulations are not finite; a finer mesh is accepted")
    key = f"mean{mean:g}.simulate.seconds"
    if key not in timings:
        timings[key] = time.perf_counter() - started
        write_json(out / "timings.json", timings)
    return Stores(*stores)


def measurements(case: Case, clean: np.ndarray, name: str) -> torch.Tensor:
    """Clean sensor values (N, 30) with the noise that the seed, the case and the name ("train", "test") fix."""
    generator = torch_generator(case.run.seed, f"boundary-flux/{case.folder}/{name}")
    return Gaussian(case.noise).sample(torch.as_tensor(clean), generator)


def fit_case(case: Case, stores: Stores, out: Path, progress: Progress) -> None:
    """Train the model of one case in models/NAME."""
    x, clean = stores.train.load()
    api.fit(
        x,
        clean if case.redrawn else measurements(case, clean, "train"),
        process=case.run.build_process(),
        recipe=case.recipe,
        likelihood=Gaussian(case.noise) if case.redrawn else None,
        clip=(0.0, None),
        seed=case.run.seed,
        out=model_path(out, case),
        progress=lambda record: progress(f"train {case.folder}", record.step, record.steps),
    )


def reference_case(case: Case, stores: Stores, out: Path, progress: Progress) -> None:
    """Exact posterior of the first test cases in results/NAME-reference.safetensors."""
    path, count = result_path(out, case, "reference"), case.run.reference
    if is_from(path, made_from(case)):
        return
    x, clean = stores.test.load()
    y = measurements(case, clean, "test")[:count].numpy()
    simulator = case.run.simulator(case.mean)
    progress(f"reference {case.folder}", 0, count)
    exact = rectified_posterior(
        y, case.mean, simulator.covariance, simulator.matrix, case.noise, n=REFERENCE_SAMPLES, seed=case.run.seed
    )
    progress(f"reference {case.folder}", count, count)
    checks = {"rhat": exact.rhat, "ess": exact.ess, "resolved": exact.resolved, "seconds": np.array(exact.seconds)}
    Summary.of(exact.samples, x[:count]).save(path, made_from(case), **checks)


def _sample(case: Case, stores: Stores, out: Path, progress: Progress) -> None:
    """The learned posterior and the baseline on every test case, in results/NAME-METHOD.safetensors."""
    run, stage = case.run, f"score {case.folder}"
    paths = {name: result_path(out, case, name) for name in ("posterior", "no_network")}
    x, clean = stores.test.load()
    y = measurements(case, clean, "test")
    posterior = ConditionalPosterior.load(model_path(out, case)).on(run.build_process())
    origin = made_from(case, weights=file_hash(model_path(out, case) / "weights.safetensors"))
    kept = out / "posterior.zarr" / case.folder
    group(kept.parent)
    if not is_from(paths["posterior"], {**origin, "samples": folder_hash(kept)}):
        drawn = posterior.sample(
            y,
            run.samples,
            run.seed,
            sampler=run.build_sampler(),
            steps=run.steps or None,
            progress=lambda done, total: progress(f"sample {case.folder}", done, total),
        )
        progress(stage, 0, 2)
        _keep(drawn, x, kept)
        more = {"nfe": np.array(drawn.nfe), "seconds": np.array(drawn.seconds), "truth": x, "y": y.numpy()}
        summary = Summary.of(drawn.samples.numpy(), x)
        summary.save(paths["posterior"], {**origin, "samples": folder_hash(kept)}, **more)
    progress(stage, 1, 2)
    gaussian = isinstance(posterior.coordinates, PosteriorCoordinates)
    if gaussian and not is_from(paths["no_network"], origin):
        baseline = posterior.no_network().sample(y, run.samples, run.seed)
        Summary.of(baseline.samples.numpy(), x).save(paths["no_network"], origin)
    progress(stage, 2, 2)


def _keep(drawn: PosteriorSamples, x: np.ndarray, path: Path) -> None:
    """The first cases with their true fluxes, as a group in ArviZ's layout."""
    kept = replace(drawn, samples=drawn.samples[:SHOWN], y=drawn.y[:SHOWN])
    tree = kept.to_arviz()
    tree["constant_data"] = xarray.DataTree(xarray.Dataset({"x_true": (("measurement", "x_dim_0"), x[:SHOWN])}))
    with atomic_path(path) as temporary:
        tree.to_zarr(temporary, consolidated=False)
