"""A network from values at fixed sensors to a function: its answer is a sum of learned basis functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fokker.errors import InputError
from fokker.networks.blocks import Modulation, PointFeatures, check_set, zeroed


class DeepONet(nn.Module):
    """u(x) = sum_k b_k(sensor values, level) t_k(x) + b_0 for each output channel (Lu et al. 2021).

    The branch b sees the values at `sensors` fixed places, always the same and in the same order (where they are is
    not looked at), and the noise level in each of its hidden layers; the trunk t sees waves of the query point (of
    about the unit cube, see `PointFeatures`) and its extra features, if any. Queries that all rows share are evaluated
    once.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        sensors: int,
        dimension: int = 2,
        c_query: int = 0,
        width: int = 128,
        depth: int = 3,
        terms: int = 64,
        scales: int = 4,
        level_width: int = 64,
    ):
        super().__init__()
        self._settings = {
            "kind": "deeponet", "c_in": c_in, "c_out": c_out, "sensors": sensors, "dimension": dimension,
            "c_query": c_query, "width": width, "depth": depth, "terms": terms, "scales": scales,
            "level_width": level_width,
        }  # fmt: skip
        self.c_in, self.c_out, self.sensors, self.dimension, self.c_query = c_in, c_out, sensors, dimension, c_query
        self.level = Modulation([width] * depth, level_width)
        self.branch = nn.ModuleList(nn.Linear(size, width) for size in [sensors * c_in] + [width] * (depth - 1))
        self.features = PointFeatures(dimension, scales)
        layers: list[nn.Module] = []
        for size in [self.features.size + c_query] + [width] * (depth - 1):
            layers += [nn.Linear(size, width), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.Linear(width, terms))
        self.leave = zeroed(nn.Linear(width, c_out * (terms + 1)))

    def forward(
        self,
        values: Tensor,
        points: Tensor,
        level: Tensor | None,
        query: Tensor,
        mask: Tensor | None = None,
        query_features: Tensor | None = None,
    ) -> Tensor:
        """values (B, sensors, c_in), query (B or 1, Q, d) -> (B, Q, c_out). InputError for a mask or another shape."""
        check_set(values, points, query, query_features, (self.c_in, self.dimension, self.c_query))
        if values.shape[1] != self.sensors or mask is not None:
            got = f"{values.shape[1]} values" if mask is None else "a mask"
            raise InputError(f"values: got {got}, all {self.sensors} sensors of a DeepONet are needed")
        h = values.flatten(1)
        for index, ((gain, shift), layer) in enumerate(zip(self.level(level, len(values)), self.branch)):
            value = nn.functional.silu(torch.addcmul(shift, gain, layer(h)))
            h = value if index == 0 else h + value
        factors = self.leave(h).unflatten(1, (self.c_out, -1))
        where = self.features(query)
        if query_features is not None:
            where = torch.cat([where.expand(len(values), -1, -1), query_features.expand(len(values), -1, -1)], -1)
        return self.trunk(where) @ factors[..., 1:].mT + factors[..., 0][:, None]

    def settings(self) -> dict[str, Any]:
        """Kind and sizes."""
        return dict(self._settings)
