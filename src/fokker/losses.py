"""Denoising loss. Which noise levels are trained on and how they are weighted are two separate settings.

    E |D(x_0 + rho noise; rho) - x_0|^2 w(rho),    with D = (x_t + sigma^2 score) / m, so that
    |sigma score + noise|^2 = |D - x_0|^2 / rho^2.

Sources: Vincent 2011 (denoising score matching); Karras et al. 2022 (levels and weights of the "edm" setting);
Ho et al. 2020 and Dasgupta et al. 2025 (uniform times, weight 1 on eps).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess
from fokker.score import Cond, Denoiser, column, row_mean

Levels = Callable[[int, torch.Generator], Tensor]
WEIGHTINGS = ("edm", "eps")


@dataclass(frozen=True)
class LogNormalLevels:
    """log(rho / scale) ~ N(mean, std^2), clipped to rho_range; scale is the standard deviation of the data."""

    rho_range: tuple[float, float]
    scale: float = 1.0
    mean: float = -1.2
    std: float = 1.2

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        log = self.mean + self.std * torch.randn(count, generator=generator, dtype=torch.float64)
        return (self.scale * log.exp()).clamp(*self.rho_range)


@dataclass(frozen=True)
class UniformTimes:
    """rho(t) of the process at t uniform over [t_min, t_max]."""

    process: NoiseProcess
    t_min: float
    t_max: float

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        t = torch.rand(count, generator=generator, dtype=torch.float64)
        return self.process.noise_to_signal(self.t_min + (self.t_max - self.t_min) * t)


def weight(name: str, rho: Tensor, data_std: float) -> Tensor:
    """w(rho) on |D - x_0|^2: "edm" (rho^2 + d^2) / (rho d)^2, "eps" 1 / rho^2."""
    match name:
        case "edm":
            return (rho**2 + data_std**2) / (rho * data_std) ** 2
        case "eps":
            return rho**-2
    raise InputError(f"weighting: got {name!r}, one of {', '.join(WEIGHTINGS)} is accepted")


def denoising(model: Denoiser, x_0: Tensor, rho: Tensor, noise: Tensor, cond: Cond) -> Tensor:
    """|D(x_0 + rho noise; rho) - x_0|^2, averaged over the entries of each row of x_0 (B, *shape) -> (B,).

    Entries where cond["mask"] (B, P) is zero are padding: they leave the average, and rho (B,) levels them all alike.
    """
    denoised = model.denoised(x_0 + column(rho, x_0) * noise, rho, cond)
    return row_mean((denoised - x_0).square(), cond)
