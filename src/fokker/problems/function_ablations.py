"""Models of functions without one of their parts, trained like the whole ones: what the part is worth.

`WhiteFunctions` diffuses by noise that is independent from cell to cell in place of the law of the functions, the usual
choice for images. `ToldFunctions` sees the observations as they are, in place of the Gaussian conditional they make.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fokker.errors import InputError
from fokker.fields.batches import OnGrids
from fokker.fields.observations import PointObservations
from fokker.fields.prior import FunctionPrior
from fokker.fields.score import FunctionScore
from fokker.fields.update import Update
from fokker.grids import Grid
from fokker.losses import LogNormalLevels
from fokker.networks.build import build
from fokker.noise import White
from fokker.posterior.recipes import Recipe
from fokker.posterior.training_data import Draws
from fokker.processes import VarianceExploding
from fokker.rng import torch_generator
from fokker.states import column
from fokker.training import Trainer, TrainRecord


class WhiteFunctions(FunctionPrior):
    """A prior whose noise is N(0, I) on the cells of whatever grid it is asked on, as in Karras et al. 2022.

    A wave sees the level rho / sqrt(cells), so that the highest level of `FunctionPrior` is multiplied by the root of
    the number of cells: the lowest waves would otherwise never be lost in noise.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        low, high = self.rho_range
        self.rho_range = low, high * math.sqrt(self.grid.size)

    def at(self, where: Grid | tuple[int, ...] | Tensor | None = None) -> FunctionScore:
        """As `FunctionPrior.at`, on grids."""
        of = super().at(where)
        process = VarianceExploding(self.rho_range[1], noise=White())
        return FunctionScore(
            process, of.network, of.mean, torch.ones_like(of.prior), self.data_std, self.rho_range, False
        )


class ToldScore(FunctionScore):
    """D = D_z + std F(channels), D_z and std of the Gaussian without data, the data as channels on their cells.

    channels: (z - mean)/sqrt(d^2 + rho^2); and at each cell the sum of y - mean of its observations, over d, their
    number, and that times the standard deviation of their noise, over d. Observations of one noise, at cells.
    """

    def _gaussian(self, z: Tensor, rho: Tensor, update: Update | None) -> tuple[Tensor, Tensor, Tensor]:
        d, c2 = self.data_std, self._left(rho)
        total, centred = d**2 + rho**2, z - self.mean.to(z)
        inner, guess = centred * column(total.rsqrt(), z), centred * column(d**2 / total, z)
        std = (column(c2.sqrt(), z) * self.prior.sqrt().to(z)).expand(z.shape)
        data = torch.zeros(3, *z.shape, dtype=z.dtype, device=z.device)
        if update is not None:
            seen = update.rows.square().sum(1).expand(len(z), -1)
            largest = torch.nn.functional.pad(update.variance, (1, 0)).amax(1, keepdim=True)  # one noise, or none
            if bool(((update.variance != largest) & (update.values > 0)).any()):
                raise InputError("likelihood: got noise of several variances, one for all observations is accepted")
            std_y = largest.sqrt()
            placed, noise = update._apply(update.rows.mT, update.data) / d, seen * std_y / d
            data = torch.stack([part.reshape(z.shape).to(z) for part in (placed, seen, noise)])
        return guess, std, torch.cat([inner[:, None], data.movedim(0, 1)], 1)


class ToldFunctions(FunctionPrior):
    """A model trained with observations, see `ToldScore`. Its chains start from the same draws as the whole model's."""

    def at(self, where: Grid | tuple[int, ...] | Tensor | None = None) -> FunctionScore:
        """As `FunctionPrior.at`, on grids."""
        of = super().at(where)
        return ToldScore(of.process, of.network, of.mean, of.prior, self.data_std, self.rho_range, True)


def trained(
    kind: type[FunctionPrior],
    whole: FunctionPrior,
    fields: Any,
    recipe: Recipe,
    *,
    observations: PointObservations | None = None,
    seed: int = 0,
    progress: Callable[[TrainRecord], None] | None = None,
) -> FunctionPrior:
    """A model of the kind with the Gaussian and the sizes of network of the whole one, which `fit_functions` made of
    the same fields; its weights are new."""
    data = Draws(fields, seed, recipe.held_out)
    prior = kind(_fresh(whole, seed), whole.field, whole.mean, whole.data_std, whole.grid, recipe, observations)
    batches, size = OnGrids(prior, observations, seed), recipe.training.batch_size
    levels = LogNormalLevels(prior.rho_range, prior.data_std, recipe.level_mean, recipe.level_std)
    held = batches.held(data.x_of(data.held))
    trainer = Trainer(
        batches.model,
        lambda step: batches.at(step, data.x_of(data.rows(step, size))),
        levels,
        held,
        recipe.training,
        seed,
    )
    for record in trainer.run():
        if progress is not None:
            progress(record)
    return prior


def _fresh(whole: FunctionPrior, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, "weights").initial_seed())
        return build(whole.network.settings())  # type: ignore[operator]
