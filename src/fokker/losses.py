"""Denoising loss. Which noise levels are trained on and how they are weighted are two separate settings.

    E |D(x_0 + rho noise; rho) - x_0|^2 w(rho)

is every time-dependent loss, as all parametrisations are affine in D: with D = skip z + out F the squared error of F is
|D - x_0|^2 / out^2. |sigma score + noise|^2 is that of eps, |D - x_0|^2 / rho^2.

Sources: Vincent 2011 (denoising score matching); Song et al. 2021 (over time); Karras et al. 2022 (levels and weights
of the "edm" setting); Ho et al. 2020 and Dasgupta et al. 2025 (uniform times, weight 1 on eps); Salimans and Ho 2022
("v"); Lipman et al. 2023 ("flow").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.networks.denoiser import NetworkDenoiser
from fokker.parametrisations import PARAMETRISATIONS, skip_and_out
from fokker.processes import NoiseProcess, Time, as_time
from fokker.score import Denoiser, ScoreModel
from fokker.states import Cond, as_cond, column, row_mean

Levels = Callable[[int, torch.Generator], Tensor]
WEIGHTINGS = ("edm", *PARAMETRISATIONS)


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


@dataclass(frozen=True)
class ListedLevels:
    """One of finitely many levels rho, all equally likely: NCSN's, or rho(t) at the discrete times of DDPM."""

    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        rho = torch.as_tensor(self.levels, dtype=torch.float64)
        if rho.ndim != 1 or not len(rho) or not bool((rho.isfinite() & (rho > 0)).all()):
            raise InputError(f"levels: got {self.levels}, a list of at least one finite number > 0 is accepted")

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        rho = torch.as_tensor(self.levels, dtype=torch.float64)
        return rho[torch.randint(len(rho), (count,), generator=generator)]


def weight(name: str, rho: Tensor, process: NoiseProcess, data_std: float) -> Tensor:
    """w(rho) on |D - x_0|^2. "edm" is (rho^2 + d^2) / (rho d)^2; any other makes it the squared error of that quantity:

    "x0" 1, "eps" (DDPM's simple loss) 1 / rho^2, "score" (m / sigma^2)^2, "v" (m^2 + sigma^2)^2 / sigma^2,
    "flow" (m rho' / rho)^2. The last three depend on the process, "flow" on its clock too.
    """
    match name:
        case "edm":
            return (rho**2 + data_std**2) / (rho * data_std) ** 2
        case _ if name in WEIGHTINGS:
            return skip_and_out(name, process, rho)[1] ** -2
    raise InputError(f"weighting: got {name!r}, one of {', '.join(WEIGHTINGS)} is accepted")


def denoising(model: Denoiser, x_0: Tensor, rho: Tensor, noise: Tensor, cond: Cond, relative: float = 0.0) -> Tensor:
    """|D(x_0 + rho noise; rho) - x_0|^2, averaged over the entries of each row of x_0 (B, *shape) -> (B,).

    Entries where cond["mask"] (B, P) is zero are padding: they leave the average, and rho (B,) levels them all alike.
    relative r > 0: an entry counts by 1 / (r + (D/d)^2), D not differentiated and d the data's standard deviation.
    Weights that depend on what D sees leave its minimiser as it is.
    """
    guess = model.denoised(x_0 + column(rho, x_0) * noise, rho, cond)
    square = (guess - x_0).square()
    weights = model.entry_weights(rho, cond) if isinstance(model, NetworkDenoiser) else None
    if weights is not None:
        square = square * weights.to(square)
    if relative:
        square = square / (relative + (guess.detach() / model.data_std).square())
    return row_mean(square, cond)


def time_dependent(
    model: ScoreModel,
    x_0: Tensor,
    t: Time,
    noise: Tensor,
    cond: Tensor | Cond | None = None,
    weighting: str = "eps",
) -> Tensor:
    """w |D(m x_0 + sigma noise, t, cond) - x_0|^2 of any score model of one part, in its own process and time.

    x_0 and noise (B, *shape), t a scalar or (B,) -> (B,), averaged over the entries of each row as in `denoising`. With
    white noise "eps" is |sigma score + noise|^2. Raises InputError for NaN, other shapes and times at which the noise
    has no level.
    """
    process, data_std, cond = model.process, model.data_std, as_cond(cond)
    if isinstance(process, dict) or isinstance(data_std, dict):
        raise InputError(f"model: got {type(model).__name__}, a model of one part is accepted")
    check_rows("x_0", x_0)
    check_rows("noise", noise, x_0.shape)
    t = as_time(t)
    rho = process.noise_to_signal(t)
    if t.shape not in ((), x_0.shape[:1]) or not bool((rho > 0).all() & rho.isfinite().all()):
        raise InputError(f"t: got {t.tolist()}, a time in (0, 1], or one for each of {len(x_0)} rows, is accepted")
    x_t = column(process.scale(t), x_0) * x_0 + column(process.sigma(t), x_0) * noise
    x_0_hat: Any = model.denoise(x_t, t, cond)
    per_row = row_mean((x_0_hat - x_0).square(), cond)
    return per_row * weight(weighting, rho, process, data_std).to(per_row)


def check_rows(name: str, value: Tensor, shape: torch.Size | None = None) -> None:
    """InputError unless `value` is a tensor of finite floating numbers in rows (B, *row), or of the given shape."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"{name}: got {got}, a tensor of floating numbers is accepted")
    if value.ndim < 2 if shape is None else value.shape != shape:
        wanted = "rows (B, ...)" if shape is None else f"{tuple(shape)}"
        raise InputError(f"{name}: got shape {tuple(value.shape)}, {wanted} is accepted")
    if not bool(value.isfinite().all()):
        raise InputError(f"{name}: got an entry that is not finite, finite numbers are accepted")
