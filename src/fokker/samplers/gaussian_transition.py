"""A multistep transition that is exact for Gaussian data, not for a point as `Transition` is.

With V = d^2 + rho^2, d the standard deviation of the data, write D = (d^2/V) z + (rho d / sqrt(V)) F: F is what a
network of the EDM preconditioning puts out, and zero for data N(0, d^2 I). In w = z / sqrt(V) and theta =
arctan(rho / d) the reverse family of weight alpha is

    dw = alpha tan(theta) w dtheta - (1 + alpha) F dtheta + noise,        theta falling,

whose linear part is integrated exactly, its noise with it (var w = 1 stays 1), and F is taken as linear in theta
through its last two values:

    w_s = e^-A(theta_t) w_t + int (1 + alpha) e^-A(theta) F dtheta + sqrt(1 - e^-2A(theta_t)) xi,

the integral from theta_s to theta_t, A(theta) = int alpha tan from theta_s to theta. For alpha = 0 this is the
two-step Adams-Bashforth method for dw/dtheta = -F. All of it is in z - mu and D - mu where the mean mu of the data is
known: a mean of 50 deviations would else leave a bias of 0.8 of them after 16 steps.

Sources: Karras et al. 2022 (preconditioning); Dasgupta et al. 2025, section 4 (the family in alpha). That solvers gain
from integrating a linear part exactly is Lu et al. 2022 (DPM-Solver); the Gaussian as that part is our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess
from fokker.samplers.base import Carried, GaussianStep
from fokker.samplers.transition import Alpha, alpha_at, alpha_name, check_alpha
from fokker.score import ScoreModel
from fokker.states import Cond, State, over_parts

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


class Coefficients(NamedTuple):
    decay: float  # e^-A
    gain: float  # on F
    slope: float  # on -dF/dtheta at theta_t
    std: float  # of the noise in w
    width: float  # theta_t - theta_s


class _Step(NamedTuple):
    """A step as sums: F = on_d D + on_x x, x_s = decay x + gain F + slope (F - F_before)/width_before + std noise.

    scale and scale_s: m at t and at s.
    """

    on_d: float
    on_x: float
    decay: float
    gain: float
    slope: float
    std: Tensor
    width: float
    scale: float
    scale_s: float


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
        parts = over_parts(lambda process, d: self._step(process, d, t, s), model.process, model.data_std)
        memory = state.memory if state.memory is not None else over_parts(lambda process: None, model.process)

        def residual(c: _Step, x: Tensor, d: Tensor, mu: Tensor | None) -> Tensor:
            out = (c.on_x * x).add_(d, alpha=c.on_d)
            return out if mu is None else out.sub_(mu.to(out), alpha=c.on_x * c.scale + c.on_d)

        def mean(c: _Step, x: Tensor, d: Tensor, mu: Tensor | None, before: tuple[Tensor, float] | None) -> Tensor:
            # F is put in by its coefficients: one pass less, and none of the digits that F loses where rho is small
            extra = 0.0 if before is None else c.slope / before[1]
            gain = c.gain + extra
            on_x, on_d = c.decay + gain * c.on_x, gain * c.on_d
            out = (on_x * x).add_(d, alpha=on_d)
            if mu is not None:
                out = out.add_(mu.to(out), alpha=c.scale_s - on_x * c.scale - on_d)
            return out if before is None else out.add_(before[0], alpha=-extra)

        means = over_parts(mean, parts, state.x, x_0_hat, model.data_mean, memory)
        stds = over_parts(lambda c: c.std, parts)
        if self.order == 1:
            return Carried(means), stds
        left = over_parts(residual, parts, state.x, x_0_hat, model.data_mean)
        return Carried(means, over_parts(lambda c, f: (f, c.width), parts, left)), stds

    def _step(self, process: NoiseProcess, d: float, t: float, s: float) -> _Step:
        rho_t, rho_s = (float(process.noise_to_signal(u)) for u in (t, s))
        m_t, m_s = (float(process.scale(u)) for u in (t, s))
        c = coefficients(self.alpha, d, rho_t, rho_s)
        root_t, root_s = math.hypot(d, rho_t), m_s * math.hypot(d, rho_s)
        return _Step(
            on_d=root_t / (rho_t * d),
            on_x=-d / (root_t * m_t * rho_t),
            decay=root_s * c.decay / (m_t * root_t),
            gain=root_s * c.gain,
            slope=root_s * c.slope,
            std=torch.tensor(root_s * c.std, dtype=torch.float64),
            width=c.width,
            scale=m_t,
            scale_s=m_s,
        )

    def settings(self) -> dict[str, Any]:
        """Name, alpha and order."""
        return {"name": "gaussian_transition", "alpha": alpha_name(self.alpha), "order": self.order}


@lru_cache(maxsize=1024)
def coefficients(alpha: Alpha, d: float, rho_t: float, rho_s: float) -> Coefficients:
    """The integrals over theta by Gauss-Legendre, the exponent A(theta) inside them by nested intervals."""
    theta_t, theta_s = math.atan(rho_t / d), math.atan(rho_s / d)
    width = theta_t - theta_s
    nodes = theta_s + width * (torch.from_numpy(_NODES) + 1) / 2
    weights = torch.from_numpy(_WEIGHTS) * width / 2
    values = alpha_at(alpha, d * nodes.tan())
    if callable(alpha):
        inner = theta_s + (nodes[:, None] - theta_s) * (torch.from_numpy(_NODES) + 1) / 2
        rates = alpha_at(alpha, d * inner.tan()) * inner.tan()
        below = (rates @ torch.from_numpy(_WEIGHTS)) * (nodes - theta_s) / 2
        total = float(weights @ (values * nodes.tan()))
    else:
        below = alpha * (math.log(math.cos(theta_s)) - nodes.cos().log())
        total = alpha * (math.log(math.cos(theta_s)) - math.log(math.cos(theta_t)))
    pull = weights * (1 + values) * torch.exp(-below)
    return Coefficients(
        decay=math.exp(-total),
        gain=float(pull.sum()),
        slope=float(pull @ (theta_t - nodes)),
        std=math.sqrt(-math.expm1(-2 * total)),
        width=width,
    )
