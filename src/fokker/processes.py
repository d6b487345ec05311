"""Forward processes: one drift-diffusion equation, two functions of time.

p(x, t) solves  dp/dt = -div(f x p) + (1/2) g^2 Lap p  with  f = m'/m  and  g^2 = 2 sigma sigma' - 2 f sigma^2, so that

    x_t | x_0 ~ N(m(t) x_0, sigma(t)^2 C),      m(0) = 1, sigma(0) = 0,  t in [0, 1],

with C the covariance of the process's noise (the identity unless told otherwise). In code m is `scale`, and
rho = sigma / m is `noise_to_signal`. x_t / m is the same heat flow for every process, seen on the clock rho.

Source: Dasgupta et al. 2025 (arXiv 2504.07437), sections 2 and 3; Song et al. 2021 (the variance preserving and
variance exploding cases).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.noise import Noise, White

Time = float | Tensor


class NoiseProcess(ABC):
    """m(t), sigma(t) and what follows from them, for t in [0, 1], computed in float64.

    Every method takes a number or a tensor of times and returns a float64 tensor of its shape.
    """

    noise: Noise

    @abstractmethod
    def scale(self, t: Time) -> Tensor:
        """m(t), the factor on the signal."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """sigma(t), the standard deviation of the noise in x_t given x_0."""

    @abstractmethod
    def drift(self, t: Time) -> Tensor:
        """f(t) = m'(t) / m(t)."""

    @abstractmethod
    def diffusion_squared(self, t: Time) -> Tensor:
        """g^2(t) = 2 sigma sigma' - 2 f sigma^2."""

    @abstractmethod
    def noise_to_signal(self, t: Time) -> Tensor:
        """rho(t) = sigma(t) / m(t), rising from 0."""

    @abstractmethod
    def time_of(self, rho: Time) -> Tensor:
        """The t at which noise_to_signal(t) = rho; InputError where the process never gets there."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Name and parameters, as they go into config.json."""

    def _check_reached(self, rho: Tensor, t: Tensor) -> Tensor:
        # A hair above 1 is the rounding of the end point itself.
        if bool((rho < 0).any()) or bool((t > 1 + 1e-9).any()) or not bool(torch.isfinite(rho).all()):
            highest = float(self.noise_to_signal(1.0))
            raise InputError(f"rho: got {rho.tolist()}, this process runs over noise-to-signal 0 to {highest:.6g}")
        return t.clamp(max=1.0)


