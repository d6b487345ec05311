"""Time grids: the levels at which a sampler evaluates its model, falling from the highest to the lowest.

A grid is a callable (process, steps, t_min, t_max) -> times (steps,), strictly falling from t_max to t_min. The
sampling loop adds the last time, 0, where the denoised value is returned: `steps` levels are `steps` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fokker.ddpm import DDPM
from fokker.errors import InputError
from fokker.processes import NoiseProcess, check_positive

Grid = Callable[[NoiseProcess, int, float, float], Tensor]


@dataclass(frozen=True)
class Karras:
    """rho_i = (rho_max^(1/p) + i/(N-1) (rho_min^(1/p) - rho_max^(1/p)))^p.

    Source: Karras et al. 2022, equation 5 (there the exponent is called rho, with value 7).
    """

    exponent: float = 7.0

    def __post_init__(self) -> None:
        check_positive("exponent", self.exponent)

    def settings(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "karras", "exponent": self.exponent}

    def __call__(self, process: NoiseProcess, steps: int, t_min: float, t_max: float) -> Tensor:
        high = float(process.noise_to_signal(t_max)) ** (1 / self.exponent)
        low = float(process.noise_to_signal(t_min)) ** (1 / self.exponent)
        return _pinned(process.time_of(_line(high, low, steps) ** self.exponent), t_min, t_max)


@dataclass(frozen=True)
class LogSNR:
    """Levels evenly spaced in log rho, that is in the logarithm of the signal-to-noise ratio."""

    def settings(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "log_snr"}

    def __call__(self, process: NoiseProcess, steps: int, t_min: float, t_max: float) -> Tensor:
        high = float(process.noise_to_signal(t_max).log())
        low = float(process.noise_to_signal(t_min).log())
        return _pinned(process.time_of(_line(high, low, steps).exp()), t_min, t_max)


@dataclass(frozen=True)
class UniformTime:
    """Levels evenly spaced in the process's own time t."""

    def settings(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "uniform_time"}

    def __call__(self, process: NoiseProcess, steps: int, t_min: float, t_max: float) -> Tensor:
        return _pinned(_line(t_max, t_min, steps), t_min, t_max)


@dataclass(frozen=True)
class DDPMIndices:
    """Levels at the indices t = i/N of a DDPM process, evenly spaced (rounded) among those that the model knows.

    They fall from the highest index in [t_min, t_max] to the lowest, which are not t_max and t_min themselves.
    InputError where there are fewer than `steps` of them, and for any other process.
    """

    def settings(self) -> dict[str, Any]:
        """Name."""
        return {"name": "ddpm_indices"}

    def known(self, process: NoiseProcess, t_min: float, t_max: float) -> Tensor:
        """All indices in [t_min, t_max], falling (K,); InputError where there is none."""
        if not isinstance(process, DDPM):
            raise InputError(f"grid: DDPMIndices got a {type(process).__name__}, a DDPM process is accepted")
        slack = 1e-6  # t_min and t_max may be indices up to rounding
        low, high = math.ceil(t_min * process.steps - slack), math.floor(t_max * process.steps + slack)
        if low > high:
            raise InputError(f"grid: no index i/{process.steps} lies in the model's times {t_min:.6g} to {t_max:.6g}")
        return torch.arange(high, max(low, 1) - 1, -1)

    def __call__(self, process: NoiseProcess, steps: int, t_min: float, t_max: float) -> Tensor:
        known = self.known(process, t_min, t_max)
        if steps > len(known):
            raise InputError(
                f"steps: got {steps}, the model knows {len(known)} indices of this process, 1 to as many are accepted"
            )
        assert isinstance(process, DDPM)
        return process.time(known[_line(0, len(known) - 1, steps).round().to(torch.int64)])


def grid_from_settings(settings: dict[str, Any]) -> Grid:
    """The grid that `settings()` described; InputError for an unknown name."""
    kinds: dict[str, Any] = {
        "karras": Karras,
        "log_snr": LogSNR,
        "uniform_time": UniformTime,
        "ddpm_indices": DDPMIndices,
    }
    parameters = {key: value for key, value in settings.items() if key != "name"}
    if settings.get("name") not in kinds:
        raise InputError(f"grid: got {settings.get('name')!r}, one of {', '.join(kinds)} is accepted")
    return kinds[settings["name"]](**parameters)


def _line(start: float, stop: float, steps: int) -> Tensor:
    return torch.linspace(start, stop, steps, dtype=torch.float64)


def _pinned(times: Tensor, t_min: float, t_max: float) -> Tensor:
    # The ends are exact, whatever rounding the detour through rho made.
    times[0] = t_max
    if len(times) > 1:
        times[-1] = t_min
    return times


def check_times(times: Tensor, t_min: float, t_max: float) -> Tensor:
    """A user's own falling times as float64: within [t_min, t_max], except that the last may be 0.

    InputError names what is wrong: fewer than two times, a grid that rises, a level beyond the model's.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    if times.ndim != 1 or len(times) < 2 or not bool(torch.isfinite(times).all()):
        raise InputError(f"grid: got {times.tolist()}, a list of at least two finite times is accepted")
    if not bool((times.diff() < 0).all()):
        raise InputError("grid: the times must fall strictly, from noise towards data; these do not")
    inner = times[:-1] if times[-1] == 0 else times
    slack = 1e-6  # times may have been rounded to single precision
    if float(inner[0]) > t_max * (1 + slack) or float(inner[-1]) < t_min * (1 - slack):
        raise InputError(
            f"grid: got times from {float(inner[0]):.6g} to {float(inner[-1]):.6g}, the model knows "
            f"{t_min:.6g} to {t_max:.6g} (a last time of exactly 0 is accepted too)"
        )
    return torch.cat([inner.clamp(t_min, t_max), times[len(inner) :]])
