"""DDPM's ancestral step for every process: the posterior mean with the denoised value, and a choice of variance.

With abar = 1 / (1 + rho^2) at both ends of a step from t to s, beta = 1 - abar_t / abar_s and r = rho_s / rho_t,

    z_s = D + r^2 (z_t - D) + std xi      in z = x / m,

    variance of sqrt(abar_s) z_s:   beta_tilde = (1 - abar_s) / (1 - abar_t) beta,  beta,
                                    or exp(v log beta + (1 - v) log beta_tilde) with a learned v.

On a DDPM or VP(2) process abar = m^2 and this is the standard formula; other processes take the same step in z.
beta_tilde is right for a single point, beta for data N(0, I).

Sources: Ho et al. 2020 (mean, beta and beta_tilde); Nichol & Dhariwal 2021 (learned between them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess
from fokker.samplers.base import Carried, GaussianStep
from fokker.score import ScoreModel
from fokker.states import Cond, State, column, over_parts

Head = Callable[[Tensor, Tensor, Tensor], Tensor]
Variance = str | Head
VARIANCES = ("posterior", "beta")


@dataclass(frozen=True)
class Ancestral(GaussianStep):
    """variance: "posterior" (beta_tilde), "beta", or a head as `fit_variance` gives it, for its grid of levels.

    A head is v(z, rho, x_0_hat) -> (B, *shape) with z and x_0_hat (B, *shape), rho a scalar; it takes a state of one
    part. Ancestral("posterior") is Transition(alpha=1). The last step, to rho = 0, returns the denoised value.
    """

    variance: Variance = "posterior"

    def __post_init__(self) -> None:
        check_variance(self.variance)

    def init(self, model: ScoreModel, x: State) -> Carried:
        """Nothing to remember; InputError for a head with a state of named parts."""
        if isinstance(x, dict) and callable(self.variance):
            raise InputError("variance: a head takes one tensor, this state has named parts; use 'posterior' or 'beta'")
        return Carried(x)

    def kernel(self, model: ScoreModel, state: Carried, t: float, s: float, cond: Cond) -> tuple[Carried, State]:
        """(mean, std) of x_s given x_t; std is a scalar for each part, with a head it has the shape of the state."""
        x_0_hat = model.denoise(state.x, t, cond)
        if s == 0:
            return Carried(x_0_hat), over_parts(lambda process: process.sigma(0.0), model.process)

        def mean(process: NoiseProcess, x: Tensor, d: Tensor) -> Tensor:
            ratio = process.noise_to_signal(s) / process.noise_to_signal(t)
            z_s = torch.lerp(d, x / column(process.scale(t), x), float(ratio**2))
            return z_s * column(process.scale(s), x)

        def std(process: NoiseProcess, x: Tensor, d: Tensor) -> Tensor:
            rho_t, rho_s = process.noise_to_signal(t), process.noise_to_signal(s)
            z = x / column(process.scale(t), x) if callable(self.variance) else x  # only a head looks at it
            log = log_variance(self.variance, *step_variances(rho_t, rho_s), z, rho_t, d)
            return (log / 2).exp() * process.scale(s).to(log)

        means = over_parts(mean, model.process, state.x, x_0_hat)
        return Carried(means), over_parts(std, model.process, state.x, x_0_hat)

    def settings(self) -> dict[str, Any]:
        """Name and variance."""
        name = self.variance if isinstance(self.variance, str) else type(self.variance).__name__
        return {"name": "ancestral", "variance": name}


def step_variances(rho_t: Tensor, rho_s: Tensor) -> tuple[Tensor, Tensor]:
    """(log beta, log beta_tilde) of z_s for steps from rho_t to rho_s < rho_t, in float64.

    In z: beta (1 + rho_s^2) = (rho_t^2 - rho_s^2) (1 + rho_s^2) / (1 + rho_t^2) and rho_s^2 (1 - rho_s^2 / rho_t^2).
    """
    log_ratio = 2 * (rho_t / rho_s).log()  # in logarithms, as levels may lie close together
    log_beta_tilde = 2 * rho_s.log() + (-torch.expm1(-log_ratio)).log()
    return log_beta_tilde + log_ratio + torch.log1p(rho_s**2) - torch.log1p(rho_t**2), log_beta_tilde


def log_variance(
    variance: Variance, log_beta: Tensor, log_beta_tilde: Tensor, z: Tensor, rho: Tensor, x_0_hat: Tensor
) -> Tensor:
    """The chosen log variance: as the scalars (or (B,)) given, with a head (B, *shape) in the dtype of z."""
    if variance == "beta":
        return log_beta
    if variance == "posterior":
        return log_beta_tilde
    assert callable(variance)
    v = variance(z, rho, x_0_hat)
    return torch.lerp(column(log_beta_tilde, z).expand_as(v), column(log_beta, z).expand_as(v), v.to(z))


def check_variance(variance: Variance) -> None:
    """InputError unless a known name or a head."""
    if not callable(variance) and variance not in VARIANCES:
        raise InputError(f"variance: got {variance!r}, 'posterior', 'beta' or a head is accepted")
