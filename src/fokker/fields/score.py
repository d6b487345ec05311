"""Functions seen on one set of points, as a score model.

The noise has the law of the functions themselves, as a Gaussian: f is taken as mean + d N(0, C) and diffused by
rho N(0, C). Every mode then has one signal-to-noise ratio, noise is trace class wherever the functions are, and the
Gaussian part of every denoiser is a number times z, with or without linear data (see `update`). The network learns
what is left, pointwise in standard deviations:

    D = D_y + std F(channels, log(rho)/4),        D_y = E[f | z, y], std^2 = Var[f | z, y] of the Gaussian.

channels: (z - mean)/sqrt(d^2 + rho^2); and for models that take data also (D_y - mean)/d, what the data changed,
(D_y - D)/c, and std/c. An untrained network (F = 0) is the Gaussian conditional, to rounding.

Sources: Karras et al. 2022 (the same without data or correlation); Lim et al. 2023 and Pidstrigach et al. 2024
(diffusion in function space, trace-class noise). That the noise is the Gaussian of the data, and F what the Gaussian
conditional leaves, is our choice.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from fokker.fields.update import Factor, Update
from fokker.networks.denoiser import NetworkDenoiser
from fokker.posterior.problem import MEASURED
from fokker.processes import NoiseProcess
from fokker.rng import Key
from fokker.score import ScoreModel
from fokker.states import Cond, Moments, as_cond, column

ROWS = 2**19  # entries of the states that are denoised at once, where no gradient is needed
CACHED = 2**17  # of which a network is given so many at once: more do not stay in the cache


class FunctionScore(NetworkDenoiser):
    """The denoiser of functions on one set of points; its formula is in the help of the module `fokker.fields.score`.

    States (B, *x_shape), x_shape that of a grid, or (P,) on scattered points.

    network: `network(channels (B, c, *x_shape), level)` on grids. mean (*x_shape), prior (*x_shape), the diagonal of
    C, and the noise of the process belong to these points.
    """

    def __init__(
        self,
        process: NoiseProcess,
        network: nn.Module,
        mean: Tensor,
        prior: Tensor,
        data_std: float,
        rho_range: tuple[float, float],
        conditional: bool,
    ):
        self.process, self.network = process, network
        parameter = next(network.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self.mean, self.prior = mean.to(self.device), prior.to(self.device)
        self.data_std, self.rho_range = data_std, rho_range
        self.conditional = conditional
        self.x_shape = tuple(mean.shape)
        self.moments = Moments(self.mean, data_std * self.prior.sqrt())
        self.observed: tuple[Factor, Tensor] | None = None

    def observing(self, factor: Factor, seen_mean: Tensor) -> FunctionScore:
        """The same model given data of H, seen_mean = H mean (m,); its loop is told y as condition `measurement`."""
        other = copy.copy(self)
        other.observed = factor, seen_mean
        return other

    def prepare(self, cond: Tensor | Cond | None) -> Cond:
        """The data, turned into what they say at any level."""
        cond = as_cond(cond)
        if self.observed is None or MEASURED not in cond:
            return cond
        factor, seen_mean = self.observed
        return {**cond, **factor.cond(cond[MEASURED].flatten(1).double() - seen_mean)}

    def denoised(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        """E[f_0 | f_t] (B, *x_shape), told the data in `cond`, for z (B, *x_shape) at the levels rho, () or (B,)."""
        rows = max(1, ROWS // math.prod(self.x_shape))
        if torch.is_grad_enabled() or rho.ndim or len(z) <= rows:
            return self._denoised(z, rho, cond)
        parts = [slice(low, low + rows) for low in range(0, len(z), rows)]
        return torch.cat([self._denoised(z[part], rho, {n: v[part] for n, v in cond.items()}) for part in parts])

    def _denoised(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        update, rho = Update.from_cond(cond), rho.to(z.device)
        guess, std, channels = self._gaussian(z, rho, update)
        guess = guess + std * self._network(channels, (rho.log() / 4).reshape(-1).to(z))
        if update is not None and not self.conditional:
            guess = guess + self._shift(update, guess, self._left(rho))
        return self.mean.to(z) + guess

    def _gaussian(self, z: Tensor, rho: Tensor, update: Update | None) -> tuple[Tensor, Tensor, Tensor]:
        """D_y - mean and std (B, *x_shape) of the Gaussian, and the channels (B, c, *x_shape); data if conditional."""
        d, c2 = self.data_std, self._left(rho)
        total, c = d**2 + rho**2, column(c2.sqrt(), z)
        centred = z - self.mean.to(z)
        inner, guess = centred * column(total.rsqrt(), z), centred * column(d**2 / total, z)
        std = c * self.prior.sqrt().to(z)
        if not self.conditional:
            return guess, std, inner[:, None]
        shift = torch.zeros_like(z)
        if update is not None:
            shift = self._shift(update, guess, c2)
            std = update.left(self.prior.flatten(), c2).sqrt().reshape(-1, *self.x_shape).to(z)
        guess, std = guess + shift, std.expand(z.shape)
        return guess, std, torch.stack([inner, guess / d, shift / c, std / c], 1)

    def gaussian(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        """What D is without the network, (B, *x_shape)."""
        update, rho = Update.from_cond(cond), rho.to(z.device)
        guess = self._gaussian(z, rho, None)[0]
        if update is not None:
            guess = guess + self._shift(update, guess, self._left(rho))
        return self.mean.to(z) + guess

    def moved(self, z: Tensor, rho_t: float, rho_s: float, cond: Cond) -> Tensor:
        """z (B, *x_shape) at the level rho_s, by the probability-flow ODE of the Gaussian from z at rho_t."""
        centred, d, update = z - self.mean.to(z), self.data_std, Update.from_cond(cond)
        if update is None:
            return self.mean.to(z) + math.sqrt((d**2 + rho_s**2) / (d**2 + rho_t**2)) * centred
        return self.mean.to(z) + update.moved(centred.flatten(1), d, rho_t, rho_s).reshape(z.shape).to(z)

    def _left(self, rho: Tensor) -> Tensor:
        """c^2 = rho^2 d^2 / (rho^2 + d^2)."""
        return (rho * self.data_std) ** 2 / (self.data_std**2 + rho**2)

    def _network(self, channels: Tensor, level: Tensor) -> Tensor:
        """What the network gives (B, *x_shape) for channels (B, c, *x_shape)."""
        rows = max(1, CACHED // math.prod(self.x_shape))
        if torch.is_grad_enabled() or len(level) > 1:
            return self.network(channels, level)[:, 0]
        return torch.cat([self.network(part, level)[:, 0] for part in channels.split(rows)])

    def _shift(self, update: Update, guess: Tensor, c2: Tensor) -> Tensor:
        return update.shift(guess.flatten(1), c2).reshape(guess.shape).to(guess)

    def start(self, shape: Any, t: float, key: Key, cond: Cond) -> Tensor:
        """m f + sigma N(0, C), f a draw of the Gaussian; where there are data, of the Gaussian they leave."""
        like = torch.empty(shape, dtype=self.dtype, device=self.device)
        noise, points, update = self.process.noise, cond.get("points"), Update.from_cond(cond)
        f = self.data_std * noise.sample(like, key.at(part="data"), points)
        if update is not None:
            xi = key.at(part="observations").normal((update.data.shape[1],)).to(like.device)
            shift = update.shift(f.flatten(1), torch.tensor(self.data_std**2, dtype=torch.float64), xi)
            f = f + shift.reshape(f.shape).to(f)
        eps = noise.sample(like, key.at(part="noise"), points)
        return column(self.process.scale(t), like) * (self.mean.to(f) + f) + column(self.process.sigma(t), like) * eps

    def start_log_prob(self, x_t: Tensor, t: float, cond: Cond) -> Tensor:
        """Not known of functions."""
        return ScoreModel.start_log_prob(self, x_t, t, cond)
