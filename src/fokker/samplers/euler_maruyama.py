"""Euler-Maruyama in the process's own time t, as the published codes of score models do it.

    x <- x + [-f x + (1 + alpha)/2 g^2 C score] dtau + sqrt(alpha g^2 dtau) xi,     dtau = t - s,

with C score = (m D - x) / sigma^2. For n > 1 the second term grows like sigma^(1 - n) near t = 0: prefer `Transition`,
which steps in rho, where nothing is singular.

Sources: Song et al. 2021; Dasgupta et al. 2025 (arXiv 2504.07437), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fokker.processes import NoiseProcess
from fokker.samplers.base import Carried, GaussianStep
from fokker.samplers.transition import Alpha, alpha_at, alpha_name, check_alpha
from fokker.score import ScoreModel
from fokker.states import Cond, State, over_parts


@dataclass(frozen=True)
class EulerMaruyama(GaussianStep):
    """Order 1 (weakly, for alpha > 0). alpha = 0 is Euler for the probability-flow ODE, alpha = 1 the reverse SDE."""

    alpha: Alpha = 1.0

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def kernel(self, model: ScoreModel, state: Carried, t: float, s: float, cond: Cond) -> tuple[Carried, State]:
        """(mean, std) of x_s given x_t; at s = 0 the denoised value and 0."""
        x_0_hat = model.denoise(state.x, t, cond)
        if s == 0:
            return Carried(x_0_hat), over_parts(lambda process: process.sigma(0.0), model.process)

        def alpha(process: NoiseProcess) -> Tensor:
            return alpha_at(self.alpha, process.noise_to_signal(t))

        def mean(process: NoiseProcess, x: Tensor, d: Tensor) -> Tensor:
            pull = (t - s) * (1 + alpha(process)) / 2 * process.diffusion_squared(t) / process.sigma(t) ** 2
            on_x = 1 - (t - s) * process.drift(t) - pull
            return (float(on_x) * x).add_(d, alpha=float(pull * process.scale(t)))

        def std(process: NoiseProcess) -> Tensor:
            return torch.sqrt(alpha(process) * process.diffusion_squared(t) * (t - s))

        return Carried(over_parts(mean, model.process, state.x, x_0_hat)), over_parts(std, model.process)

    def settings(self) -> dict[str, Any]:
        """Name and alpha."""
        return {"name": "euler_maruyama", "alpha": alpha_name(self.alpha)}
