"""The law of the diffusing noise: white, N(0, I), or N(0, C) from a random field.

A process owns its noise. `sample` draws it, `apply` is C, `solve` is C^-1, `log_det` is log det C, each for one part
of the state (B, *shape) at the points it lives on. Samplers need only `sample`; scores and densities need the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.random_fields import CosineField
from fokker.rng import Key


class Noise(Protocol):
    """What a process needs to know of its noise. `points` is (P, d) or (B, P, d) where the law needs them."""

    @property
    def white(self) -> bool:
        """Whether C is the identity."""
        ...

    def sample(self, like: Tensor, key: Key, points: Tensor | None = None) -> Tensor:
        """One draw for each row of `like` (B, *shape), of its dtype and device."""
        ...

    def apply(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """C x for each row."""
        ...

    def solve(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """C^-1 x for each row."""
        ...

    def log_det(self, like: Tensor, points: Tensor | None = None) -> Tensor:
        """log det C of one row of `like`."""
        ...


@dataclass(frozen=True)
class White:
    """N(0, I), for states of any shape."""

    white = True

    def sample(self, like: Tensor, key: Key, points: Tensor | None = None) -> Tensor:
        """N(0, I) of the shape of `like`."""
        return key.normal(tuple(like.shape[1:])).to(like)

    def apply(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """x itself."""
        return x

    def solve(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """x itself."""
        return x

    def log_det(self, like: Tensor, points: Tensor | None = None) -> Tensor:
        """Zero."""
        return torch.zeros((), dtype=torch.float64, device=like.device)


@dataclass(frozen=True, eq=False)
class Correlated:
    """N(0, C), C_ij = sum_k lambda_k phi_k(x_i) phi_k(x_j), for states (B, P) or (B, P, channels) on points.

    `points` (P, d) is where the state lives unless a call names others (a condition called "points", say); a key
    fixes the whole function, so the same key gives the same function at any points and resolution.
    """

    field: CosineField
    points: Tensor | None = None
    white = False

    def sample(self, like: Tensor, key: Key, points: Tensor | None = None) -> Tensor:
        """The function of `key` at the points."""
        basis = self._basis(like, points)
        coefficients = key.normal((self.field.size, *like.shape[2:])).to(basis)
        return _matmul(basis, coefficients, like)

    def apply(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """C x, in float64 and back to the dtype of x."""
        return _matmul(self._covariance(x, points), x, x)

    def solve(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """C^-1 x; InputError where C is singular (fewer coefficients than points, or points that coincide)."""
        factor = self._cholesky(x, points)
        columns = x.to(torch.float64).reshape(*x.shape[:2], -1)
        return torch.cholesky_solve(columns, factor).reshape(x.shape).to(x)

    def log_det(self, like: Tensor, points: Tensor | None = None) -> Tensor:
        """log det C times the number of channels, a scalar or (B,) where each row has its own points."""
        channels = like[0, 0].numel() if like.ndim > 2 else 1
        diagonal = torch.diagonal(self._cholesky(like, points), dim1=-2, dim2=-1)
        return 2 * channels * diagonal.log().sum(-1)

    def _basis(self, like: Tensor, points: Tensor | None) -> Tensor:
        where = self.points if points is None else points
        if where is None:
            raise InputError("points: got none, correlated noise needs them at construction or as cond['points']")
        if where.shape[-2] != like.shape[1]:
            raise InputError(f"points: got {where.shape[-2]}, the state has {like.shape[1]} entries on its axis 1")
        return self.field.basis(where.to(like.device))

    def _covariance(self, like: Tensor, points: Tensor | None) -> Tensor:
        basis = self._basis(like, points)
        return basis @ basis.mT

    def _cholesky(self, like: Tensor, points: Tensor | None) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(self._covariance(like, points))
        if info.any():
            raise InputError(
                f"noise covariance: singular on {like.shape[1]} points with {self.field.size} coefficients; "
                "distinct points and more modes (or a smaller alpha) are accepted"
            )
        return factor


def _matmul(matrix: Tensor, x: Tensor, like: Tensor) -> Tensor:
    columns = x.to(torch.float64).reshape(*x.shape[:2], -1)
    return (matrix @ columns).reshape(like.shape).to(like)
