"""What a model of functions sees at every step: fields or values at points, and the data it is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.fields.observations import PointObservations
from fokker.fields.points import AnyPoints
from fokker.fields.prior import FunctionPrior
from fokker.fields.score import FunctionScore
from fokker.fields.update import Factor, stacked
from fokker.networks.denoiser import NetworkDenoiser
from fokker.rng import torch_generator
from fokker.states import Cond
from fokker.training import Batch

HELD = 256  # fields kept for validation, at most
POOL = 64  # sets of observations at a time; one of them is drawn anew at every step
FEWEST = 4  # points of context, at least


class Batches(Protocol):
    """Batches of the same functions for one kind of network."""

    @property
    def model(self) -> NetworkDenoiser:
        """What is trained."""
        ...

    def at(self, step: int, x: Tensor) -> Batch:
        """Of the functions x (B, *grid) at a step, fixed by the seed."""
        ...

    def held(self, x: Tensor) -> Batch:
        """For validation."""
        ...


class OnGrids:
    """Whole fields on the grid they came on; with observations, each field has a set of its own from a pool."""

    def __init__(self, prior: FunctionPrior, observations: PointObservations | None, seed: int):
        self.observations, self.seed = observations, seed
        self.model: FunctionScore = prior.at()
        self._kept: dict[tuple[int, int], tuple[Tensor, float, Factor]] = {}

    def at(self, step: int, x: Tensor) -> Batch:
        """The fields, and data of each."""
        x = x.to(self.model.device, self.model.dtype)
        if self.observations is None:
            return x, {}
        generator = torch_generator(self.seed, "data", step)
        slots = torch.randperm(POOL, generator=generator)[torch.arange(len(x)) % POOL].tolist()
        return x, self._cond(x, [self._set(step, slot) for slot in slots], generator)

    def held(self, x: Tensor) -> Batch:
        """The same with sets that training does not see."""
        x = x[: HELD if self.observations is None else POOL].to(self.model.device, self.model.dtype)
        if self.observations is None:
            return x, {}
        generator = torch_generator(self.seed, "validation data")
        return x, self._cond(x, [self._made(generator) for _ in x], generator)

    def _set(self, step: int, slot: int) -> tuple[Tensor, float, Factor]:
        """Observed entries, standard deviation of the noise, and the factor in a slot at a step."""
        version = (step - slot + POOL - 1) // POOL
        if (slot, version) not in self._kept:
            self._kept.pop((slot, version - 1), None)
            self._kept[slot, version] = self._made(torch_generator(self.seed, f"observations/{slot}", version))
        return self._kept[slot, version]

    def _made(self, generator: torch.Generator) -> tuple[Tensor, float, Factor]:
        assert self.observations is not None
        shape = self.model.x_shape
        chosen, std = self.observations.draw(math.prod(shape), generator)
        rows = torch.eye(math.prod(shape), dtype=torch.float64)[chosen].unflatten(1, shape)
        return chosen, std, Factor.of(self.model.process.noise, rows.to(self.model.device), std**2)

    def _cond(self, x: Tensor, sets: Sequence[tuple[Tensor, float, Factor]], generator: torch.Generator) -> Cond:
        flat, mean = x.flatten(1).double(), self.model.mean.flatten().double()
        residuals = []
        for row, (chosen, std, _) in zip(flat, sets):
            noise = std * torch.randn(len(chosen), generator=generator, dtype=torch.float64)
            residuals.append((row - mean)[chosen.to(row.device)] + noise.to(row.device))
        return stacked([factor for *_, factor in sets], residuals)


class OnPoints:
    """Values at `count` of the grid's points, others at every step; the first of them, FEWEST or more, are the context.

    The network is asked at all of them, and told data at some of the context. All functions of a step share the points.
    InputError where so many points, or observations, are more than there are.
    """

    def __init__(self, prior: FunctionPrior, observations: PointObservations | None, seed: int, count: int):
        most = FEWEST if observations is None else max(FEWEST, observations.most)
        if not most < count <= prior.grid.size:
            raise InputError(
                f"count: got {count} points for a step, more than {most} and at most {prior.grid.size} are accepted"
            )
        self.prior, self.observations, self.seed, self.count, self.least = prior, observations, seed, count, most
        self.model: AnyPoints = AnyPoints(prior)
        self.points = prior.grid.points

    def at(self, step: int, x: Tensor) -> Batch:
        """Values at the points of a step."""
        return self._drawn(x, torch_generator(self.seed, "points", step))

    def held(self, x: Tensor) -> Batch:
        """Values at points that are the same for every validation."""
        return self._drawn(x[:HELD], torch_generator(self.seed, "validation points"))

    def _drawn(self, x: Tensor, generator: torch.Generator) -> Batch:
        chosen = torch.randperm(len(self.points), generator=generator)[: self.count]
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        context = self.least + int(share * (self.count - self.least + 1))
        points, values = self.points[chosen], x.flatten(1)[:, chosen].to(self.model.device, self.model.dtype)
        cond = {"points": points[None], "context": torch.tensor([context])}
        if self.observations is not None:
            seen, std = self.observations.draw(context, generator)
            model = self.prior.at(points[:context])
            rows = torch.eye(context, dtype=torch.float64, device=values.device)[seen]
            noise = std * torch.randn(len(x), len(seen), generator=generator, dtype=torch.float64)
            residual = (values[:, :context].double() - model.mean) @ rows.T + noise.to(values.device)
            cond |= Factor.of(model.process.noise, rows, std**2).cond(residual)
        return values, cond
