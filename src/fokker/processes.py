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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.noise import Noise, White

Time = float | Tensor


class NoiseProcess(ABC):
    """m(t), sigma(t) and what follows from them, for t in [0, 1], computed in float64.

    Every method takes a number or a tensor of times and returns a float64 tensor of its shape. A process of your own
    needs `scale` and `sigma` alone, written in torch and beginning with t = as_time(t); everything else follows,
    derivatives by automatic differentiation. (`CustomProcess` does the same from two functions.) A class with a
    `kind`, class Mine(NoiseProcess, kind="mine"), and `settings()` that its constructor takes can be saved in files.
    """

    noise: Noise = White()
    kinds: ClassVar[dict[str, type[NoiseProcess]]] = {}

    def __init_subclass__(cls, kind: str | None = None, **more: Any):
        super().__init_subclass__(**more)
        if kind is not None:
            NoiseProcess.kinds[kind] = cls

    @abstractmethod
    def scale(self, t: Time) -> Tensor:
        """m(t), the factor on the signal."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """sigma(t), the standard deviation of the noise in x_t given x_0."""

    def drift(self, t: Time) -> Tensor:
        """f(t) = m'(t) / m(t)."""
        t = as_time(t)
        return slope(self.scale, t) / self.scale(t)

    def diffusion_squared(self, t: Time) -> Tensor:
        """g^2(t) = 2 sigma sigma' - 2 f sigma^2."""
        t = as_time(t)
        sigma = self.sigma(t)
        return 2 * sigma * slope(self.sigma, t) - 2 * self.drift(t) * sigma**2

    def noise_to_signal(self, t: Time) -> Tensor:
        """rho(t) = sigma(t) / m(t), rising from 0."""
        t = as_time(t)
        return self.sigma(t) / self.scale(t)

    def time_of(self, rho: Time) -> Tensor:
        """The t at which noise_to_signal(t) = rho; InputError where the process never gets there.

        By bracketed inverse quadratic interpolation of log rho, to rounding also where t is small.
        """
        rho = as_time(rho)
        octaves = torch.cat([rho.new_zeros(1), 2.0 ** torch.arange(-200, 1, dtype=rho.dtype, device=rho.device)])
        known = self.noise_to_signal(octaves)
        self._check_reached(rho, torch.where(rho > known[-1] * (1 + 1e-9), 2.0, 0.0))
        # searchsorted wants rho as it is stored, not as it is seen
        index = torch.searchsorted(known, rho.detach().contiguous()).clamp(1, len(octaves) - 1)
        target = torch.where(rho == 0, known[1], rho.minimum(known[-1]))
        t = _root(lambda t: (self.noise_to_signal(t) / target).log(), octaves[index - 1], octaves[index])
        return torch.where(rho == 0, 0.0, t)

    def settings(self) -> dict[str, Any]:
        """Name and parameters, as they go into config.json and the record of a run."""
        return {"name": "custom", "class": type(self).__name__}

    def _check_reached(self, rho: Tensor, t: Tensor) -> Tensor:
        # A hair above 1 is the rounding of the end point itself.
        if bool((rho < 0).any()) or bool((t > 1 + 1e-9).any()) or not bool(torch.isfinite(rho).all()):
            highest = float(self.noise_to_signal(1.0))
            raise InputError(f"rho: got {rho.tolist()}, this process runs over noise-to-signal 0 to {highest:.6g}")
        return t.clamp(max=1.0)


@dataclass(frozen=True)
class VarianceExploding(NoiseProcess, kind="ve"):
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
class VariancePreserving(NoiseProcess, kind="vp"):
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


def saved_settings(process: NoiseProcess) -> dict[str, Any]:
    """`settings()` for a file that is to give the process back; InputError for functions, which no file can hold."""
    settings = process.settings()
    if settings.get("name") not in NoiseProcess.kinds:
        raise InputError(
            f"process: {type(process).__name__} is made of functions, which a file cannot hold; save the model on "
            f"another process, by `on`, and move it back after loading"
        )
    return settings


def process_from_settings(settings: dict[str, Any]) -> NoiseProcess:
    """The process that `settings()` described, with white noise; InputError for an unknown name."""
    parameters = {key: value for key, value in settings.items() if key != "name"}
    kinds = NoiseProcess.kinds
    if settings.get("name") not in kinds:
        raise InputError(f"process: got {settings.get('name')!r}, {' or '.join(kinds)} is accepted")
    return kinds[settings["name"]](**parameters)


def slope(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """The derivative at every entry of t of a function that acts on each by itself, also under torch.no_grad."""
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        value = function(t)
        if not value.requires_grad:
            return torch.zeros_like(t)
        return torch.autograd.grad(value.sum(), t, materialize_grads=True)[0]


def _root(function: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """The zero of a rising function between a and b, for each of their entries: the method of Chandrupatla 1997."""
    fa, fb = function(a), function(b)
    part = torch.full_like(a, 0.5)
    for _ in range(200):
        x = a + part * (b - a)
        fx = function(x)
        same = fx.sign() == fa.sign()
        c, fc = torch.where(same, a, b), torch.where(same, fa, fb)
        b, fb = torch.where(same, b, a), torch.where(same, fb, fa)
        a, fa = x, fx
        best = torch.where(fa.abs() < fb.abs(), a, b)
        least = (best.abs() * 2**-51 / (b - c).abs()).nan_to_num(nan=0.5).clamp(max=0.5)
        if bool(((least == 0.5) | (torch.minimum(fa.abs(), fb.abs()) == 0)).all()):
            break
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        part = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        part = torch.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi), part, 0.5)
        part = torch.minimum(torch.maximum(part, least), 1 - least)
    return best


def as_time(t: Time) -> Tensor:
    """A number or tensor as a float64 tensor."""
    return torch.as_tensor(t, dtype=torch.float64)


def check_positive(name: str, value: float) -> None:
    """InputError unless `value` is a finite number above zero."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise InputError(f"{name}: got {value!r}, a finite number > 0 is accepted")


def check_process(value: NoiseProcess) -> None:
    """InputError unless `value` is a process."""
    if not isinstance(value, NoiseProcess):
        raise InputError(f"process: got {value!r}, an object such as fokker.VariancePreserving(n=2) is accepted")
