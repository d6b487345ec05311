"""Cell-centred grids of the unit cube, their orthonormal transforms, and how smooth waves look on them.

On n cells every wave of a field (a cosine, a sine, one of a Fourier series), however high its frequency, is a multiple
of one of n discrete waves, which are orthogonal. So a field is drawn on a grid exactly, and its covariance is diagonal.

Source: Strang 1999, "The discrete cosine transform" (DCT-II); Canuto et al. 2006, section 2.1 (aliasing).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError


@dataclass(frozen=True)
class Grid:
    """The cells of the unit cube, `shape[j]` along axis j; their centres are (i + 1/2) / shape[j].

    InputError for a shape that is empty or has an entry below 1.
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", checked_shape("shape", self.shape))

    @property
    def dimension(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of cells P."""
        return math.prod(self.shape)

    @cached_property
    def points(self) -> Tensor:
        """The centres (P, dimension), float64, in the order of `values.flatten()`."""
        axes = [_centres(n) for n in self.shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.dimension)


def checked_shape(name: str, shape: Any) -> tuple[int, ...]:
    """The shape as a tuple of ints; InputError naming `name` where it does not have at least one cell on each axis."""
    if (
        not isinstance(shape, tuple | list)
        or not shape
        or not all(isinstance(n, Integral) and int(n) >= 1 for n in shape)
    ):
        raise InputError(f"{name}: got {shape!r}, a tuple of whole numbers that are at least 1 is accepted")
    return tuple(int(n) for n in shape)


class Waves(ABC):
    """A basis of functions phi_0, phi_1, ... of one variable on [0, 1], of mean square 1, and its discrete twin.

    The first n of them at the centres of n cells, scaled to length 1, are the orthonormal discrete basis.
    """

    @abstractmethod
    def frequencies(self, modes: int) -> Tensor:
        """The roots of their eigenvalues under -d^2/dx^2, (modes,) float64."""

    @abstractmethod
    def at(self, x: Tensor, modes: int) -> Tensor:
        """phi_k(x) for float64 x of any shape (...) -> (..., modes)."""

    @abstractmethod
    def fold(self, modes: int, cells: int) -> tuple[Tensor, Tensor]:
        """(index, weight), both (modes,): on the cells phi_k is weight_k times the discrete wave number index_k."""

    def analyse(self, values: Tensor, dimension: int) -> Tensor:
        """Orthonormal coefficients (..., *grid) of values (..., *grid) over the last `dimension` axes."""
        for axis in range(-dimension, 0):
            n = values.shape[axis]
            values = along(axis, _matrix(self, n, n, values.device).to(values.dtype).T, values)
        return values

    def synthesise(self, coefficients: Tensor, dimension: int) -> Tensor:
        """Values (..., *grid) from orthonormal coefficients (..., *grid), the inverse of `analyse`."""
        for axis in range(-dimension, 0):
            n = coefficients.shape[axis]
            coefficients = along(axis, _matrix(self, n, n, coefficients.device).to(coefficients.dtype), coefficients)
        return coefficients

    def on_cells(self, coefficients: Tensor, axis: int, cells: int) -> Tensor:
        """sum_k c_k phi_k at the centres of the cells, in place of the axis (negative) of modes."""
        modes = coefficients.shape[axis]
        matrix = _matrix(self, min(modes, cells), cells, coefficients.device).to(coefficients.dtype)
        if modes > cells:
            return along(axis, matrix, self.gathered(coefficients, axis, cells))
        weight = _folded(self, modes, cells, coefficients.device)[1].to(coefficients.dtype)
        return along(axis, matrix * weight, coefficients)  # each wave is a discrete one

    def gathered(self, coefficients: Tensor, axis: int, cells: int, power: int = 1) -> Tensor:
        """sum of weight_k^power c_k over the modes k that fold onto each discrete wave; the axis becomes `cells` long.

        With power 1 of coefficients, with power 2 of their variances.
        """
        index, weight = _folded(self, coefficients.shape[axis], cells, coefficients.device)
        shape = list(coefficients.shape)
        shape[axis] = cells
        weight = (weight.to(coefficients.dtype) ** power).reshape(-1, *[1] * (-1 - axis))
        return coefficients.new_zeros(shape).index_add(axis, index, coefficients * weight)


class Cosines(Waves):
    """1, sqrt(2) cos(pi k x): no slope at the ends (Neumann). Discrete: DCT-II."""

    def frequencies(self, modes: int) -> Tensor:
        return math.pi * torch.arange(modes, dtype=torch.float64)

    def at(self, x: Tensor, modes: int) -> Tensor:
        k = torch.arange(modes, dtype=torch.float64, device=x.device)
        factor = torch.where(k == 0, 1.0, torch.full_like(k, math.sqrt(2.0)))  # two numbers would be float32
        return factor * torch.cos(math.pi * k * x[..., None])

    def fold(self, modes: int, cells: int) -> tuple[Tensor, Tensor]:
        k = torch.arange(modes)
        rest, weight = _reduced(k, 2 * cells, cells)
        weight = torch.where(rest > cells, -weight, weight)  # cos(pi (2n - r) x) = -cos(pi r x) at the centres
        rest = torch.where(rest > cells, 2 * cells - rest, rest)
        weight = torch.where((rest == 0) & (k > 0), math.sqrt(2.0) * weight, weight)
        return rest % cells, torch.where(rest == cells, 0.0, weight)


class Sines(Waves):
    """sqrt(2) sin(pi k x), k = 1, 2, ...: zero at the ends (Dirichlet). Discrete: DST-II."""

    def frequencies(self, modes: int) -> Tensor:
        return math.pi * torch.arange(1, modes + 1, dtype=torch.float64)

    def at(self, x: Tensor, modes: int) -> Tensor:
        k = torch.arange(1, modes + 1, dtype=torch.float64, device=x.device)
        return math.sqrt(2.0) * torch.sin(math.pi * k * x[..., None])

    def fold(self, modes: int, cells: int) -> tuple[Tensor, Tensor]:
        rest, weight = _reduced(torch.arange(1, modes + 1), 2 * cells, cells)
        rest = torch.where(rest > cells, 2 * cells - rest, rest)
        weight = torch.where(rest == cells, math.sqrt(2.0) * weight, weight)  # +1, -1, +1, ...
        return (rest - 1) % cells, torch.where(rest == 0, 0.0, weight)


class Fourier(Waves):
    """1, sqrt(2) sin(2 pi x), sqrt(2) cos(2 pi x), sqrt(2) sin(4 pi x), ...: periodic. Discrete: the real DFT.

    Sines come first because of the highest frequency of an even number of cells: at their centres its cosine is zero.
    """

    def frequencies(self, modes: int) -> Tensor:
        return 2 * math.pi * ((torch.arange(modes) + 1) // 2).double()

    def at(self, x: Tensor, modes: int) -> Tensor:
        k = torch.arange(modes, dtype=torch.float64, device=x.device)
        phase = 2 * math.pi * ((k + 1) // 2) * x[..., None]
        return torch.where(k == 0, 1.0, math.sqrt(2.0) * torch.where(k % 2 == 1, phase.sin(), phase.cos()))

    def fold(self, modes: int, cells: int) -> tuple[Tensor, Tensor]:
        k = torch.arange(modes)
        sine, frequency = k % 2 == 1, (k + 1) // 2
        rest, weight = _reduced(frequency, cells, cells)
        weight = torch.where((2 * rest > cells) & ~sine, -weight, weight)  # cos(2 pi (n - r) x) = -cos(2 pi r x)
        rest = torch.where(2 * rest > cells, cells - rest, rest)
        alone = torch.where(sine, 2 * rest == cells, (rest == 0) & (k > 0))  # +1, -1, +1, ... or a constant
        weight = torch.where(alone, math.sqrt(2.0) * weight, weight)
        gone = torch.where(sine, rest == 0, 2 * rest == cells)
        return (2 * rest - sine.long()) % cells, torch.where(gone, 0.0, weight)


COSINES, SINES, FOURIER = Cosines(), Sines(), Fourier()


def dct(values: Tensor, dimension: int) -> Tensor:
    """Orthonormal DCT-II of values (..., *grid) over the last `dimension` axes, by matrix products.

    Up to a few hundred cells per axis that is faster than a fast Fourier transform, and it runs on every device.
    """
    return COSINES.analyse(values, dimension)


def idct(coefficients: Tensor, dimension: int) -> Tensor:
    """The inverse of `dct`."""
    return COSINES.synthesise(coefficients, dimension)


def dst(values: Tensor, dimension: int) -> Tensor:
    """Orthonormal DST-II of values (..., *grid) over the last `dimension` axes; see `dct`."""
    return SINES.analyse(values, dimension)


def idst(coefficients: Tensor, dimension: int) -> Tensor:
    """The inverse of `dst`."""
    return SINES.synthesise(coefficients, dimension)


def cosine_matrix(cells: int) -> Tensor:
    """Orthonormal DCT-II (cells, cells), a discrete cosine in each row, float64."""
    return _matrix(COSINES, cells, cells, torch.device("cpu")).T.contiguous()


def sine_matrix(cells: int) -> Tensor:
    """Orthonormal DST-II (cells, cells), a discrete sine in each row, float64."""
    return _matrix(SINES, cells, cells, torch.device("cpu")).T.contiguous()


def along(axis: int, matrix: Tensor, values: Tensor) -> Tensor:
    """The matrix (n, m) applied along a (negative) axis of length m -> length n."""
    if axis == -1:
        return values @ matrix.T
    shape = values.shape
    rest = math.prod(shape[axis + 1 :])
    product = matrix @ values.reshape(*shape[:axis], shape[axis], rest)
    return product.reshape(*shape[:axis], len(matrix), *shape[axis + 1 :])


def _centres(cells: int) -> Tensor:
    return (torch.arange(cells, dtype=torch.float64) + 0.5) / cells


def _reduced(frequency: Tensor, period: int, cells: int) -> tuple[Tensor, Tensor]:
    """Each frequency less its whole periods, and (-1)^periods sqrt(cells): a period changes the sign at the centres."""
    turns, rest = frequency // period, frequency % period
    return rest, math.sqrt(cells) * (1.0 - 2.0 * (turns % 2).double())


@lru_cache(maxsize=64)
def _folded(waves: Waves, modes: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    index, weight = waves.fold(modes, cells)
    return index.to(device), weight.to(device)


@lru_cache(maxsize=64)
def _matrix(waves: Waves, modes: int, cells: int, device: torch.device) -> Tensor:
    """The first discrete waves (cells, modes), orthonormal columns, float64."""
    columns = waves.at(_centres(cells), modes)
    return (columns / columns.norm(dim=0)).to(device)
