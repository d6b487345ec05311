"""DDPM: a process of N discrete steps x_i | x_{i-1} ~ N(sqrt(1 - beta_i) x_{i-1}, beta_i), here in continuous time.

At t = i/N it is the chain itself, m = sqrt(abar_i), sigma = sqrt(1 - abar_i), abar_i = prod (1 - beta_j); between, it
is the variance preserving process whose beta(t) = -N log(1 - beta_i) is constant on each step.

Sources: Ho et al. 2020 (the process, linear betas); Nichol & Dhariwal 2021 (cosine betas).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.noise import Noise, White
from fokker.processes import NoiseProcess, Time, as_time

SCHEDULES = ("linear", "cosine", "given")
STEPS = 1000
OFFSET, HIGHEST = 0.008, 0.999  # of the cosine betas


class DDPMPosterior(NamedTuple):
    """The law of x_{i-1} given x_0 and x_i: `mean` and its variance `beta_tilde`; beta is that of x_i given x_{i-1}.

    For x_0 ~ N(0, I) the variance of x_{i-1} given x_i alone is `beta`, for a known x_0 it is `beta_tilde`.
    """

    mean: Tensor
    beta: Tensor
    beta_tilde: Tensor


@dataclass(frozen=True, eq=False)
class DDPM(NoiseProcess, kind="ddpm"):
    """betas (N,) and alpha_bars (N + 1,), abar_0 = 1 to abar_N, in float64; index i = 1 ... N is t = i/N.

    schedule: "linear", beta_min to beta_max, or "cosine", abar_i = f(i/N)/f(0), f(t) = cos^2(pi/2 (t + 0.008)/1.008),
    with betas of at most 0.999. `betas`, a sequence of your own, takes the place of all four. InputError for betas
    outside (0, 1), an unknown schedule or less than one step.
    """

    steps: int = STEPS
    schedule: str = "linear"
    beta_min: float = 1e-4
    beta_max: float = 0.02
    betas: Tensor = field(default=None, repr=False)  # type: ignore[assignment]  # any sequence when given
    noise: Noise = field(default_factory=White)
    alpha_bars: Tensor = field(init=False, repr=False)
    _integrals: Tensor = field(init=False, repr=False)  # B at t = i/N, i = 0 ... N

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule: got {self.schedule!r}, 'linear' or 'cosine' is accepted")
        if self.betas is None:
            betas = self._scheduled()
        else:
            betas = self._given()
            if self.schedule == "given" or not torch.equal(betas, self._scheduled()):
                object.__setattr__(self, "schedule", "given")
        integrals = torch.cat([torch.zeros(1, dtype=torch.float64), -torch.log1p(-betas).cumsum(0)])
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "alpha_bars", torch.exp(-integrals))
        object.__setattr__(self, "_integrals", integrals)

    def _scheduled(self) -> Tensor:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(f"steps: got {self.steps!r}, an integer of at least 1 is accepted")
        if self.schedule == "given":
            raise InputError("schedule: got 'given' without betas; 'linear' or 'cosine' is accepted, or betas=...")
        if self.schedule == "cosine":
            t = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
            f = torch.cos((t + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
            return (1 - f[1:] / f[:-1]).clamp(max=HIGHEST)
        for name in ("beta_min", "beta_max"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise InputError(f"{name}: got {value!r}, a number between 0 and 1, both excluded, is accepted")
        return torch.linspace(self.beta_min, self.beta_max, self.steps, dtype=torch.float64)

    def _given(self) -> Tensor:
        try:
            betas = torch.as_tensor(self.betas, dtype=torch.float64).clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"betas: got {type(self.betas).__name__}, a sequence of numbers is accepted") from error
        if betas.ndim != 1 or len(betas) < 1:
            raise InputError(f"betas: got shape {tuple(betas.shape)}, a sequence of at least one number is accepted")
        bad = (~((betas > 0) & (betas < 1))).nonzero().flatten()
        if len(bad):
            raise InputError(
                f"betas: got {betas[bad[0]].item()} as beta_{int(bad[0]) + 1}, numbers between 0 and 1, both excluded, "
                "are accepted"
            )
        if self.steps not in (STEPS, len(betas)):
            raise InputError(f"steps: got {self.steps} with {len(betas)} betas, one beta for each step is accepted")
        object.__setattr__(self, "steps", len(betas))
        return betas

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DDPM) and torch.equal(self.betas, other.betas) and self.noise == other.noise

    def __hash__(self) -> int:
        return hash((DDPM, self.steps, float(self.alpha_bars[-1])))

    def time(self, i: int | Tensor) -> Tensor:
        """t = i/N of the indices 0 (data) to N; InputError for any other."""
        index = torch.as_tensor(i)
        if index.is_floating_point() or not bool(((index >= 0) & (index <= self.steps)).all()):
            raise InputError(f"i: got {index.tolist()}, integers from 0 to {self.steps} are accepted")
        return index / torch.tensor(self.steps, dtype=torch.float64)

    def posterior(self, x_0: Tensor, x_t: Tensor, i: int | Tensor) -> DDPMPosterior:
        """Law of x_{i-1} given x_0 and x_i = x_t (B, *shape), i = 1 ... N a number or (B,).

        mean = sqrt(abar_{i-1}) beta_i/(1 - abar_i) x_0 + sqrt(1 - beta_i) (1 - abar_{i-1})/(1 - abar_i) x_i,
        beta_tilde = (1 - abar_{i-1})/(1 - abar_i) beta_i; the variances are scalars or (B, 1, ...). Ho et al. 2020.
        """
        index = torch.as_tensor(i)
        if index.is_floating_point() or not bool(((index >= 1) & (index <= self.steps)).all()):
            raise InputError(f"i: got {index.tolist()}, integers from 1 to {self.steps} are accepted")
        index = index.cpu() if index.ndim == 0 else index.cpu().reshape(-1, *[1] * (x_t.ndim - 1))
        beta, before = self.betas[index - 1], self.alpha_bars[index - 1]
        # 1 - abar by expm1: at the first indices the difference itself has lost its digits.
        left, left_before = (-torch.expm1(-self._integrals[k]) for k in (index, index - 1))
        on_x_0 = before.sqrt() * beta / left
        on_x_t = (1 - beta).sqrt() * left_before / left
        mean = on_x_0.to(x_t) * x_0 + on_x_t.to(x_t) * x_t
        return DDPMPosterior(mean, beta.to(x_t), (left_before / left * beta).to(x_t))

    def _step(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The step i - 1 = 0 ... N - 1 that t lies in, and how far in it."""
        index = (t.detach() * self.steps).floor().clamp(0, self.steps - 1)
        return index.to(torch.int64), t * self.steps - index

    def _integral(self, t: Tensor) -> Tensor:
        index, part = self._step(t)
        knots = self._integrals.to(t.device)
        return torch.lerp(knots[index], knots[index + 1], part)

    def scale(self, t: Time) -> Tensor:
        """exp(-B/2), sqrt(abar_i) at t = i/N."""
        return torch.exp(-self._integral(as_time(t)) / 2)

    def sigma(self, t: Time) -> Tensor:
        """sqrt(1 - exp(-B)), sqrt(1 - abar_i) at t = i/N."""
        return torch.sqrt(-torch.expm1(-self._integral(as_time(t))))

    def drift(self, t: Time) -> Tensor:
        """-beta(t) / 2, beta(t) = -N log(1 - beta_i); at t = i/N that of the step after it."""
        return -self.diffusion_squared(t) / 2

    def diffusion_squared(self, t: Time) -> Tensor:
        """beta(t)."""
        t = as_time(t)
        return self.steps * self._integrals.to(t.device).diff()[self._step(t)[0]]

    def noise_to_signal(self, t: Time) -> Tensor:
        """sqrt(exp(B) - 1)."""
        return torch.sqrt(torch.expm1(self._integral(as_time(t))))

    def time_of(self, rho: Time) -> Tensor:
        """The root of B(t) = log(1 + rho^2), piecewise linear in t."""
        rho = as_time(rho)
        target, knots = torch.log1p(rho**2), self._integrals.to(rho.device)
        index = torch.searchsorted(knots, target.detach(), right=True).sub(1).clamp(0, self.steps - 1)
        t = (index + (target - knots[index]) / knots.diff()[index]) / self.steps
        return self._check_reached(rho, t)

    def settings(self) -> dict[str, Any]:
        """Name and parameters; the betas themselves where they are your own."""
        match self.schedule:
            case "given":
                return {"name": "ddpm", "betas": self.betas.tolist()}
            case "linear":
                sizes = {"beta_min": self.beta_min, "beta_max": self.beta_max}
                return {"name": "ddpm", "steps": self.steps, "schedule": "linear", **sizes}
        return {"name": "ddpm", "steps": self.steps, "schedule": self.schedule}
