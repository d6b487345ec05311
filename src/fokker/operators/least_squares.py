"""Minimum-norm least squares by conjugate gradients, and linear maps whose derivative is a known adjoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]

TOLERANCE = 1e-12  # on |A^T (y - A x)| / |A^T y|, row by row
ITERATIONS = 2000


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, apply: Map, adjoint: Map) -> Tensor:
        return apply(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.maps = inputs[1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        apply, adjoint = ctx.maps
        return linear_map(gradient, adjoint, apply), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return linear_map(tangent, *ctx.maps)


def linear_map(x: Tensor, apply: Map, adjoint: Map) -> Tensor:
    """apply(x), whose derivatives of any order autograd takes from `adjoint` and `apply`, forwards and backwards."""
    return _LinearMap.apply(x, apply, adjoint)


def least_squares(apply: Map, adjoint: Map, y: Tensor, size: int) -> Tensor:
    """A^+ y for rows y (B, *y_shape), the x of least norm among those of least |y - A x|, in float64.

    Conjugate gradients on A^T A x = A^T y from x = 0 (CGLS, Björck 1996, section 7.4), every row with its own steps. A
    row stops at |A^T (y - A x)| <= 1e-12 |A^T y|, or all after min(4 size, 2000) iterations, size = the rank of A or
    more: what is missing then belongs to the smallest singular values.
    """
    y = y.double()
    residual, force = y, adjoint(y)
    x, direction = torch.zeros_like(force), force
    square = _squares(force)
    goal = TOLERANCE**2 * square
    for _ in range(min(4 * size, ITERATIONS)):
        going = square > goal
        if not going.any():
            break
        image = apply(direction)
        step = _beside(torch.where(going, square / _squares(image).clamp(min=1e-300), 0.0), x)
        x = x + step * direction
        residual = residual - _beside(step, y) * image
        force = adjoint(residual)
        last, square = square, torch.where(going, _squares(force), square)
        direction = force + _beside(square / last.clamp(min=1e-300), x) * direction
    return x


def _squares(rows: Tensor) -> Tensor:
    return rows.flatten(1).square().sum(1)


def _beside(row: Tensor, like: Tensor) -> Tensor:
    """One number per row, shaped to multiply rows of `like`."""
    return row.reshape(-1, *[1] * (like.ndim - 1))
