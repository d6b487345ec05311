"""Fields from a few of their values: regression and diffusion with hand-tuned guidance, beside ours and the exact law.

    python benchmarks/field_baselines.py run [--cache DIR] [--quick]
    python benchmarks/field_baselines.py collect [--cache DIR]

The cases of `fokker run poisson-field`, `helmholtz-field` and `threshold-field` at 32 x 32. FNO and DeepONet
regression, and the forms of DiffusionPDE and FunDPS, are trained here, on as many fields as our own run has and for as
long or longer; ours take the weights of the package.
`run` leaves out what is there and takes about 90 minutes on one thread; with --quick (in a folder of its own) it only
shows that it runs. `collect` writes benchmarks/results/field_baselines.json, docs/field_baselines.md and its .png.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guidance import processor
from numpy.typing import NDArray
from peers import field_models, field_report
from peers.field_guidance import Guided, Weights
from peers.field_models import COLOURED, DEEPONET, FNO, GUIDED, NETWORKS, REGRESSIONS, RELATIVE, WHITE, Trained
from torch import Tensor

from fokker.diagnostics.scores import relative_error
from fokker.errors import InputError
from fokker.fields.prior import FunctionPrior
from fokker.problems.field_data import FieldProblem
from fokker.problems.field_exact import limit_means
from fokker.problems.field_metrics import compared, part_name, scores
from fokker.problems.field_run import Methods
from fokker.problems.field_settings import METHODS as OWN
from fokker.problems.field_settings import NETWORK, RUNS, FieldRun
from fokker.problems.shipped import SHIPPED
from fokker.storage import read_json, write_json

ROOT = Path(__file__).parent.parent
FAMILIES = ("poisson", "helmholtz", "threshold")
DATA_WEIGHTS = {WHITE: (5.0, 10.0, 20.0, 40.0, 80.0), COLOURED: (0.25, 0.5, 1.0, 2.0, 4.0)}
EQUATION_WEIGHTS = (0.01, 0.03, 0.1, 0.3)
DIVERGED, MORE = 100.0, 3  # the error that is noted for samples that diverge; weights tried beyond the lists
VALIDATION = 1  # the seed of the cases on which weights are chosen


@dataclass(frozen=True)
class Size:
    """How much is done. train: steps by family and method; steps: levels of the guided samplers."""

    train: dict[str, dict[str, int]]
    n: int = 32
    fields: int = 20_000
    cases: int = 20
    draws: int = 64
    guided_draws: int = 32  # of the guided baselines: fair CRPS and coverage by ranks do not depend on it
    steps: int = 48
    tuned_on: int = 5
    tuned_draws: int = 4


EQUATION = {FNO: 1800, DEEPONET: 4000, WHITE: 2500, COLOURED: 2500}  # 76 to 105 seconds of CPU; ours 7
THRESHOLD = {FNO: 8000, DEEPONET: 16_000, WHITE: 9600, COLOURED: 13_000}  # some 400 seconds of CPU, as ours
FULL = Size({"poisson": EQUATION, "helmholtz": EQUATION, "threshold": THRESHOLD})
QUICK = Size(
    dict.fromkeys(FAMILIES, dict.fromkeys(NETWORKS, 4)),
    n=8,
    fields=300,
    cases=2,
    draws=9,
    guided_draws=9,
    steps=5,
    tuned_on=2,
    tuned_draws=2,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "collect"))
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench", help="networks and records")
    parser.add_argument("--quick", action="store_true", help="few of everything: whether all of it runs")
    given = parser.parse_args()
    folder = given.cache / ("field-baselines-quick" if given.quick else "field-baselines")
    if given.command == "run":
        run(folder, QUICK if given.quick else FULL)
        return
    result = gathered(folder)
    (ROOT / "benchmarks" / "results" / "field_baselines.json").write_text(json.dumps(result, indent=1) + "\n")
    field_report.draw(result, ROOT / "docs" / "field_baselines.png")
    (ROOT / "docs" / "field_baselines.md").write_text(field_report.page(result))


def run(folder: Path, size: Size) -> None:
    """Every network, then every part by every method; what is there is left."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for family, task, noise in parts():
        settings = replace(RUNS[family](), n=size.n, fields=size.fields, cases=size.cases, draws=size.draws)
        part = Part(folder, size, settings, task, noise)
        for method in (*OWN, *REGRESSIONS, *GUIDED):
            path = record(folder, family, task, noise, method)
            if not path.exists():
                started = time.perf_counter()
                write_json(path, part.by(method))
                print(f"{path.stem}: {time.perf_counter() - started:.0f} seconds", flush=True)


def parts() -> list[tuple[str, str, float]]:
    """Family, task, noise: those without noise or of one level first."""
    found = [(family, *part) for family in FAMILIES for part in RUNS[family]().parts()]
    return sorted(found, key=lambda part: part[2] == RELATIVE)


def record(folder: Path, family: str, task: str, noise: float, method: str) -> Path:
    """The file of a method."""
    return folder / f"{family}.{part_name(task, noise)}.{method.replace(' ', '-')}.json"


