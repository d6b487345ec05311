"""The front door: `fit` a posterior to pairs, `load` one from disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fokker import coordinates as coordinate_kinds
from fokker.coordinates import Coordinates, moments_of, observed
from fokker.errors import InputError
from fokker.likelihoods import Gaussian
from fokker.losses import Levels, LogNormalLevels, UniformTimes
from fokker.networks.denoiser import NetworkScore
from fokker.networks.mlp import build
from fokker.posterior import recipes
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.recipes import Recipe
from fokker.processes import NoiseProcess, VarianceExploding
from fokker.rng import check_seed, torch_generator
from fokker.score import RHO_RANGE, Cond, Moments
from fokker.storage import file_hash, read_json, read_tensors, write_json, write_tensors
from fokker.training import Batch, Trainer, TrainRecord, suitable_threads

Clip = tuple[float | None, float | None]


def fit(
    x: Any,
    y: Any,
    *,
    process: NoiseProcess | None = None,
    network: nn.Module | None = None,
    recipe: str | Recipe = "default",
    coordinates: str | None = None,
    omega: Any = None,
    likelihood: Gaussian | None = None,
    clip: Clip | None = None,
    seed: int = 0,
    steps: int | None = None,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[TrainRecord], None] | None = None,
) -> ConditionalPosterior:
    """Learn p(x given y) from pairs x (N, *x_shape), y (N, *y_shape).

    process: any NoiseProcess (default: variance exploding up to the highest training level). network: your own module
    with `embed` and `forward` (see `networks.mlp`). recipe: "default", "published" or a Recipe. coordinates:
    "posterior", "standard", "minmax" or "none" instead of the recipe's. omega: (N, *y_shape), False where y is not
    observed (NaN in y means the same). likelihood: y is then the clean data, and its noise is drawn anew at every step.
    clip: bounds (lower, upper; None for no bound) at which x has atoms; samples are clipped to them. steps: length of
    the training. out: folder for the model and its checkpoint; a fit that was interrupted there continues to the very
    same weights. device: where the network lives ("cuda" for a GPU); data and samples stay on the CPU. progress:
    called with a record at every validation.

    Raises InputError for wrong shapes, NaN in x, infinities, fewer than 10 pairs or entries that never vary.
    """
    check_seed(seed)
    recipe = recipes.get(recipe)
    if coordinates is not None:
        recipe = replace(recipe, coordinates=coordinates)
    if steps is not None:
        recipe = replace(recipe, training=replace(recipe.training, steps=steps))
    data = _Pairs(x, y, omega, likelihood, clip, seed, recipe.held_out)
    trainer, posterior = _assemble(data, process, network, recipe, clip, seed, torch.device(device))
    with suitable_threads(posterior.model.network):
        if out is not None:
            return _fit_in_folder(Path(out), trainer, posterior, data, progress)
        for record in trainer.run():
            if progress is not None:
                progress(record)
    return posterior


def load(directory: str | Path, device: str | torch.device = "cpu") -> ConditionalPosterior:
    """The posterior that `save` (or `fit(..., out=directory)`) left, its network on `device`.

    Nothing read from disk runs code. InputError names a file that is missing or damaged.
    """
    return ConditionalPosterior.load(directory, torch.device(device))


class _Pairs:
    """Training pairs with a held-out part, and the batch of every step, fixed by the seed."""

    def __init__(
        self,
        x: Any,
        y: Any,
        omega: Any,
        likelihood: Gaussian | None,
        clip: Clip | None,
        seed: int,
        held_out: float,
    ):
        self.x, self.y = _numbers("x", x), _numbers("y", y)
        self.likelihood, self.clip, self.seed = likelihood, clip or (None, None), seed
        self.spread: Tensor | None = None
        count = len(self.x)
        if len(self.y) != count:
            raise InputError(f"y: got {len(self.y)} rows for {count} rows of x, as many are accepted")
        for bound, name, beyond in zip(self.clip, ("lower", "upper"), (torch.lt, torch.gt)):
            if bound is not None and bool(beyond(self.x, bound).any()):
                raise InputError(f"x: got values beyond the {name} bound {bound} of clip, none is accepted")
        if count < 10:
            raise InputError(f"x: got {count} pairs, at least 10 are accepted")
        if bool(self.x.isnan().any()):
            raise InputError(
                f"x: got NaN in row {int(self.x.isnan().flatten(1).any(1).nonzero()[0])}, none is accepted"
            )
        self.omega = None if omega is None else torch.as_tensor(omega).to(torch.bool).expand_as(self.y)
        if self.omega is None and bool(self.y.isnan().any()):
            self.omega = ~self.y.isnan()
        order = torch.randperm(count, generator=torch_generator(seed, "split"))
        kept = max(1, min(2000, round(held_out * count)))
        self.held, self.train = order[:kept], order[kept:]
        self._epoch: tuple[int, Tensor] = (-1, order)

    def noisy(self, rows: Tensor, name: str, index: int = 0) -> tuple[Tensor, Cond]:
        """x and conditions of these rows; noise and the spread of atoms are drawn by the name and the index."""
        y = self.y[rows]
        if self.likelihood is not None:
            y = self.likelihood.sample(y, torch_generator(self.seed, f"noise/{name}", index))
        cond = {"y": y}
        if self.omega is not None:
            cond["omega"] = self.omega[rows]
        x = self.x[rows]
        if self.spread is not None:
            generator = torch_generator(self.seed, f"atoms/{name}", index)
            beyond = self.spread * torch.randn(x.shape, generator=generator, dtype=x.dtype).abs()
            low, high = self.clip
            x = x if low is None else torch.where(x <= low, low - beyond, x)
            x = x if high is None else torch.where(x >= high, high + beyond, x)
        return x, cond

    def spread_atoms(self) -> None:
        """From now on, x at a bound is spread beyond it: half-normal, as wide as x is uncertain given y.

        A density cannot hold an atom: diffused as it is, a network smears it to both sides of the bound, and clipping
        leaves half of it. Spread beyond the bound it is an ordinary density, and clipping gives all of it back.
        """
        x, cond = self.noisy(self.train, "coordinates")
        y = observed(cond)[0]
        if x[0].numel() + y[0].numel() <= coordinate_kinds.MAX_VECTOR:
            complete = {"y": torch.zeros_like(y[:1])}  # the spread does not depend on the values of y
            self.spread = coordinate_kinds.Posterior.estimate(x, y).std(complete)[0]
        else:
            self.spread = x.std(0)

    def fingerprint(self) -> str:
        """SHA-256 of the pairs and of the noise that goes with them."""
        parts = [self.x, self.y] if self.omega is None else [self.x, self.y, self.omega]
        content = hashlib.sha256(b"" if self.likelihood is None else repr(self.likelihood.std).encode())
        if self.likelihood is not None and self.likelihood.covariance is not None:
            parts.append(torch.as_tensor(self.likelihood.covariance, dtype=torch.float64).cpu())
        for part in parts:
            content.update(str(tuple(part.shape)).encode())
            content.update(part.contiguous().numpy().tobytes())
        return content.hexdigest()

    def rows(self, step: int, size: int) -> Tensor:
        """The rows of a step: every epoch goes through all pairs in an order of its own."""
        size = min(size, len(self.train))
        epoch, position = divmod(step, len(self.train) // size)
        if self._epoch[0] != epoch:
            order = torch.randperm(len(self.train), generator=torch_generator(self.seed, "epoch", epoch))
            self._epoch = (epoch, self.train[order])
        return self._epoch[1][position * size : (position + 1) * size]


def _assemble(
    data: _Pairs,
    process: NoiseProcess | None,
    network: nn.Module | None,
    recipe: Recipe,
    clip: Clip | None,
    seed: int,
    device: torch.device,
) -> tuple[Trainer, ConditionalPosterior]:
    if recipe.spread_atoms and clip is not None:
        data.spread_atoms()
    x, cond = data.noisy(data.train, "coordinates")
    mapping = coordinate_kinds.estimate(recipe.coordinates, x, observed(cond)[0])
    xi = mapping.forward(x, cond)
    if recipe.coordinates == "posterior":
        data_std = 1.0
        moments = Moments(torch.zeros_like(x[0]), torch.ones(()).double())
    else:
        data_std = float(xi.double().var(0).mean().sqrt())
        moments = moments_of(xi)
    rho_range = (RHO_RANGE[0] * data_std, RHO_RANGE[1] * data_std)
    process = VarianceExploding(sigma_max=rho_range[1]) if process is None else process
    if network is None:
        feature_size = mapping.features({name: value[:1] for name, value in cond.items()}).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator(seed, "weights").initial_seed())
            network = build({**recipe.network, "x_size": x[0].numel(), "feature_size": feature_size})
    model = NetworkScore(
        process,
        network.to(device),
        mapping,
        moments,
        rho_range,
        preconditioning=recipe.preconditioning,
        data_std=data_std,
    )

    def batch(step: int) -> Batch:
        return _to_model(model, mapping, *data.noisy(data.rows(step, recipe.training.batch_size), "train", step))

    levels: Levels
    if recipe.levels == "lognormal":
        levels = LogNormalLevels(rho_range, data_std, recipe.level_mean, recipe.level_std)
    else:
        levels = UniformTimes(process, *model.time_range)
    held = _to_model(model, mapping, *data.noisy(data.held, "validation"))
    trainer = Trainer(model, batch, levels, held, recipe.training, seed)
    shapes = tuple(x.shape[1:]), tuple(data.y.shape[1:])
    return trainer, ConditionalPosterior(model, *shapes, recipe, clip, masked=data.omega is not None)


def _fit_in_folder(
    folder: Path,
    trainer: Trainer,
    posterior: ConditionalPosterior,
    data: _Pairs,
    progress: Callable[[TrainRecord], None] | None,
) -> ConditionalPosterior:
    """Run with a checkpoint after every record; a finished fit of the same data and settings is loaded.

    Files that are damaged or lost are made again: from the last checkpoint, or from the start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, done, weights = folder / "train_state.safetensors", folder / "training.json", folder / "weights.safetensors"
    model = json.loads(json.dumps(posterior.settings()))
    settings = {**model, "seed": trainer.seed}
    identity: dict[str, Any] = {"data": data.fingerprint(), "settings": settings}
    finished = _whole(read_json, done)
    if isinstance(finished, dict):
        _check_same(folder, finished, **identity)
        intact = finished.get("weights") == _whole(file_hash, weights)
        if intact and _whole(read_json, folder / "model.json") == model:
            return load(folder, posterior.model.device)
    checkpoint = _whole(read_tensors, state)
    if checkpoint is not None and "values" in checkpoint[1]:
        values = json.loads(checkpoint[1]["values"])
        _check_same(folder, values, **identity)
        trainer.resume(checkpoint[0], values["trainer"])
    for record in trainer.run():
        tensors, values = trainer.state()
        write_tensors(state, tensors, {"values": json.dumps({**identity, "trainer": values})})
        if progress is not None:
            progress(record)
    posterior.save(folder)
    records = [asdict(record) for record in trainer.records]
    write_json(done, {**identity, "weights": file_hash(weights), "seconds": trainer.seconds, "records": records})
    return posterior


