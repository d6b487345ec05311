"""A network for measurements with a layout: signals and images are summarised by convolutions first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fokker.networks.mlp import ConditionalMLP

CHANNELS = (16, 32, 64)
SMALLEST = 4  # side at which convolutions end


class LayoutMLP(ConditionalMLP):
    """`ConditionalMLP` whose conditions are a vector and a summary of y in its layout.

    The features are `plain` numbers, then y and where it is observed, each of y_shape: (L,) or (C, L) for signals,
    (H, W) or (C, H, W) for images. Convolutions of stride 2 halve the sides until they are at most 4 (their channels
    grow to 64); what is left is mapped to `summary` numbers. The layout is embedded once for each measurement, like all
    conditions.
    """

    def __init__(self, x_size: int, plain: int, y_shape: list[int], summary: int = 32, **sizes: Any):
        super().__init__(x_size, plain + summary, **sizes)
        own = {name: value for name, value in self._settings.items() if name not in ("kind", "feature_size")}
        self._settings = {"kind": "layout_mlp", "plain": plain, "y_shape": list(y_shape), "summary": summary, **own}
        images = len(y_shape) == 3 or (len(y_shape) == 2 and y_shape[0] >= 8)
        sides = list(y_shape[-2:] if images else y_shape[-1:])
        rows = 1 if len(y_shape) == len(sides) else y_shape[0]
        convolution: type[nn.Module] = nn.Conv2d if images else nn.Conv1d
        self._shape, self._plain = (2 * rows, *sides), plain
        layers: list[nn.Module] = []
        enter, index = 2 * rows, 0
        while max(sides) > SMALLEST:
            leave = CHANNELS[min(index, len(CHANNELS) - 1)]
            layers += [convolution(enter, leave, 5, stride=2, padding=2), nn.SiLU()]
            sides, enter, index = [(side + 1) // 2 for side in sides], leave, index + 1
        size = enter * int(torch.Size(sides).numel())
        self.layout = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, summary), nn.SiLU())

    def embed(self, features: Tensor) -> Tensor:
        """(M, plain + 2 d_y) -> (M, E)."""
        grid = features[:, self._plain :].reshape(len(features), *self._shape)
        return super().embed(torch.cat([features[:, : self._plain], self.layout(grid)], 1))
