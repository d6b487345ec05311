"""Gaussian random fields given by a basis.

A field with a basis, g(x) = sum_k sqrt(lambda_k) xi_k phi_k(x) with xi_k ~ N(0, 1), is a *function*: the coefficients
xi fix it at every point and every resolution. Here are those with a spectral basis on the unit cube; `kernel_fields`
has those with a kernel on any points, `pde.mesh_fields` those on triangle meshes.

Sources: Lord, Powell, Shardlow 2014, "An introduction to computational stochastic PDEs", chapters 4 and 7; Lindgren,
Rue, Lindstrom 2011 (the Matern field as the solution of (-Lap + tau^2)^(alpha/2) g = white noise).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.field_points import check_size, checked_points
from fokker.grids import COSINES, FOURIER, SINES, Waves, checked_shape

_ENTRIES = 2**24  # held at a time where a basis is not wanted but its products are


def squared_exponential(points: np.ndarray, length: float, variance: float = 1.0) -> np.ndarray:
    """RBF covariance variance * exp(-|x - x'|^2 / (2 length^2)) of points (P, d) -> (P, P), float64.

    Its eigenvalues fall below rounding within a few dozen points: add a nugget before factorising it.
    """
    if not length > 0 or not variance > 0:
        raise InputError(f"covariance length and variance: got {length!r} and {variance!r}, both must be > 0")
    points = np.asarray(points, float)
    distance2 = ((points[:, None] - points[None]) ** 2).sum(-1)
    return variance * np.exp(-distance2 / (2 * length**2))


class Field(ABC):
    """A Gaussian random field of mean 0 given by `size` coefficients and a basis: all that `Correlated` needs.

    dimension: that of the points it takes.
    """

    dimension: int

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of coefficients."""

    @abstractmethod
    def basis(self, points: Tensor) -> Tensor:
        """sqrt(lambda_k) phi_k at points (..., P, dimension) -> (..., P, size), in float64."""

    def at(self, coefficients: Tensor, points: Tensor) -> Tensor:
        """The functions of coefficients (B, size, *channels) at points (P, dimension), or at (B, P, dimension).

        Gives (B, P, *channels) in float64, `basis(points)` times the coefficients; a part of the points at a time, so
        that memory stays bounded. InputError as for `basis`.
        """
        check_size(coefficients, self.size, "(B, {}, *channels)", coefficients.shape[1:2])
        columns = coefficients.double().flatten(2) if coefficients.ndim > 2 else coefficients.double()[..., None]
        where = self._checked(points)
        step = max(1, _ENTRIES // self._entries(columns, where))
        parts = [self._product(columns, part) for part in where.split(step, dim=-2)]
        value = torch.cat(parts, 1)
        return value.reshape(*value.shape[:2], *coefficients.shape[2:])

    def _product(self, columns: Tensor, points: Tensor) -> Tensor:
        """basis(points) @ columns: (B, size, C) -> (B, P, C)."""
        return self.basis(points) @ columns

    def _checked(self, points: Tensor) -> Tensor:
        """The points in float64; InputError where the field is not defined."""
        return checked_points(points, self.dimension)

    def _entries(self, columns: Tensor, points: Tensor) -> int:
        """How many numbers `_product` holds for one point."""
        return self.size * math.prod(points.shape[:-2])

    def variance(self, points: Tensor) -> Tensor:
        """Var g(x) at points (..., P, dimension) -> (..., P), in float64; a part of the points at a time as in `at`."""
        where = self._checked(points)
        step = _ENTRIES // max(1, self.size * math.prod(where.shape[:-2]))
        return torch.cat([self.basis(part).square().sum(-1) for part in where.split(max(1, step), dim=-2)], -1)


class SpectralField(Field):
    """g(x) = sum_k sqrt(lambda_k) xi_k prod_j phi_kj(x_j) on the unit cube, phi_k the `waves` of each axis.

    The coefficients stand in the order of a tensor of shape `mode_shape`, flattened. Points outside [0, 1] (by more
    than 1e-9) are an InputError, although the formula extends there: what it gives is a mirror image, not a field.
    A periodic field lives on the torus: every finite point is in its domain.
    """

    waves: ClassVar[Waves]

    @property
    @abstractmethod
    def mode_shape(self) -> tuple[int, ...]:
        """Number of modes along each axis."""

    @property
    @abstractmethod
    def eigenvalues(self) -> Tensor:
        """lambda_k (size,), float64 on the CPU."""

    @property
    def size(self) -> int:
        """Number of coefficients, the product of the modes along all axes."""
        return math.prod(self.mode_shape)

    @property
    def mean_variance(self) -> float:
        """The average of Var g(x) over the cube, sum_k lambda_k."""
        return float(self.eigenvalues.sum())

    def basis(self, points: Tensor) -> Tensor:
        """sqrt(lambda_k) phi_k at points (..., P, dimension) -> (..., P, size), in float64.

        InputError for points of another dimension, and for points outside the cube.
        """
        where = self._checked(points)
        value = self.waves.at(where[..., 0], self.mode_shape[0])
        for j in range(1, self.dimension):
            value = (value[..., :, None] * self.waves.at(where[..., j], self.mode_shape[j])[..., None, :]).flatten(-2)
        return self._scaled(value)

    def _product(self, columns: Tensor, points: Tensor) -> Tensor:
        """One axis after the other: the basis, as large as points times coefficients, is never formed."""
        value = self._scaled(columns.mT).mT
        value = self.waves.at(points[..., 0], self.mode_shape[0]) @ value.reshape(len(value), self.mode_shape[0], -1)
        for j in range(1, self.dimension):
            waves = self.waves.at(points[..., j], self.mode_shape[j])[..., None, :]
            value = (waves @ value.reshape(*value.shape[:2], self.mode_shape[j], -1))[..., 0, :]
        return value

    def _entries(self, columns: Tensor, points: Tensor) -> int:
        return columns.numel() // self.mode_shape[0] + sum(self.mode_shape) * math.prod(points.shape[:-2])

    def on_grid(self, coefficients: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The functions of coefficients (..., size) at the centres of the cells of a grid -> (..., *shape), float64.

        Equal to `basis(Grid(shape).points)` times them to rounding, by a separable transform. The grid may be coarser
        or finer than the modes.
        """
        shape = self._checked_grid(shape)
        check_size(coefficients, self.size, "(..., {})", coefficients.shape[-1:])
        values = self._scaled(coefficients.double()).unflatten(-1, self.mode_shape)
        for axis in range(-self.dimension, 0):
            values = self.waves.on_cells(values, axis, shape[axis])
        return values

    def grid_eigenvalues(self, shape: tuple[int, ...]) -> Tensor:
        """Eigenvalues (*shape) of the covariance matrix on the cells of a grid, float64.

        Its eigenvectors are the products of the orthonormal discrete waves (DCT-II, DST-II, real DFT), in this order:
        C x = synthesise(grid_eigenvalues * analyse(x)). Zero where no mode is seen as that wave.
        """
        shape = self._checked_grid(shape)
        values = self.eigenvalues.reshape(self.mode_shape)
        for axis in range(-self.dimension, 0):
            values = self.waves.gathered(values, axis, shape[axis], power=2)
        return values

    def grid_coupling(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        """What `grid_eigenvalues` lack where waves are correlated: which of them (r,), flattened, and a term (r, r)."""
        return None

    def _scaled(self, coefficients: Tensor) -> Tensor:
        """R coefficients (..., size) for the symmetric root R of the covariance of the waves' amplitudes."""
        return coefficients * self._roots.to(coefficients.device)

    @cached_property
    def _roots(self) -> Tensor:
        return self.eigenvalues.sqrt()

    def _checked(self, points: Tensor) -> Tensor:
        return checked_points(points, self.dimension, None if self.waves is FOURIER else (0.0, 1.0))

    def _checked_grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        shape = checked_shape("shape", shape)
        if len(shape) != self.dimension:
            raise InputError(f"shape: got {shape}, a field of dimension {self.dimension} takes {self.dimension} axes")
        return shape


@dataclass(frozen=True)
class _PowerField(SpectralField):
    """Covariance amplitude^2 (-Lap + tau^2)^-alpha, cut at `modes` waves per axis."""

    dimension: int = 1
    modes: int = 32
    alpha: float = 2.0
    tau: float = 1.0
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if not all(isinstance(n, Integral) and n >= 1 for n in (self.dimension, self.modes)):
            raise InputError(
                f"dimension and modes: got {self.dimension!r}, {self.modes!r}; whole numbers of at least 1 are accepted"
            )
        if not self.alpha > self.dimension / 2:
            raise InputError(f"alpha: got {self.alpha}, more than dimension / 2 = {self.dimension / 2} is accepted")
        if not (self.tau > 0 or (self.tau == 0 and not self._has_constant)) or not self.amplitude > 0:
            least = "tau > 0" if self._has_constant else "tau >= 0"
            raise InputError(
                f"tau and amplitude: got {self.tau}, {self.amplitude}; {least} and amplitude > 0 are accepted"
            )

    @classmethod
    def matern(
        cls, dimension: int = 1, modes: int = 32, length: float = 0.2, nu: float = 1.5, std: float = 1.0, **more: bool
    ) -> Self:
        """A Matern field: alpha = nu + dimension / 2, tau = sqrt(2 nu) / length, and mean variance std^2 over the cube.

        The boundary changes the variance within about a length of it. `more`: `constant`, where the class has it.
        """
        if not (length > 0 and 0 < nu < math.inf and std > 0):
            raise InputError(f"length, nu and std: got {length}, {nu}, {std}; finite numbers > 0 are accepted")
        unit = cls(dimension, modes, nu + dimension / 2, math.sqrt(2 * nu) / length, **more)
        return replace(unit, amplitude=std / math.sqrt(unit.mean_variance))

    @property
    def mode_shape(self) -> tuple[int, ...]:
        """`modes` along each axis."""
        return (self.modes,) * self.dimension

    @cached_property
    def eigenvalues(self) -> Tensor:
        """lambda_k = amplitude^2 (|frequency_k|^2 + tau^2)^-alpha (size,), float64 on the CPU."""
        squares = self.waves.frequencies(self.modes).square()
        laplace = squares
        for _ in range(1, self.dimension):
            laplace = (laplace[:, None] + squares).flatten()
        values = self.amplitude**2 * (laplace + self.tau**2) ** -self.alpha
        return values if self._has_constant else torch.where(laplace == 0, 0.0, values)

    @property
    def _has_constant(self) -> bool:
        return False


@dataclass(frozen=True)
class CosineField(_PowerField):
    """N(0, amplitude^2 (-Lap + tau^2)^-alpha) on the unit cube with Neumann boundary, cut at `modes` cosines per axis.

    g(x) = amplitude * sum_k (pi^2 |k|^2 + tau^2)^(-alpha/2) xi_k prod_j c_kj cos(pi k_j x_j), with c_0 = 1 and
    c_k = sqrt(2), xi_k ~ N(0, 1). The covariance is trace class for alpha > dimension / 2. `constant=False` leaves
    out the constant mode (its coefficient stays, without effect): every g has mean 0 over the cube.
    """

    constant: bool = True
    waves: ClassVar[Waves] = COSINES

    @property
    def _has_constant(self) -> bool:
        return self.constant


@dataclass(frozen=True)
class SineField(_PowerField):
    """N(0, amplitude^2 (-Lap + tau^2)^-alpha) on the unit cube, 0 on the boundary, cut at `modes` sines per axis.

    g(x) = amplitude * sum_k (pi^2 |k|^2 + tau^2)^(-alpha/2) xi_k prod_j sqrt(2) sin(pi k_j x_j), k_j = 1 .. modes.
    tau may be 0: in one dimension with alpha = 1 this is the Brownian bridge.
    """

    waves: ClassVar[Waves] = SINES


@dataclass(frozen=True)
class PeriodicField(_PowerField):
    """N(0, amplitude^2 (-Lap + tau^2)^-alpha) on the torus of side 1, cut at `modes` waves per axis.

    Along each axis they are those of a Fourier series, 1, sqrt(2) sin(2 pi x), sqrt(2) cos(2 pi x), sqrt(2) sin(4 pi x)
    and so on. The field is stationary for an odd number of them; an even number leaves the last sine alone, as a grid
    of as many cells does. `constant=False` as for `CosineField`.
    """

    constant: bool = True
    waves: ClassVar[Waves] = FOURIER

    @property
    def _has_constant(self) -> bool:
        return self.constant