def _whole(read: Callable[[Path], Any], path: Path) -> Any:
    """What is in a file; None where it is missing or damaged."""
    try:
        return read(path)
    except InputError:
        return None


def _check_same(folder: Path, found: dict[str, Any], data: str, settings: dict[str, Any]) -> None:
    """InputError where a folder holds the fit of other data or settings: nothing is overwritten."""
    if found.get("data") != data:
        raise InputError(f"{folder}: holds a fit of other data; a new folder is accepted, or the same data")
    there, wanted = _flat(found.get("settings", {})), _flat(settings)
    for name, value in wanted.items():
        if name not in there or there[name] != value:
            raise InputError(
                f"{folder}: holds a fit with {name} = {there.get(name)!r}, this one has {value!r}; a new folder is "
                "accepted, or the same settings"
            )


def _flat(settings: dict[str, Any], head: str = "") -> dict[str, Any]:
    """Nested settings as one level, so that a message can name the one that differs."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        out |= _flat(value, f"{head}{name}.") if isinstance(value, dict) else {f"{head}{name}": value}
    return out


def _to_model(model: NetworkScore, mapping: Coordinates, x: Tensor, cond: Cond) -> Batch:
    """A batch in the coordinates, precision and device of the model."""
    features = mapping.features(cond)
    xi = mapping.forward(x, cond)
    return xi.to(model.device, model.dtype), {"features": features.to(model.device, model.dtype)}


def _numbers(name: str, value: Any) -> Tensor:
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: got {type(value).__name__}, an array of numbers is accepted") from error
    if value.is_complex() or value.ndim < 1:
        raise InputError(f"{name}: got {value.dtype} of shape {tuple(value.shape)}, real numbers (N, ...) are accepted")
    value = value.detach().cpu().to(torch.float64)
    value = value[:, None] if value.ndim == 1 else value
    if bool(value.isinf().any()):
        row = int(value.isinf().flatten(1).any(1).nonzero()[0])
        raise InputError(f"{name}: got an infinite entry in row {row}, finite numbers are accepted")
    return value
