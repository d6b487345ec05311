"""A prior over functions, learned from fields on a grid: one model for every grid, with or without data.

The law of the noise is the Gaussian of the training fields: its spectrum is the mean square of their cosine
coefficients, and the mean function is kept as cosines too, so that both are functions and know no grid. What the
network learns is the rest; see `fields.score`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fokker.errors import InputError
from fokker.fields.observations import PointObservations
from fokker.fields.score import FunctionScore
from fokker.grids import COSINES, Grid, dct
from fokker.networks.build import build
from fokker.noise import OnGrid
from fokker.posterior.files import FORMAT, loaded_model
from fokker.posterior.recipes import Recipe
from fokker.posterior.samples import check_count
from fokker.processes import NoiseProcess, VariancePreserving
from fokker.random_fields import CosineSpectrum
from fokker.samplers.base import Sampler
from fokker.samplers.loop import SampleResult, sample
from fokker.score import RHO_RANGE
from fokker.storage import write_json, write_tensors


class FunctionPrior:
    """See above. `at(grid)` is a score model of the function on a grid, to be sampled or guided like any other.

    field: the law of the noise, of mean variance 1. mean: cosine coefficients (modes, ...) of the mean function.
    data_std: d, so that the functions are mean + d N(0, C) as a Gaussian. grid: of the training fields.
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
        process: NoiseProcess | None = None,
    ):
        self.network, self.field, self.mean, self.data_std = network, field, mean, data_std
        self.grid, self.recipe, self.observations = grid, recipe, observations
        self.rho_range = RHO_RANGE[0] * data_std, RHO_RANGE[1] * data_std
        self.process = VariancePreserving() if process is None else process
        self._models: dict[tuple[int, ...], FunctionScore] = {}

    def at(self, grid: Grid | tuple[int, ...] | None = None) -> FunctionScore:
        """The score model of the function at the centres of the cells of `grid` (default: that of training)."""
        grid = self.grid if grid is None else grid if isinstance(grid, Grid) else Grid(grid)
        if grid.dimension != self.grid.dimension:
            raise InputError(f"grid: got {grid.shape}, a grid of {self.grid.dimension} axes is accepted")
        if grid.shape not in self._models:
            noise = OnGrid(self.field, grid.shape)
            mean = self.mean
            for axis in range(-grid.dimension, 0):
                mean = COSINES.on_cells(mean, axis, grid.shape[axis])
            prior = self.field.variance(grid.points).reshape(grid.shape)
            self._models[grid.shape] = FunctionScore(
                replace(self.process, noise=noise), self.network, mean, prior, self.data_std, self.rho_range,
                self.observations is not None,
            )  # fmt: skip
        return self._models[grid.shape]
