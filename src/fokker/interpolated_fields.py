"""White noise on the nodes of a regular grid, interpolated to any points: noise of functions without a spectrum.

Source: Zhang and Wonka 2023, "Functional diffusion" (noise functions from a grid of independent normal numbers).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.field_points import checked_points
from fokker.grids import checked_shape
from fokker.random_fields import Field


@dataclass(frozen=True)
class InterpolatedField(Field):
    """g(x) = sum_k w_k(x) xi_k, xi_k ~ N(0, 1) at the nodes of a grid of the unit cube, w multilinear interpolation.

    nodes: their number n_j >= 2 along each of 1 to 3 axes; they stand at i / (n_j - 1), ends included. A field of
    dimension d has 2^d weights for each point, Cov(g(x), g(x')) = sum_k w_k(x) w_k(x'), zero for points two cells apart
    along any axis, and trace class: the grid is fixed, whatever points the function is asked at. It is not stationary:
    Var g(x) = sum_k w_k(x)^2 is 1 at the nodes, 2^-d in the middle of a cell and (2/3)^d on average. This is the plain
    interpolation of the source: nothing that a process asks of its noise needs it divided by its standard deviation.

    `Correlated(InterpolatedField(nodes), points)` is the noise of a process; a key fixes the whole function. C is
    singular where points are too many for the nodes to tell apart, as three in a cell of a line; `solve` tells.

    InputError for other numbers of nodes, and for points outside the unit cube or of another dimension.
    """

    nodes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", checked_shape("nodes", self.nodes))
        if len(self.nodes) > 3 or min(self.nodes) < 2:
            raise InputError(f"nodes: got {self.nodes}, at least 2 along each of 1 to 3 axes are accepted")

    @property
    def dimension(self) -> int:  # type: ignore[override]
        """Number of axes."""
        return len(self.nodes)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return math.prod(self.nodes)

    def basis(self, points: Tensor) -> Tensor:
        """w_k(x) at points (..., P, dimension) -> (..., P, size), in float64; InputError for points elsewhere."""
        index, weight = self._corners(points)
        return weight.new_zeros(*weight.shape[:-1], self.size).scatter(-1, index, weight)

    def variance(self, points: Tensor) -> Tensor:
        """sum_k w_k(x)^2 at points (..., P, dimension) -> (..., P), in float64."""
        return self._corners(points)[1].square().sum(-1)

    def _product(self, columns: Tensor, points: Tensor) -> Tensor:
        """From the corners of each point's cell: the weights of all other nodes are zero."""
        index, weight = self._corners(points)
        if points.ndim == 2:
            return torch.einsum("pk,bpkc->bpc", weight, columns[:, index])
        rows = torch.arange(len(columns), device=columns.device)[:, None, None]
        return torch.einsum("bpk,bpkc->bpc", weight, columns[rows, index])

    def _entries(self, columns: Tensor, points: Tensor) -> int:
        return 2**self.dimension * len(columns) * columns.shape[-1]

    def _checked(self, points: Tensor) -> Tensor:
        return checked_points(points, self.dimension, (0.0, 1.0))

    def _corners(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The corners of each point's cell as flat indices of nodes, and their weights: both (..., P, 2^dimension)."""
        where = self._checked(points).clamp(0, 1)
        weight = torch.ones_like(where[..., :1])
        index, either = torch.zeros_like(weight, dtype=torch.long), torch.arange(2, device=where.device)
        for axis, n in enumerate(self.nodes):
            place = where[..., axis, None] * (n - 1)
            low = place.floor().clamp(max=n - 2)
            right = place - low
            weight = (weight[..., None] * torch.cat([1 - right, right], -1)[..., None, :]).flatten(-2)
            index = (index[..., None] * n + (low.long() + either)[..., None, :]).flatten(-2)
        return index, weight
