"""Coordinates: the map, given the conditions, from x to what is diffused and back.

`forward(x, cond) -> xi`, `inverse(xi, cond) -> x`, `log_det(cond) = log |det dx/dxi|`, all computed in float64;
`features(cond)` is what a network gets to see of the conditions, in float32. Diffusing in coordinates with
dx/dxi = L adds noise of covariance L L^T to x, so scores in different coordinates are scores of different marginals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fokker.covariance import check_varies
from fokker.curved_coordinates import Curved
from fokker.errors import InputError
from fokker.posterior_coordinates import MAX_VECTOR, Posterior
from fokker.states import Cond, Moments, observed
from fokker.structured import Structured


class Coordinates(Protocol):
    """What a conditional model needs of its coordinates."""

    name: ClassVar[str]

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """x (B, *x_shape) to what is diffused, of the same shape."""
        ...

    def inverse(self, xi: Tensor, cond: Cond) -> Tensor:
        """Back to x."""
        ...

    def log_det(self, cond: Cond) -> Tensor:
        """log |det dx/dxi|, a scalar or (B,); InputError where a direction has no variance."""
        ...

    def features(self, cond: Cond) -> Tensor:
        """The conditions as (B, F) for a network."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that defines them, for `restore`."""
        ...


@dataclass(frozen=True)
class Affine:
    """Entry by entry, x = shift_x + scale_x xi; y likewise. The maps that keep the shape of x."""

    shift_x: Tensor
    scale_x: Tensor
    shift_y: Tensor
    scale_y: Tensor
    name: ClassVar[str] = "affine"

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """(x - shift) / scale."""
        return ((x.double() - self.shift_x) / self.scale_x).to(x)

    def inverse(self, xi: Tensor, cond: Cond) -> Tensor:
        """shift + scale xi."""
        return (self.shift_x + self.scale_x * xi.double()).to(xi)

    def log_det(self, cond: Cond) -> Tensor:
        """The sum of log scale."""
        return self.scale_x.log().sum()

    def features(self, cond: Cond) -> Tensor:
        """(y - shift) / scale flattened, zero where y is not observed, then the observed mask if there is one."""
        y, seen = observed(cond)
        value = torch.where(seen, (y.double() - self.shift_y) / self.scale_y, 0.0).flatten(1)
        parts = [value] if "omega" not in cond else [value, seen.flatten(1)]
        return torch.cat([p.float() for p in parts], 1)

    def tensors(self) -> dict[str, Tensor]:
        """The four arrays."""
        return {n: getattr(self, n) for n in ("shift_x", "scale_x", "shift_y", "scale_y")}


class Standard(Affine):
    """Mean 0 and standard deviation 1 for every entry."""

    name = "standard"

    @classmethod
    def estimate(cls, x: Tensor, y: Tensor) -> Standard:
        """From training pairs; an entry that never varies is an error, as it could not be scaled."""
        (mx, sx), (my, sy) = (_mean_std(n, v) for n, v in (("x", x), ("y", y)))
        return cls(mx, sx, my, sy)


class MinMax(Affine):
    """Every entry on [0, 1] over the training pairs."""

    name = "minmax"

    @classmethod
    def estimate(cls, x: Tensor, y: Tensor) -> MinMax:
        """From training pairs; an entry that never varies is an error."""
        parts = []
        for name, v in (("x", x), ("y", y)):
            v = v.double()
            low, high = v.nan_to_num(nan=math.inf).amin(0), v.nan_to_num(nan=-math.inf).amax(0)
            check_varies(name, high - low)
            parts += [low, high - low]
        return cls(*parts)


class Unchanged(Affine):
    """x and y as they are."""

    name = "none"

    @classmethod
    def estimate(cls, x: Tensor, y: Tensor) -> Unchanged:
        """Zeros and ones of the right shapes."""
        zero_x, zero_y = (
            torch.zeros_like(x[0], dtype=torch.float64),
            torch.zeros_like(y[0], dtype=torch.float64),
        )
        return cls(zero_x, torch.ones_like(zero_x), zero_y, torch.ones_like(zero_y))


KINDS = {kind.name: kind for kind in (Posterior, Curved, Standard, MinMax, Unchanged)}


def estimate(name: str, x: Tensor, y: Tensor) -> Coordinates:
    """Coordinates of the named kind from training pairs."""
    if name not in KINDS:
        raise InputError(f"coordinates: got {name!r}, one of {', '.join(KINDS)} is accepted")
    return KINDS[name].estimate(x, y)


def restore(name: str, tensors: dict[str, Tensor]) -> Coordinates:
    """Coordinates from what `tensors()` gave."""
    kinds: dict[str, type[Affine] | type[Posterior]] = {**KINDS, Structured.name: Structured}
    if name not in kinds:
        raise InputError(f"coordinates: got {name!r}, one of {', '.join(kinds)} is accepted")
    return kinds[name](**tensors)


def moments_of(xi: Tensor) -> Moments:
    """Mean and covariance of diffused data (N, *shape): a full factor for vectors, entry by entry otherwise."""
    mean = xi.double().mean(0)
    if xi.ndim == 2 and xi.shape[1] <= MAX_VECTOR and len(xi) > xi.shape[1]:
        values, vectors = torch.linalg.eigh(torch.cov(xi.double().T).reshape(xi.shape[1], xi.shape[1]))
        return Moments(mean, vectors * values.clamp(min=0).sqrt())
    return Moments(mean, xi.double().std(0))


def _mean_std(name: str, value: Tensor) -> tuple[Tensor, Tensor]:
    value = value.double()
    mean = value.nanmean(0)
    std = (value - mean).square().nanmean(0).sqrt()
    check_varies(name, std)
    return mean, std
