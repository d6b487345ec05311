"""Values of a function at points, as operators on the states that a model of functions has."""

from __future__ import annotations

import torch
from torch import Tensor

from fokker.continued_fields import between
from fokker.fields.prior import FunctionPrior
from fokker.fields.score import FunctionScore
from fokker.grids import Grid
from fokker.operators.base import Composition, LinearOperator, Matrix
from fokker.operators.evaluation import PointValues
from fokker.operators.forward import ForwardOperator


class First(LinearOperator):
    """The first m entries of x (P,); m may be 0."""

    def __init__(self, count: int, x_shape: tuple[int, ...]) -> None:
        super().__init__(x_shape, None)
        self.y_shape = (count,)

    def _apply(self, x: Tensor) -> Tensor:
        return x[:, : self.y_shape[0]]

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.nn.functional.pad(y, (0, self.x_shape[0] - self.y_shape[0]))


class BetweenCells(ForwardOperator):
    """y = A x + b, A the operator `linear` and b (m,) the `offset`."""

    def __init__(self, linear: LinearOperator, offset: Tensor) -> None:
        super().__init__(linear.x_shape, linear.y_shape)
        self.y_shape = linear.y_shape
        self.linear, self.offset = linear, offset

    def _apply(self, x: Tensor) -> Tensor:
        return self.linear._apply(x) + self._constant("offset", x)


def values_between(prior: FunctionPrior, model: FunctionScore, points: Tensor) -> tuple[BetweenCells, Tensor]:
    """E[f(q) given f on the cells] at points q (m, dim), m > 0, as an operator on the states of `model`, which is
    `prior.at(grid)`; and the covariance (m, m) of what the cells leave open.

    Both of the Gaussian of the prior, continued between the cells (`continued_fields`). On a grid finer than that of
    training the cells are those of training, whose cosines the function on it is: more is not known of it.
    """
    cells = Grid(tuple(min(pair) for pair in zip(model.x_shape, prior.grid.shape)))
    weights, unseen = between(prior.continued, cells.shape, points)
    linear: LinearOperator = Matrix(weights.flatten(1), None if cells.shape != model.x_shape else cells.shape)
    offset = prior.mean_at(points) - weights.flatten(1) @ prior.mean_at(cells.points)
    if cells.shape != model.x_shape:
        linear = Composition(linear, PointValues(model.x_shape, cells.points))
    return BetweenCells(linear, offset), prior.data_std**2 * unseen
