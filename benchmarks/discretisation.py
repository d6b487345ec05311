"""Trained on 32 x 32 cells, asked on others: one seed is one function with noise of trace class, not with white noise.

    python benchmarks/discretisation.py [--cache DIR]          a quarter of an hour on one core; models are kept
    python benchmarks/functions_page.py                        the page and its figures from the results

Same draw: one seed on several grids, compared by means over the 32 x 32 cells that all grids share and at scattered
points, where the cosines of a grid continue its function. Law: what 32 draws of a prior of two-valued fields, trained
with noise of trace class or white noise (the same network, fields, steps and seed), have in common with true fields:
variance of means over 1/32 cells, correlation length (where their correlation is 1/2), and energy by wave number.
Writes benchmarks/results/discretisation.json and .npz (the fields of the picture).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fokker
from fokker.fields.fitting import FUNCTIONS
from fokker.fields.prior import FunctionPrior
from fokker.grids import Grid, dct
from fokker.operators import PointValues
from fokker.problems.field_data import HIGH, LOW, FieldProblem
from fokker.problems.function_ablations import WhiteFunctions, trained
from fokker.problems.shipped import SHIPPED

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "discretisation.json"
COARSE, SIZES, FINEST = 32, (32, 64, 96), 128
FIELDS, STEPS, NETWORK = 10_000, 2500, {"width": 16, "depth": 6}
BATCH = 16  # 64, as in `FUNCTIONS`, makes patches shorter, .72 of the true length
TRACE_LEVEL = 0.5  # mean log level in training; -0.4, as in `FUNCTIONS`, gives .78 of the true length, 1.5 .84
LEVELS = {"level_mean": 0.7, "level_std": 2.0}  # of white noise, which hides wave k at rho = sqrt(cells lambda_k) d
DRAWS, SAME, SHOWN, CHAIN = 96, 8, 2, 32  # of a law, of one seed, in the picture; levels of a chain
NOISE = 0.01  # of the data of the warp, in its standard deviations
SEED = 0


def models(cache: Path) -> dict[str, FunctionPrior]:
    """Both priors of two-valued fields, trained or read."""
    fields = FieldProblem("threshold", "direct", COARSE, 0.05).training(FIELDS).wanted
    recipe = replace(FUNCTIONS, training=replace(FUNCTIONS.training, steps=STEPS, batch_size=BATCH))

    def told(record: object) -> None:
        print(record.step, f"{record.validation_loss:.4f}", f"{record.seconds:.0f} s", flush=True)  # type: ignore[attr-defined]

    smooth = replace(recipe, level_mean=TRACE_LEVEL)
    trace = fokker.fit_functions(fields, network=NETWORK, recipe=smooth, seed=SEED, out=cache / "trace", progress=told)
    path = cache / "white"
    if not (path / "weights.safetensors").exists():
        trained(WhiteFunctions, trace, fields, replace(recipe, **LEVELS), seed=SEED, progress=told).save(path)
    return {"trace": trace, "white": WhiteFunctions.load(path)}


def same_draws(prior: FunctionPrior) -> dict[str, dict[int, Tensor]]:
    """One seed on every grid: the two-valued prior, the posterior of a log-normal field, and both without a network;
    and true fields of two values."""
    problem = FieldProblem("warp", "direct", COARSE, NOISE)
    warp, cases = fokker.load(SHIPPED / f"warp-{COARSE}"), problem.cases(1)
    seen, noise = Grid((COARSE, COARSE)).points[cases.points[0]], fokker.Gaussian(NOISE * warp.data_std)

    def posterior(of: FunctionPrior, n: int) -> Tensor:
        told = fokker.FunctionPosterior.of_values(of, seen, likelihood=noise, where=(n, n))
        return told.sample(cases.y[0], SAME, seed=SEED, steps=CHAIN).samples

    ways = {
        "prior": lambda n: prior.sample(SAME, (n, n), seed=SEED, steps=CHAIN).samples,
        "posterior": lambda n: posterior(warp, n),
        "prior_no_network": lambda n: prior.no_network().sample(SAME, (n, n), seed=SEED, steps=CHAIN).samples,
        "posterior_no_network": lambda n: posterior(warp.no_network(), n),
        "two_values": two_values,
    }
    return {name: {n: way(n).double() for n in (*SIZES, FINEST)} for name, way in ways.items()}


def two_values(n: int) -> Tensor:
    """Functions of 32 x 32 waves, cut at zero on the grid: what its cells alone take from fields with jumps."""
    problem = FieldProblem("threshold", "direct", COARSE, 0.05)
    waves = fokker.CosineSpectrum(problem.field.eigenvalues)
    xi = torch.randn(100, waves.size, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    return problem.of_latent(waves.on_grid(xi, (n, n))).wanted


def one_evaluation(prior: FunctionPrior) -> dict[str, dict[str, float]]:
    """The denoiser at rho = d, given one function on every grid."""
    xi = torch.randn(2, SAME, prior.field.size, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    found = {}
    for n in (*SIZES, FINEST):
        model, shape = prior.at((n, n)), (n, n)
        z = prior.data_std * (prior.field.on_grid(xi[0], shape) + prior.field.on_grid(xi[1], shape)) + model.mean
        with torch.no_grad():
            found[n] = model.denoised(z.to(model.dtype), torch.tensor(prior.data_std), {}).double()
    return differences(found)


def scattered() -> Tensor:
    """1,000 points of the square, at random."""
    return torch.rand(1000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def means(fields: Tensor) -> Tensor:
    """Over the coarse cells (N, 32, 32)."""
    return torch.nn.functional.avg_pool2d(fields, fields.shape[-1] // COARSE)


def apart(found: Tensor, finest: Tensor) -> float:
    """L2 distance over draws and places, over the standard deviation of the finest there."""
    return float((found - finest).square().mean().sqrt() / finest.std())


def differences(fields: dict[int, Tensor]) -> dict[str, dict[str, float]]:
    """To the finest grid: over the cells that all share, and at scattered points."""
    points = scattered()
    at = {n: PointValues((n, n), points)(value) for n, value in fields.items()}
    return {
        "cells": {str(n): apart(means(fields[n]), means(fields[FINEST])) for n in SIZES},
        "points": {str(n): apart(at[n], at[FINEST]) for n in SIZES},
    }


def law(fields: Tensor) -> dict[str, object]:
    """Of fields (N, n, n), each with a standard error over the fields where it is a number."""
    coarse = means(fields.double())
    middle = (LOW + HIGH) / 2
    lagged, rng = products(coarse - middle), np.random.default_rng(SEED)
    again = rng.integers(len(fields), size=(200, len(fields)))  # bootstrap
    squares = (coarse - middle).square().mean((1, 2))
    energy = dct(coarse - middle, 2).square().mean(0) / COARSE**2
    k = torch.arange(COARSE, dtype=torch.float64)
    radius = (k[:, None] ** 2 + k**2).sqrt().round().long()
    spectrum = [float(energy[radius == r].sum()) for r in range(COARSE)]
    return {
        "variance": float(squares.mean()),
        "variance_se": float(squares.std() / len(squares) ** 0.5),
        "length": length(lagged),
        "length_se": float(np.std([length(lagged[rows]) for rows in again], ddof=1)),
        "between": float(((fields > LOW + 1.5) & (fields < HIGH - 1.5)).double().mean()),  # of the two values
        "spectrum": spectrum,
    }


def truth(n: int) -> Tensor:
    """1,000 true two-valued fields (N, n, n)."""
    problem = FieldProblem("threshold", "direct", n, 0.05)
    return problem.of_latent(problem.latent(1000, SEED, "test")).wanted


def products(fields: Tensor) -> Tensor:
    """Means of f(x) f(x + lag) of fields of mean 0 (N, n, n), along both axes: (N, n - 1), lags from 0."""
    n, both = fields.shape[-1], torch.stack([fields, fields.mT], 1)
    return torch.stack([(both[..., : n - lag] * both[..., lag:]).mean((1, 2, 3)) for lag in range(n - 1)], 1)


def length(values: Tensor) -> float:
    """The distance at which the correlation has fallen to 1/2, from `products` (N, lags)."""
    ratio = (values.mean(0) / values[:, 0].mean()).numpy()
    below = int(np.argmax(ratio < 0.5))
    step = (ratio[below - 1] - 0.5) / (ratio[below - 1] - ratio[below])
    return float(below - 1 + step) / (values.shape[1] + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench" / "discretisation")
    cache = parser.parse_args().cache
    torch.set_num_threads(1)
    priors, started = models(cache), time.process_time()
    same = same_draws(priors["trace"])
    print("same draws", f"{time.process_time() - started:.0f} s", flush=True)
    laws, shown = {f"true-{n}": law(truth(n)) for n in (COARSE, 64, FINEST)}, {}
    for name, prior in priors.items():
        for n in (COARSE, 64, FINEST):
            fields = prior.sample(DRAWS, (n, n), seed=SEED, steps=CHAIN).samples
            laws[f"{name}-{n}"], shown[f"{name}-{n}"] = law(fields), fields[:SHOWN].half().numpy()
            print(name, n, laws[f"{name}-{n}"], f"{time.process_time() - started:.0f} s", flush=True)
    found = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "fokker": fokker.__version__},
        "fields": FIELDS,
        "steps": STEPS,
        "chain": CHAIN,
        "same_draws": SAME,
        "law_draws": DRAWS,
        "trace_level": TRACE_LEVEL,
        "sampling_cpu_seconds": time.process_time() - started,
        "same": {name: differences(fields) for name, fields in same.items()},
        "one_evaluation": one_evaluation(priors["trace"]),
        "law": laws,
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    np.savez_compressed(RESULT.with_suffix(".npz"), **shown)


if __name__ == "__main__":
    main()
