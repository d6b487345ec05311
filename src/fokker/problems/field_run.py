"""Running a family of fields: the prior, then every case by every method. Files are whole and say what they were made
from; those that are there are kept.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fokker.diagnostics.scores import relative_error
from fokker.fields.fitting import fit_functions
from fokker.fields.posterior import FunctionPosterior
from fokker.fields.prior import FunctionPrior
from fokker.likelihoods import Gaussian
from fokker.posterior.doubts import collected
from fokker.posterior.samples import PosteriorSamples
from fokker.problems import shipped
from fokker.problems.density_metrics import path_of, save
from fokker.problems.field_data import SHIFT, FieldProblem
from fokker.problems.field_exact import ExactPosterior, NoNetwork
from fokker.problems.field_metrics import BLOCK, block_name, compared, measure, part_name, scores
from fokker.problems.field_settings import COVARIANCE, EXACT, METHODS, NETWORK, NO_NETWORK, FieldRun
from fokker.problems.folder import folder_hash, group, held, is_from
from fokker.problems.parallel import Progress, Task, run_side_by_side
from fokker.rng import stream
from fokker.storage import atomic_path, file_hash, read_json, write_json

SHOWN, DRAWS = 3, 2  # cases of a figure, samples of each
WORKERS = 2
LONG = 15  # minutes of training that are told in advance
PACKAGES = ("fokker", "torch", "numpy", "scipy", "zarr", "xarray", "arviz-base")

Part = tuple[str, float]


def run(
    settings: FieldRun, out: Path, progress: Progress, report: Callable[[Path], object] | None = None
) -> dict[str, float]:
    """Do all that is not done yet in the folder `out` and return the metrics, which are in metrics.json too.

    `report(out)` is called at the end, while the folder is still held. Raises InputError where the folder holds a run
    with other settings or is in use, OSError where the disk fails.
    """
    with held(settings.settings(), PACKAGES, out):
        group(out / "posterior.zarr")
        if settings.training_minutes > LONG and not (out / "models" / "prior" / "weights.safetensors").exists():
            warnings.warn(
                f"training on {settings.n} x {settings.n}, {settings.training_steps} steps: about "
                f"{settings.training_minutes:.0f} minutes on two cores; --train asks for fewer steps",
                stacklevel=2,
            )
        run_side_by_side([Task(learn, (settings, out))], progress, at_once=1)  # timed: it has the machine to itself
        blocks = [(*part, first) for part in settings.parts() for first in range(0, settings.cases, BLOCK)]
        shares = [blocks[worker::WORKERS] for worker in range(WORKERS)]
        tasks = [Task(infer, (settings, share, k, out)) for k, share in enumerate(shares) if share]
        run_side_by_side(tasks, progress)
        metrics = measure(settings, out)
        write_json(out / "metrics.json", metrics)
        if report is not None:
            report(out)
        return metrics


def learn(run: FieldRun, out: Path, progress: Progress) -> None:
    """The model in models/prior, trained or as the package has it."""
    folder = out / "models" / "prior"
    if not run.training_steps:
        shipped.take(run.shipped, folder)
        return
    fields = training_fields(run)
    fit_functions(
        fields,
        observations=run.observations(float((fields - fields.mean(0)).square().mean().sqrt())),
        recipe=run.recipe,
        seed=run.seed,
        out=folder,
        progress=lambda record: progress("train", record.step, record.steps),
    )
    _note_memory(out, "train")


def training_fields(run: FieldRun) -> Tensor:
    """(fields, n, n): of g for the equations, of the field itself for the others."""
    task, noise = run.parts()[0]
    problem = run.problem(task, noise)
    g = problem.latent(run.field_count, run.seed)
    return g if run.family in SHIFT else problem.of_latent(g).wanted


def infer(run: FieldRun, blocks: list[tuple[str, float, int]], worker: int, out: Path, progress: Progress) -> None:
    """Every case of the blocks by every method: results/TASK.noise=S.FIRST-scores.safetensors for each block.

    METHOD.MEASURE (cases, ...) and limit (cases,), the error of the exact mean. The first block also has shown.NAME of
    the first cases, to be drawn; their samples by the network are in posterior.zarr.
    """
    prior, methods, done = FunctionPrior.load(out / "models" / "prior"), dict[Part, Methods](), 0
    for task, noise, first in blocks:
        part, name = (task, noise), block_name(task, noise, first)
        progress(f"infer, {worker + 1} of {WORKERS}", done, len(blocks))
        done += 1
        path, kept = path_of(out, name, "scores"), out / "posterior.zarr" / part_name(*part)
        weights = file_hash(out / "models" / "prior" / "weights.safetensors")
        origin = {"method": name, "settings": json.dumps(run.settings()), "weights": weights}
        if is_from(path, origin | ({"kept": folder_hash(kept)} if not first else {})):
            continue
        if part not in methods:
            before = [known.covariance for known in methods.values()]
            methods = {part: Methods(run, run.problem(*part), prior, *before)}
        found, drawn = methods[part].block(first)
        if not first:
            with atomic_path(kept) as temporary:
                _joined(drawn).to_arviz().to_zarr(temporary, consolidated=False)
            origin["kept"] = folder_hash(kept)
        save(path, found, origin)
    progress(f"infer, {worker + 1} of {WORKERS}", done, len(blocks))
    _note_memory(out, f"infer {worker + 1}")


class Methods:
    """Every method of a part. fields: the training fields of another part, where they have been made."""

    def __init__(
        self, run: FieldRun, problem: FieldProblem, prior: FunctionPrior, fields: NoNetwork | None = None
    ) -> None:
        self.run, self.problem = run, problem
        self.cases = problem.cases(run.cases, run.seed)
        grid = (problem.n, problem.n)
        self.models = {NETWORK: prior.at(grid), NO_NETWORK: prior.no_network().at(grid)}
        self.covariance = fields.on(problem) if fields else NoNetwork(problem, run.field_count, run.seed)

    def block(self, first: int) -> tuple[dict[str, NDArray], list[PosteriorSamples]]:
        """Scores of the cases from `first` on, and the network's samples of those that are shown."""
        found, shown = [], []
        for case in range(first, min(first + BLOCK, self.run.cases)):
            scored, drawn = self.case(case)
            found.append(scored)
            if case < SHOWN:
                shown.append(drawn[NETWORK])
        names = {name: None for scored in found for name in scored}  # those that are shown are in the first only
        return {name: np.stack([scored[name] for scored in found if name in scored]) for name in names}, shown

    def case(self, case: int) -> tuple[dict[str, NDArray], dict[str, PosteriorSamples]]:
        """Scores and samples of a case by every method."""
        points, truth = self.cases.points[case], self.cases.truth[case].numpy()
        limit = ExactPosterior(self.problem, points, self.cases.y[case], case).mean()
        cells = compared(self.problem, points, limit)
        found: dict[str, NDArray] = {"limit": relative_error(limit.numpy()[None], truth[None])[0]}
        if case < SHOWN:
            found |= {"shown.truth": truth, "shown.limit": limit.numpy(), "shown.points": points.numpy()}
        drawn = {}
        for method in METHODS:
            started = time.process_time()  # other work may share the machine
            with collected() as doubts:  # counted: how far each method is from exact is what the run measures
                drawn[method] = self.draw(method, case)
            seconds = time.process_time() - started
            samples = drawn[method].samples.numpy()
            own = scores(self.problem, samples, truth, cells)
            own |= {"seconds": np.array(seconds), "doubted": np.array(float(bool(doubts)))}
            if case < SHOWN:
                own |= {"mean": samples.mean(0), "std": samples.std(0, ddof=1), "samples": samples[:DRAWS]}
            head = {name: f"shown.{method}.{name}" for name in ("mean", "std", "samples")}
            found |= {head.get(name, f"{method}.{name}"): value for name, value in own.items()}
        return found, drawn

    def draw(self, method: str, case: int) -> PosteriorSamples:
        """Samples (draws, n, n) of the wanted field of a case."""
        points, y, run = self.cases.points[case], self.cases.y[case], self.run
        if method == EXACT:
            return self._plain(ExactPosterior(self.problem, points, y, case).sample(run.draws, self._seed(method)), y)
        if method == COVARIANCE:
            law = self.covariance.posterior(points)
            of = self.covariance.of
            return self._plain(law.sample(y, run.draws, self._seed(method), of=of, case=case), y)
        posterior = FunctionPosterior(
            self.models[method], forward=self.problem.operator(points), likelihood=Gaussian(self.noise(y))
        )
        drawn = posterior.sample(y, run.draws, self._seed(method), steps=run.steps, first=case)
        if self.problem.task == "forward":
            assert self.problem.solve is not None
            return replace(drawn, samples=self.problem.solve(drawn.samples.double()))
        return drawn

    def noise(self, y: Tensor) -> Tensor | float:
        """Standard deviation of the noise. That of the warp is a factor e^(noise xi) of x: to first order noise y."""
        return (
            self.problem.noise * y if self.problem.family == "warp" and self.problem.noise else self.problem.noise_std
        )

    def _plain(self, samples: Tensor, y: Tensor) -> PosteriorSamples:
        return PosteriorSamples(samples, y, False, 0, 0.0, {})

    def _seed(self, method: str) -> int:
        name = f"fields/{self.problem.family}/{part_name(self.problem.task, self.problem.noise)}/{method}"
        return int(stream(self.run.seed, name).integers(2**62))


def _joined(parts: list[PosteriorSamples]) -> PosteriorSamples:
    """Samples of several cases as one."""
    samples, y = torch.stack([one.samples for one in parts]), torch.stack([one.y for one in parts])
    return PosteriorSamples(samples, y, True, parts[0].nfe, sum(one.seconds for one in parts), parts[0].settings)


def _note_memory(out: Path, stage: str) -> None:
    """Highest resident memory of this process in MiB, in results/memory-STAGE.json: no result, and it may be lost."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    path = out / "results" / f"memory-{stage.replace(' ', '-')}.json"
    before = read_json(path)["mib"] if path.exists() else 0.0
    write_json(path, {"mib": max(peak, before)})
