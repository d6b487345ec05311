"""What a network may predict in place of x_0, and the conversions between these forms (white noise)."""

from __future__ import annotations

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess, Time, as_time
from fokker.states import column

PARAMETRISATIONS = ("x0", "eps", "score", "v", "flow")


def skip_and_out(name: str, process: NoiseProcess, rho: Tensor, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """skip and out of D = skip x_t / m + out F (white noise), the one place where parametrisations are converted.

    F is "x0", D itself; "eps", the noise; "score" = -eps / sigma; "v" = m eps - sigma x_0 (Salimans and Ho 2022);
    "flow" = m' x_0 + sigma' eps = f x_t - g^2 score / 2, the velocity of the probability-flow ODE (Lipman et al. 2023),
    where rho' / rho = g^2 / (2 sigma^2). At level rho, or at the time t where that is known already; float64.
    """
    one = torch.ones_like(rho)
    match name:
        case "x0":
            return 0 * one, one
        case "eps":
            return one, -rho
    if name not in PARAMETRISATIONS:
        raise InputError(f"parametrisation: got {name!r}, one of {', '.join(PARAMETRISATIONS)} is accepted")
    t = process.time_of(rho) if t is None else t
    m = process.scale(t)
    match name:
        case "score":
            return one, rho**2 * m
        case "v":
            return 1 / (1 + rho**2), -rho / (m * (1 + rho**2))
    rate = process.diffusion_squared(t) / (2 * (rho * m) ** 2)
    return 1 + process.drift(t) / rate, -1 / (rate * m)


def to_x0(x_t: Tensor, t: Time, process: NoiseProcess, **given: Tensor) -> Tensor:
    """x_0_hat from one of x0=, eps=, score=, v=, flow= (white noise); see `skip_and_out`.

    x_0 = (x_t + sigma^2 score)/m = (x_t - sigma eps)/m = (m x_t - sigma v)/(m^2 + sigma^2)
        = (sigma' x_t - sigma u)/(m sigma' - sigma m').
    """
    if len(given) != 1:
        raise InputError(f"parametrisation: got {len(given)}, exactly one of {', '.join(PARAMETRISATIONS)} is accepted")
    ((name, value),) = given.items()
    t = as_time(t)
    skip, out = skip_and_out(name, process, process.noise_to_signal(t), t)
    return column(skip / process.scale(t), x_t) * x_t + column(out, x_t) * value


def from_x0(x_t: Tensor, t: Time, process: NoiseProcess, x_0_hat: Tensor) -> dict[str, Tensor]:
    """Every parametrisation (white noise) that belongs to a denoised x_0_hat. Near t = 0 digits are lost as 1 / rho."""
    t, values = as_time(t), {}
    for name in PARAMETRISATIONS:
        skip, out = skip_and_out(name, process, process.noise_to_signal(t), t)
        values[name] = (x_0_hat - column(skip / process.scale(t), x_t) * x_t) / column(out, x_t)
    return values
