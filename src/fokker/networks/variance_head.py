"""A small network for the learned variance of DDPM's reverse steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fokker.states import column


class VarianceHead(nn.Module):
    """v(z, rho, x_0_hat) -> (B, *shape), the fraction of log beta in exp(v log beta + (1 - v) log beta_tilde).

    It sees z, the level and the denoised value, which carries the conditions; any real v is allowed. The last layer
    starts at zero with v = 1, that is at beta. mean and data_std are those of the data.

    Source: Nichol & Dhariwal 2021 (there a second output of the denoiser; apart from it, it can be trained later).
    """

    def __init__(self, x_shape: tuple[int, ...], mean: Tensor, data_std: float, width: int = 64):
        super().__init__()
        size, waves = math.prod(x_shape), 4
        self.data_std = data_std
        self.mean: Tensor
        self.frequencies: Tensor
        self.register_buffer("mean", mean.to(torch.float32))
        self.register_buffer("frequencies", math.pi / 4 * torch.arange(1.0, waves + 1))
        self.layers = nn.Sequential(
            nn.Linear(2 * size + 1 + 2 * waves, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, size),
        )  # fmt: skip
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.ones_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, z: Tensor, rho: Tensor, x_0_hat: Tensor) -> Tensor:
        """z and x_0_hat (B, *shape), rho a float64 scalar or (B,); v in the dtype of z."""
        x, guess = ((value.to(self.mean) - self.mean) for value in (z, x_0_hat))
        spread = (self.data_std**2 + rho**2).sqrt()
        level = ((rho / self.data_std).log() / 4).to(x).reshape(-1, 1).expand(len(x), 1)
        angle = level * self.frequencies
        features = [(x / column(spread, x)).flatten(1), guess.flatten(1) / self.data_std]
        v = self.layers(torch.cat([*features, level, angle.sin(), angle.cos()], 1))
        return v.reshape(z.shape).to(z)
