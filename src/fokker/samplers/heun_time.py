"""The trapezoidal rule (Heun) in the process's own time t, for the whole reverse family.

With tau = T - t and C score = (m D - x) / sigma^2,

    dX = v(X, t) dtau + sqrt(alpha g^2) dW,     v = -f x + (1 + alpha)/2 g^2 C score,

a step of width h from t to s takes one noise increment for its predictor and its corrector,

    guess = x + h v(x, t) + e,    x_s = guess + h/2 [v(guess, s) - v(x, t)],    e ~ N(0, C int_s^t alpha g^2).

The noise depends on t alone, so this is of weak order 2, and of order 2 for the ODE. The integral is by Gauss-Legendre.
The trapezoidal rule for it would have the same order: on Gaussian data it has up to twice the error on fine grids, and
on coarse grids neither is better throughout.

Near t = 0 the rate at which v pulls towards the denoised value, lambda = (1 + alpha)/2 g^2 / sigma^2, grows like 1/t.
Where h lambda(s) > 2, on a grid uniform in t usually in the last step before 0 alone, the rule would blow up what its
predictor left. There v(x_s, s) stands for v(guess, s) with the denoised value of the guess in it: an equation linear in
x_s, of the same order and stable for any h.

Sources: Song et al. 2021 (the family at alpha = 0 and 1); Kloeden and Platen 1992, section 15.1 (weak order 2 for
additive noise); Karras et al. 2022 (the same rule in rho, `Heun`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fokker.processes import NoiseProcess
from fokker.samplers.base import Carried, StepNoise, add_noise
from fokker.samplers.transition import Alpha, alpha_at, alpha_name, check_alpha
from fokker.score import ScoreModel
from fokker.states import Cond, State, column, over_parts

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_STABLE = 2.0  # the largest h lambda for which explicit rules do not enlarge a deviation from the denoised value


@dataclass(frozen=True)
class HeunTime:
    """Order 2 (weakly, for alpha > 0), two evaluations per step but one in the last.

    alpha is a number >= 0 or a function of rho: 0 is the probability-flow ODE, 1 the reverse SDE. The last step, to
    t = 0, returns the denoised value; nothing is evaluated below the last level of the grid.
    """

    alpha: Alpha = 0.0
    adaptive = False

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def init(self, model: ScoreModel, x: State) -> Carried:
        """Nothing to remember."""
        return Carried(x)

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """Euler-Maruyama to s, then the correction by the drift found there."""
        x_0_hat = model.denoise(state.x, t, cond)
        if s == 0:
            return Carried(x_0_hat), {}
        h = t - s

        def drift(process: NoiseProcess, x: Tensor, d: Tensor, u: float) -> Tensor:
            rate = self._rate(process, u)
            return column(rate * process.scale(u), x) * d - column(rate + process.drift(u), x) * x

        def std(process: NoiseProcess) -> Tensor:
            u = s + h * (torch.from_numpy(_NODES) + 1) / 2
            added = alpha_at(self.alpha, process.noise_to_signal(u)) * process.diffusion_squared(u)
            return torch.sqrt(h / 2 * (torch.from_numpy(_WEIGHTS) @ added))

        def euler(process: NoiseProcess, x: Tensor, d: Tensor) -> Tensor:
            return x + h * drift(process, x, d, t)

        mean = over_parts(euler, model.process, state.x, x_0_hat)
        guess = add_noise(mean, over_parts(std, model.process), noise)
        second = model.denoise(guess, s, cond)

        def trapezoid(process: NoiseProcess, x: Tensor, d: Tensor, x_s: Tensor, d_s: Tensor) -> Tensor:
            middle = x_s - h / 2 * drift(process, x, d, t)
            rate = self._rate(process, s)
            if float(h * rate) <= _STABLE:
                return middle + h / 2 * drift(process, x_s, d_s, s)
            pull = column(h / 2 * rate * process.scale(s), x) * d_s
            return (middle + pull) / column(1 + h / 2 * (rate + process.drift(s)), x)

        return Carried(over_parts(trapezoid, model.process, state.x, x_0_hat, guess, second)), {}

    def _rate(self, process: NoiseProcess, t: float) -> Tensor:
        """lambda = (1 + alpha)/2 g^2 / sigma^2."""
        alpha = alpha_at(self.alpha, process.noise_to_signal(t))
        return (1 + alpha) / 2 * process.diffusion_squared(t) / process.sigma(t) ** 2

    def settings(self) -> dict[str, Any]:
        """Name and alpha."""
        return {"name": "heun_time", "alpha": alpha_name(self.alpha)}
