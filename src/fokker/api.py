"""The front door: `fit` a posterior to pairs, `fit_prior` a prior to samples, `load` either from disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fokker import coordinates as coordinate_kinds
from fokker.coordinates import Coordinates, moments_of
from fokker.errors import InputError
from fokker.fields.prior import FunctionPrior
from fokker.likelihoods import Likelihood
from fokker.losses import Levels, LogNormalLevels, UniformTimes
from fokker.networks.build import build
from fokker.networks.denoiser import NetworkScore
from fokker.posterior import recipes
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.files import kind_of
from fokker.posterior.folder import Model, fit_in_folder
from fokker.posterior.gaussian_conditional import CHUNK
from fokker.posterior.prior import Prior
from fokker.posterior.recipes import Recipe
from fokker.posterior.training_data import Clip, Draws, Pairs
from fokker.posterior_coordinates import Posterior
from fokker.processes import NoiseProcess, VarianceExploding, check_process
from fokker.rng import check_seed, torch_generator
from fokker.score import RHO_RANGE
from fokker.states import Cond, Moments
from fokker.structured import Structured, has_layout
from fokker.support import Support
from fokker.training import Batch, Trainer, TrainRecord, checked_device, suitable_threads

WIDEST = 100.0  # ratio of standard deviations of the entries of a vector that one noise level can serve


def fit(
    x: Any,
    y: Any,
    *,
    process: NoiseProcess | None = None,
    network: nn.Module | None = None,
    recipe: str | Recipe = "default",
    coordinates: str | None = None,
    omega: Any = None,
    likelihood: Likelihood | None = None,
    cond: Mapping[str, Any] | None = None,
    bounds: tuple[Any, Any] | None = None,
    clip: Clip | None = None,
    seed: int = 0,
    steps: int | None = None,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[TrainRecord], None] | None = None,
) -> ConditionalPosterior:
    """Learn p(x given y) from pairs x (N, *x_shape), y (N, *y_shape).

    x, y, omega and the values of cond may be arrays of Zarr or HDF5; beyond 1 GiB they are read while they are used.
    process: any NoiseProcess (default: variance exploding up to the highest training level). network: your own module
    with `embed` and `forward` (see `networks.mlp`). recipe: "default", which follows the number of pairs (see
    `posterior.recipes.adapted`), "published" or a Recipe. coordinates: "posterior", "standard", "minmax" or "none"
    instead of the recipe's. omega: (N, *y_shape), False where y is not observed (NaN in y means the same); or a
    distribution over layouts, such as `operators.layouts.RandomLayouts`, drawn anew at every step: one model then
    serves them all. likelihood: y is then the clean data, and its noise is drawn anew at every step. cond: further
    conditions by name, (N, *shape) each; `sample` wants them too. bounds: (lower, upper), each a number, None or an
    array of x_shape: x lies strictly between, and so do all samples (see `support.Support`). clip: bounds (lower,
    upper; None for no bound) at which x has atoms; samples are clipped to them. steps: length of the training. out:
    folder for the model and its checkpoint; a fit that was interrupted there continues to the very same weights.
    device: where the network lives ("cuda" for a GPU); data and samples stay on the CPU. progress: called with a record
    at every validation. y of the shape of a signal or an image (`structured.has_layout`) is summarised by convolutions.

    Raises InputError for wrong shapes, NaN in x, infinities, fewer than 10 pairs, entries that never vary or a device
    that is not there.
    """
    check_seed(seed)
    chosen = recipes.get(recipe)
    if bounds is not None and clip is not None:
        raise InputError("bounds: got both bounds and clip, one of the two is accepted")
    support = None if bounds is None else Support.of(bounds, tuple(np.shape(x)[1:]) or (1,))
    data = Pairs(x, y, omega, likelihood, clip, seed, chosen.held_out, cond, support)
    if recipe == recipes.DEFAULT.name:
        chosen = recipes.adapted(chosen, len(data.source), not data.fixed)
    chosen = _recipe(chosen, coordinates, steps)
    trainer, posterior = _posterior(data, process, network, chosen, clip, support, seed, checked_device(device))
    return _train(trainer, posterior, data, out, lambda path: ConditionalPosterior.load(path, device), progress)


def fit_prior(
    x: Any,
    *,
    process: NoiseProcess | None = None,
    network: nn.Module | None = None,
    recipe: str | Recipe = "default",
    seed: int = 0,
    steps: int | None = None,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[TrainRecord], None] | None = None,
) -> Prior:
    """Learn the law of x (N, *x_shape), of any shape, as a score model of plain x: noise is white in the units of x.

    The arguments are those of `fit`; the coordinates of the recipe play no part, "default" follows the number of rows
    (see `posterior.recipes.adapted_prior`). `fokker.sample(prior, (n, *x_shape))`
    or `prior.sample(n)` draws, `fokker.log_prob(prior, x)` gives densities.

    Raises InputError for NaN, infinities, fewer than 10 rows, x that never varies, entries of a vector that never vary,
    and vectors whose entries differ in standard deviation by more than a factor of 100: one level of white noise cannot
    serve them all.
    """
    check_seed(seed)
    chosen = recipes.get(recipe)
    data = Draws(x, seed, chosen.held_out)
    if recipe == recipes.DEFAULT.name:
        chosen = recipes.adapted_prior(chosen, len(data.source))
    recipe = _recipe(chosen, "none", steps)
    x = data.x_of(data.shown)
    _check_one_scale(x)
    moments = moments_of(x)
    data_std = float(x.var(0).mean().sqrt())
    sizes = {**recipe.network, "x_size": x[0].numel(), "feature_size": 0}
    network = _network(network, sizes, seed).to(checked_device(device))
    process, rho_range = _levels_of(process, data_std)
    prior = Prior(
        process,
        network,
        None,
        moments,
        rho_range,
        preconditioning=recipe.preconditioning,
        data_std=data_std,
        recipe=recipe,
        x_shape=tuple(x.shape[1:]),
    )

    def batch(rows: Tensor) -> Batch:
        return data.x_of(rows).to(prior.device, prior.dtype), {"features": torch.zeros(len(rows), 0)}

    size = recipe.training.batch_size
    trainer = Trainer(
        prior,
        lambda step: batch(data.rows(step, size)),
        _levels(prior, recipe),
        batch(data.held),
        recipe.training,
        seed,
    )
    return _train(trainer, prior, data, out, lambda path: Prior.load(path, device), progress)


def load(directory: str | Path, device: str | torch.device = "cpu") -> ConditionalPosterior | Prior | FunctionPrior:
    """What `save` (or `fit(..., out=directory)`) left, a posterior or a prior, its network on `device`.

    Nothing read from disk runs code. InputError names a file that is missing or damaged, or a device that is not there.
    """
    device = checked_device(device)
    kinds: dict[str, Any] = {kind.kind: kind for kind in (Prior, FunctionPrior)}
    return kinds.get(kind_of(directory), ConditionalPosterior).load(directory, device)


def _recipe(recipe: str | Recipe, coordinates: str | None, steps: int | None) -> Recipe:
    recipe = recipes.get(recipe)
    if coordinates is not None:
        recipe = replace(recipe, coordinates=coordinates)
    if steps is not None:
        recipe = replace(recipe, training=replace(recipe.training, steps=steps))
    return recipe


def _posterior(
    data: Pairs,
    process: NoiseProcess | None,
    network: nn.Module | None,
    recipe: Recipe,
    clip: Clip | None,
    support: Support | None,
    seed: int,
    device: torch.device,
) -> tuple[Trainer, ConditionalPosterior]:
    if recipe.spread_atoms and clip is not None:
        data.spread_atoms()
    x, y = data.for_coordinates()
    structured = recipe.coordinates in ("posterior", "curved") and network is None and has_layout(data.y_shape)
    mapping: Coordinates = (
        Structured.of(x, y, data.y_shape, seed) if structured else coordinate_kinds.estimate(recipe.coordinates, x, y)
    )
    cond: Cond = {"y": y[:1]} if not data.masked else {"y": y[:1], "omega": torch.ones_like(y[:1], dtype=torch.bool)}
    if isinstance(mapping, Posterior):
        data_std = 1.0
        moments = Moments(torch.zeros_like(x[0]), torch.ones(()).double())
    else:
        xi = mapping.forward(x, cond)
        data_std = float(xi.double().var(0).mean().sqrt())
        moments = moments_of(xi)
    if isinstance(mapping, Structured):
        layout = {"kind": "layout_mlp", "plain": mapping.plain_features, "y_shape": list(data.y_shape)}
        sizes = {**recipe.network, **layout, "x_size": x[0].numel()}
    else:
        sizes = {**recipe.network, "x_size": x[0].numel(), "feature_size": mapping.features(cond).shape[1]}
    network = _network(network, sizes, seed).to(device)
    process, rho_range = _levels_of(process, data_std)
    model = NetworkScore(
        process, network, mapping, moments, rho_range, preconditioning=recipe.preconditioning, data_std=data_std
    )

    def to_model(x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        xi, features = mapping.forward(x, cond), mapping.features(cond)
        return xi.to(model.device, model.dtype), features.to(model.device, model.dtype)

    size = recipe.training.batch_size
    once = data.fixed and data.source.in_memory
    if once:  # mapped for all steps
        groups = (to_model(*data.noisy(rows, "train")) for rows in torch.arange(len(data.source)).split(CHUNK))
        all_xi, all_features = (torch.cat(parts) for parts in zip(*groups))

    def batch(step: int) -> Batch:
        rows = data.rows(step, size)
        if once:
            return all_xi[rows], {"features": all_features[rows]}
        xi, features = to_model(*data.noisy(rows, "train", step))
        return xi, {"features": features}

    held, features = to_model(*data.noisy(data.held, "validation"))
    trainer = Trainer(model, batch, _levels(model, recipe), (held, {"features": features}), recipe.training, seed)
    shapes = tuple(x.shape[1:]), data.y_shape
    return trainer, ConditionalPosterior(model, *shapes, recipe, clip, data.masked, support, data.extra_shapes)


def _network(network: nn.Module | None, sizes: dict[str, Any], seed: int) -> nn.Module:
    """The user's own, or one of these sizes with weights fixed by the seed."""
    if network is not None:
        return network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, "weights").initial_seed())
        return build(sizes)


