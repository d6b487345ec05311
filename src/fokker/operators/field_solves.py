"""Elliptic solves on the unit square that sines diagonalise: Poisson and Helmholtz with zero boundary values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.grids import dst, idst
from fokker.operators.base import SpectralOperator
from fokker.operators.checks import checked_image

_NEAREST = 1e-9  # how near the shift may come to an eigenvalue, over the largest of them


class DirichletSolve(SpectralOperator):
    """u with Lap u + shift u = a on the unit square and u = 0 on its boundary: a (..., H, W) -> u (..., H, W).

    Poisson for shift 0, Helmholtz for k^2. Values stand at the centres of H x W cells, and a is what the sines
    sin(pi k x) sin(pi l y), 1 <= k <= H, 1 <= l <= W, interpolate there: their coefficients are divided by
    shift - pi^2 (k^2 + l^2), with no other error of discretisation. The operator is symmetric.
    Raises InputError for a shift that is not finite, or an eigenvalue pi^2 (k^2 + l^2) itself.
    """

    def __init__(self, shape: Sequence[int], shift: float = 0.0) -> None:
        shape = checked_image("DirichletSolve: shape", shape)
        if not isinstance(shift, int | float) or not math.isfinite(shift):
            raise InputError(f"DirichletSolve: shift: got {shift!r}, a finite number is accepted")
        super().__init__(shape, shape)
        down, across = (torch.arange(1, n + 1, dtype=torch.float64) for n in shape[-2:])
        divisor = shift - math.pi**2 * (down[:, None] ** 2 + across**2)
        if float(divisor.abs().min()) < _NEAREST * float(divisor.abs().max()):
            raise InputError(f"DirichletSolve: shift: got {shift!r}, an eigenvalue; any other number is accepted")
        self._values = 1 / divisor
        flat = self._values.expand(shape).flatten()
        self._order = flat.abs().argsort(descending=True, stable=True)
        self._back = self._order.argsort()
        self._signs = flat[self._order].sign()
        self.singular_values = flat[self._order].abs()

    def _apply(self, x: Tensor) -> Tensor:
        return idst(self._constant("_values", x) * dst(x, 2), 2)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._apply(y)

    def _pseudo_inverse(self, y: Tensor) -> Tensor:
        return idst(dst(y, 2) / self._constant("_values", y), 2)

    def _to_spectrum(self, x: Tensor) -> Tensor:
        return dst(x, 2).flatten(1)[:, self._constant("_order", x)]

    def _from_spectrum(self, coefficients: Tensor) -> Tensor:
        return idst(coefficients[:, self._constant("_back", coefficients)].unflatten(1, self.x_shape), 2)

    def _data_to_spectrum(self, y: Tensor) -> Tensor:
        return self._to_spectrum(y) * self._constant("_signs", y)

    def _data_from_spectrum(self, coefficients: Tensor) -> Tensor:
        return self._from_spectrum(coefficients * self._constant("_signs", coefficients))