@dataclass(frozen=True)
class VarianceExploding(NoiseProcess):
    """m = 1 and sigma(t) rising to sigma_max: linear, sigma_max t, or geometric.

    Geometric is shifted in variance so that sigma(0) = 0 and g^2 keeps its usual form:
    sigma^2 = sigma_min^2 (r^(2t) - 1), r = sigma_max / sigma_min.
    The default reaches the highest level that networks are trained on here, 20 standard deviations.
    """

    sigma_max: float = 20.0
    schedule: str = "linear"
    sigma_min: float = 0.01  # of the geometric schedule
    noise: Noise = field(default_factory=White)

    def __post_init__(self) -> None:
        check_positive("sigma_max", self.sigma_max)
        if self.schedule not in ("linear", "geometric"):
            raise InputError(f"schedule: got {self.schedule!r}, 'linear' or 'geometric' is accepted")
        check_positive("sigma_min", self.sigma_min)
        if self.schedule == "geometric" and self.sigma_min >= self.sigma_max:
            raise InputError(f"sigma_min: got {self.sigma_min}, less than sigma_max = {self.sigma_max} is accepted")

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def scale(self, t: Time) -> Tensor:
        """1."""
        return torch.ones_like(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        """sigma_max t, or sigma_min sqrt(r^(2t) - 1)."""
        t = as_time(t)
        if self.schedule == "linear":
            return self.sigma_max * t
        return self.sigma_min * torch.expm1(2 * self._log_ratio * t).sqrt()

    def drift(self, t: Time) -> Tensor:
        """0."""
        return torch.zeros_like(as_time(t))

    def diffusion_squared(self, t: Time) -> Tensor:
        """d sigma^2 / dt."""
        t = as_time(t)
        if self.schedule == "linear":
            return 2 * self.sigma_max**2 * t
        return 2 * self.sigma_min**2 * self._log_ratio * torch.exp(2 * self._log_ratio * t)

    def noise_to_signal(self, t: Time) -> Tensor:
        """sigma(t), as m = 1."""
        return self.sigma(t)

    def time_of(self, rho: Time) -> Tensor:
        """rho / sigma_max, or log(1 + rho^2 / sigma_min^2) / (2 log r)."""
        rho = as_time(rho)
        if self.schedule == "linear":
            return self._check_reached(rho, rho / self.sigma_max)
        t = torch.log1p((rho / self.sigma_min) ** 2) / (2 * self._log_ratio)
        return self._check_reached(rho, t)

    def settings(self) -> dict[str, Any]:
        """Name and parameters."""
        shape = {"sigma_min": self.sigma_min} if self.schedule == "geometric" else {}
        return {"name": "ve", "sigma_max": self.sigma_max, "schedule": self.schedule, **shape}


@dataclass(frozen=True)
class VariancePreserving(NoiseProcess):
    """The family m^n + sigma^n = 1, that is m = (1 + rho^n)^(-1/n), for every n > 0.

    m = exp(-B/2) with B = int_0^t beta, beta(t) = beta_min + (beta_max - beta_min) t, and sigma = (1 - m^n)^(1/n),
    g^2 = beta (1 - m^n)^((2 - n)/n). n = 2 is the known variance preserving process, n = 1 the straight path
    m + sigma = 1 of flow matching. For n > 2, g^2 grows without bound as t -> 0 (rho stays finite).

    Source: Dasgupta et al. 2025 (arXiv 2504.07437), section 3.
    """

    n: float = 2.0
    beta_min: float = 0.001
    beta_max: float = 15.0
    noise: Noise = field(default_factory=White)

    def __post_init__(self) -> None:
        check_positive("n", self.n)
        check_positive("beta_max", self.beta_max)
        if not (isinstance(self.beta_min, int | float) and math.isfinite(self.beta_min) and self.beta_min >= 0):
            raise InputError(f"beta_min: got {self.beta_min}, a finite number >= 0 is accepted")

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def scale(self, t: Time) -> Tensor:
        """exp(-B/2)."""
        return torch.exp(-self._integral(as_time(t)) / 2)

    def sigma(self, t: Time) -> Tensor:
        """(1 - m^n)^(1/n), by expm1 so that small times keep their digits."""
        return (-torch.expm1(-self.n * self._integral(as_time(t)) / 2)) ** (1 / self.n)

    def drift(self, t: Time) -> Tensor:
        """-beta / 2."""
        return -self._beta(as_time(t)) / 2

    def diffusion_squared(self, t: Time) -> Tensor:
        """beta (1 - m^n)^((2 - n)/n)."""
        t = as_time(t)
        return self._beta(t) * (-torch.expm1(-self.n * self._integral(t) / 2)) ** ((2 - self.n) / self.n)

    def noise_to_signal(self, t: Time) -> Tensor:
        """(m^-n - 1)^(1/n)."""
        return torch.expm1(self.n * self._integral(as_time(t)) / 2) ** (1 / self.n)

    def time_of(self, rho: Time) -> Tensor:
        """The root of B(t) = (2/n) log(1 + rho^n), a quadratic in t."""
        rho = as_time(rho)
        target = torch.log1p(rho**self.n) * (2 / self.n)
        slope = self.beta_max - self.beta_min
        # This form of the root has no cancellation, whichever of beta_min and slope is small.
        t = 2 * target / (self.beta_min + (self.beta_min**2 + 2 * slope * target).clamp(min=0).sqrt())
        return self._check_reached(rho, torch.where(rho == 0, 0.0, t))

    def settings(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "vp", "n": self.n, "beta_min": self.beta_min, "beta_max": self.beta_max}


def process_from_settings(settings: dict[str, Any]) -> NoiseProcess:
    """The process that `settings()` described, with white noise; InputError for an unknown name."""
    parameters = {key: value for key, value in settings.items() if key != "name"}
    kinds = {"ve": VarianceExploding, "vp": VariancePreserving}
    if settings.get("name") not in kinds:
        raise InputError(f"process: got {settings.get('name')!r}, {' or '.join(kinds)} is accepted")
    return kinds[settings["name"]](**parameters)


def as_time(t: Time) -> Tensor:
    """A number or tensor as a float64 tensor."""
    return torch.as_tensor(t, dtype=torch.float64)


def check_positive(name: str, value: float) -> None:
    """InputError unless `value` is a finite number above zero."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise InputError(f"{name}: got {value!r}, a finite number > 0 is accepted")
