"""Heun's second-order method for the probability-flow ODE in rho: dz/drho = (z - D(z; rho)) / rho.

Source: Karras et al. 2022, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fokker.processes import NoiseProcess
from fokker.samplers.base import Carried, StepNoise
from fokker.score import ScoreModel
from fokker.states import Cond, State, column, over_parts


@dataclass(frozen=True)
class Heun:
    """Order 2, two evaluations per step but one in the last, which returns the denoised value."""

    adaptive = False

    def init(self, model: ScoreModel, x: State) -> Carried:
        """Nothing to remember."""
        return Carried(x)

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """An Euler step to rho_s, then the trapezoidal rule; the noise is not used."""
        first = model.denoise(state.x, t, cond)
        if s == 0:
            return Carried(first), {}

        def euler(process: NoiseProcess, x: Tensor, d: Tensor) -> Tensor:
            z, slope, width = _slope(process, x, d, t, t, s)
            return (z + width * slope) * column(process.scale(s), x)

        guess = over_parts(euler, model.process, state.x, first)
        second = model.denoise(guess, s, cond)

        def trapezoid(process: NoiseProcess, x: Tensor, d: Tensor, x_s: Tensor, d_s: Tensor) -> Tensor:
            z, slope, width = _slope(process, x, d, t, t, s)
            _, slope_s, _ = _slope(process, x_s, d_s, s, t, s)
            return (z + width * (slope + slope_s) / 2) * column(process.scale(s), x)

        return Carried(over_parts(trapezoid, model.process, state.x, first, guess, second)), {}

    def settings(self) -> dict[str, Any]:
        """Its name."""
        return {"name": "heun"}


def _slope(
    process: NoiseProcess, x: Tensor, d: Tensor, here: float, t: float, s: float
) -> tuple[Tensor, Tensor, Tensor]:
    """z and dz/drho at time `here`, and the width rho_s - rho_t of the step."""
    z = x / column(process.scale(here), x)
    width = process.noise_to_signal(s) - process.noise_to_signal(t)
    return z, (z - d) / column(process.noise_to_signal(here), x), column(width, x)
