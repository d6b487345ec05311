"""The sampler of functions: exact where they are Gaussian, whatever the data and the steps.

With D = D_G + R, D_G the denoiser of the Gaussian given the data, the probability-flow ODE is

    dz/drho = (z - D_G) / rho - R / rho,

whose first part has a closed form (`update.Update.moved`). What R changes in a step is that of `GaussianTransition`,
F = R (d^2 + rho^2)^1/2 / (rho d) as linear in arctan(rho / d) through its last two values; half of it goes in before
the flow of the first part, half after it. Without data this is `GaussianTransition` itself.

Sources: Strang 1968 (the two halves); Hochbruck, Ostermann 2010, "Exponential integrators". That the Gaussian given the
data is the part taken exactly is our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from fokker.fields.score import FunctionScore
from fokker.samplers.base import Carried, GaussianStep
from fokker.samplers.gaussian_transition import coefficients
from fokker.score import ScoreModel
from fokker.states import Cond, State


@dataclass(frozen=True)
class FunctionFlow(GaussianStep):
    """One evaluation of the network per step; the last step, to rho = 0, returns the denoised value.

    score: the model told the data, whose Gaussian is that of the flow.
    """

    score: FunctionScore

    def kernel(self, model: ScoreModel, state: Carried, t: float, s: float, cond: Cond) -> tuple[Carried, State]:
        """(mean, std) of x_s given x_t: a flow, so that std is 0."""
        x, denoised = state.x, model.denoise(state.x, t, cond)
        still = torch.zeros((), dtype=torch.float64)
        assert isinstance(x, torch.Tensor) and isinstance(denoised, torch.Tensor)
        if s == 0:
            return Carried(denoised), still
        process, d = self.score.process, self.score.data_std
        (rho_t, m_t), (rho_s, m_s) = ((float(process.noise_to_signal(u)), float(process.scale(u))) for u in (t, s))
        z, step = x / m_t, coefficients(0.0, d, rho_t, rho_s)
        left = denoised - self.score.gaussian(z, torch.tensor(rho_t, dtype=torch.float64), cond)
        left = left * (math.hypot(d, rho_t) / (rho_t * d))
        before = state.memory
        change = step.gain * left if before is None else step.gain * left + step.slope / before[1] * (left - before[0])
        first, second = (0.5 * math.hypot(d, rho) * change for rho in (rho_t, rho_s))
        out = self.score.moved(z + first, rho_t, rho_s, cond) + second
        return Carried(m_s * out, (left, step.width)), still

    def settings(self) -> dict[str, Any]:
        """Its name."""
        return {"name": "function_flow"}
