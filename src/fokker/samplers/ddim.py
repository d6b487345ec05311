"""DDIM with its own parameter eta: the transition whose weight alpha differs from step to step.

    sigma_eta^2 = eta^2 (1 - abar_s)/(1 - abar_t) (1 - abar_t/abar_s),      e^-2I = 1 - eta^2 (1 - r^2),

with r = rho_s / rho_t: the first in the words of its paper (abar = m^2 of a variance preserving process), the second in
those of `Transition`, where it holds for every process. Over a step alpha = log(e^-I) / log r: eta = 0 is alpha = 0,
eta = 1 is alpha = 1, and in between alpha tends to eta^2 as the steps become small.

Source: Song, Meng, Ermon 2021, equations 12 and 16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.samplers.base import Carried, GaussianStep
from fokker.samplers.transition import Span, held, span
from fokker.score import ScoreModel
from fokker.states import Cond, State, over_parts


@dataclass(frozen=True)
class DDIM(GaussianStep):
    """Order 1, one evaluation per step, 0 <= eta <= 1. The last step, to rho = 0, returns the denoised value."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.eta, bool) or not isinstance(self.eta, int | float) or not 0 <= self.eta <= 1:
            raise InputError(f"eta: got {self.eta!r}, a number from 0 to 1 is accepted")

    def kernel(self, model: ScoreModel, state: Carried, t: float, s: float, cond: Cond) -> tuple[Carried, State]:
        """(mean, std) of the Gaussian law of x_s given x_t; std is a scalar for each part."""
        x_0_hat = model.denoise(state.x, t, cond)
        if s == 0:
            return Carried(x_0_hat), over_parts(lambda process: process.sigma(0.0), model.process)

        spans = over_parts(lambda process: span(process, t, s), model.process)

        def mean(ends: Span, x: Tensor, d: Tensor) -> Tensor:
            r = ends.rho_s / ends.rho_t
            # e^-2I without cancellation at either end of eta.
            kept = math.sqrt((1 - self.eta) * (1 + self.eta) + (self.eta * r) ** 2)
            return held(ends, x, d, r * kept)

        def std(ends: Span) -> Tensor:
            r = ends.rho_s / ends.rho_t
            value = ends.m_s * ends.rho_s * self.eta * math.sqrt((1 - r) * (1 + r))
            return torch.tensor(value, dtype=torch.float64)

        return Carried(over_parts(mean, spans, state.x, x_0_hat)), over_parts(std, spans)

    def settings(self) -> dict[str, Any]:
        """Name and eta."""
        return {"name": "ddim", "eta": float(self.eta)}
