"""Training of a prior over functions on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fokker.continued_fields import continued
from fokker.errors import InputError, told
from fokker.estimated_fields import CosineSpectrum
from fokker.fields.batches import Batches, OnGrids, OnPoints
from fokker.fields.observations import PointObservations
from fokker.fields.prior import FunctionPrior
from fokker.grids import Grid, dct
from fokker.losses import LogNormalLevels
from fokker.networks.build import build
from fokker.posterior.folder import fit_in_folder
from fokker.posterior.recipes import Recipe
from fokker.posterior.training_data import Draws
from fokker.rng import check_seed, torch_generator
from fokker.samplers.gaussian_transition import GaussianTransition
from fokker.time_grid import Karras
from fokker.training import Trainer, TrainRecord, TrainSettings, checked_device, suitable_threads

FUNCTIONS = Recipe(
    name="functions",
    coordinates="none",
    preconditioning="edm",
    levels="lognormal",
    level_mean=-0.4,
    level_std=1.4,
    network={"kind": "fourier_operator"},
    # in batches of 16 the noise of the gradient can hide all that is not Gaussian, for as long as one trains
    training=TrainSettings(steps=3000, batch_size=64, copies=1, learning_rate=4e-3, validate_every=200, patience=0),
    sampler=GaussianTransition(alpha=0.0),
    grid=Karras(),
    steps=32,
)
SCALES = 1e-15, 1e15  # of the standard deviation of fields, whose squares float32 has
MODES = 2**12  # of noise drawn at points at every step
AT_POINTS = replace(
    FUNCTIONS,
    name="functions at points",
    network={"kind": "set_transformer"},
    training=replace(FUNCTIONS.training, learning_rate=1e-3),
)


def fit_functions(
    fields: Any,
    *,
    observations: PointObservations | None = None,
    network: nn.Module | dict[str, Any] | None = None,
    points: int | None = None,
    recipe: Recipe | None = None,
    steps: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[TrainRecord], None] | None = None,
) -> FunctionPrior:
    """Learn the law of functions from fields (N, *grid) at the centres of cells of the unit interval, square or cube.

    observations: data that the model is trained to be told, so that its posteriors need no approximation; None for a
    prior, which takes data by the update of `FunctionPosterior`. network: kind and sizes of `networks.build`, or your
    own module `network(channels (B, c, *grid), level) -> (B, 1, *grid)` with 1 channel, or 4 with observations. points:
    train on that many values at points drawn anew at every step, some of them context, instead of whole fields, by a
    network of sets (see `networks.set_transformer`): the model is then one of functions at any points.

    Raises InputError for NaN, infinities, fewer than 10 fields, grids of a single cell on an axis, fields that never
    vary or in units far from 1, a network that does not fit and a device that is not there.
    """
    check_seed(seed)
    device = checked_device(device)
    if observations is not None and not isinstance(observations, PointObservations):
        raise InputError(f"observations: got {observations!r}, PointObservations(fewest, most) or None is accepted")
    if recipe is not None and not isinstance(recipe, Recipe):
        raise InputError(f"recipe: got {type(recipe).__name__}, a fokker Recipe or None is accepted")
    if points is not None and (isinstance(points, bool) or not isinstance(points, Integral) or points < 1):
        raise InputError(f"points: got {points!r}, a whole number of points for a step, or None for grids, is accepted")
    if network is not None and not isinstance(network, nn.Module | dict):
        raise InputError(f"network: got {network!r}, a module or a dict such as {{'kind': 'unet'}} is accepted")
    recipe = recipe or (AT_POINTS if points else FUNCTIONS)
    if steps is not None:
        recipe = replace(recipe, training=replace(recipe.training, steps=steps))
    try:
        data = Draws(fields, seed, recipe.held_out)
    except InputError as error:
        raise InputError(str(error).replace("x: ", "fields: ", 1)) from None
    x = data.x_of(data.shown)
    grid = Grid(tuple(x.shape[1:]))
    if min(grid.shape) < 2 or grid.dimension > 3:
        raise InputError(
            f"fields: got shape {(len(data.source), *grid.shape)}, (N, *grid) with 1 to 3 axes of at least 2 cells is "
            "accepted, without an axis of channels"
        )
    mean = x.mean(0)
    field, data_std = _law(x - mean)
    field = continued(field, MODES) if points else field  # two points may share a cell
    channels = 1 if observations is None else 4
    sizes = {**recipe.network, **(network if isinstance(network, dict) else {})}
    if not isinstance(network, nn.Module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator(seed, "weights").initial_seed())
            network = build(_sizes(sizes, grid, channels))
    if not points:
        _check_network(network, channels, grid)
    waves = dct(mean, grid.dimension) / math.sqrt(grid.size)
    prior = FunctionPrior(network.to(device), field, waves, data_std, grid, recipe, observations)
    batches: Batches = OnPoints(prior, observations, seed, points) if points else OnGrids(prior, observations, seed)
    size = recipe.training.batch_size
    held = batches.held(data.x_of(data.held))
    levels = LogNormalLevels(prior.rho_range, data_std, recipe.level_mean, recipe.level_std)
    trainer = Trainer(
        batches.model,
        lambda step: batches.at(step, data.x_of(data.rows(step, size))),
        levels,
        held,
        recipe.training,
        seed,
    )
    with suitable_threads(network):
        return _trained(trainer, prior, data, out, device, progress)


def _trained(
    trainer: Trainer,
    prior: FunctionPrior,
    data: Draws,
    out: str | Path | None,
    device: str | torch.device,
    progress: Callable[[TrainRecord], None] | None,
) -> FunctionPrior:
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
    if network["kind"] == "set_transformer":
        return {**network, "c_in": channels, "c_query": channels, "c_out": 1, "dimension": grid.dimension}
    own: dict[str, Any] = {
        "u_shaped_operator": {"sides": list(grid.shape)},
        "unet": {},  # of images
    }.get(network["kind"], {"dimension": grid.dimension})
    return {**network, "c_in": channels, "c_out": 1, **own}


def _check_network(network: nn.Module, channels: int, grid: Grid) -> None:
    """InputError for a module that takes or gives something else, or has no weights."""
    shape = (2, channels, *grid.shape)
    accepted = (
        f"a module network(channels {shape}, level (2,)) -> (2, 1, {', '.join(map(str, grid.shape))}) is accepted"
    )
    weights = next(network.parameters(), None)
    if weights is None:
        raise InputError(f"network: got {type(network).__name__} without weights, {accepted}")
    try:
        with torch.no_grad():
            out = network(weights.new_zeros(shape), weights.new_zeros(2))
    except Exception as error:  # a user's module may fail in any way
        raise InputError(f"network: {type(network).__name__} fails ({told(error)}), {accepted}") from error
    if not isinstance(out, Tensor) or out.shape != (2, 1, *grid.shape):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise InputError(f"network: {type(network).__name__} gave {found}, {accepted}")


def _law(centred: Tensor) -> tuple[CosineSpectrum, float]:
    """The Gaussian nearest to centred fields as a law of mean variance 1, and their standard deviation."""
    data_std = float(centred.square().mean().sqrt())
    if not data_std > 0:
        raise InputError("fields: they never vary, only fields that vary are accepted")
    if not SCALES[0] < data_std < SCALES[1]:
        raise InputError(
            f"fields: got a standard deviation of {data_std:.3g}, {SCALES[0]:g} to {SCALES[1]:g} is accepted; in other "
            "units, or without an entry far from all others, they will do"
        )
    return CosineSpectrum.fitted(centred / data_std), data_std
