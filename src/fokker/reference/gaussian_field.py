"""Exact posteriors of Gaussian fields under linear data, by fast transforms and one factorisation of the data's size.

A field is x = mean + F w with independent w ~ N(0, 1): F is known as a map, never as a matrix. With A the operator,
B = A F (m, N) is its only dense part, and the QR factorisation

    [ B^T ]   [ Q ]
    [ s I ] = [ Q'] R          s the standard deviation of the noise, m columns

gives everything: R^T R = B B^T + s^2 I, the posterior mean Q R^-T (y - A mean) of w and its covariance I - Q Q^T.
Nothing is squared, so the condition number is the root of that of A C A^T and noise-free data (s = 0) need no jitter.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.grids import cosine_matrix, dct, idct
from fokker.rng import Key, Rows

_CHUNK = 2**22  # entries of a field mapped at a time: 32 MiB
_DEPENDENT = 1e-12  # a pivot below this times the largest counts as zero


class Linear(Protocol):
    """A linear operator, x (..., *x_shape) -> y (..., *y_shape), as `fokker.operators` has them."""

    @property
    def y_shape(self) -> tuple[int, ...]: ...

    def __call__(self, x: Tensor, /) -> Tensor: ...

    def adjoint(self, y: Tensor, /) -> Tensor: ...


class Field:
    """x = mean + F w, w ~ N(0, I). Subclasses give F as `colour`, and `rows` or F^T as `colour_adjoint`.

    shape: of x; white_shape: of w; mean: (*shape), float64, on the device where everything is computed.
    """

    shape: tuple[int, ...]
    white_shape: tuple[int, ...]
    mean: Tensor

    def colour(self, white: Tensor) -> Tensor:
        """F w (..., *shape) for w (..., *white_shape)."""
        raise NotImplementedError

    def colour_adjoint(self, x: Tensor) -> Tensor:
        """F^T x (..., *white_shape) for x (..., *shape)."""
        raise NotImplementedError

    def draw(self, n: int, seed: int = 0) -> Tensor:
        """n independent draws (n, *shape); draw i is the same however many are asked for."""
        white = Key(seed, Rows.grid(1, n), part="prior").normal(self.white_shape)
        return self.mean + self.colour(white.to(self.mean))

    def variance(self, of: Any = None) -> Tensor:
        """Prior variance of each entry of x, or of `of`(x) for a linear map `of`. Costs N maps, remembered by `of`."""
        known: dict[Any, Tensor] = self.__dict__.setdefault("_variances", {})
        if of not in known:
            known[of] = self._variance(of)
        return known[of]

    def posterior(self, operator: Linear | None, noise: float = 0.0) -> FieldPosterior:
        """The law of x given y = operator(x) + N(0, noise^2 I); see `FieldPosterior`."""
        return FieldPosterior(self, operator, noise)

    def rows(self, operator: Linear) -> Tensor:
        """B = A F (m, N)."""
        step, size = max(1, _CHUNK // math.prod(self.shape)), math.prod(operator.y_shape)
        unit = torch.eye(size).to(self.mean)
        parts = [operator.adjoint(some.unflatten(1, operator.y_shape)) for some in unit.split(step)]
        return torch.cat([self.colour_adjoint(part).flatten(1) for part in parts])

    def _variance(self, of: Any) -> Tensor:
        size = math.prod(self.white_shape)
        step, total = max(1, _CHUNK // max(size, math.prod(self.shape))), None
        for first in range(0, size, step):
            count = min(step, size - first)
            unit = self.mean.new_zeros(count, size)
            unit[torch.arange(count), first + torch.arange(count)] = 1.0
            squares = _image(self.colour(unit.unflatten(1, self.white_shape)), of).square().sum(0)
            total = squares if total is None else total + squares
        assert total is not None
        return total


class GaussianField(Field):
    """N(0, C) on a grid (H, W) with C diagonal in the orthonormal DCT-II: C = D^T diag(eigenvalues) D.

    eigenvalues: (H, W), not negative, zero where a mode is left out; they are those of the *matrix* C, so a field
    sum_k sqrt(l_k) xi_k phi_k(x) with functions phi_k of norm 1 on the unit square has eigenvalues H W l_k.
    float64 on the device of the eigenvalues. Raises InputError for other shapes and values.
    """

    def __init__(self, eigenvalues: Tensor) -> None:
        values = eigenvalues.to(torch.float64)
        if values.ndim != 2 or not bool((values >= 0).all()) or not bool(values.isfinite().all()):
            raise InputError(
                f"eigenvalues: got shape {tuple(values.shape)}, numbers from 0 on for a grid (H, W) are accepted"
            )
        self.eigenvalues, self._root = values, values.sqrt()
        self.shape = self.white_shape = tuple(values.shape)
        self.mean = torch.zeros_like(values)

    def colour(self, white: Tensor) -> Tensor:
        """D^T diag(eigenvalues)^(1/2) w."""
        return idct(self._root * white, 2)

    def colour_adjoint(self, x: Tensor) -> Tensor:
        """diag(eigenvalues)^(1/2) D x."""
        return self._root * dct(x, 2)

    def apply(self, x: Tensor) -> Tensor:
        """C x for x (..., H, W)."""
        return idct(self.eigenvalues * dct(x, 2), 2)

    def _variance(self, of: Any) -> Tensor:
        if of is not None:
            return super()._variance(of)
        down, across = (cosine_matrix(n).to(self.mean).square() for n in self.shape)
        return down.T @ self.eigenvalues @ across


class EmpiricalField(Field):
    """The Gaussian with the mean and covariance of N training fields (N, *shape): a posterior without any network.

    x = mean + sum_i (x_i - mean) w_i / sqrt(N - 1). Of rank N - 1: noise-free data of more entries are refused.
    """

    def __init__(self, fields: Tensor) -> None:
        if fields.ndim < 2 or len(fields) < 2:
            raise InputError(f"fields: got shape {tuple(fields.shape)}, at least 2 fields (N, *shape) are accepted")
        fields = fields.to(torch.float64)
        self.mean = fields.mean(0)
        self._scaled = fields - self.mean
        self._scaled /= math.sqrt(len(fields) - 1)
        self.shape, self.white_shape = tuple(fields.shape[1:]), (len(fields),)

    def colour(self, white: Tensor) -> Tensor:
        """sum_i w_i (x_i - mean) / sqrt(N - 1)."""
        return (white @ self._scaled.flatten(1)).unflatten(-1, self.shape)

    def rows(self, operator: Linear) -> Tensor:
        """The data of the training fields, centred: cheaper than unit vectors where few entries are seen."""
        step = max(1, _CHUNK // math.prod(self.shape))
        return torch.cat([operator(some).flatten(1) for some in self._scaled.split(step)]).T

    def _variance(self, of: Any) -> Tensor:
        return _image(self._scaled, of).square().sum(0)


class FieldPosterior:
    """The law of a `Field` x given y = A x + N(0, noise^2 I), and of linear functions of x.

    operator: A, or None for no observation at all: then the posterior is the prior and y has the shape (..., 0).
    noise: standard deviation, 0 for noise-free data. y: (*y_shape) or (M, *y_shape), M measurements of the same
    operator; what is returned has the axis M where y has it. `of` is a linear map of the field, homogeneous, for
    instance a solve: mean, std and samples are then those of of(x). Memory and cost: N m numbers, N m^2 operations.
    Raises InputError for a noise that is negative, data of other shapes or not finite, and noise-free observations of
    which one follows from the others under the prior (a pivot of R below 1e-12 of the largest).
    Source: Matheron's rule, Journel and Huijbregts, "Mining Geostatistics", 1978; Wilson et al. 2020.
    """

    def __init__(self, field: Field, operator: Linear | None, noise: float = 0.0) -> None:
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise < math.inf:
            raise InputError(f"noise: got {noise!r}, a standard deviation from 0 on is accepted")
        self.field, self.operator, self.noise = field, operator, float(noise)
        self.y_shape = (0,) if operator is None else tuple(operator.y_shape)
        self.size = math.prod(self.y_shape)
        rows = field.mean.new_zeros(0, math.prod(field.white_shape)) if operator is None else field.rows(operator)
        if noise:
            rows = torch.cat([rows, noise * torch.eye(self.size).to(rows)], 1)
        q, self._r = torch.linalg.qr(rows.T)
        self._q = q[: math.prod(field.white_shape)]
        pivots = self._r.diagonal().abs()
        if len(pivots) < self.size or (self.size and float(pivots.min()) <= _DEPENDENT * float(pivots.max())):
            raise InputError(
                f"noise: got {noise:g} with {self.size} observations of which one follows from the others under the "
                "prior; a noise above 0, or fewer observations, are accepted"
            )
        self._prior_data = field.mean.new_zeros(0) if operator is None else operator(field.mean).reshape(-1)

    @property
    def data_covariance(self) -> Tensor:
        """A C A^T + noise^2 I (m, m)."""
        return self._r.T @ self._r

    def mean(self, y: Tensor, of: Any = None) -> Tensor:
        """E[x | y] (..., *shape), or E[of(x) | y]."""
        residual, lead = self._residual(y)
        mean = _image(self.field.mean + self.field.colour(self._lift(residual)), of)
        return mean.reshape(*lead, *mean.shape[1:])

    def std(self, of: Any = None) -> Tensor:
        """The posterior standard deviation of each entry of x (*shape), or of of(x): the same for every y."""
        seen = self.field.colour(self._q.T.unflatten(1, self.field.white_shape))
        return (self.field.variance(of) - _image(seen, of).square().sum(0)).clamp(min=0).sqrt()

    def sample(self, y: Tensor, n: int, seed: int = 0, of: Any = None, *, case: int = 0) -> Tensor:
        """n independent samples (..., n, *shape) of x given y, or of of(x): prior draws, corrected (Matheron).

        Sample i of measurement j is the same whatever n and M, and takes the random numbers of (seed, case + j):
        posteriors of several operators share none if each is told its own `case`.
        """
        residual, lead = self._residual(y)
        x = self._draws(residual[:, None], Rows.grid(len(residual), n, case), seed).flatten(0, 1)
        return _image(x, of).unflatten(0, (*lead, n))

    def sample_each(self, y: Tensor, seed: int = 0, *, case: int = 0) -> Tensor:
        """One sample (n, *shape) for each row of y (n, *y_shape): where y itself is drawn from a law."""
        residual, _ = self._residual(y)
        return self._draws(residual[None], Rows.grid(1, len(residual), case), seed)[0]

    def log_evidence(self, y: Tensor) -> Tensor:
        """log p(y) (...), the density of N(A mean, A C A^T + noise^2 I)."""
        residual, lead = self._residual(y)
        white = self._whiten(residual)
        log_det = 2 * self._r.diagonal().abs().log().sum()
        return (-0.5 * (white.square().sum(-1) + log_det + self.size * math.log(2 * math.pi))).reshape(lead)

    def _draws(self, residual: Tensor, rows: Rows, seed: int) -> Tensor:
        """x (M, n, *shape) for residuals (M, 1, m) or (1, n, m) and M n rows of random numbers."""
        key, shape = Key(seed, rows, part="posterior"), (len(residual), -1)
        white = key.normal((math.prod(self.field.white_shape),)).to(residual).unflatten(0, shape)
        seen = white @ self._q @ self._r  # B w
        if self.noise:
            seen = seen + self.noise * key.at(part="noise").normal((self.size,)).to(residual).unflatten(0, shape)
        white = white.unflatten(2, self.field.white_shape) + self._lift(residual - seen)
        return self.field.mean + self.field.colour(white)

    def _whiten(self, residual: Tensor) -> Tensor:
        """R^-T r for rows (..., m)."""
        return torch.linalg.solve_triangular(self._r, residual, upper=True, left=False)

    def _lift(self, residual: Tensor) -> Tensor:
        """Q R^-T r (..., *white_shape) for rows (..., m)."""
        return (self._whiten(residual) @ self._q.T).unflatten(-1, self.field.white_shape)

    def _residual(self, y: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """y - A mean (M, m), and the leading axes of y."""
        values = torch.as_tensor(np.asarray(y) if not isinstance(y, Tensor) else y).to(self.field.mean)
        lead = values.ndim - len(self.y_shape)
        if lead < 0 or tuple(values.shape[lead:]) != self.y_shape:
            wanted = ", ".join(["...", *map(str, self.y_shape)])
            raise InputError(f"y: got shape {tuple(values.shape)}, ({wanted}) is accepted")
        if not bool(values.isfinite().all()):
            raise InputError("y: got NaN or infinity, finite numbers are accepted")
        shape = tuple(values.shape[:lead])
        return values.reshape(math.prod(shape), self.size) - self._prior_data, shape


def _image(x: Tensor, of: Any) -> Tensor:
    return x if of is None else of(x)
