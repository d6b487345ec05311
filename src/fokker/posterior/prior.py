"""Learned priors: a score model of plain x, with the settings to sample and save it.

Sources: Song et al. 2021; Karras et al. 2022 (preconditioning, levels and grid of the default recipe).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fokker.coordinates import Coordinates
from fokker.networks.denoiser import NetworkScore
from fokker.posterior.files import FORMAT, loaded_model, save_model
from fokker.posterior.recipes import Recipe
from fokker.posterior.samples import check_count
from fokker.processes import NoiseProcess
from fokker.samplers.base import Sampler
from fokker.samplers.loop import SampleResult, sample
from fokker.states import Moments
from fokker.time_grid import Grid


class Prior(NetworkScore):
    """The law of x, as `fit_prior` learns it: a score model like any other, in the units of x."""

    kind: ClassVar[str] = "prior"

    def __init__(
        self,
        process: NoiseProcess,
        network: nn.Module,
        coordinates: Coordinates | None,
        moments: Moments,
        rho_range: tuple[float, float],
        *,
        recipe: Recipe,
        x_shape: tuple[int, ...],
        **more: Any,
    ):
        super().__init__(process, network, coordinates, moments, rho_range, **more)
        self.recipe, self.x_shape = recipe, x_shape

    def __repr__(self) -> str:
        return f"Prior(x_shape={self.x_shape}, recipe={self.recipe.name!r}, process={self.process!r})"

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        sampler: Sampler | None = None,
        grid: Grid | Tensor | None = None,
        steps: int | None = None,
    ) -> SampleResult:
        """`fokker.sample` of (n, *x_shape) with the recipe's sampler, grid and steps unless told otherwise."""
        check_count(n)
        return sample(
            self,
            (n, *self.x_shape),
            sampler=self.recipe.sampler if sampler is None else sampler,
            steps=self.recipe.steps if steps is None else steps,
            grid=self.recipe.grid if grid is None else grid,
            seed=seed,
        )

    def save(self, directory: str | Path) -> None:
        """Write weights.safetensors and model.json, each whole or not at all."""
        save_model(directory, self, self.settings())

    def settings(self) -> dict[str, Any]:
        """All that `load` needs beside the tensors; InputError where no file can hold the model."""
        own = {"format": FORMAT, "kind": self.kind, "recipe": self.recipe.settings(), "x_shape": list(self.x_shape)}
        return {**own, **super().settings()}

    @classmethod
    def load(cls, directory: str | Path, device: str | torch.device = "cpu") -> Prior:
        """What `save` wrote, the network on `device`; InputError names a file that is missing or damaged."""
        with loaded_model(directory, cls.kind) as (settings, tensors):
            recipe, x_shape = Recipe.from_settings(settings["recipe"]), tuple(settings["x_shape"])
            return cls.restore(settings, tensors, torch.device(device), recipe=recipe, x_shape=x_shape)
