"""States, conditions and moments: the tensors that score models and samplers pass around.

A state is a tensor (B, *shape) or a flat dict of named tensors; `over_parts` applies a function to either. Conditions
are a dict of named tensors with as many rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.noise import Noise
from fokker.processes import NoiseProcess
from fokker.rng import Key

State = Tensor | dict[str, Tensor]
Processes = NoiseProcess | dict[str, NoiseProcess]
Cond = dict[str, Tensor]


def over_parts(function: Callable[..., Any], first: Any, *rest: Any) -> Any:
    """function(first, *rest) for a single part, the dict of its values for named parts."""
    if isinstance(first, dict):
        return {name: function(first[name], *(r[name] for r in rest)) for name in first}
    return function(first, *rest)


def as_cond(cond: Tensor | Cond | None) -> Cond:
    """Conditions as a dict: a single tensor is shorthand for {"y": tensor}."""
    if cond is None:
        return {}
    if isinstance(cond, Tensor):
        return {"y": cond}
    if not isinstance(cond, dict) or not all(isinstance(v, Tensor) for v in cond.values()):
        raise InputError(f"cond: got {type(cond).__name__}, a tensor or a dict of named tensors is accepted")
    return cond


def column(value: Tensor, like: Tensor) -> Tensor:
    """A scalar or (B,) float64 value in the dtype and device of `like` (B, ...), ready to multiply it."""
    value = value.to(like)
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (like.ndim - 1))


def row_mean(value: Tensor, cond: Cond) -> Tensor:
    """Mean over the entries of each row (B, *shape) -> (B,); where cond["mask"] (B, P) is zero they are padding."""
    flat = value.reshape(len(value), -1)
    if "mask" not in cond:
        return flat.mean(1)
    kept = kept_entries(value, cond).reshape(flat.shape)
    return (flat * kept).sum(1) / kept.sum(1).clamp(min=1)


def kept_entries(value: Tensor, cond: Cond) -> Tensor:
    """1 at the entries of each row that count, 0 at its padding, of the shape and dtype of `value`."""
    if "mask" not in cond:
        return torch.ones_like(value)
    mask = cond["mask"].to(value)
    return mask.reshape(*mask.shape, *[1] * (value.ndim - mask.ndim)).expand_as(value)


def observed(cond: Cond) -> tuple[Tensor, Tensor]:
    """y, and where it is observed: not NaN, and omega True where it is given."""
    y = cond["y"]
    seen = ~y.isnan()
    if "omega" in cond:
        seen = seen & cond["omega"].to(torch.bool)
    return torch.where(seen, y, torch.nan), seen


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of what is diffused, for the first draw N(m mean, m^2 Cov + sigma^2 C).

    `factor` is the standard deviation (a tensor of the shape of the mean, or a scalar) or a matrix L (d, d) with
    L L^T = Cov on flattened states.
    """

    mean: Tensor
    factor: Tensor

    @property
    def std(self) -> Tensor:
        """The standard deviation of each entry, of the shape of the mean or a scalar."""
        return self.factor.square().sum(1).sqrt() if self.factor.ndim == 2 and self.mean.ndim == 1 else self.factor

    def draw(self, like: Tensor, key: Key) -> Tensor:
        """N(mean, Cov) for each row of `like`."""
        xi = key.normal(tuple(like.shape[1:])).to(like)
        mean, factor = self.mean.to(like), self.factor.to(like)
        if factor.ndim == 2 and mean.ndim == 1:
            return mean + xi @ factor.T
        return mean + factor * xi

    def log_prob(self, z: Tensor, rho: float, noise: Noise, cond: Cond) -> Tensor:
        """log density (B,) of N(mean, Cov + rho^2 C) at z (B, *shape), in float64; padding is not counted.

        InputError for another shape, and where that covariance is singular.
        """
        mean, factor = self.mean.to(z.device).double(), self.factor.to(z.device).double()
        full = factor.ndim == 2 and mean.ndim == 1
        if z.ndim < 2 or (mean.ndim > 0 and z.shape[1:] != mean.shape):
            wanted = f"(B, {', '.join(map(str, mean.shape))})" if mean.ndim else "(B, *shape)"
            raise InputError(f"x: got shape {tuple(z.shape)}, {wanted} is accepted")
        kept = kept_entries(z.double(), cond)
        offset, kept = ((z - mean) * kept).flatten(1), kept.flatten(1)
        if noise.white and not full:
            variance = (factor**2 + rho**2).expand(z.shape[1:]).flatten()
            return -0.5 * (offset**2 / variance + kept * (2 * math.pi * variance).log()).sum(1)
        own = factor @ factor.T if full else torch.diag((factor**2).expand(z.shape[1:]).flatten())
        out = torch.empty_like(offset[:, 0])
        rows = max(1, 2**24 // offset.shape[1] ** 2)  # whose covariances are held at a time
        for start in range(0, len(z), rows):
            part = slice(start, start + rows)
            points = cond["points"][part] if "points" in cond else None
            covariance = own + rho**2 * _matrix_of(noise, z[part].double(), points)
            out[part] = _normal(offset[part], covariance, kept[part] > 0)
        return out


def _matrix_of(noise: Noise, like: Tensor, points: Tensor | None) -> Tensor:
    """C on flattened states: (d, d), or (B, d, d) where the rows of `like` have points of their own."""
    size = like[0].numel()
    eye = torch.eye(size, dtype=like.dtype, device=like.device).reshape(size, *like.shape[1:])
    if points is None or bool((points == points[:1]).all()):
        shared = None if points is None else points[:1].expand(size, *points.shape[1:])
        return noise.apply(eye, shared).reshape(size, size)
    return torch.stack([noise.apply(unit.expand_as(like), points).flatten(1) for unit in eye], -1)


def _normal(offset: Tensor, covariance: Tensor, kept: Tensor) -> Tensor:
    """log N(offset; 0, covariance) over the kept entries of each row (B, d); covariance is (d, d) or (B, d, d)."""
    if not bool(kept.all()):
        both = kept[:, :, None] & kept[:, None]
        covariance = torch.where(both, covariance, torch.eye(kept.shape[1]).to(covariance))
    root, info = torch.linalg.cholesky_ex(covariance)
    # Each pivot is a variance given the entries before it: by rounding alone it may come out above zero.
    pivots, variances = (v.diagonal(dim1=-2, dim2=-1) for v in (root, covariance))
    if bool(info.any()) or bool((pivots**2 <= 1e-14 * root.shape[-1] * variances).any()):
        raise InputError(
            "density: the law of the first draw is singular; distinct points and noise in every direction are accepted"
        )
    if root.ndim == 2:
        white = torch.linalg.solve_triangular(root, offset.T, upper=False).T
    else:
        white = torch.linalg.solve_triangular(root, offset[..., None], upper=False)[..., 0]
    return -0.5 * (white.square().sum(1) + kept.sum(1) * math.log(2 * math.pi)) - pivots.log().sum(-1)
