"""The values of a function on a grid at any points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fokker.errors import InputError
from fokker.field_points import as_points, checked_points
from fokker.grids import COSINES, Grid, dct, idct
from fokker.operators.base import LinearOperator


class PointValues(LinearOperator):
    """y_j = f(p_j) for f given at the cell centres of a grid of the unit cube, continued between them by cosines.

    points (m, d) in any order, several at one place and none at all included. The values at the centres of cells are
    those of the grid, whatever the function; between them the cosines that the grid carries are summed.

    Raises InputError for points of another dimension, outside the unit cube or not finite (naming the first).
    """

    def __init__(self, x_shape: Sequence[int], points: ArrayLike | Tensor) -> None:
        grid = Grid(tuple(x_shape) if isinstance(x_shape, Sequence) else x_shape)
        self.points = checked_points(as_points(points, grid.dimension), grid.dimension, (0.0, 1.0))
        if self.points.ndim != 2:
            raise InputError(f"points: got shape {tuple(self.points.shape)}, (m, {grid.dimension}) is accepted")
        # A wave of each axis at each point: (d, m, n) would need equal sides.
        self.waves = [
            COSINES.at(self.points[:, axis], cells) / math.sqrt(cells) for axis, cells in enumerate(grid.shape)
        ]
        super().__init__(grid.shape, None)
        self.y_shape = (len(self.points),)  # may be 0, which other operators refuse

    def _apply(self, x: Tensor) -> Tensor:
        value = dct(x, len(self.x_shape))
        first, *rest = (wave.to(x) for wave in self.waves)
        value = torch.einsum("mi,bi...->bm...", first, value)
        for wave in rest:
            value = torch.einsum("mi,bmi...->bm...", wave, value)
        return value

    def _adjoint(self, y: Tensor) -> Tensor:
        *rest, last = (wave.to(y) for wave in self.waves)
        value = y
        for wave in rest:
            value = torch.einsum("bm...,mi->bm...i", value, wave)
        return idct(torch.einsum("bm...,mi->b...i", value, last), len(self.x_shape))