def _levels_of(process: NoiseProcess | None, data_std: float) -> tuple[NoiseProcess, tuple[float, float]]:
    """The process, and the noise levels that the model is to know."""
    if process is not None:
        check_process(process)
    low, high = (level * data_std for level in RHO_RANGE)
    return VarianceExploding(sigma_max=high) if process is None else process, (low, high)


def _levels(model: NetworkScore, recipe: Recipe) -> Levels:
    if recipe.levels == "uniform_t":
        return UniformTimes(model.process, *model.time_range)
    low, high = model.rho_range
    if recipe.preconditioning != "edm":  # these see the time of the process, and know no level beyond its end
        high = min(high, float(model.process.noise_to_signal(1.0)))
    return LogNormalLevels((low, high), model.data_std, recipe.level_mean, recipe.level_std)


def _train(
    trainer: Trainer,
    result: Model,
    data: Draws,
    out: str | Path | None,
    load: Callable[[Path], Model],
    progress: Callable[[TrainRecord], None] | None,
) -> Model:
    with suitable_threads(trainer.model.network):
        if out is not None:
            return fit_in_folder(Path(out), trainer, result, data.fingerprint(), load, progress)
        for record in trainer.run():
            if progress is not None:
                progress(record)
    return result


def _check_one_scale(x: Tensor) -> None:
    """InputError where white noise in the units of x cannot serve its entries; images may have entries that rest."""
    std = x.std(0).flatten()
    if not bool((std > 0).any()):
        raise InputError("x: it never varies, only samples that vary are accepted")
    if x.ndim > 2:
        return
    still = (std == 0).nonzero().flatten().tolist()
    if still:
        shown = ", ".join(map(str, still[:5])) + (", ..." if len(still) > 5 else "")
        raise InputError(f"x: entries {shown} never vary; leave them out, only entries that vary are accepted")
    low, high = float(std.min()), float(std.max())
    if high > WIDEST * low:
        raise InputError(
            f"x: standard deviations of its entries run from {low:.3g} to {high:.3g}; a ratio of up to {WIDEST:g} is "
            "accepted, so divide every entry by its own"
        )
