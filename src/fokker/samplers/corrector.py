"""Langevin steps along the noise levels: after each step of another sampler, or by themselves.

At the level s, with eps = step_size sigma(s)^2 and C score = (m D - x) / sigma^2,

    x <- x + eps C score + sqrt(2 eps) xi  =  x + step_size (m D - x) + sqrt(2 step_size) sigma xi,    xi ~ N(0, C),

leaves p_s as it is, up to a bias of first order in step_size, whatever the noise covariance C; only the denoiser is
needed. The step is fixed by the level alone. Published codes take it from the norms of score and noise over a batch,
so that a sample depends on the others; ours does not.

Sources: Song et al. 2021, algorithms 2 to 5 (predictor-corrector); Song & Ermon 2019, algorithm 1 (annealed Langevin).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess
from fokker.samplers.base import Carried, Sampler, StepNoise
from fokker.samplers.transition import Transition
from fokker.score import ScoreModel
from fokker.states import Cond, State, column, over_parts


@dataclass(frozen=True)
class PredictorCorrector:
    """A step of `predictor`, then `steps` Langevin steps at the level it arrived at, but none at t = 0.

    step_size lies in (0, 2): beyond that the Langevin steps of a single point diverge. Song et al. 2021 have twice the
    square of their signal-to-noise ratio: 2 0.16^2 = 0.05. With step_size of the size of the predictor's steps the law
    converges with order 1; with a fixed one a bias proportional to it remains. A predictor that remembers its last
    step starts afresh each time, as the Langevin steps have moved the state: take one of order 1.
    """

    predictor: Sampler = field(default_factory=Transition)
    steps: int = 1
    step_size: float = 0.05
    adaptive = False

    def __post_init__(self) -> None:
        if not callable(getattr(self.predictor, "step", None)) or not callable(getattr(self.predictor, "init", None)):
            raise InputError(f"predictor: got {self.predictor!r}, a sampler such as Transition(alpha=1.0) is accepted")
        _check_langevin(self.steps, self.step_size, 2)

    def init(self, model: ScoreModel, x: State) -> Carried:
        """The predictor's."""
        return self.predictor.init(model, x)

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """Predict, then correct at s."""
        # Draws 1 to `steps` are the corrector's; the predictor's are multiples of steps + 1, so none is used twice.
        state, info = self.predictor.step(model, state, t, s, lambda draw=0: noise((self.steps + 1) * draw), cond)
        if s == 0:
            return state, info
        x = state.x
        for draw in range(1, self.steps + 1):
            x = _langevin_step(model, x, s, self.step_size, noise(draw), cond)
        return self.predictor.init(model, x), info

    def settings(self) -> dict[str, Any]:
        """Name, the predictor's settings, and those of the Langevin steps."""
        return {
            "name": "predictor_corrector",
            "predictor": self.predictor.settings(),
            "steps": self.steps,
            "step_size": float(self.step_size),
        }


@dataclass(frozen=True)
class AnnealedLangevin:
    """`steps` Langevin steps at each level of the grid below the first, where the state is drawn.

    x <- x + (eps_i / 2) C score + sqrt(eps_i) xi with eps_i = step_size sigma_i^2. In coordinates x / m the sigma_i are
    the levels rho_i of Song & Ermon 2019, who write eps_i = eps sigma_i^2 / sigma_L^2: step_size = eps / sigma_L^2 is
    free of units and of the last level; theirs is 2e-5 / 0.01^2 = 0.2, with 100 steps at each of 10 levels.
    step_size lies in (0, 4). From one level to the next x / m stays where it is. The last step, to t = 0, returns the
    denoised value. The law converges as step_size falls while steps * step_size grows: it has no order in the grid.
    """

    step_size: float = 0.2
    steps: int = 100
    adaptive = False

    def __post_init__(self) -> None:
        _check_langevin(self.steps, self.step_size, 4)

    def init(self, model: ScoreModel, x: State) -> Carried:
        """Nothing to remember."""
        return Carried(x)

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """To the level s as it is, then Langevin steps there."""
        if s == 0:
            return Carried(model.denoise(state.x, t, cond)), {}
        x = over_parts(lambda p, x: x * column(p.scale(s) / p.scale(t), x), model.process, state.x)
        for draw in range(self.steps):
            x = _langevin_step(model, x, s, self.step_size / 2, noise(draw), cond)
        return Carried(x), {}

    def settings(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "annealed_langevin", "step_size": float(self.step_size), "steps": self.steps}


def _langevin_step(model: ScoreModel, x: State, t: float, step_size: float, xi: State, cond: Cond) -> State:
    """x + step_size (m D - x) + sqrt(2 step_size) sigma xi."""

    def part(process: NoiseProcess, x: Tensor, d: Tensor, xi: Tensor) -> Tensor:
        target = column(process.scale(t), x) * d
        return torch.lerp(x, target, step_size) + column(math.sqrt(2 * step_size) * process.sigma(t), x) * xi

    return over_parts(part, model.process, x, model.denoise(x, t, cond), xi)


def _check_langevin(steps: int, step_size: float, end: float) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps: got {steps!r}, an integer of at least 1 is accepted")
    if isinstance(step_size, bool) or not isinstance(step_size, int | float) or not 0 < step_size < end:
        raise InputError(f"step_size: got {step_size!r}, a number above 0 and below {end} is accepted")
