"""Training of a prior over functions on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fokker.errors import InputError
from fokker.estimated_fields import CosineSpectrum
from fokker.fields.observations import PointObservations
from fokker.fields.prior import FunctionPrior
from fokker.fields.update import Factor, stacked
from fokker.grids import Grid, dct
from fokker.losses import LogNormalLevels
from fokker.networks.build import build
from fokker.posterior.folder import fit_in_folder
from fokker.posterior.recipes import Recipe
from fokker.posterior.training_data import Draws
from fokker.rng import check_seed, torch_generator
from fokker.samplers.gaussian_transition import GaussianTransition
from fokker.states import Cond
from fokker.time_grid import Karras
from fokker.training import Batch, Trainer, TrainRecord, TrainSettings

HELD = 256  # fields kept for validation, at most
POOL = 64  # sets of observations at a time; one of them is drawn anew at every step

FUNCTIONS = Recipe(
    name="functions",
    coordinates="none",
    preconditioning="edm",
    levels="lognormal",
    level_mean=-0.4,
    level_std=1.4,
    network={"kind": "fourier_operator"},
    training=TrainSettings(steps=4000, batch_size=16, copies=1, learning_rate=4e-3, validate_every=200, patience=0),
    sampler=GaussianTransition(alpha=0.0),
    grid=Karras(),
    steps=32,
)


class Pool:
    """Sets of observed points and their factors, as many as `POOL` at a time; those of a step are fixed by the seed."""

    def __init__(self, observations: PointObservations, prior: FunctionPrior, seed: int):
        self.observations, self.model, self.seed = observations, prior.at(), seed
        self._kept: dict[tuple[int, int], tuple[Tensor, float, Factor]] = {}

    def at(self, step: int, slot: int) -> tuple[Tensor, float, Factor]:
        """Observed entries, standard deviation of the noise, and the factor in a slot at a step."""
        version = (step - slot + POOL - 1) // POOL
        key = (slot, version)
        if key not in self._kept:
            self._kept.pop((slot, version - 1), None)
            self._kept[key] = self.made(torch_generator(self.seed, f"observations/{slot}", version))
        return self._kept[key]

    def made(self, generator: torch.Generator) -> tuple[Tensor, float, Factor]:
        """A set of its own."""
        shape = self.model.x_shape
        chosen, std = self.observations.draw(math.prod(shape), generator)
        rows = torch.zeros(len(chosen), math.prod(shape), dtype=torch.float64)
        rows.scatter_(1, chosen[:, None], 1.0)
        return chosen, std, Factor.of(self.model.process.noise, rows.unflatten(1, shape), std)

    def cond(self, x: Tensor, sets: Sequence[tuple[Tensor, float, Factor]], generator: torch.Generator) -> Cond:
        """Data of each field x (B, *x_shape) by its own set, as conditions."""
        flat, mean = x.flatten(1).double(), self.model.mean.flatten().double()
        residuals = []
        for row, (chosen, std, _) in zip(flat, sets):
            noise = std * torch.randn(len(chosen), generator=generator, dtype=torch.float64)
            residuals.append((row - mean)[chosen] + noise)
        return stacked([factor for *_, factor in sets], residuals)


def fit_functions(
    fields: Any,
    *,
    observations: PointObservations | None = None,
    network: nn.Module | dict[str, Any] | None = None,
    recipe: Recipe = FUNCTIONS,
    steps: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[TrainRecord], None] | None = None,
) -> FunctionPrior:
    """Learn the law of functions from fields (N, *grid) at the centres of the cells of the unit interval or square.

    observations: data that the model is trained to be told, so that its posteriors need no approximation; None for a
    prior, which takes data by the update of `FunctionPosterior`. network: kind and sizes of `networks.build`, or your
    own module `network(channels (B, c, *grid), level) -> (B, 1, *grid)` with 1 channel, or 4 with observations.

    Raises InputError for NaN, infinities, fewer than 10 fields and fields that never vary.
    """
    check_seed(seed)
    if steps is not None:
        recipe = replace(recipe, training=replace(recipe.training, steps=steps))
    data = Draws(fields, seed, recipe.held_out)
    x = data.x_of(data.shown)
    grid = Grid(tuple(x.shape[1:]))
    mean = x.mean(0)
    field, data_std = _law(x - mean)
    channels = 1 if observations is None else 4
    if not isinstance(network, nn.Module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator(seed, "weights").initial_seed())
            network = build(_sizes({**recipe.network, **(network or {})}, grid, channels))
    waves = dct(mean, grid.dimension) / math.sqrt(grid.size)
    prior = FunctionPrior(network.to(device), field, waves, data_std, grid, recipe, observations)
    model, size = prior.at(), recipe.training.batch_size
    pool = None if observations is None else Pool(observations, prior, seed)

    def batch(step: int) -> Batch:
        x = data.x_of(data.rows(step, size)).to(model.device, model.dtype)
        if pool is None:
            return x, {}
        generator = torch_generator(seed, "data", step)
        slots = torch.randperm(POOL, generator=generator)[torch.arange(len(x)) % POOL].tolist()
        return x, pool.cond(x, [pool.at(step, slot) for slot in slots], generator)

    held: Batch = (data.x_of(data.held[:HELD]).to(model.device, model.dtype), {})
    if pool is not None:
        held = held[0][:POOL], {}
        generator = torch_generator(seed, "validation data")
        held = held[0], pool.cond(held[0], [pool.made(generator) for _ in held[0]], generator)
    levels = LogNormalLevels(prior.rho_range, data_std, recipe.level_mean, recipe.level_std)
    trainer = Trainer(model, batch, levels, held, recipe.training, seed)
    if out is not None:
        return fit_in_folder(
            Path(out), trainer, prior, data.fingerprint(), lambda p: FunctionPrior.load(p, device), progress
        )
    for record in trainer.run():
        if progress is not None:
            progress(record)
    return prior


def _sizes(network: dict[str, Any], grid: Grid, channels: int) -> dict[str, Any]:
    """The settings of a network, with what the fields decide."""
    own = {"sides": list(grid.shape)} if network["kind"] == "u_shaped_operator" else {"dimension": grid.dimension}
    return {**network, "c_in": channels, "c_out": 1, **own}


def _law(centred: Tensor) -> tuple[CosineSpectrum, float]:
    """The spectrum of centred fields as a law of mean variance 1, and their standard deviation."""
    data_std = float(centred.square().mean().sqrt())
    if not data_std > 0:
        raise InputError("fields: they never vary, only fields that vary are accepted")
    return CosineSpectrum.estimate(centred / data_std), data_std
