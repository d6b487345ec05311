"""A multistep transition that is exact for Gaussian data, not for a point as `Transition` is.

With V = d^2 + rho^2, d the standard deviation of the data, write D = (d^2/V) z + (rho d / sqrt(V)) F: F is what a
network of the EDM preconditioning puts out, and zero for data N(0, d^2 I). In w = z / sqrt(V) and theta =
arctan(rho / d) the reverse family of weight alpha is

    dw = alpha tan(theta) w dtheta - (1 + alpha) F dtheta + noise,        theta falling,

whose linear part is integrated exactly, its noise with it (var w = 1 stays 1), and F is taken as linear in theta
through its last two values:

    w_s = e^-A(theta_t) w_t + int (1 + alpha) e^-A(theta) F dtheta + sqrt(1 - e^-2A(theta_t)) xi,

the integral from theta_s to theta_t, A(theta) = int alpha tan from theta_s to theta. For alpha = 0 this is the
two-step Adams-Bashforth method for dw/dtheta = -F.

Sources: Karras et al. 2022 (preconditioning); Dasgupta et al. 2025, section 4 (the family in alpha). That solvers gain
from integrating a linear part exactly is Lu et al. 2022 (DPM-Solver); the Gaussian as that part is our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess
from fokker.samplers.base import Carried, GaussianStep
from fokker.samplers.transition import Alpha, alpha_at, alpha_name, check_alpha
from fokker.score import Cond, ScoreModel, State, column, over_parts

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


class _Coefficients(NamedTuple):
    decay: float  # e^-A
    gain: float  # on F
    slope: float  # on -dF/dtheta at theta_t
    std: float  # of the noise in w
    width: float  # theta_t - theta_s


@dataclass(frozen=True)
class GaussianTransition(GaussianStep):
    """One evaluation per step for any alpha >= 0, a number or a function of rho (float64 tensors in and out).

    order 2 takes F as linear through its last two values (the first step is of order 1). The model tells d by its
    `data_std`. The last step, to rho = 0, returns the denoised value.
    """

    alpha: Alpha = 0.0
    order: int = 2

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if self.order not in (1, 2):
            raise InputError(f"order: got {self.order!r}, 1 or 2 is accepted")

    def kernel(self, model: ScoreModel, state: Carried, t: float, s: float, cond: Cond) -> tuple[Carried, State]:
        """(mean, std) of the Gaussian law of x_s given what is known at t; std is a scalar for each part."""
        x_0_hat = model.denoise(state.x, t, cond)
        if s == 0:
            return Carried(x_0_hat), over_parts(lambda process: process.sigma(0.0), model.process)
        memory = state.memory if state.memory is not None else over_parts(lambda process: None, model.process)

        def residual(process: NoiseProcess, d: float, x: Tensor, x_0_hat: Tensor) -> Tensor:
            rho = process.noise_to_signal(t)
            root = (d**2 + rho**2).sqrt()
            on_z = d**2 / root / process.scale(t)
            return (column(root, x) * x_0_hat - column(on_z, x) * x) / column(rho * d, x)

        def mean(process: NoiseProcess, d: float, x: Tensor, f: Tensor, before: tuple[Tensor, float] | None) -> Tensor:
            c = self._coefficients(process, d, t, s)
            v_t, v_s = (d**2 + process.noise_to_signal(u) ** 2 for u in (t, s))
            w = column(c.decay / (process.scale(t) * v_t.sqrt()), x) * x
            if self.order == 2 and before is not None:
                w = w + (c.gain + c.slope / before[1]) * f - (c.slope / before[1]) * before[0]
            else:
                w = w + c.gain * f
            return column(process.scale(s) * v_s.sqrt(), x) * w

        def std(process: NoiseProcess, d: float) -> Tensor:
            v_s = d**2 + process.noise_to_signal(s) ** 2
            return process.scale(s) * v_s.sqrt() * self._coefficients(process, d, t, s).std

        f = over_parts(residual, model.process, model.data_std, state.x, x_0_hat)
        means = over_parts(mean, model.process, model.data_std, state.x, f, memory)
        remember = over_parts(
            lambda process, d, f: (f, self._coefficients(process, d, t, s).width), model.process, model.data_std, f
        )
        return Carried(means, remember if self.order == 2 else None), over_parts(std, model.process, model.data_std)

    def _coefficients(self, process: NoiseProcess, d: float, t: float, s: float) -> _Coefficients:
        """The integrals over theta by Gauss-Legendre, the exponent A(theta) inside them by nested intervals."""
        theta_t, theta_s = (math.atan(float(process.noise_to_signal(u)) / d) for u in (t, s))
        width = theta_t - theta_s
        nodes = theta_s + width * (torch.from_numpy(_NODES) + 1) / 2
        weights = torch.from_numpy(_WEIGHTS) * width / 2
        alpha = alpha_at(self.alpha, d * nodes.tan())
        if callable(self.alpha):
            inner = theta_s + (nodes[:, None] - theta_s) * (torch.from_numpy(_NODES) + 1) / 2
            values = alpha_at(self.alpha, d * inner.tan()) * inner.tan()
            below = (values @ torch.from_numpy(_WEIGHTS)) * (nodes - theta_s) / 2
            total = float(weights @ (alpha * nodes.tan()))
        else:
            below = alpha * (math.log(math.cos(theta_s)) - nodes.cos().log())
            total = self.alpha * (math.log(math.cos(theta_s)) - math.log(math.cos(theta_t)))
        pull = weights * (1 + alpha) * torch.exp(-below)
        return _Coefficients(
            decay=math.exp(-total),
            gain=float(pull.sum()),
            slope=float(pull @ (theta_t - nodes)),
            std=math.sqrt(-math.expm1(-2 * total)),
            width=width,
        )

    def settings(self) -> dict[str, Any]:
        """Name, alpha and order."""
        return {"name": "gaussian_transition", "alpha": alpha_name(self.alpha), "order": self.order}
