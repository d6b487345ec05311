"""The exact transition for a frozen denoiser, of first order, and its multistep form of second order.

In z = x / m, with D the denoised value held over the step from t to s and r = rho_s / rho_t,

    z_s = D + r e^-I (z_t - D) + rho_s sqrt(1 - e^-2I) xi,     I = int alpha dlog rho from rho_s to rho_t.

alpha = 0 is DDIM, alpha = 1 is DDPM's ancestral step with the variance beta-tilde.

Sources: Song, Meng, Ermon 2021 (DDIM); Ho et al. 2020 (DDPM); Dasgupta et al. 2025, section 4 (the family in alpha).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess
from fokker.samplers.base import Carried, GaussianStep
from fokker.score import ScoreModel
from fokker.states import Cond, State, over_parts

Alpha = float | Callable[[Tensor], Tensor]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


@dataclass(frozen=True)
class Transition(GaussianStep):
    """One evaluation per step for any alpha >= 0, a number or a function of rho (float64 tensors in and out).

    order 1 holds the denoised value over the step; order 2 takes it as linear in log rho through its last two values
    (the first step, and the last one to rho = 0, are of order 1). The declared order is that of the moments.
    """

    alpha: Alpha = 0.0
    order: int = 1

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
        spans = over_parts(lambda process: span(process, t, s), model.process)
        exponents = over_parts(self._exponents, spans)

        def mean(
            ends: Span, c: tuple[float, float], x: Tensor, d: Tensor, before: tuple[Tensor, float] | None
        ) -> Tensor:
            h, extra = c
            decay = math.exp(-h - extra)
            if self.order == 2 and before is not None:
                # (1 - e^-ah) D + [h - (1 - e^-ah)/a] (D - D_before)/h_before, written as a shift of D; a h = h + extra.
                gain = (h / (1 - decay) - h / (h + extra)) / before[1]
                d = torch.lerp(before[0], d, 1 + gain)
            return held(ends, x, d, decay)

        def std(ends: Span, c: tuple[float, float]) -> Tensor:
            return torch.tensor(ends.m_s * ends.rho_s * math.sqrt(-math.expm1(-2 * c[1])), dtype=torch.float64)

        means, stds = over_parts(mean, spans, exponents, state.x, x_0_hat, memory), over_parts(std, spans, exponents)
        if self.order == 1:
            return Carried(means), stds
        return Carried(means, over_parts(lambda d, c: (d, c[0]), x_0_hat, exponents)), stds

    def _exponents(self, ends: Span) -> tuple[float, float]:
        """h = log(rho_t / rho_s) and I, the integral of alpha over it."""
        return math.log(ends.rho_t / ends.rho_s), alpha_integral(self.alpha, ends.rho_s, ends.rho_t)

    def settings(self) -> dict[str, Any]:
        """Name, alpha and order."""
        return {"name": "transition", "alpha": alpha_name(self.alpha), "order": self.order}


class Span(NamedTuple):
    """m and rho at both ends of a step from t to s."""

    m_t: float
    m_s: float
    rho_t: float
    rho_s: float


def span(process: NoiseProcess, t: float, s: float) -> Span:
    """Both ends in one evaluation each: for small networks the functions of time are a good part of a step."""
    ends = torch.tensor([t, s], dtype=torch.float64)
    return Span(*process.scale(ends).tolist(), *process.noise_to_signal(ends).tolist())


def held(ends: Span, x: Tensor, x_0_hat: Tensor, decay: float) -> Tensor:
    """The mean of x_s with the denoised value held: m_s (D + decay (x_t / m_t - D)), decay = (rho_s / rho_t) e^-I."""
    return (ends.m_s * decay / ends.m_t * x).add_(x_0_hat, alpha=ends.m_s * (1 - decay))


def alpha_integral(alpha: Alpha, rho_s: float, rho_t: float) -> float:
    """I = int alpha dlog rho from rho_s to rho_t; by 16-point Gauss-Legendre where alpha is a function."""
    h = math.log(rho_t / rho_s)
    if not callable(alpha):
        return alpha * h
    u = math.log(rho_s) + h * (torch.from_numpy(_NODES) + 1) / 2
    return float(torch.from_numpy(_WEIGHTS) @ alpha_at(alpha, u.exp())) * h / 2


def alpha_at(alpha: Alpha, rho: Tensor) -> Tensor:
    """alpha at rho (float64) of the shape of rho; InputError where a user's function is negative or not finite."""
    if not callable(alpha):
        return torch.full_like(rho, alpha)
    value = torch.as_tensor(alpha(rho), dtype=torch.float64).expand(rho.shape)
    if not bool(torch.isfinite(value).all()) or bool((value < 0).any()):
        raise InputError(f"alpha: its function gave {value.tolist()}, finite values >= 0 are accepted")
    return value


def check_alpha(alpha: Alpha) -> None:
    """InputError unless alpha is a finite number >= 0 or a function of rho."""
    if callable(alpha):
        return
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha < 0:
        raise InputError(f"alpha: got {alpha!r}, a finite number >= 0 or a function of rho is accepted")


def alpha_name(alpha: Alpha) -> float | str:
    """alpha as it goes into settings."""
    return getattr(alpha, "__name__", "function") if callable(alpha) else float(alpha)
