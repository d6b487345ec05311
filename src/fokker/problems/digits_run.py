"""Running the digits: learn the prior, sample every posterior, measure. Every stage leaves whole files that say what
they were made from, and is skipped where they are there.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fokker import api
from fokker.errors import Diverges
from fokker.posterior.prior import Prior
from fokker.posterior.samples import PosteriorSamples
from fokker.problems.density_metrics import load, path_of, save
from fokker.problems.digits import CASES, SHA256, Case, GaussianPosterior, pseudo_inverse
from fokker.problems.digits import load as load_digits
from fokker.problems.digits_metrics import NO_NETWORK, losses, measure, scores
from fokker.problems.digits_settings import KINDS, REAL, SIMULATED, DigitsRun, Method
from fokker.problems.folder import folder_hash, group, held, is_from
from fokker.problems.parallel import Progress, Task, run_side_by_side
from fokker.rng import stream
from fokker.samplers import GaussianTransition
from fokker.storage import atomic_path, file_hash, write_json

DEAR = ("moment_matching", "dps")  # methods that take as long as all others of a case together
PACKAGES = ("fokker", "torch", "numpy", "scipy", "scikit-learn", "zarr", "xarray", "arviz-base")


def run(
    settings: DigitsRun, out: Path, progress: Progress, report: Callable[[Path], object] | None = None
) -> dict[str, float]:
    """Do all that is not done yet in the folder `out` and return the metrics, which are in metrics.json too.

    `report(out)` is called at the end, while the folder is still held. Raises InputError where the folder holds a run
    with other settings or is in use, OSError where the disk fails.
    """
    with held(settings.settings(), PACKAGES, out):
        group(out / "posterior.zarr")
        run_side_by_side([Task(learn, (settings, out))], progress, at_once=1)  # timed: it has the machine to itself
        dear = [method for method in settings.all_methods() if method.name in DEAR]
        cheap = [tuple(m for m in settings.methods(case) if m not in dear) for case in settings.cases]
        tasks = [Task(infer, (methods, out)) for methods in [*((method,) for method in dear), *cheap]]
        run_side_by_side([*tasks, Task(baseline, (settings, out))], progress)
        metrics = measure(settings, out)
        write_json(out / "metrics.json", metrics)
        if report is not None:
            report(out)
        return metrics


def learn(run: DigitsRun, out: Path, progress: Progress) -> None:
    """Train the prior in models/prior; then truths and measurements of every case, and the loss on the test images.

    results/truths-samples.safetensors: the truths of both kinds (images, 8, 8); y.CASE.KIND the measurements.
    """
    train, test = load_digits(run.seed)
    folder = out / "models" / "prior"
    api.fit_prior(
        train.images,
        seed=run.seed,
        steps=run.training_steps,
        out=folder,
        progress=lambda record: progress("train prior", record.step, record.steps),
    )
    write_json(
        out / "results" / "split.json",
        {"images": len(train.rows) + len(test.rows), "sha256": SHA256, "test_rows": test.rows.tolist()},
    )
    prior = Prior.load(folder)
    path, origin = path_of(out, "truths", "samples"), _made_from(run, "truths", weights=_weights(out))
    if is_from(path, origin):
        return
    drawn = prior.sample(run.images, _seed(run, "truths"), sampler=GaussianTransition(alpha=1.0), steps=run.steps)
    truths = {REAL: test.images[: run.images], SIMULATED: drawn.samples.double().numpy()}
    found: dict[str, NDArray] = {**truths, "labels": test.labels[: run.images]}
    for case in (CASES[name]() for name in run.cases):
        for kind, x in truths.items():
            found[f"y.{case.name}.{kind}"] = case.measure(x, run.seed, kind).numpy()
    save(path, {**found, **losses(prior, train.images, test.images, run.seed)}, origin)


def infer(methods: tuple[Method, ...], out: Path, progress: Progress) -> None:
    """Sample the posteriors of methods for both kinds of truths, and measure them."""
    prior = Prior.load(out / "models" / "prior")
    for method in methods:
        run, case = method.run, CASES[method.case_name]()
        guided = method.build(prior, case)
        for kind in KINDS:
            stage = f"sample {method.key}.{kind}"
            seed = _seed(run, f"{method.key}/{kind}")

            def draw(
                y: torch.Tensor, method: Method = method, guided: Any = guided, stage: str = stage, seed: int = seed
            ) -> PosteriorSamples:
                def tell(done: int, total: int) -> None:
                    progress(stage, done, total)

                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # the effective sample size is among the metrics
                    return guided.sample(y, method.run.draws, seed, steps=method.steps, progress=tell)

            _keep(run, case, method.key, kind, draw, out)


def baseline(run: DigitsRun, out: Path, progress: Progress) -> None:
    """The same for the Gaussian prior without a network, and the pseudo-inverse of the data."""
    train, _ = load_digits(run.seed)
    for done, name in enumerate(run.cases):
        case = CASES[name]()
        gaussian = GaussianPosterior(train.images, case)
        progress(f"sample {NO_NETWORK}", done, len(run.cases))
        for kind in KINDS:

            def draw(y: torch.Tensor, kind: str = kind, gaussian: GaussianPosterior = gaussian) -> PosteriorSamples:
                samples = gaussian.sample(y, run.draws, run.seed, kind).float()
                return PosteriorSamples(samples, y, True, 0, 0.0, {"method": NO_NETWORK})

            _keep(run, case, f"{name}.{NO_NETWORK}", kind, draw, out)
    progress(f"sample {NO_NETWORK}", len(run.cases), len(run.cases))


def _keep(
    run: DigitsRun, case: Case, key: str, kind: str, draw: Callable[[torch.Tensor], PosteriorSamples], out: Path
) -> None:
    """Draw and measure, unless that is done: results/KEY.KIND-samples and -scores, and a group of posterior.zarr.

    A method that fails, its steps too long for the noise, leaves the sentence in place of samples and no scores.
    """
    key = f"{key}.{kind}"
    given = load(path_of(out, "truths", "samples"))
    y, truth = torch.from_numpy(given[f"y.{case.name}.{kind}"]), given[kind]
    path, kept = path_of(out, key, "samples"), out / "posterior.zarr" / key
    origin = _made_from(run, key, truths=file_hash(path_of(out, "truths", "samples")), weights=_weights(out))
    if not is_from(path, {**origin, "kept": folder_hash(kept)}):
        try:
            drawn = draw(y)
        except Diverges:
            save(path, {"failed": np.array(1)}, {**origin, "kept": folder_hash(kept)})
            return
        with atomic_path(kept) as temporary:
            drawn.to_arviz().to_zarr(temporary, consolidated=False)
        arrays = {
            "samples": drawn.samples.numpy(),
            "nfe": np.array(drawn.nfe),
            "seconds": np.array(drawn.seconds),
            **{name: value.numpy() for name, value in drawn.checks.items()},
        }
        save(path, arrays, {**origin, "kept": folder_hash(kept)})
    target, source = path_of(out, key, "scores"), load(path)
    measured = _made_from(run, key, samples=_content(source.get("samples")))
    if "failed" not in source and not is_from(target, measured):
        found = scores(case, source["samples"], truth, y)
        found["pseudo_inverse"] = pseudo_inverse(case, y).numpy()
        save(target, found, measured)


def _content(samples: NDArray | None) -> str:
    """SHA-256 of samples: their file also holds seconds."""
    return "" if samples is None else hashlib.sha256(np.ascontiguousarray(samples).data).hexdigest()


def _weights(out: Path) -> str:
    return file_hash(out / "models" / "prior" / "weights.safetensors")


def _seed(run: DigitsRun, name: str) -> int:
    """Every chain has a seed of its own: truths must not share their noise with the samples that judge them."""
    return int(stream(run.seed, f"digits/chain/{name}").integers(2**63))


def _made_from(run: DigitsRun, name: str, **more: str) -> dict[str, str]:
    """All that decides a result."""
    return {"method": name, "settings": json.dumps(run.settings()), **more}
