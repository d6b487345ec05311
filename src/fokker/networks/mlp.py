"""Small fully connected networks for vectors.

Every network here has `embed(features) -> (M, E)`, evaluated once for each measurement, and
`forward(x, level, embedding) -> (B, x_size)`, evaluated at every step; `settings()` rebuilds it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class ConditionalMLP(nn.Module):
    """A deep trunk for the conditions, a shallow residual body for the noisy x and the noise level.

    The trunk gives each hidden layer of the body its bias, so that nothing of the conditions is evaluated again while
    sampling. The last layer starts at zero: with the EDM preconditioning in posterior coordinates, an untrained network
    *is* the Gaussian conditional. Without conditions (feature_size 0) there is no trunk, and the biases are plain
    weights.

    modulate: trunk and level also scale each hidden layer by 1 + gain (Perez et al. 2018), for laws whose shape
    changes with the conditions.
    """

    def __init__(
        self,
        x_size: int,
        feature_size: int,
        width: int = 128,
        depth: int = 3,
        trunk_width: int = 256,
        trunk_depth: int = 3,
        modulate: bool = False,
        level_width: int = 64,
    ):
        super().__init__()
        self._settings = {
            "kind": "conditional_mlp", "x_size": x_size, "feature_size": feature_size, "width": width,
            "depth": depth, "trunk_width": trunk_width, "trunk_depth": trunk_depth, "modulate": modulate,
            "level_width": level_width,
        }  # fmt: skip
        self.modulate = modulate
        size = width * depth * (2 if modulate else 1)
        if feature_size:
            layers: list[nn.Module] = []
            for enter in [feature_size] + [trunk_width] * (trunk_depth - 1):
                layers += [nn.Linear(enter, trunk_width), nn.SiLU()]
            self.trunk: nn.Module = nn.Sequential(*layers, nn.Linear(trunk_width, size))
        else:
            self.trunk = _Constant(size)
        self.level = nn.Sequential(nn.Linear(16, level_width), nn.SiLU(), nn.Linear(level_width, size))
        self.enter = nn.Linear(x_size, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth - 1))
        self.leave = nn.Linear(width, x_size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.frequencies: Tensor
        # level = log(rho) / 4 spans about (-1.6, 0.8): the slowest wave sees it whole, the fastest a twentieth.
        self.register_buffer("frequencies", 2 * math.pi * 0.12 * torch.arange(1.0, 9.0), persistent=False)

    def embed(self, features: Tensor) -> Tensor:
        """(M, F) -> (M, E): the biases of the body's layers, and with `modulate` their gains."""
        return self.trunk(features)

    def forward(self, x: Tensor, level: Tensor, embedding: Tensor) -> Tensor:
        """x (B, x_size), level (B,) or (1,), embedding (B, E)."""
        angle = level[:, None] * self.frequencies
        levels = self.level(torch.cat([angle.sin(), angle.cos()], 1))
        if len(level) == 1 and embedding.stride(0) == 0:
            embedding = embedding[:1]  # one measurement and one level for all rows: what follows is a plain network
        layers = [self.enter, *self.hidden]
        count = len(layers) * (2 if self.modulate else 1)
        biases, here = embedding.chunk(count, 1), levels.chunk(count, 1)
        h: Tensor | None = None
        for index, layer in enumerate(layers):
            bias, shift, inner = biases[index], here[index], x if h is None else h
            gain = biases[index + len(layers)] + here[index + len(layers)] if self.modulate else None
            if len(bias) == len(shift) == 1:
                factor = 1.0 if gain is None else 1 + gain
                value = torch.addmm((bias + shift) * factor, inner, (layer.weight.T * factor))
            else:
                # addmm: the product and its bias in one pass over memory, which is what bounds a network this small
                value = torch.addmm(bias, inner, layer.weight.T) + shift
                value = value if gain is None else torch.addcmul(value, gain, value)
            value = nn.functional.silu(value, inplace=not torch.is_grad_enabled())
            h = value if h is None else h + value
        assert h is not None
        return self.leave(h)

    def settings(self) -> dict[str, Any]:
        """Kind and sizes."""
        return dict(self._settings)


class _Constant(nn.Module):
    """One learned row, whatever comes in."""

    def __init__(self, size: int):
        super().__init__()
        self.row = nn.Parameter(torch.zeros(size))

    def forward(self, features: Tensor) -> Tensor:
        return self.row.expand(len(features), -1)


class PlainMLP(nn.Module):
    """One multilayer perceptron of (x, t, features) with ReLU and the time as a plain number.

    The published set-up (Dasgupta et al. 2025); its width is not stated there, 256 is our guess.
    """

    def __init__(self, x_size: int, feature_size: int, width: int = 256, depth: int = 4):
        super().__init__()
        self._settings = {
            "kind": "plain_mlp", "x_size": x_size, "feature_size": feature_size, "width": width, "depth": depth,
        }  # fmt: skip
        layers: list[nn.Module] = []
        for size in [x_size + 1 + feature_size] + [width] * (depth - 1):
            layers += [nn.Linear(size, width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, x_size))

    def embed(self, features: Tensor) -> Tensor:
        """The features themselves."""
        return features

    def forward(self, x: Tensor, level: Tensor, embedding: Tensor) -> Tensor:
        """x (B, x_size), level (B,) or (1,), embedding (B, F)."""
        return self.layers(torch.cat([x, level[:, None].expand(len(x), 1), embedding.expand(len(x), -1)], 1))

    def settings(self) -> dict[str, Any]:
        """Kind and sizes."""
        return dict(self._settings)
