"""Must the points that a sampler is given be as many as in training, and lie as they did there?

    python benchmarks/context_points.py [--cache DIR]          a quarter of an hour on one core; models are kept
    python benchmarks/functions_page.py                        the page and its figures from the results

Functions are waves with flat crests (`waves` of the regression problem), whose posteriors are known exactly. Points
are of two kinds: those of the *observations* (8 in training, uniform over the cells) and the *context* on which the
state of the diffusion lives (all 128 cells for the operator on grids, up to 24 beside the observations for the network
of sets). Errors of the mean and CRPS stand over those of exact samples, as many, on the same functions.

    operator   channels of the exact Gaussian conditional, as `fit_functions` has them
    varied     the same, trained with 1 to 32 observations
    told       the observations as channels, without the Gaussian conditional
    told_varied  both
    sets       a set transformer with the Gaussian conditional (`fit_functions(points=32)`)
    gaussian   no network, on grids; gaussian_sets on the context of the network of sets

Writes benchmarks/results/context_points.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

import fokker
from fokker.fields.fitting import AT_POINTS, FUNCTIONS
from fokker.fields.prior import FunctionPrior
from fokker.grids import Grid
from fokker.problems.function_ablations import ToldFunctions, trained
from fokker.problems.regression_families import CELLS, FAMILIES, GRID
from fokker.problems.regression_metrics import ratio, scores
from fokker.rng import stream

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "context_points.json"
FAMILY = FAMILIES["waves"]
FIELDS, STEPS, SET_STEPS, SEED = 10_000, 2000, 3500, 0
NETWORK, LEVEL = {"modes": 64, "depth": 4}, 1.5  # LEVEL: mean log level in training, as for waves in the run
TRAINED, STD = 8, 0.1  # observations in training, and their noise
NUMBERS = (2, 4, 8, 16, 32)
PLACES = ("uniform", "clustered", "regular", "beta")
GRIDS = (32, 64, 128, 256, 512)
CONTEXT, CONTEXTS, SET_POINTS = 24, (6, 12, 24, 48, 96), 32
CASES, DRAWS, CHAIN = 64, 32, 16
EXACTLY = fokker.PointObservations(TRAINED, TRAINED, STD, STD, none=0.0)
VARIED = fokker.PointObservations(1, 32, STD, STD, none=0.0)
ON_GRIDS = ("operator", "varied", "told", "told_varied", "gaussian")
ON_SETS = ("sets", "gaussian_sets")


@dataclass(frozen=True)
class Config:
    """How many observations and where; the context: a grid, or so many of the cells and where."""

    observed: int = TRAINED
    place: str = "uniform"
    context: int = CELLS
    context_place: str = "grid"

    def points(self, case: int) -> Tensor:
        """Of the observations (m, 1)."""
        return GRID.points[cells(self.place, self.observed, stream(SEED, f"observed/{self.place}", case))]

    def where(self, case: int) -> Tensor:
        """The context (P, 1), where answers are compared."""
        if self.context_place == "grid":
            return Grid((self.context,)).points
        rng = stream(SEED, f"context/{self.context_place}", case)
        return GRID.points[cells(self.context_place, self.context, rng)]


def cells(place: str, count: int, rng: np.random.Generator) -> Tensor:
    """Different cells of 128: uniform over all, or over the left half, equally apart, or weighted by Beta(2, 5)."""
    x = GRID.points[:, 0].numpy()
    if place == "regular":
        return torch.from_numpy(np.floor((np.arange(count) + 0.5) / count * CELLS).astype(int))
    weight = {"uniform": np.ones(CELLS), "clustered": x < 0.5, "beta": beta.pdf(x, 2, 5)}[place].astype(float)
    if place == "clustered" and count > CELLS // 2:
        weight += 1e-3 * (x >= 0.5)  # once the half is full
    return torch.from_numpy(rng.choice(CELLS, count, replace=False, p=weight / weight.sum()))


def models(cache: Path) -> dict[str, FunctionPrior]:
    """All models, trained or read."""
    fields = FAMILY.draw(FIELDS, SEED, "context/training").cells
    recipe = replace(FUNCTIONS, level_mean=LEVEL, training=replace(FUNCTIONS.training, steps=STEPS))
    points = replace(AT_POINTS.training, steps=SET_STEPS, learning_rate=2.5e-3)
    few = replace(AT_POINTS, level_mean=LEVEL, training=points)

    def told(record: object) -> None:
        print(record.step, f"{record.validation_loss:.4f}", f"{record.seconds:.0f} s", flush=True)  # type: ignore[attr-defined]

    found = {
        name: fokker.fit_functions(
            fields, observations=seen, network=dict(NETWORK), recipe=recipe, out=cache / name, progress=told
        )
        for name, seen in (("operator", EXACTLY), ("varied", VARIED))
    }
    for name, seen in (("told", EXACTLY), ("told_varied", VARIED)):
        path, whole = cache / name, found["operator"]
        if not (path / "weights.safetensors").exists():
            trained(ToldFunctions, whole, fields, recipe, observations=seen, progress=told).save(path)
        found[name] = ToldFunctions.load(path)
    found["sets"] = fokker.fit_functions(
        fields, observations=EXACTLY, points=SET_POINTS, recipe=few, out=cache / "sets", progress=told
    )
    return {
        **found,
        "gaussian": found["operator"].no_network(),
        "gaussian_sets": found["sets"].no_network(),
    }


def answers(config: Config, draw: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> dict[str, np.ndarray]:
    """`scores` of draw(case, points, y, where) over all functions."""
    functions, samples, truths = FAMILY.draw(CASES, SEED, "context/truths"), [], []
    for case in range(CASES):
        points, where = config.points(case), config.where(case)
        noise = stream(SEED, "context/noise", case).standard_normal(CELLS)[: len(points)]
        y = functions.at(points[:, 0].expand(CASES, -1))[case] + STD * torch.from_numpy(noise)
        truths.append(functions.at(where[:, 0].expand(CASES, -1))[case])
        samples.append(draw(case, points, y, where))
    return scores(torch.stack(samples).double().numpy(), torch.stack(truths).numpy())


def measured(prior: FunctionPrior | None, config: Config) -> dict[str, np.ndarray]:
    """Of a model, or of exact samples where there is none."""

    def draw(case: int, points: Tensor, y: Tensor, where: Tensor) -> Tensor:
        if prior is None:
            return FAMILY.posterior(points[:, 0], y, STD, DRAWS, SEED, case, where[:, 0]).samples
        there = where if prior.on_points else (config.context,)
        posterior = fokker.FunctionPosterior.of_values(prior, points, likelihood=fokker.Gaussian(STD), where=there)
        return posterior.sample(y, DRAWS, seed=case, steps=CHAIN).samples

    return answers(config, draw)


def studies() -> dict[str, dict[str, dict[str, Config]]]:
    """study -> kind of model ("grids" or "sets") -> setting -> config."""
    at = {"context": CONTEXT, "context_place": "uniform"}
    return {
        "number": {
            "grids": {str(m): Config(m) for m in NUMBERS},
            "sets": {str(m): Config(m, **at) for m in NUMBERS},
        },
        "place": {
            "grids": {place: Config(place=place) for place in PLACES},
            "sets": {place: Config(place=place, **at) for place in PLACES},
        },
        "context": {
            "grids": {str(n): Config(context=n) for n in GRIDS},
            "sets": {str(n): Config(context=n, context_place="uniform") for n in CONTEXTS},
        },
        "context_place": {"sets": {place: Config(context=CONTEXT, context_place=place) for place in PLACES}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench" / "context_points")
    cache = parser.parse_args().cache
    torch.set_num_threads(1)
    started, priors = time.process_time(), models(cache)
    print("trained", f"{time.process_time() - started:.0f} s", flush=True)
    kept: dict[tuple[str, Config], dict[str, np.ndarray]] = {}

    def scored(name: str, config: Config) -> dict[str, np.ndarray]:
        if (name, config) not in kept:
            kept[name, config] = measured(priors.get(name), config)
        return kept[name, config]

    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for study, kinds in studies().items():
        found[study] = {}
        for kind, configs in kinds.items():
            for name in ON_SETS if kind == "sets" else ON_GRIDS[: None if study in ("number", "place") else 2]:
                found[study][name] = {}
                for setting, config in configs.items():
                    here, limit = scored(name, config), scored("exact", config)
                    row = {"exact_error": float(limit["error"].mean()), "exact_crps": float(limit["crps"].mean())}
                    for metric in ("error", "crps"):
                        row[metric], row[f"{metric}_se"] = ratio(here[metric], limit[metric])
                    row["coverage95"] = float(here["coverage"][2].mean())
                    found[study][name][setting] = row
                    line = " ".join(f"{row[k]:.3f}" for k in ("error", "error_se", "crps", "crps_se", "coverage95"))
                    print(study, name, setting, line, f"{time.process_time() - started:.0f} s", flush=True)
    records = json.loads((cache / "sets" / "training.json").read_text())["records"]
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "fokker": fokker.__version__},
        "settings": {"cases": CASES, "draws": DRAWS, "chain": CHAIN, "fields": FIELDS, "steps": STEPS,
                     "set_steps": SET_STEPS, "std": STD, "observations": TRAINED},
        "sets_loss": {str(r["step"]): r["validation_loss"] for r in records},
        "cpu_seconds": time.process_time() - started,
        "studies": found,
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
