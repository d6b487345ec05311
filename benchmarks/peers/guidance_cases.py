"""What both packages are given: the denoisers, the operators and the grid of times. Needs torch alone.

A denoiser is a module D(x, rho) for x (B, C, H, W) and rho (B,), the same object for both. `UNet` has the size of a
small image model and random weights, for time and memory; `Smooth` is exact for Gaussian images, for accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BETAS = (0.1, 20.0)  # beta(t) of the variance preserving process, deepinv's own
BLUR = 1.5  # standard deviation of the Gaussian kernel, pixels
OPERATORS = ("denoising", "box", "blur")


class Block(nn.Module):
    """Two convolutions with group norms, the level added between, a skip."""

    def __init__(self, inside: int, outside: int, level: int):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, inside), nn.SiLU(), nn.Conv2d(inside, outside, 3, padding=1))
        self.level = nn.Linear(level, outside)
        self.second = nn.Sequential(nn.GroupNorm(8, outside), nn.SiLU(), nn.Conv2d(outside, outside, 3, padding=1))
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        hidden = self.first(x) + self.level(level)[:, :, None, None]
        return self.skip(x) + self.second(hidden)


class UNet(nn.Module):
    """Three resolutions with widths w, 2 w, 4 w, preconditioned for data of unit variance (Karras et al. 2022)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        level, widths = 4 * width, (width, 2 * width, 4 * width)
        self.embed = nn.Sequential(nn.Linear(32, level), nn.SiLU(), nn.Linear(level, level), nn.SiLU())
        self.register_buffer("frequencies", torch.exp(torch.linspace(math.log(0.1), math.log(30.0), 16)))
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(Block(a, b, level) for a, b in zip((width, *widths), widths))
        self.up = nn.ModuleList(Block(a + b, b, level) for a, b in zip(widths[:0:-1], widths[-2::-1]))
        self.leave = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: Tensor, rho: Tensor) -> Tensor:
        """D (B, C, H, W)."""
        angles = rho.log()[:, None] * self.frequencies
        level = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        rho = rho[:, None, None, None]
        size = (1 + rho**2).sqrt()
        h, kept = self.enter(x / size), []
        for index, block in enumerate(self.down):
            h = block(nn.functional.avg_pool2d(h, 2) if index else h, level)
            kept.append(h)
        for block, before in zip(self.up, kept[-2::-1]):
            h = block(torch.cat([nn.functional.interpolate(h, scale_factor=2.0), before], 1), level)
        return x / size**2 + rho / size * self.leave(h)


class Smooth(nn.Module):
    """E[x_0 given x_0 + rho noise] for images N(0, C) (1, n, n) of unit variance: D = V s / (s + rho^2) V^T x.

    C is stationary on the torus, its spectrum 1 / (1 + (f / 2)^2)^2 of the frequency f plus 0.02, so that nothing is
    known without data.
    """

    def __init__(self, n: int):
        super().__init__()
        wave = torch.fft.fftfreq(n, dtype=torch.float64) * n
        spectrum = 1 / (1 + (wave[:, None] ** 2 + wave**2) / 4) ** 2 + 0.02
        impulse = torch.zeros(n, n, dtype=torch.float64)
        impulse[0, 0] = 1
        row = torch.fft.ifft2(torch.fft.fft2(impulse) * spectrum / spectrum.mean()).real
        index = torch.arange(n)
        turn = (index[:, None] - index) % n  # (n, n)
        self.covariance = row[turn[:, None, :, None], turn[None, :, None, :]].reshape(n * n, n * n)
        values, vectors = torch.linalg.eigh(self.covariance)
        self.register_buffer("values", values.float())
        self.register_buffer("vectors", vectors.float())

    def forward(self, x: Tensor, rho: Tensor) -> Tensor:
        """D (B, 1, n, n)."""
        seen = x.flatten(1) @ self.vectors * (self.values / (self.values + rho[:, None] ** 2))
        return (seen @ self.vectors.T).reshape(x.shape)


@dataclass(frozen=True)
class Setting:
    """A timing: `rows` images of `shape` through a U-Net of this width, `steps` steps at a time."""

    shape: tuple[int, int, int]
    width: int
    rows: int
    steps: int

    def network(self) -> UNet:
        """The network with the weights of seed 0, for evaluation only."""
        torch.manual_seed(0)
        return UNet(self.shape[0], self.width).eval().requires_grad_(False)


SETTINGS = {
    "colour": Setting((3, 64, 64), 32, 2, 6),
    "grey": Setting((1, 32, 32), 32, 4, 12),
    "small": Setting((1, 16, 16), 16, 1, 100),
}
PAIRED = {"DPS": ("DPS 0.3", "DPS"), "PiGDM": ("PiGDM", "PiGDM"), "DDRM": ("DDRM", "DDRM")}  # fokker, deepinv


@dataclass(frozen=True)
class Accuracy:
    """`cases` truths of n x n pixels, `draws` samples of each posterior, noise of this standard deviation."""

    n: int = 12
    cases: int = 8
    draws: int = 99  # between the 10th from below and the 10th from above lie 80 % of the truths, if all is right
    noise: float = 0.2


# (method, steps) of both packages; what a name means is told by `sampler` and `guidance`.
FOKKER = (
    *((f"DPS{how}", steps) for how in ("", " 0.3", " 1.0") for steps in (100, 1000)),
    *(("PiGDM", steps) for steps in (100, 1000)),
    ("PiGDM defaults", 64),
    ("MomentMatching", 100),
    ("MomentMatching defaults", 64),
    *(("DDRM", steps) for steps in (20, 100)),
)
DEEPINV = (
    *((f"DPS{how}", steps) for how in ("", " 60", " annealed") for steps in (100, 1000)),
    *(("PiGDM", steps) for steps in (100, 1000)),
    ("MomentMatching", 100),
    ("MomentMatching 100", 100),
    *(("DDRM", steps) for steps in (20, 100)),
)


def box(n: int) -> tuple[int, int]:
    """First row (and column) and side of the hidden square of an image with sides n."""
    return n // 4, n // 2
