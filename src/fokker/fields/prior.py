"""A prior over functions, learned from fields on a grid: one model for every grid, with or without data.

The law of the noise is the Gaussian of the training fields: its spectrum is the mean square of their cosine
coefficients, of which the lowest may be correlated (`CosineSpectrum.fitted`), and the mean function is continued by
cubic splines, so that both are functions and know no grid. What the network learns is the rest; see `fields.score`.
"""

from __future__ import annotations

import copy
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fokker.continued_fields import continued, spline_weights
from fokker.errors import InputError
from fokker.estimated_fields import CosineSpectrum
from fokker.field_points import as_points, checked_points
from fokker.fields.observations import PointObservations
from fokker.fields.points import PointScore
from fokker.fields.score import FunctionScore
from fokker.grids import COSINES, Grid, along
from fokker.networks.build import build
from fokker.networks.set_transformer import SetTransformer
from fokker.noise import OnGrid
from fokker.posterior.files import FORMAT, loaded_model
from fokker.posterior.recipes import Recipe
from fokker.posterior.samples import check_count
from fokker.processes import VarianceExploding
from fokker.samplers.base import Sampler
from fokker.samplers.loop import SampleResult, sample
from fokker.score import RHO_RANGE
from fokker.storage import made_folder, write_json, write_tensors


class Nothing(nn.Module):
    """A network that adds nothing, on grids and on points."""

    def __init__(self, like: Tensor):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros_like(like.detach().flatten()[0]))

    def forward(self, values: Tensor, *rest: Tensor | None) -> Tensor:
        """Zero, of the shape that a network gives."""
        query = rest[2] if len(rest) > 2 else None
        return self.zero * (values[:, :1] if query is None else values.new_zeros(len(values), query.shape[1], 1))

    def settings(self) -> dict[str, Any]:
        """Nothing to save: InputError."""
        raise InputError("prior: without its network it is not saved, the prior itself is accepted")


def _are_points(where: Any) -> bool:
    """Whether an array or a list is meant as points: whole numbers alone are the shape of a grid."""
    if isinstance(where, tuple | list) and all(isinstance(n, Integral) for n in where):
        return False
    return isinstance(where, Tensor | np.ndarray | tuple | list) and np.ndim(where) > 0


