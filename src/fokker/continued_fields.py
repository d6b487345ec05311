"""A law of functions between the cells of the grid that it was estimated on.

Fields on n cells tell nothing of waves beyond the n-th: a wave and its mirror images about n are one on the cells. What
is between them is told by the waves below: where their variances fall as a power of the wave number, as those of rough
paths and of functions with kinks or jumps do, they are taken to go on falling so.

Sources: Canuto et al. 2006, section 2.1 (aliasing); Stein 1999, "Interpolation of spatial data", chapter 3 (the tail of
the spectrum decides what interpolation leaves open); Journel, Huijbregts 1978 (simple kriging).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from fokker.estimated_fields import CosineSpectrum
from fokker.grids import Grid
from fokker.random_fields import SpectralField

MOST = 2**14  # modes of a law that is continued, unless told otherwise
LEFT = 1e-7  # of the variance, that modes beyond it may have
SHELL = 0.5, 0.9  # of the modes of an axis: the waves by which the fall is judged
FEWEST = 3  # waves that tell it
SPARSE = 1e-9  # of the variance: below, nothing is left between the cells but rounding
POWERS = torch.arange(0.2, 12.0, 0.1, dtype=torch.float64)  # beyond the dimension, without which no variance is finite


def continued(law: CosineSpectrum, most: int = MOST) -> CosineSpectrum:
    """The same law on the grid of as many cells as it has modes, with a tail a |k|^-p of waves beyond them.

    a and p are those of the best line through the logarithms of its upper variances, mirror images of the tail
    included. The tail ends where less than 1e-7 of the variance is left, or at `most` modes. What it is seen as on the
    cells is taken from the modes there, as far as they have it. The law itself where nothing of that size is beyond
    them, or where fewer than three variances tell.
    """
    cells = law.mode_shape
    factors = [1]
    while math.prod(2 * factors[-1] * n for n in cells) <= most:
        factors.append(2 * factors[-1])
    numbers = _wave_numbers(tuple(factors[-1] * n for n in cells))
    inside = tuple(slice(n) for n in cells)
    share = torch.stack(torch.meshgrid(*(torch.arange(n) / n for n in cells), indexing="ij")).amax(0)
    judged = (share >= SHELL[0]) & (share <= SHELL[1]) & (law.spectrum > 0)
    if factors[-1] == 1 or int(judged.sum()) < FEWEST:
        return law
    logs, best = law.spectrum[judged].log(), (math.inf, 0.0, 0.0)
    for power in (law.dimension + POWERS).tolist():
        left = logs - _on_cells(numbers**-power, cells)[judged].log()
        best = min(best, (float(left.var()), power, float(left.mean().exp())))
    tail = best[2] * numbers ** -best[1]
    tail[inside] = 0
    for factor in factors:
        part = tail[tuple(slice(factor * n) for n in cells)]
        if float(tail.sum() - part.sum()) <= LEFT * law.mean_variance:
            break
    if factor == 1:
        return law
    spectrum, alias = part.clone(), _on_cells(part, cells)
    spectrum[inside] = (law.spectrum - alias).clamp(min=0)
    return CosineSpectrum(spectrum, None if law.leading is None else _without(law.leading, alias))


def between(law: SpectralField, shape: tuple[int, ...], points: Tensor) -> tuple[Tensor, Tensor]:
    """What values on the cells of a grid tell of those at points q (m, dim), and what they leave open.

    K = C(q, X) C(X, X)^-1 (m, *shape) for the centres X of the cells, and C(q, q) - K C(X, q) (m, m), both float64: the
    law of f(q) given f(X) has the mean K f(X) where f has mean 0. Directions that do not vary on the cells are left
    out. InputError for points of another dimension or outside the domain.
    """
    there = law.basis(points)
    dimension = law.dimension
    cross = law.waves.analyse(law.on_grid(there, shape), dimension).flatten(1)
    variances, coupling = law.grid_eigenvalues(shape).flatten(), law.grid_coupling(shape)
    least = torch.finfo(torch.float64).eps * float(variances.max())
    if coupling is None:
        weights = cross * torch.where(variances > least, 1 / variances, 0.0)
    else:
        index, block = coupling
        alone = variances.index_fill(0, index, 0.0)
        weights = cross * torch.where(alone > least, 1 / alone, 0.0)
        inverse = torch.linalg.pinv(block + torch.diag(variances[index]), hermitian=True)
        weights = weights.index_add(1, index, cross[:, index] @ inverse)
    return law.waves.synthesise(weights.unflatten(1, shape), dimension), _open(there @ there.T, weights @ cross.T)


def spline_weights(x: Tensor, cells: int) -> Tensor:
    """Cubic spline interpolation (P, cells) from the centres of cells to x (P,) of the unit interval, float64.

    Not-a-knot ends, so that cubic polynomials are met everywhere, beyond the outer centres too; of fewer than four
    cells the polynomial through them.
    """
    centres, each = Grid((cells,)).points[:, 0].numpy(), np.eye(cells)
    where = x.detach().to("cpu", torch.float64).numpy()
    return torch.from_numpy(CubicSpline(centres, each)(where) if cells > 1 else np.ones((len(where), 1)))


def _open(before: Tensor, told: Tensor) -> Tensor:
    """before - told, without what is rounding."""
    values, vectors = torch.linalg.eigh(((before - told) + (before - told).T) / 2)
    least = SPARSE * float(before.diagonal().amax()) if len(before) else 0.0
    values = torch.where(values > least, values, 0.0)
    return vectors * values @ vectors.T


def _wave_numbers(modes: tuple[int, ...]) -> Tensor:
    """|k| (*modes), that of the constant taken as 1: it is in no tail."""
    squares = [torch.arange(n, dtype=torch.float64).square() for n in modes]
    return torch.stack(torch.meshgrid(*squares, indexing="ij")).sum(0).clamp(min=1).sqrt()


def _on_cells(spectrum: Tensor, cells: tuple[int, ...]) -> Tensor:
    """Variances of the first waves that are, on the cells, what all modes of the spectrum are."""
    return CosineSpectrum(spectrum).grid_eigenvalues(cells) / math.prod(cells)


def _without(leading: Tensor, alias: Tensor) -> Tensor:
    """A covariance less the variances that are only seen as its own, as far as it has them."""
    box = tuple(leading.shape[: alias.ndim])
    matrix = leading.reshape(math.prod(box), -1) - torch.diag(alias[tuple(slice(n) for n in box)].flatten())
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0) @ vectors.T).reshape(leading.shape)
