"""Linear operators: adjoint, pseudo-inverse, composition, and those with a known singular value decomposition."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import pad

from fokker.errors import InputError
from fokker.operators.checks import checked_array
from fokker.operators.forward import Composed, ForwardOperator, check_fit
from fokker.operators.least_squares import least_squares, linear_map

RANK_CUT = 1e-10
"""Singular values up to this fraction of the largest count as zero."""
_BASIS = 256  # columns of a matrix found at once


class LinearOperator(ForwardOperator):
    """y = A x with a known adjoint. Subclasses give `_apply` and `_adjoint`, on rows that have been checked."""

    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor:
        """A^T y for rows (B, *y_shape)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n): the numbers of entries of y and of x."""
        return math.prod(self.y_shape), math.prod(self.x_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y (..., *x_shape) for y (..., *y_shape)."""
        return self._on_rows("y", y, self.y_shape, self._adjoint)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^+ y (..., *x_shape): the x of least norm among those of least |y - A x|, whatever the rank of A.

        By conjugate gradients in float64 until |A^T (y - A x)| <= 1e-12 |A^T y| in each row, at most 2,000 iterations
        (`least_squares`); exact where the operator knows its singular values. Differentiable.
        """
        return self._on_rows("y", y, self.y_shape, self._pseudo_inverse)

    def _pseudo_inverse(self, y: Tensor) -> Tensor:
        size = min(self.shape)

        def solve(y: Tensor) -> Tensor:
            return least_squares(self._apply, self._adjoint, y, size).to(y.dtype)

        def solve_adjoint(x: Tensor) -> Tensor:  # (A^+)^T = (A^T)^+
            return least_squares(self._adjoint, self._apply, x, size).to(x.dtype)

        return linear_map(y, solve, solve_adjoint)

    def matrix(self) -> Tensor:
        """A as a dense matrix (m, n), float64 on the CPU, entries of x and y in the order of `flatten`."""
        m, n = self.shape
        if m < n:
            return _on_basis(self._adjoint, self.y_shape, n)
        return _on_basis(self._apply, self.x_shape, m).T.contiguous()

    def compose(self, inner: Callable[[Tensor], Tensor]) -> Composition | Composed:
        """This operator after `inner`, also written A @ inner: linear if `inner` is a LinearOperator, else a callable.

        Raises InputError for shapes that do not fit, and for what cannot be called.
        """
        if isinstance(inner, LinearOperator):
            return Composition(self, inner)
        if not callable(inner):
            raise InputError(f"{self.name} @: got {type(inner).__name__}, an operator is accepted; A(x) applies A to x")
        return Composed(self, inner)

    def __matmul__(self, inner: Callable[[Tensor], Tensor]) -> Composition | Composed:
        return self.compose(inner)

    def __rmatmul__(self, outer: Callable[[Tensor], Tensor]) -> Composed:
        return Composed(outer, self) if callable(outer) else NotImplemented


def _on_basis(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], size: int) -> Tensor:
    """function of each unit vector of a shape, (entries, size)."""
    entries = math.prod(shape)
    out = torch.empty(entries, size, dtype=torch.float64)
    for first in range(0, entries, _BASIS):
        rows = torch.arange(first, min(first + _BASIS, entries))
        basis = torch.zeros(len(rows), entries, dtype=torch.float64).scatter_(1, rows[:, None], 1.0)
        out[rows] = function(basis.unflatten(1, shape)).flatten(1)
    return out


class Composition(LinearOperator):
    """x -> A (B x) for linear operators A = `outer` and B = `inner`; its adjoint is B^T A^T."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        self.outer, self.inner = outer, inner
        check_fit(self.name, outer, inner)
        super().__init__(inner.x_shape, outer.y_shape)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.outer.name} @ {self.inner.name}"

    def _apply(self, x: Tensor) -> Tensor:
        return self.outer._apply(self.inner._apply(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner._adjoint(self.outer._adjoint(y))


class SpectralOperator(LinearOperator):
    """A = U S V^T with known factors: S = diag(singular_values), V (n, n) orthogonal, U (m, r) with U^T U = I.

    singular_values: (r,) float64, positive, the largest first. r, the rank, counts those above 1e-10 times the largest;
    smaller ones are dropped from the spectrum. The first r columns of V belong to them, the other n - r span what A
    does not see. Subclasses give the four maps with an underscore, on rows that have been checked.
    """

    singular_values: Tensor

    @property
    def rank(self) -> int:
        """r, the number of singular values."""
        return len(self.singular_values)

    def to_spectrum(self, x: Tensor) -> Tensor:
        """V^T x (..., n) for x (..., *x_shape)."""
        return self._on_rows("x", x, self.x_shape, self._to_spectrum)

    def from_spectrum(self, coefficients: Tensor) -> Tensor:
        """V c (..., *x_shape) for coefficients c (..., n)."""
        return self._on_rows("coefficients", coefficients, self.shape[1:], self._from_spectrum)

    def data_to_spectrum(self, y: Tensor) -> Tensor:
        """U^T y (..., r) for y (..., *y_shape)."""
        return self._on_rows("y", y, self.y_shape, self._data_to_spectrum)

    def data_from_spectrum(self, coefficients: Tensor) -> Tensor:
        """U c (..., *y_shape) for coefficients c (..., r)."""
        return self._on_rows("coefficients", coefficients, (self.rank,), self._data_from_spectrum)

    def solve_normal(self, y: Tensor, spread: float, variance: float) -> Tensor:
        """U (spread S^2 + variance)^-1 U^T y (..., *y_shape): (spread A A^T + variance)^-1 y within the range of A."""
        return self._on_rows("y", y, self.y_shape, lambda rows: self._solve_normal(rows, spread, variance))

    @abstractmethod
    def _to_spectrum(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _from_spectrum(self, coefficients: Tensor) -> Tensor: ...

    @abstractmethod
    def _data_to_spectrum(self, y: Tensor) -> Tensor: ...

    @abstractmethod
    def _data_from_spectrum(self, coefficients: Tensor) -> Tensor: ...

    def _solve_normal(self, y: Tensor, spread: float, variance: float) -> Tensor:
        total = spread * self._constant("singular_values", y) ** 2 + variance
        return self._data_from_spectrum(self._data_to_spectrum(y) / total)

    def _apply(self, x: Tensor) -> Tensor:
        return self._data_from_spectrum(self._constant("singular_values", x) * self._to_spectrum(x)[:, : self.rank])

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._from_seen(self._constant("singular_values", y) * self._data_to_spectrum(y))

    def _pseudo_inverse(self, y: Tensor) -> Tensor:
        return self._from_seen(self._data_to_spectrum(y) / self._constant("singular_values", y))

    def _from_seen(self, coefficients: Tensor) -> Tensor:
        return self._from_spectrum(pad(coefficients, (0, self.shape[1] - self.rank)))


class Matrix(SpectralOperator):
    """y = M x for a dense matrix M (m, n), x and y flattened; x_shape and y_shape are (n,) and (m,) if not given.

    The singular value decomposition is computed when it is first used. Raises InputError for a matrix that is not
    two-dimensional, empty or not finite, and for shapes of other sizes.
    """

    def __init__(
        self,
        matrix: ArrayLike | Tensor,
        x_shape: Sequence[int] | None = None,
        y_shape: Sequence[int] | None = None,
    ) -> None:
        self._matrix = torch.from_numpy(checked_array(f"{self.name}: matrix", matrix, 2))
        m, n = self._matrix.shape
        super().__init__((n,) if x_shape is None else x_shape, (m,) if y_shape is None else y_shape)
        if self.shape != (m, n):
            raise InputError(
                f"{self.name}: got a matrix {(m, n)} with x_shape {self.x_shape} and y_shape {self.y_shape}, "
                f"shapes of {n} and {m} entries are accepted"
            )

    def matrix(self) -> Tensor:
        """M (m, n), float64, a copy."""
        return self._matrix.clone()

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """U (m, r), s (r,), V^T (n, n)."""
        m, n = self._matrix.shape
        u, s, v = np.linalg.svd(self._matrix.numpy(), full_matrices=m < n)
        rank = int((s > RANK_CUT * s[0]).sum())
        return torch.from_numpy(u[:, :rank].copy()), torch.from_numpy(s[:rank].copy()), torch.from_numpy(v)

    @property
    def singular_values(self) -> Tensor:  # type: ignore[override]
        """(r,), float64, the largest first."""
        return self._factors[1]

    @property
    def _left(self) -> Tensor:
        return self._factors[0]

    @property
    def _right(self) -> Tensor:
        return self._factors[2]

    def _apply(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self._constant("_matrix", x).T).unflatten(1, self.y_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return (y.flatten(1) @ self._constant("_matrix", y)).unflatten(1, self.x_shape)

    def _to_spectrum(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self._constant("_right", x).T

    def _from_spectrum(self, coefficients: Tensor) -> Tensor:
        return (coefficients @ self._constant("_right", coefficients)).unflatten(1, self.x_shape)

    def _data_to_spectrum(self, y: Tensor) -> Tensor:
        return y.flatten(1) @ self._constant("_left", y)

    def _data_from_spectrum(self, coefficients: Tensor) -> Tensor:
        return (coefficients @ self._constant("_left", coefficients).T).unflatten(1, self.y_shape)
