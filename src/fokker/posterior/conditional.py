"""Amortized posteriors: a network that has learned p(x given y), and the Gaussian that needs no network.

Source: Dasgupta et al. 2025 (arXiv 2504.07437), section 5 (conditional models); posterior coordinates are ours.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fokker import coordinates as coordinate_kinds
from fokker.composition import SumScore, classifier_free
from fokker.coordinates import Coordinates
from fokker.errors import InputError, NotFinite
from fokker.flow_density import log_prob, numbers
from fokker.networks.denoiser import NetworkScore
from fokker.posterior.files import FORMAT, loaded_model, save_model
from fokker.posterior.gaussian_conditional import GaussianConditional, conditions_of, to_x, to_xi
from fokker.posterior.recipes import Recipe
from fokker.posterior.reweighting import reweighted
from fokker.posterior.samples import PosteriorSamples, check_count
from fokker.processes import NoiseProcess
from fokker.rng import Rows
from fokker.samplers.base import Sampler
from fokker.samplers.loop import sample
from fokker.states import Cond, observed
from fokker.support import Support
from fokker.time_grid import Grid


class ConditionalPosterior:
    """p(x given y) for any y: `sample` draws from it, `no_network` is the baseline it has to beat.

    clip = (lower, upper): samples are clipped to it, for a variable with atoms at its bounds (None: no bound).
    masked: whether the network was trained with entries of y missing, and is told which are observed. support: the
    bounds between which x lies. extra: names and shapes of further conditions beside y.
    """

    kind: ClassVar[str] = "conditional"

    def __init__(
        self,
        model: NetworkScore,
        x_shape: tuple[int, ...],
        y_shape: tuple[int, ...],
        recipe: Recipe,
        clip: tuple[float | None, float | None] | None = None,
        masked: bool = False,
        support: Support | None = None,
        extra: Mapping[str, tuple[int, ...]] | None = None,
    ):
        self.model, self.x_shape, self.y_shape, self.recipe, self.clip = model, x_shape, y_shape, recipe, clip
        self.masked, self.support, self.extra = masked, support, dict(extra or {})

    def __repr__(self) -> str:
        return f"ConditionalPosterior(x_shape={self.x_shape}, y_shape={self.y_shape}, recipe={self.recipe.name!r})"

    @property
    def coordinates(self) -> Coordinates:
        """The map between x and what is diffused."""
        assert self.model.coordinates is not None
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
        cond: Mapping[str, Any] | None = None,
        sampler: Sampler | None = None,
        grid: Grid | Tensor | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        first: int = 0,
        keep_going: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> PosteriorSamples:
        """n samples for y (*y_shape), or for each of (M, *y_shape); NaN in y, or omega False, means not observed.

        A measurement of which nothing is observed gets the prior, and a UserWarning that says so.

        cond: the further conditions it was trained with, by name; one row, or one for each measurement.

        Missing entries need a posterior that was trained with missing entries. So does guidance, the weight w of
        `classifier_free` (1 changes nothing), which also needs other coordinates than "posterior".

        sampler, grid and steps default to the recipe's. A sample depends on the seed and on the index of its
        measurement, not on how many are drawn at once; first: the index of the first measurement, so that many can be
        drawn in groups. Raises InputError for a wrong shape, n < 1, a wrong grid, and (NotFinite) measurements whose
        samples are not finite, as can happen far outside the training data; keep_going: these get NaN, the others
        theirs.
        """
        check_count(n)
        conditions, given, batched = self._conditions(y, omega, cond)
        _tell_of_nothing_observed(conditions, first)
        started = time.perf_counter()
        result = sample(
            self.model if guidance is None else self._guided(guidance),
            (len(given) * n, *self.x_shape),
            sampler=self.recipe.sampler if sampler is None else sampler,
            steps=self.recipe.steps if steps is None else steps,
            grid=self.recipe.grid if grid is None else grid,
            seed=seed,
            cond=conditions,
            rows=Rows.grid(len(given), n, first),
            finite=False,
            progress=progress,
        )
        xi = result.samples.cpu()
        x = to_x(self.coordinates, xi, conditions, n, self.clip, self.support)
        good = x.abs() < torch.finfo(x.dtype).max  # where bounds end what would be infinite
        lost = ~(good.flatten(1).all(1) & xi.isfinite().reshape(len(x), -1).all(1))
        if bool(lost.any()) and not keep_going:
            shown = _first_of(lost, first)
            what = "one like those of the training data is accepted (keep_going=True puts NaN for its samples)"
            raise NotFinite(f"y: the samples for measurement {shown} are not finite, {what}")
        x[lost] = math.nan
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

    def log_prob(
        self, x: Any, y: Any, *, omega: Any = None, cond: Mapping[str, Any] | None = None, seed: int = 0
    ) -> Tensor:
        """log density of x given y, by the ODE: log q(xi given y) - log det L(y) with xi the coordinates of x.

        Where x has bounds it is that of u on the real line, less log dx/du; minus infinity beyond them.

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
        slope = torch.zeros(len(given), n, dtype=torch.float64)
        if self.support is not None:
            value = self.support.to_line(value)
            outside = (~value.isfinite()).flatten(2).any(2)
            value = torch.where(value.isfinite(), value, 0.0)
            slope = self.support.log_slope(value).flatten(2).sum(2)
            slope[outside] = math.inf
        xi = to_xi(self.coordinates, value, conditions)
        log = log_prob(self.model, xi, conditions, seed, rows=Rows.grid(len(given), n)).cpu()
        return (log.reshape(len(given), n) - log_det.reshape(-1, 1) - slope).reshape(shape)

    def reweight(
        self,
        drawn: PosteriorSamples,
        log_prior: Callable[[Tensor], Any],
        log_likelihood: Callable[[Tensor, Tensor], Any],
        *,
        omega: Any = None,
        cond: Mapping[str, Any] | None = None,
    ) -> PosteriorSamples:
        """The samples with importance weights p(x) p(y given x) / q(x given y), Pareto-smoothed.

        drawn: what `sample` returned for y, with the same omega and conditions; q is `log_prob`. log_prior(x) and
        log_likelihood(x, y) take x (n, *x_shape) and y (*y_shape) in float64 and return (n,); the prior need not be
        that of the training, if its mass is where samples are. In what is returned, `log_weights` sum to 1, `mean()`
        and `std()` use them, `log_evidence` estimates log p(y) where prior and likelihood are normalised, and `checks`
        has ess and k_hat: above 0.7 (a UserWarning says so) the weights are not to be trusted.

        Raises InputError for weighted samples, fewer than 50, functions that return other shapes or NaN, and what
        `log_prob` refuses. Source: Dax et al. 2023 (neural importance sampling); Vehtari et al. 2024 (smoothing).
        """
        q = self.log_prob(drawn.samples, drawn.y, omega=omega, cond=cond)
        return reweighted(drawn, q, log_prior, log_likelihood)

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
        size = sum(math.prod(shape) for shape in self.extra.values())
        shape = self.y_shape if not size else (math.prod(self.y_shape) + size,)
        nothing = {"omega": torch.zeros(1, *shape, dtype=torch.bool)}
        return classifier_free(self.model, weight, null_cond=nothing)

    def no_network(self) -> GaussianConditional:
        """The Gaussian conditional of posterior coordinates, its mean linear in y, or in y and its squares.

        InputError for a posterior in other coordinates.
        """
        if not isinstance(self.coordinates, coordinate_kinds.Posterior):
            raise InputError(f"no_network: needs coordinates 'posterior', this posterior has {self.coordinates.name!r}")
        return GaussianConditional(self.coordinates, self.x_shape, self.y_shape, self.clip, self.support, self.extra)

    def _conditions(self, y: Any, omega: Any, cond: Mapping[str, Any] | None) -> tuple[Cond, Tensor, bool]:
        conditions, given, batched = conditions_of(y, omega, cond, self.y_shape, self.extra)
        if self.masked:
            conditions.setdefault("omega", torch.ones_like(conditions["y"], dtype=torch.bool))
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
        save_model(directory, self.model, self.settings())

    def settings(self) -> dict[str, Any]:
        """All that `load` needs beside the tensors; InputError where no file can hold the model."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "recipe": self.recipe.settings(),
            **self.model.settings(),
            "x_shape": list(self.x_shape),
            "y_shape": list(self.y_shape),
            "clip": None if self.clip is None else list(self.clip),
            "masked": self.masked,
            "bounds": None if self.support is None else self.support.settings(),
            "extra": {name: list(shape) for name, shape in self.extra.items()},
        }

    @classmethod
    def load(cls, directory: str | Path, device: str | torch.device = "cpu") -> ConditionalPosterior:
        """What `save` wrote, the network on `device`.

        InputError names the file where one is missing, damaged or of another format.
        """
        with loaded_model(directory, cls.kind) as (settings, tensors):
            model = NetworkScore.restore(settings, tensors, torch.device(device))
            clip = None if settings["clip"] is None else tuple(settings["clip"])
            shapes = tuple(settings["x_shape"]), tuple(settings["y_shape"])
            bounds = settings["bounds"]
            support = None if bounds is None else Support.of(bounds, shapes[0])
            extra = {name: tuple(shape) for name, shape in settings["extra"].items()}
            recipe = Recipe.from_settings(settings["recipe"])
            return cls(model, *shapes, recipe, clip, settings["masked"], support, extra)


def _tell_of_nothing_observed(cond: Cond, first: int) -> None:
    if "omega" not in cond:
        return
    blank = ~observed(cond)[1].flatten(1).any(1)
    if bool(blank.any()):
        shown = _first_of(blank, first)
        what = f"nothing is observed in measurement {shown}: the answer there is the prior that the model has learned"
        warnings.warn(what, stacklevel=3)


def _first_of(which: Tensor, first: int) -> str:
    """The numbers of the first of them, in words."""
    found = which.nonzero().flatten().tolist()
    return ", ".join(str(first + k) for k in found[:5]) + (", ..." if len(found) > 5 else "")
