"""Amortized posteriors: a network that has learned p(x given y), and the Gaussian that needs no network.

Source: Dasgupta et al. 2025 (arXiv 2504.07437), section 5 (conditional models); posterior coordinates are ours.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fokker import coordinates as coordinate_kinds
from fokker.composition import SumScore, classifier_free
from fokker.coordinates import Coordinates, observed
from fokker.errors import InputError
from fokker.flow_density import log_prob, numbers
from fokker.networks.denoiser import NetworkScore
from fokker.networks.mlp import build
from fokker.posterior.recipes import Recipe
from fokker.posterior.samples import PosteriorSamples, as_measurements, check_count
from fokker.processes import NoiseProcess, process_from_settings, saved_settings
from fokker.rng import Key, Rows
from fokker.samplers.base import Sampler
from fokker.samplers.loop import sample
from fokker.score import Cond, Moments
from fokker.storage import read_json, read_tensors, write_json, write_tensors
from fokker.time_grid import Grid

FORMAT = 1
CHUNK = 65_536  # rows of x mapped back from coordinates at a time, in float64


class ConditionalPosterior:
    """p(x given y) for any y: `sample` draws from it, `no_network` is the baseline it has to beat.

    clip = (lower, upper): samples are clipped to it, for a variable with atoms at its bounds (None: no bound).
    masked: whether the network was trained with entries of y missing, and is told which are observed.
    """

    def __init__(
        self,
        model: NetworkScore,
        x_shape: tuple[int, ...],
        y_shape: tuple[int, ...],
        recipe: Recipe,
        clip: tuple[float | None, float | None] | None = None,
        masked: bool = False,
    ):
        self.model, self.x_shape, self.y_shape, self.recipe, self.clip = model, x_shape, y_shape, recipe, clip
        self.masked = masked

    @property
    def coordinates(self) -> Coordinates:
        """The map between x and what is diffused."""
        return self.model.coordinates

    def on(self, process: NoiseProcess) -> ConditionalPosterior:
        """The same posterior sampled by another process: no training is needed, the denoiser is the same."""
        other = copy.copy(self)
        other.model = self.model.on(process)  # type: ignore[assignment]
        return other

    def sample(
        self,
        y: Any,
        n: int,
        seed: int = 0,
        *,
        omega: Any = None,
        cond: Cond | None = None,
        sampler: Sampler | None = None,
        grid: Grid | Tensor | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> PosteriorSamples:
        """n samples for y (*y_shape), or for each of (M, *y_shape); NaN in y, or omega False, means not observed.

        Missing entries need a posterior that was trained with missing entries. So does guidance, the weight w of
        `classifier_free` (1 changes nothing), which also needs other coordinates than "posterior".

        sampler, grid and steps default to the recipe's. A sample depends on the seed and on the index of its
        measurement, not on how many are drawn at once. Raises InputError for a wrong shape, n < 1 or a wrong grid.
        """
        check_count(n)
        conditions, given, batched = self._conditions(y, omega, cond)
        started = time.perf_counter()
        result = sample(
            self.model if guidance is None else self._guided(guidance),
            (len(given) * n, *self.x_shape),
            sampler=self.recipe.sampler if sampler is None else sampler,
            steps=self.recipe.steps if steps is None else steps,
            grid=self.recipe.grid if grid is None else grid,
            seed=seed,
            cond=conditions,
            rows=Rows.grid(len(given), n),
            progress=progress,
        )
        x = to_x(self.coordinates, result.samples.cpu(), conditions, n, self.clip)
        return PosteriorSamples(
            samples=x if batched else x[0],
            y=given if batched else given[0],
            batched=batched,
            nfe=result.nfe,
            seconds=time.perf_counter() - started,
            settings={
                **result.settings,
                "recipe": self.recipe.name,
                "coordinates": self.coordinates.name,
                **({} if guidance is None else {"guidance": guidance}),
            },
            info={k: v.cpu().reshape((len(given), n) if batched else (n,)) for k, v in result.info.items()},
        )

    def log_prob(self, x: Any, y: Any, *, omega: Any = None, cond: Cond | None = None, seed: int = 0) -> Tensor:
        """log density of x given y, by the ODE: log q(xi given y) - log det L(y) with xi the coordinates of x.

        For y (*y_shape): x (n, *x_shape) gives (n,) in float64, x (*x_shape) a single number; for y (M, *y_shape):
        x (M, n, *x_shape) gives (M, n). It is the density of what sampling returns plus rho_min times the noise, see
        `fokker.log_prob`. InputError for wrong shapes, numbers that are not finite, a posterior with a clip (its atoms
        have no density), and coordinates in which some direction of x has no variance given y.
        """
        if self.clip is not None:
            raise InputError(f"log_prob: samples clipped to {self.clip} have atoms, no density; clip=None is accepted")
        conditions, given, batched = self._conditions(y, omega, cond)
        log_det = self.coordinates.log_det(conditions)
        value = numbers("x", x).cpu().double()
        shape = self._shape_of_x(value, len(given) if batched else None)
        bad = (~value.isfinite()).nonzero()
        if len(bad):
            raise InputError(f"x: got NaN or an infinite entry at {bad[0].tolist()}, finite numbers are accepted")
        value = value.reshape(len(given), -1, *self.x_shape)
        n = value.shape[1]
        xi = to_xi(self.coordinates, value, conditions)
        log = log_prob(self.model, xi, conditions, seed, rows=Rows.grid(len(given), n)).cpu()
        return (log.reshape(len(given), n) - log_det.reshape(-1, 1)).reshape(shape)

    def _shape_of_x(self, x: Tensor, measurements: int | None) -> tuple[int, ...]:
        """The shape of a density at x: (M, n), (n,) or (); InputError for any other x."""
        lead = tuple(x.shape[: max(0, x.ndim - len(self.x_shape))])
        tail = ", ".join(map(str, self.x_shape))
        wanted, fits = f"({tail}) or (n, {tail})", len(lead) <= 1
        if measurements is not None:
            wanted, fits = f"({measurements}, n, {tail})", len(lead) == 2 and lead[0] == measurements
        if not fits or x.shape != (*lead, *self.x_shape) or 0 in lead:
            raise InputError(f"x: got shape {tuple(x.shape)}, {wanted} with n >= 1 is accepted")
        return lead

    def _guided(self, weight: float) -> SumScore:
        if not self.masked:
            raise InputError(
                "guidance: this posterior was trained on complete y and knows no x without y; train it on y with NaN "
                "where entries can be missing"
            )
        nothing = {"omega": torch.zeros(1, *self.y_shape, dtype=torch.bool)}
        return classifier_free(self.model, weight, null_cond=nothing)

    def no_network(self) -> GaussianConditional:
        """The Gaussian conditional of posterior coordinates; InputError for a posterior in other coordinates."""
        if not isinstance(self.coordinates, coordinate_kinds.Posterior):
            raise InputError(f"no_network: needs coordinates 'posterior', this posterior has {self.coordinates.name!r}")
        return GaussianConditional(self.coordinates, self.x_shape, self.y_shape, self.clip)

    def _conditions(self, y: Any, omega: Any, cond: Cond | None) -> tuple[Cond, Tensor, bool]:
        conditions, given, batched = conditions_of(y, omega, cond, self.y_shape)
        if self.masked:
            conditions.setdefault("omega", torch.ones_like(given, dtype=torch.bool))
        elif not bool(observed(conditions)[1].all()):
            raise InputError(
                "y: got missing entries, but this posterior was trained on complete y, and only that is accepted; "
                "train it on y with NaN where entries can be missing"
            )
        else:
            conditions.pop("omega", None)
        return conditions, given, batched

    def save(self, directory: str | Path) -> None:
        """Write weights.safetensors and model.json, each whole or not at all."""
        directory, model = Path(directory), self.model
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {f"network.{k}": v for k, v in model.network.state_dict().items()}
        tensors |= {f"coordinates.{k}": v for k, v in self.coordinates.tensors().items()}
        tensors |= {"moments.mean": model.moments.mean, "moments.factor": model.moments.factor}
        write_tensors(directory / "weights.safetensors", {k: v.contiguous() for k, v in tensors.items()})
        write_json(directory / "model.json", self.settings())

    def settings(self) -> dict[str, Any]:
        """All that `load` needs beside the tensors.

        InputError for noise that is not white and for a process of functions, which no file holds.
        """
        model = self.model
        if not model.process.noise.white:
            raise InputError("process: a model with correlated noise cannot be saved yet, only white noise is accepted")
        return {
            "format": FORMAT,
            "kind": "conditional",
            "recipe": self.recipe.settings(),
            "coordinates": self.coordinates.name,
            "preconditioning": model.preconditioning,
            "process": saved_settings(model.process),
            "trained_on": saved_settings(model.trained_on),
            "network": model.network.settings(),  # type: ignore[operator]
            "data_std": model.data_std,
            "rho_range": list(model.rho_range),
            "x_shape": list(self.x_shape),
            "y_shape": list(self.y_shape),
            "clip": None if self.clip is None else list(self.clip),
            "masked": self.masked,
        }

    @classmethod
    def load(cls, directory: str | Path, device: torch.device) -> ConditionalPosterior:
        """What `save` wrote, the network on `device`.

        InputError names the file where one is missing, damaged or of another format.
        """
        directory = Path(directory)
        settings = read_json(directory / "model.json")
        tensors, _ = read_tensors(directory / "weights.safetensors")
        if not isinstance(settings, dict) or settings.get("format") != FORMAT or settings.get("kind") != "conditional":
            raise InputError(f"{directory / 'model.json'}: not a conditional model of format {FORMAT}")
        try:
            network = build(settings["network"])
            network.load_state_dict(_under("network.", tensors))
            restored = coordinate_kinds.restore(settings["coordinates"], _under("coordinates.", tensors))
            low, high = settings["rho_range"]
            model = NetworkScore(
                process_from_settings(settings["process"]),
                network.to(device),
                restored,
                Moments(tensors["moments.mean"], tensors["moments.factor"]),
                (low, high),
                preconditioning=settings["preconditioning"],
                data_std=settings["data_std"],
                trained_on=process_from_settings(settings["trained_on"]),
            )
            clip = None if settings["clip"] is None else tuple(settings["clip"])
            shapes = tuple(settings["x_shape"]), tuple(settings["y_shape"])
            return cls(model, *shapes, Recipe.from_settings(settings["recipe"]), clip, settings["masked"])
        except (KeyError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{directory}: weights and settings do not belong together ({reason})") from error


class GaussianConditional:
    """N(mu(y), L L^T) of posterior coordinates, clipped like the posterior it is compared with: no network at all."""

    def __init__(
        self,
        coordinates: coordinate_kinds.Posterior,
        x_shape: tuple[int, ...],
        y_shape: tuple[int, ...],
        clip: tuple[float | None, float | None] | None = None,
    ):
        self.coordinates, self.x_shape, self.y_shape, self.clip = coordinates, x_shape, y_shape, clip

    def sample(self, y: Any, n: int, seed: int = 0, *, omega: Any = None) -> PosteriorSamples:
        """n samples for each measurement, as `ConditionalPosterior.sample` gives them."""
        check_count(n)
        conditions, given, batched = conditions_of(y, omega, None, self.y_shape)
        started = time.perf_counter()
        xi = Key(seed, Rows.grid(len(given), n), part="no_network").normal(self.x_shape)
        x = to_x(self.coordinates, xi, conditions, n, self.clip)
        return PosteriorSamples(
            samples=x if batched else x[0],
            y=given if batched else given[0],
            batched=batched,
            nfe=0,
            seconds=time.perf_counter() - started,
            settings={"sampler": "no_network", "seed": seed},
        )


def conditions_of(y: Any, omega: Any, cond: Cond | None, y_shape: tuple[int, ...]) -> tuple[Cond, Tensor, bool]:
    """Conditions by name, y (M, *y_shape), and whether y came with an axis of measurements."""
    given, batched = as_measurements(y, y_shape)
    conditions: Cond = {**(cond or {}), "y": given}
    if omega is not None:
        seen, _ = as_measurements(omega, y_shape, "omega")
        if len(seen) not in (1, len(given)):
            raise InputError(f"omega: got {len(seen)} rows for {len(given)} measurements, 1 or as many are accepted")
        conditions["omega"] = seen.expand_as(given) != 0
    elif bool(given.isnan().any()):
        conditions["omega"] = ~given.isnan()
    return conditions, given, batched


def to_x(
    coordinates: Coordinates, xi: Tensor, cond: Cond, n: int, clip: tuple[float | None, float | None] | None
) -> Tensor:
    """xi (M n, *x_shape) in coordinates to x (M, n, *x_shape), a group of measurements at a time."""
    xi = xi.reshape(-1, n, *xi.shape[1:])
    group, out = max(1, CHUNK // n), torch.empty_like(xi)
    for start in range(0, len(xi), group):
        part = slice(start, start + group)
        local = {name: v[part].repeat_interleave(n, 0) for name, v in cond.items() if name in ("y", "omega")}
        x = coordinates.inverse(xi[part].flatten(0, 1), local).reshape(xi[part].shape)
        out[part] = x if clip is None else x.clamp(*clip)
    return out


def to_xi(coordinates: Coordinates, x: Tensor, cond: Cond) -> Tensor:
    """x (M, n, *x_shape) to xi (M n, *x_shape) in coordinates, a group of measurements at a time."""
    n, parts = x.shape[1], []
    group = max(1, CHUNK // n)
    for start in range(0, len(x), group):
        part = slice(start, start + group)
        local = {name: v[part].repeat_interleave(n, 0) for name, v in cond.items() if name in ("y", "omega")}
        parts.append(coordinates.forward(x[part].flatten(0, 1), local))
    return torch.cat(parts)


def _under(head: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(head) :]: value for name, value in tensors.items() if name.startswith(head)}