class FunctionPrior:
    """A prior over functions, learned from fields on a grid by `fokker.fit_functions`: one model for every grid.

    `at(grid)` is a score model of the function on a grid, to be sampled or guided like any other.

    field: the law of the noise, of mean variance 1. mean: cosine coefficients (modes, ...) of the mean function on
    the cells of the grid of training. data_std: d, so that the functions are mean + d N(0, C) as a Gaussian.
    observations: what the network was trained to be told, None for a prior alone.
    """

    kind: ClassVar[str] = "function_prior"

    def __init__(
        self,
        network: nn.Module,
        field: CosineSpectrum,
        mean: Tensor,
        data_std: float,
        grid: Grid,
        recipe: Recipe,
        observations: PointObservations | None = None,
    ):
        self.network, self.field, self.mean, self.data_std = network, field, mean, data_std
        self.grid, self.recipe, self.observations = grid, recipe, observations
        self.rho_range = RHO_RANGE[0] * data_std, RHO_RANGE[1] * data_std
        self.on_points = isinstance(network, SetTransformer)  # or on grids
        self._models: dict[tuple[int, ...], FunctionScore] = {}

    def __repr__(self) -> str:
        network = getattr(self.network, "kind", type(self.network).__name__)
        return f"FunctionPrior(grid={self.grid.shape}, network={network!r}, observations={self.observations!r})"

    @cached_property
    def continued(self) -> CosineSpectrum:
        """The law of the noise with the waves that the grid of training does not carry, see `continued_fields`."""
        return continued(self.field)

    def mean_at(self, points: Tensor) -> Tensor:
        """The mean function at points (P, dim), float64; InputError for points outside the domain."""
        points = checked_points(as_points(points, self.grid.dimension), self.grid.dimension, (0.0, 1.0))
        values = self._mean_on_cells.expand(len(points), *self.grid.shape)
        for axis, cells in enumerate(self.grid.shape):  # the first axis of cells goes with each
            values = torch.einsum("pk,pk...->p...", spline_weights(points[:, axis], cells), values)
        return values

    @cached_property
    def _mean_on_cells(self) -> Tensor:
        mean = self.mean.double().cpu()
        for axis in range(-self.grid.dimension, 0):
            mean = COSINES.on_cells(mean, axis, self.grid.shape[axis])
        return mean

    def at(self, where: Grid | tuple[int, ...] | Any = None) -> FunctionScore:
        """The score model of the function at the centres of the cells of a grid (default: that of training).

        where: a grid or its shape; or points (P, dim), an array or a list, for a network of sets. InputError for points
        outside the unit cube, of another dimension, or for a network that lives on grids.
        """
        if self.on_points and where is None:
            return self._at_points(self.grid.points)
        if _are_points(where):
            return self._at_points(as_points(where, self.grid.dimension))
        grid = self.grid if where is None else where if isinstance(where, Grid) else Grid(where)
        if grid.dimension != self.grid.dimension:
            raise InputError(f"grid: got {grid.shape}, a grid of {self.grid.dimension} axes is accepted")
        if self.on_points:
            return self._at_points(grid.points)
        if grid.shape not in self._models:
            process = VarianceExploding(self.rho_range[1], noise=OnGrid(self.field, grid.shape))
            mean = self._mean_on_cells
            for axis in range(-grid.dimension, 0):
                weights = spline_weights(Grid((grid.shape[axis],)).points[:, 0], self.grid.shape[axis])
                mean = along(axis, weights, mean)
            prior = self.field.variance(grid.points).reshape(grid.shape)
            self._models[grid.shape] = FunctionScore(
                process, self.network, mean, prior, self.data_std, self.rho_range, self.observations is not None
            )  # fmt: skip
        return self._models[grid.shape]

    def no_network(self) -> FunctionPrior:
        """The Gaussian with the mean and the covariance of the training fields, as far as `CosineSpectrum.fitted` tells
        it: what a network has to beat.
        """
        other = copy.copy(self)
        other.network, other._models = Nothing(next(self.network.parameters())), {}
        return other

    def _at_points(self, points: Tensor) -> PointScore:
        if not self.on_points:
            raise InputError(
                "where: got points, a grid is accepted, such as (64,): this network lives on grids; of_values observes "
                "at points, PointValues continues samples to points"
            )
        points = checked_points(points, self.grid.dimension, (0.0, 1.0))
        mean, told = self.mean_at(points), self.observations is not None
        return PointScore(self.network, self.field, points, mean, self.data_std, self.rho_range, told)

    def sample(
        self,
        n: int,
        where: Grid | tuple[int, ...] | Tensor | None = None,
        seed: int = 0,
        *,
        sampler: Sampler | None = None,
        steps: int | None = None,
    ) -> SampleResult:
        """n functions (n, *grid) or (n, P) by `fokker.sample`: a seed means the same functions on any grid and points,
        as far as the network is the same there.
        """
        check_count(n)
        model = self.at(where)
        return sample(
            model,
            (n, *model.x_shape),
            sampler=self.recipe.sampler if sampler is None else sampler,
            steps=self.recipe.steps if steps is None else steps,
            grid=self.recipe.grid,
            seed=seed,
        )

    def settings(self) -> dict[str, Any]:
        """All that `load` needs beside the tensors."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "network": self._network_settings(),
            "data_std": self.data_std,
            "grid": list(self.grid.shape),
            "recipe": self.recipe.settings(),
            "observations": None if self.observations is None else self.observations.settings(),
        }

    def _network_settings(self) -> dict[str, Any]:
        if not hasattr(self.network, "settings"):
            raise InputError(
                f"network: got {type(self.network).__name__}, which has no settings() by which networks.build could "
                "make it again: a prior with it is kept in memory, one of a network of fokker is saved"
            )
        return self.network.settings()  # type: ignore[operator]

    def save(self, directory: str | Path) -> None:
        """Write weights.safetensors and model.json, each whole or not at all; InputError where a file is there."""
        directory = made_folder(directory)
        tensors = {f"network.{name}": value.contiguous() for name, value in self.network.state_dict().items()}
        law = {"spectrum": self.field.spectrum, "mean": self.mean}
        if self.field.leading is not None:
            law["leading"] = self.field.leading
        write_tensors(directory / "weights.safetensors", {**tensors, **law})
        write_json(directory / "model.json", self.settings())

    @classmethod
    def load(cls, directory: str | Path, device: str | torch.device = "cpu") -> FunctionPrior:
        """What `save` wrote, the network on `device`; InputError names a file that is missing or damaged."""
        with loaded_model(directory, cls.kind) as (settings, tensors):
            network, head = build(settings["network"]), "network."
            network.load_state_dict({k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)})
            told = settings["observations"]
            return cls(
                network.to(device),
                CosineSpectrum(tensors["spectrum"], tensors.get("leading")),
                tensors["mean"],
                settings["data_std"],
                Grid(tuple(settings["grid"])),
                Recipe.from_settings(settings["recipe"]),
                None if told is None else PointObservations(**told),
            )
