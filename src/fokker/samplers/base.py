"""What a sampler is: `init` and `step`; the loop does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from fokker.score import ScoreModel
from fokker.states import Cond, State, over_parts


class Carried(NamedTuple):
    """A sampler's state: the diffused x_t, and what it remembers of earlier steps."""

    x: State
    memory: Any = None


class StepNoise(Protocol):
    """The noise of one step, drawn only if asked for; `draw` counts a step's draws."""

    def __call__(self, draw: int = 0) -> State: ...


class Sampler(Protocol):
    """How to go from time t to s < t. `adaptive` samplers choose their own steps inside each interval of the grid."""

    @property
    def adaptive(self) -> bool: ...

    def init(self, model: ScoreModel, x: State) -> Carried:
        """The state before the first step."""
        ...

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """The state at s, and what a person may want to know of the step."""
        ...

    def settings(self) -> dict[str, Any]:
        """Name and parameters."""
        ...


class GaussianStep(ABC):
    """A sampler whose steps are Gaussian: it gives their `kernel`, and `step` draws from it."""

    adaptive: ClassVar[bool] = False

    @abstractmethod
    def kernel(self, model: ScoreModel, state: Carried, t: float, s: float, cond: Cond) -> tuple[Carried, State]:
        """(mean, std) of the law of x_s given what is known at t; std is a scalar or of the state's shape, by part."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Name and parameters."""

    def init(self, model: ScoreModel, x: State) -> Carried:
        """Nothing remembered yet."""
        return Carried(x)

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """Draw from the kernel; no noise is drawn where its std is zero."""
        mean, std = self.kernel(model, state, t, s, cond)
        return Carried(add_noise(mean.x, std, noise), mean.memory), {}


def add_noise(mean: State, std: State, noise: StepNoise) -> State:
    """mean + std * noise, without drawing when every std is zero."""
    if not any(bool((v > 0).any()) for v in (std.values() if isinstance(std, dict) else [std])):
        return mean

    def add(x: Tensor, sd: Tensor, xi: Tensor) -> Tensor:
        return torch.add(x, xi, alpha=float(sd)) if sd.ndim == 0 else x + sd * xi

    return over_parts(add, mean, std, noise())
