"""Guidance with weights that are chosen by hand, in the form that DiffusionPDE and FunDPS have released.

After each step without guidance, x_s loses w C grad |r_y| + v C grad |r_E|, both through the denoiser: r_y is what data
leave, r_E the residual of the equation, C the covariance of the noise (the identity where it is white). As released,
the equation acts in the last fifth of the steps alone, and the data then by a tenth.
Sources: Huang et al. 2024 (DiffusionPDE); Yao et al. 2025 (FunDPS); Chung et al. 2023 (the norm, not its square).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from peers.field_models import GridScore, Trained, channels
from torch import Tensor

from fokker.posterior.dps import Held
from fokker.posterior.problem import MEASURED
from fokker.problems.field_data import FieldProblem
from fokker.rng import Rows
from fokker.samplers.base import Carried, StepNoise
from fokker.samplers.loop import sample
from fokker.samplers.transition import Transition
from fokker.score import ScoreModel
from fokker.states import Cond
from fokker.time_grid import Karras

WHERE = "seen"  # the condition that holds the points
LATE, LESS = 0.2, 0.1  # the share of the steps in which the equation acts, and what is left of the data there


@dataclass(frozen=True)
class Weights:
    """What is chosen by hand: w, v, and alpha of the steps, 0 for the ODE and 1 for the ancestral ones."""

    data: float
    equation: float = 0.0
    alpha: float = 1.0


@dataclass(frozen=True)
class Guided:
    """Fields of a problem from a model of its joint field."""

    problem: FieldProblem
    trained: Trained

    @property
    def model(self) -> GridScore:
        """The prior."""
        assert isinstance(self.trained.model, GridScore)
        return self.trained.model

    def residual(self, x: Tensor, cond: Cond) -> Tensor:
        """y - values at the points (B, m), in standard deviations of the seen field; x (B, c, n, n) of variance 1."""
        seen = channels(self.problem)[0]
        mean, std = float(self.trained.scales.mean[seen]), float(self.trained.scales.std[seen])
        return (cond[MEASURED] - mean) / std - x[:, seen].flatten(1).gather(1, cond[WHERE])

    def equation(self, x: Tensor) -> Tensor:
        """Lap u + shift u - g (B, n^2), in standard deviations of g; zero for every solution."""
        assert self.problem.solve is not None
        mean, std = self.trained.scales.mean.to(x), self.trained.scales.std.to(x)
        g, u = (x * std + mean).unbind(1)
        return ((self.problem.solve.pseudo_inverse(u) - g) / std[0]).flatten(1)

    def draw(self, points: Tensor, y: Tensor, n: int, weights: Weights, steps: int, first: int = 0) -> Tensor:
        """n samples (M, n, *grid), float64, of the wanted field of each case, their numbers from `first` on.

        points, y: (M, m).

        FloatingPointError where they diverge.
        """
        count = len(y)
        found = sample(
            self.model,
            (count * n, *self.model.x_shape),
            sampler=HandTuned(self, weights, steps),
            steps=steps,
            grid=Karras(),
            cond={MEASURED: y.float(), WHERE: points},
            rows=Rows.grid(count, n, first),
        )
        joint = self.trained.scales.back(found.samples)[:, channels(self.problem)[1]]
        return joint.unflatten(0, (count, n))


class HandTuned:
    """A sampler: see above."""

    adaptive: ClassVar[bool] = False

    def __init__(self, guided: Guided, weights: Weights, steps: int):
        self.guided, self.weights = guided, weights
        self.inner = Transition(alpha=weights.alpha, order=2)
        times = Karras()(guided.model.process, steps, *guided.model.time_range)
        self.last = float(times[int((1 - LATE) * steps)])

    def init(self, model: ScoreModel, x: Tensor) -> Carried:
        """As the inner sampler."""
        return self.inner.init(model, x)

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """One evaluation, one backward pass."""
        assert isinstance(state.x, Tensor)
        weights, late = self.weights, t <= self.last
        with torch.enable_grad():
            x = state.x.detach().requires_grad_()
            d = model.denoise(x, t, cond)
            assert isinstance(d, Tensor)
            loss = (LESS if late else 1.0) * weights.data * norm(self.guided.residual(d, cond))
            if late and weights.equation > 0:
                loss = loss + weights.equation * norm(self.guided.equation(d))
            gradient = torch.autograd.grad(loss.sum(), x)[0]
        after, info = self.inner.step(Held(model, d.detach()), state, t, s, noise, cond)
        process: Any = model.process
        return Carried(after.x - process.noise.apply(gradient), after.memory), info

    def settings(self) -> dict[str, Any]:
        """Those of the inner sampler, and the weights."""
        return {**self.inner.settings(), "weights": asdict(self.weights)}


def norm(residual: Tensor) -> Tensor:
    """Of each row, so that results do not depend on the batch."""
    return torch.linalg.vector_norm(residual, dim=1)
