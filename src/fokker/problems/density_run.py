"""Running a density: fit, sample, measure. Every stage leaves whole files that say what they were made from, and is
skipped where they are there: a run that was killed continues where it stopped and ends with the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fokker import api
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.samples import PosteriorSamples
from fokker.posterior_coordinates import Posterior as PosteriorCoordinates
from fokker.problems.density_metrics import (
    EXACT,
    METRICS,
    NO_NETWORK,
    REPETITIONS,
    exact_draws,
    load,
    measure,
    path_of,
    save,
    scores,
    training_pairs,
)
from fokker.problems.density_settings import DensityRun, Method, Model
from fokker.problems.folder import folder_hash, group, held, is_from
from fokker.problems.parallel import Progress, Task, run_side_by_side
from fokker.storage import atomic_path, file_hash, write_json

PACKAGES = ("fokker", "torch", "numpy", "scipy", "pot", "zarr", "xarray", "arviz-base")


def run(
    settings: DensityRun, out: Path, progress: Progress, report: Callable[[Path], object] | None = None
) -> dict[str, float]:
    """Do all that is not done yet in the folder `out` and return the metrics, which are in metrics.json too.

    `report(out)` is called at the end, while the folder is still held. Raises InputError where the folder holds a run
    with other settings or is in use, OSError where the disk fails.
    """
    with held(settings.settings(), PACKAGES, out):
        group(out / "posterior.zarr")
        ours = [model for model in settings.models() if model.recipe_name == "default"]
        others = [model for model in settings.models() if model.recipe_name != "default"]
        # The default recipe is timed: it has the machine to itself.
        run_side_by_side([Task(learn, (model, out)) for model in ours], progress, at_once=1)
        run_side_by_side(
            [Task(learn_and_judge, (model, out)) for model in others]
            + [Task(judge, (model, out)) for model in ours]
            + [Task(floor, (settings, out))],
            progress,
        )
        metrics = measure(settings, out)
        write_json(out / "metrics.json", metrics)
        if report is not None:
            report(out)
        return metrics


def learn(model: Model, out: Path, progress: Progress) -> None:
    """Train a model in models/NAME and draw from it by each of its methods, and from its Gaussian where it has one.

    The samples go into results/ and, in ArviZ's layout, into posterior.zarr.
    """
    run, folder = model.run, out / "models" / model.name
    x, y = training_pairs(run)
    api.fit(
        x,
        y,
        process=run.build_process(model.processes[0], model.recipe_name),
        recipe=model.recipe,
        seed=run.seed,
        out=folder,
        progress=lambda record: progress(f"train {model.name}", record.step, record.steps),
    )
    fitted, weights = ConditionalPosterior.load(folder), file_hash(folder / "weights.safetensors")
    at = torch.tensor(run.law.y_values, dtype=torch.float64)[:, None]
    for method in model.methods():
        _keep(run, method.name, weights, partial(_draw, method, fitted, at, progress), out)
    if _has_gaussian(model, fitted):
        _keep(run, NO_NETWORK, weights, lambda: fitted.no_network().sample(at, run.draws, run.seed), out)


def _draw(method: Method, fitted: ConditionalPosterior, y: torch.Tensor, progress: Progress) -> PosteriorSamples:
    run = method.model.run
    return fitted.on(method.process).sample(
        y,
        run.draws,
        run.seed,
        sampler=method.sampler,
        progress=lambda done, total: progress(f"sample {method.name}", done, total),
    )


def judge(model: Model, out: Path, progress: Progress) -> None:
    """Measure the samples of all methods of a model, in results/NAME-scores.safetensors."""
    names = [method.name for method in model.methods()]
    if model.recipe_name == "default" and path_of(out, NO_NETWORK, "samples").exists():
        names.append(NO_NETWORK)
    for name in names:
        source, target = (path_of(out, name, what) for what in ("samples", "scores"))
        origin = _made_from(model.run, name, samples=file_hash(source))
        if not is_from(target, origin):
            stage = f"score {name}"
            progress(stage, 0, len(model.run.law.y_values))
            found = scores(
                model.run,
                load(source)["samples"],
                lambda done, total, stage=stage: progress(stage, done, total),  # type: ignore[misc]
            )
            save(target, found, origin)


def learn_and_judge(model: Model, out: Path, progress: Progress) -> None:
    """Both."""
    learn(model, out, progress)
    judge(model, out, progress)


def floor(run: DensityRun, out: Path, progress: Progress) -> None:
    """The same measures for exact samples, averaged over repetitions, in results/exact-scores.safetensors."""
    target, origin = path_of(out, EXACT, "scores"), _made_from(run, EXACT, repetitions=str(REPETITIONS))
    if is_from(target, origin):
        return
    progress("score exact", 0, REPETITIONS)
    found = []
    for repetition in range(REPETITIONS):
        found.append(scores(run, exact_draws(run, repetition), lambda done, total: None))
        progress("score exact", repetition + 1, REPETITIONS)
    save(target, {name: np.mean([each[name] for each in found], axis=0) for name in METRICS}, origin)


def _made_from(run: DensityRun, name: str, **more: str) -> dict[str, str]:
    """All that decides a result."""
    return {"method": name, "settings": json.dumps(run.settings()), **more}


def _has_gaussian(model: Model, fitted: ConditionalPosterior) -> bool:
    return model.recipe_name == "default" and isinstance(fitted.coordinates, PosteriorCoordinates)


def _keep(run: DensityRun, name: str, weights: str, draw: Callable[[], PosteriorSamples], out: Path) -> None:
    """Draw, unless that is done: results/NAME-samples.safetensors (4, draws), and a group of posterior.zarr."""
    path, kept = path_of(out, name, "samples"), out / "posterior.zarr" / name
    origin = _made_from(run, name, weights=weights)
    if is_from(path, {**origin, "kept": folder_hash(kept)}):
        return
    drawn = draw()
    with atomic_path(kept) as temporary:
        drawn.to_arviz().to_zarr(temporary, consolidated=False)
    arrays = {
        "samples": drawn.samples[..., 0].numpy(),
        "nfe": np.array(drawn.nfe),
        "seconds": np.array(drawn.seconds),
    }
    save(path, arrays, {**origin, "kept": folder_hash(kept)})
