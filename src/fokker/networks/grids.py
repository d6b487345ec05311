"""Maps between functions on grids of cell centres, axis by axis, as small dense matrices.

The cell centres of an axis with n cells are (i + 1/2) / n. Each matrix is built from them in float64, for any n, and
kept; along an axis it is applied by `along`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn


@lru_cache(maxsize=256)
def cosines(side: int, modes: int, like: tuple[torch.dtype, torch.device]) -> Tensor:
    """phi_k(x_i), (modes, side): phi_0 = 1, phi_k(x) = sqrt(2) cos(pi k x).

    Orthonormal under the mean over cells for modes <= side: phi f^T / side are the coefficients of the even extension
    of f, and phi^T sums them, on this grid or any other.
    """
    with torch.inference_mode(False):  # what is kept must serve training too
        places = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        rows = torch.cos(math.pi * torch.arange(modes, dtype=torch.float64)[:, None] * places)
        rows[1:] *= math.sqrt(2.0)
        return rows.to(like[1], like[0])


@lru_cache(maxsize=256)
def waves(side: int, modes: int, both: bool, like: tuple[torch.dtype, torch.device]) -> Tensor:
    """exp(2 pi i k x), complex (modes, side): k = 0 ... modes - 1, or with both signs k = 1 - modes ... modes - 1."""
    with torch.inference_mode(False):
        places = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        k = torch.arange(1 - modes if both else 0, modes, dtype=torch.float64)
        angle = 2 * math.pi * k[:, None] * places
        return torch.complex(angle.cos().to(like[1], like[0]), angle.sin().to(like[1], like[0]))


@lru_cache(maxsize=256)
def averages(fine: int, coarse: int, like: tuple[torch.dtype, torch.device]) -> Tensor:
    """(coarse, fine): the mean of a piecewise constant function of `fine` cells over each of `coarse` cells."""
    with torch.inference_mode(False):
        low = torch.arange(coarse, dtype=torch.float64)[:, None] / coarse
        start = torch.arange(fine, dtype=torch.float64) / fine
        shared = torch.minimum(low + 1 / coarse, start + 1 / fine) - torch.maximum(low, start)
        return (shared.clamp(min=0) * coarse).to(like[1], like[0])


@lru_cache(maxsize=256)
def interpolation(coarse: int, fine: int, like: tuple[torch.dtype, torch.device]) -> Tensor:
    """(fine, coarse): linear interpolation between cell centres, constant beyond the outermost ones."""
    with torch.inference_mode(False):
        place = ((torch.arange(fine, dtype=torch.float64) + 0.5) * coarse / fine - 0.5).clamp(0, coarse - 1)
        distance = (place[:, None] - torch.arange(coarse, dtype=torch.float64)).abs()
        return (1 - distance).clamp(min=0).to(like[1], like[0])


def along(axis: int, matrix: Tensor, x: Tensor) -> Tensor:
    """matrix (m, n) applied to an axis of x that has n entries."""
    if axis in (-1, x.ndim - 1):
        return x @ matrix.T
    return (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


def coordinates(sides: Sequence[int], like: Tensor, periodic: bool = False) -> Tensor:
    """(d or 2d, *sides): 2x - 1 of each axis at the cell centres; on a periodic domain cos and sin of 2 pi x."""
    axes = [(torch.arange(side, dtype=torch.float64, device=like.device) + 0.5) / side for side in sides]
    grids = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    if periodic:
        return torch.cat([(2 * math.pi * grids).cos(), (2 * math.pi * grids).sin()]).to(like.dtype)
    return (2 * grids - 1).to(like.dtype)


def resampled(x: Tensor, sides: Sequence[int], rule: Callable[..., Tensor]) -> Tensor:
    """x (B, c, *grid) on another grid, by `averages` or `interpolation` along each axis."""
    for axis, side in enumerate(sides, 2):
        if x.shape[axis] != side:
            x = along(axis, rule(x.shape[axis], side, (x.dtype, x.device)), x)
    return x


def extended(x: Tensor, by: Sequence[int]) -> Tensor:
    """x (B, c, *grid) with by[j] cells more at both ends of axis j, mirrored at the faces of the domain."""
    if set(by) == {1}:  # the mirrored cell is the last one
        return nn.functional.pad(x, (1, 1) * len(by), mode="replicate")
    for axis, count in enumerate(by, 2):
        side = x.shape[axis]
        head, tail = x.narrow(axis, 0, count).flip(axis), x.narrow(axis, side - count, count).flip(axis)
        x = torch.cat([head, x, tail], axis)
    return x
