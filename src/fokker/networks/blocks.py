"""What the networks for functions share: the noise level's gains and shifts, features of points, checks of shapes.

Grid networks are called as network(x (B, c_in, *grid), level) -> (B, c_out, *grid), set networks as
network(values (B, P, c_in), points (B or 1, P, d), level, query (B or 1, Q, d), mask, query_features) -> (B, Q, c_out).
level (B,) or (1,) is log(rho)/4; None where there is no noise, which means no gains and no shifts. The last layer,
`leave`, starts at zero: with preconditioning, an untrained network is the denoiser without one. Nothing mixes rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fokker.errors import InputError
from fokker.networks.grids import extended


class Modulation(nn.Module):
    """(1 + gain, shift) for each of several layers from the noise level (feature-wise, Perez et al. 2018)."""

    def __init__(self, sizes: Sequence[int], width: int = 64):
        super().__init__()
        self.sizes = [size for size in sizes for _ in range(2)]
        self.layers = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, sum(self.sizes)))
        self.frequencies: Tensor
        # level = log(rho) / 4 spans about (-1.6, 0.8): the slowest wave sees it whole, the fastest a twentieth.
        self.register_buffer("frequencies", 2 * math.pi * 0.12 * torch.arange(1.0, 9.0), persistent=False)

    def forward(self, level: Tensor | None, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Pairs (B or 1, size); InputError for a level that is not one number for each row or one for all."""
        if level is None:
            flat = self.frequencies.new_zeros(1, sum(self.sizes))
        else:
            if level.ndim != 1 or len(level) not in (1, rows):
                raise InputError(f"level: got shape {tuple(level.shape)}, ({rows},) or (1,) is accepted")
            angle = level.to(self.frequencies)[:, None] * self.frequencies
            flat = self.layers(torch.cat([angle.sin(), angle.cos()], 1))
        parts = flat.split(self.sizes, 1)
        return [(1 + gain, shift) for gain, shift in zip(parts[::2], parts[1::2])]


class PointFeatures(nn.Module):
    """Points (..., d) of about the unit cube -> (..., size): themselves about the middle, and waves of many lengths.

    sin and cos of pi 2^j x_i, j = 0 ... scales - 1: wavelengths from 2 down to 2^(2 - scales).
    """

    def __init__(self, dimension: int, scales: int):
        super().__init__()
        self.dimension, self.size = dimension, dimension * (1 + 2 * scales)
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(scales), persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        """See the class."""
        angle = (points[..., None] * self.frequencies).flatten(-2)
        return torch.cat([points - 0.5, angle.sin(), angle.cos()], -1)


class Pointwise(nn.Linear):
    """A linear map of the channels of x (B, c, *grid)."""

    def forward(self, x: Tensor) -> Tensor:
        """The product and its bias in one pass over memory."""
        weight = self.weight.expand(len(x), -1, -1)
        return torch.baddbmm(self.bias[:, None], weight, x.flatten(2)).unflatten(2, x.shape[2:])


class LocalBlock(nn.Module):
    """h + V silu((1 + gain) (K h) + shift): K a convolution of 3 cells an axis, mirrored at the faces, V pointwise."""

    def __init__(self, width: int, dimension: int):
        super().__init__()
        self.convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimension - 1](width, width, 3, bias=False)
        self.mix = Pointwise(width, width)

    def forward(self, h: Tensor, gain: Tensor, shift: Tensor, apart: Sequence[int] | None = None) -> Tensor:
        """h (B, width, *grid); apart: cells from one entry of the stencil to the next, along each axis."""
        apart = [1] * (h.ndim - 2) if apart is None else apart
        run = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[h.ndim - 3]
        value = run(extended(h, apart), self.convolution.weight, dilation=apart)
        gain, shift = (v.reshape(*v.shape, *[1] * (h.ndim - 2)) for v in (gain, shift))
        return h + self.mix(nn.functional.silu(torch.addcmul(shift, gain, value)))


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The same layer with weights and biases at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def check_field(x: Tensor, channels: int, dimension: int) -> None:
    """InputError unless x is (B, channels, *grid) with that many grid axes."""
    if x.ndim != dimension + 2 or x.shape[1] != channels:
        raise InputError(
            f"x: got shape {tuple(x.shape)}, (B, {channels}, *grid) with {dimension} grid axes is accepted"
        )


def check_set(
    values: Tensor, points: Tensor, query: Tensor, query_features: Tensor | None, sizes: tuple[int, int, int]
) -> None:
    """InputError unless values (B, P, c_in), points (B or 1, P, d), query (B or 1, Q, d) and query_features
    (B or 1, Q, c_q) are; sizes: c_in, d and c_q. With c_q = 0 no features are accepted.
    """
    c_in, d, c_query = sizes
    if values.ndim != 3 or values.shape[2] != c_in:
        raise InputError(f"values: got shape {tuple(values.shape)}, (B, P, {c_in}) is accepted")
    rows, count = values.shape[:2]
    expected = {"points": (points, count, d), "query": (query, None, d)}
    if query_features is not None and query.ndim == 3:
        expected["query_features"] = (query_features, query.shape[1], c_query)
    if (query_features is None) != (c_query == 0):
        got = "none" if query_features is None else f"shape {tuple(query_features.shape)}"
        raise InputError(f"query_features: got {got}, this network takes {c_query} for each query")
    for name, (given, number, last) in expected.items():
        fits = given.ndim == 3 and len(given) in (1, rows) and given.shape[2] == last
        if not fits or number not in (None, given.shape[1]):
            accepted = f"({rows} or 1, {'number' if number is None else number}, {last})"
            raise InputError(f"{name}: got shape {tuple(given.shape)}, {accepted} is accepted")
