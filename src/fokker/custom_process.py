"""A process from two functions of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.noise import Noise, White
from fokker.processes import NoiseProcess, Time, as_time

GRID = 257  # times at which the functions are checked


@dataclass(frozen=True)
class CustomProcess(NoiseProcess):
    """x_t | x_0 ~ N(scale(t) x_0, sigma(t)^2 C) with your own scale and sigma, functions of a float64 tensor in torch:

        CustomProcess(lambda t: torch.cos(math.pi / 2 * t), lambda t: torch.sin(math.pi / 2 * t))

    Each acts on every entry of t in [0, 1] by itself and can be differentiated by torch. scale(0) = 1, sigma(0) = 0,
    scale > 0 for t < 1, and sigma / scale rises strictly; it may be infinite at t = 1, as models stop at their own
    highest level. InputError names the function that breaks this on a grid of times. No file can hold such a process.
    """

    scale: Callable[[Time], Tensor] = None  # type: ignore[assignment]
    sigma: Callable[[Time], Tensor] = None  # type: ignore[assignment]
    noise: Noise = field(default_factory=White)

    def __post_init__(self) -> None:
        t = torch.linspace(0, 1, GRID, dtype=torch.float64)
        for name, start in (("scale", 1.0), ("sigma", 0.0)):
            function = _OfTime.of(name, getattr(self, name))
            object.__setattr__(self, name, function)
            function.check(t, start)
        m, rho = self.scale(t), self.noise_to_signal(t)
        if not bool((m[:-1] > 0).all()) or float(m[-1]) < 0:
            at = float(t[int(m[:-1].argmin())]) if bool((m[:-1] <= 0).any()) else 1.0
            raise InputError(f"scale: got {float(self.scale(at)):.6g} at t = {at:.6g}, values > 0 are accepted")
        flat = (~(rho.diff() > 0)).nonzero().flatten()
        if len(flat):
            a, b = t[flat[0]].item(), t[flat[0] + 1].item()
            raise InputError(f"sigma: sigma / scale does not rise from t = {a:.6g} to {b:.6g}; it must rise strictly")

    def settings(self) -> dict[str, Any]:
        """The names of the functions."""
        return {"name": "custom", "scale": str(self.scale), "sigma": str(self.sigma)}


@dataclass(frozen=True)
class _OfTime:
    """A user's function, called with a float64 tensor and giving one of its shape."""

    name: str
    function: Callable[[Tensor], Any]

    @classmethod
    def of(cls, name: str, function: Any) -> _OfTime:
        if isinstance(function, cls):
            return function
        if not callable(function):
            raise InputError(f"{name}: got {function!r}, a function of a float64 tensor of times is accepted")
        return cls(name, function)

    def __call__(self, t: Time) -> Tensor:
        t = as_time(t)
        value = torch.as_tensor(self.function(t), dtype=torch.float64, device=t.device)
        if value.shape not in ((), t.shape):
            raise InputError(f"{self.name}: got shape {tuple(value.shape)} for times of shape {tuple(t.shape)}")
        return value.expand(t.shape)

    def __str__(self) -> str:
        return getattr(self.function, "__name__", "function")

    def check(self, t: Tensor, start: float) -> None:
        """InputError unless finite, differentiable by torch and `start` at t = 0."""
        with torch.enable_grad():
            try:
                value = self(t.clone().requires_grad_())
            except Exception as error:
                raise InputError(f"{self.name}: its function failed on a tensor of times ({error})") from error
        differentiable, value = value.requires_grad, value.detach()
        bad = (~value.isfinite()).nonzero().flatten()
        if len(bad):
            raise InputError(
                f"{self.name}: got {value[bad[0]].item()} at t = {t[bad[0]].item():.6g}, finite values are accepted"
            )
        if not differentiable and bool((value != value[0]).any()):
            raise InputError(f"{self.name}: its function left torch, one that torch can differentiate is accepted")
        if abs(float(value[0]) - start) > 1e-9:
            raise InputError(f"{self.name}: got {float(value[0]):.6g} at t = 0, {start:g} is accepted")