class Part:
    """One task at one level of noise."""

    def __init__(self, folder: Path, size: Size, settings: FieldRun, task: str, noise: float):
        self.folder, self.size, self.settings = folder, size, settings
        self.problem: FieldProblem = settings.problem(task, noise)
        self.cases = self.problem.cases(size.cases, settings.seed)
        self._methods: Methods | None = None

    @cached_property
    def limits(self) -> Tensor:
        """The exact posterior means (cases, n, n)."""
        return limit_means(self.problem, self.cases.points, self.cases.y)

    def by(self, method: str) -> dict[str, Any]:
        """Scores of every case, a list for each, what was trained, and the weights that were chosen."""
        if method in OWN:
            last = read_json(self._shipped / "training.json")
            told = {"training": {"steps": last["records"][-1]["step"], "wall_seconds": last["seconds"]}}
            return {**(told if method == NETWORK else {}), **self._scored(self._own(method))}
        trained = self.trained(method)
        told = {"training": trained.record()}
        if method in REGRESSIONS:
            return {**told, **self._scored(lambda case: self._predicted(trained, case))}
        guided = Guided(self.problem, trained)
        found = self.tuned(guided, DATA_WEIGHTS[method])
        weights = Weights(**found["weights"])

        def draw(case: int) -> NDArray:
            points, y = self.cases.points[case : case + 1], self.cases.y[case : case + 1]
            return guided.draw(points, y, self.size.guided_draws, weights, self.size.steps, first=case)[0].numpy()

        return {**told, "steps": self.size.steps, "tuning": found, **self._scored(draw)}

    def trained(self, method: str) -> Trained:
        """Of the task, or of the joint field, for both levels of noise: trained once."""
        family, task = self.problem.family, self.problem.task
        name = f"{family}.{task}.{method}" if method in REGRESSIONS else f"{family}.{method}"
        path = self.folder / f"{name.replace(' ', '-')}.pt"
        if path.exists():
            return Trained.load(path)
        fields = self.problem.training(self.size.fields, self.settings.seed)
        made = field_models.train(method, self.problem, fields, self.size.train[family][method])
        made.save(path)
        return made

    def tuned(self, guided: Guided, data_weights: tuple[float, ...]) -> dict[str, Any]:
        """The weights with the least error of the mean on cases of their own: w, then alpha, then v.

        Where the best w lies at an end of the list, the list is continued there.
        """
        size = self.size
        cases = self.problem.cases(size.tuned_on, VALIDATION)
        tried: list[dict[str, Any]] = []

        def error(weights: Weights) -> float:
            try:
                drawn = guided.draw(cases.points, cases.y, size.tuned_draws, weights, size.steps).mean(1)
                out = float(relative_error(drawn.numpy(), cases.truth.numpy()).mean())
            except (FloatingPointError, InputError):
                out = DIVERGED
            tried.append({**asdict(weights), "error": min(out, DIVERGED)})
            return tried[-1]["error"]

        errors = {w: error(Weights(w)) for w in data_weights}
        for _ in range(MORE):
            best = min(errors, key=errors.__getitem__)
            beyond = best * 2 if best == max(errors) else best / 2 if best == min(errors) else None
            if beyond is None:
                break
            errors[beyond] = error(Weights(beyond))
        chosen = Weights(min(errors, key=errors.__getitem__))
        least = min(errors.values())
        equations = EQUATION_WEIGHTS if self.problem.solve is not None else ()
        for change in ({"alpha": 0.0}, *({"equation": v} for v in equations)):
            option = replace(chosen, **change)
            if (found := error(option)) < least:
                chosen, least = option, found
        limit = relative_error(limit_means(self.problem, cases.points, cases.y).numpy(), cases.truth.numpy()).mean()
        return {"weights": asdict(chosen), "error": least, "limit": float(limit), "tried": tried}

    @property
    def _shipped(self) -> Path:
        """Weights of the package; those of 32 x 32, whatever the grid."""
        return SHIPPED / RUNS[self.settings.family]().shipped

    def _own(self, method: str) -> Callable[[int], NDArray]:
        """Samples of a case as the run of fields draws them, with the weights of the package."""
        if self._methods is None:
            self._methods = Methods(self.settings, self.problem, FunctionPrior.load(self._shipped))
        methods = self._methods
        return lambda case: methods.draw(method, case).samples.numpy()

    def _predicted(self, trained: Trained, case: int) -> NDArray:
        return trained.predicted(self.problem, self.cases.points[case], self.cases.y[case])[None].numpy()

    def _scored(self, draw: Callable[[int], NDArray]) -> dict[str, Any]:
        """Every measure of every case; of a single answer (1, n, n) the CRPS is its absolute error."""
        found: dict[str, list[Any]] = {}
        for case, limit in enumerate(self.limits):
            truth = self.cases.truth[case].numpy()
            started = time.process_time()
            samples = draw(case).astype(np.float64)
            seconds = time.process_time() - started  # other work may share the machine
            own: dict[str, Any] = {
                "limit": relative_error(limit.numpy()[None], truth[None])[0],
                "seconds": seconds,
            }
            if len(samples) == 1:
                own |= {"error": relative_error(samples, truth[None])[0], "crps": np.abs(samples[0] - truth).mean()}
            else:
                own |= scores(self.problem, samples, truth, compared(self.problem, self.cases.points[case], limit))
            for name, value in own.items():
                found.setdefault(name, []).append(np.asarray(value).tolist())
        return {"cases": found}


def gathered(folder: Path) -> dict[str, Any]:
    """Every part of which all records are there, with the machine, the versions and the date."""
    found: dict[str, Any] = {}
    for part in sorted(parts()):
        paths = {method: record(folder, *part, method) for method in (*OWN, *NETWORKS)}
        if all(path.exists() for path in paths.values()):
            found[f"{part[0]}.{part_name(*part[1:])}"] = {method: read_json(path) for method, path in paths.items()}
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores, one thread",
        "versions": {name: version(name) for name in ("fokker", "torch", "numpy")},
        "size": asdict(FULL),
        "parts": found,
    }


if __name__ == "__main__":
    main()
