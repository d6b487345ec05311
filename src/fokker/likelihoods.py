"""Likelihoods p(y given clean data): each has a log density and draws noise, so data and inference cannot disagree.

y and clean are (B, *y_shape), and either may have one row that serves all of the other's. Results have the dtype and
the device of clean and can be differentiated by it; noise is drawn on the CPU. A wrong shape is an InputError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.likelihood_checks import (
    Exact,
    check_density,
    check_entries,
    check_std,
    flat,
    log_gaussian,
    matched,
    normal,
    number_or_array,
    paired,
    total,
)


class Likelihood(Protocol):
    """p(y given clean): rows are independent."""

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape)."""
        ...

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,)."""
        ...

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """Its derivative by clean (B, *y_shape)."""
        ...

    def check(self, y: Tensor) -> None:
        """InputError unless y (B, *y_shape) are data that the law can give."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(Exact):
    """y = clean + N(0, R): Gaussian(0.05), Gaussian(array of standard deviations) or Gaussian(covariance=R).

    log p = -(r^T R^-1 r + log det R + k log 2 pi) / 2, r = y - clean, k entries in a row.

    std: standard deviation >= 0 of every entry, or an array of them, of y_shape (or of (B, *y_shape), each row its
    own), in the units of y; covariance: R (k, k), symmetric positive definite, over the flattened entries of a row.
    Its Cholesky factor is computed once. Raises InputError for anything else; densities and `solve` where a standard
    deviation is zero.
    """

    std: float | Tensor | None = None
    covariance: Tensor | None = None
    _kept: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        if (self.std is None) == (self.covariance is None):
            raise InputError("Gaussian: exactly one of std and covariance is accepted")
        if self.std is not None:
            accepted = "a finite standard deviation >= 0"
            object.__setattr__(self, "std", number_or_array("noise", self.std, accepted, zero=True))
        else:
            r, factor = _factorised(self.covariance)
            object.__setattr__(self, "covariance", r)
            self._kept[r.dtype, r.device] = r, factor

    @property
    def variance(self) -> Tensor | None:
        """The variance of each entry where R is diagonal: (), or of std's shape, in float64; None for a covariance."""
        return None if self.std is None else torch.as_tensor(self.std, dtype=torch.float64).square()

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape)."""
        noise = normal(clean, generator)
        if self.std is not None:
            return clean + matched("noise", self.std, clean) * noise
        return clean + (flat(noise) @ self._matrices(clean)[1].T).reshape(clean.shape)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,); InputError where the noise is zero and there is no density."""
        check_density(self.std)
        residual = paired(y, clean) - clean
        if self.std is not None:
            return total(log_gaussian(residual, matched("noise", self.std, residual)))
        factor = self._matrices(residual)[1]
        quadratic = torch.linalg.solve_triangular(factor, flat(residual).T, upper=False).square().sum(0)
        return -0.5 * (quadratic + len(factor) * math.log(2 * math.pi)) - factor.diagonal().log().sum()

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """R^-1 (y - clean), the derivative of log_prob by clean (B, *y_shape)."""
        return self.solve(paired(y, clean) - clean)

    def apply(self, v: Tensor) -> Tensor:
        """R v for each row of v (B, *y_shape)."""
        if self.std is not None:
            return v * matched("noise", self.std, v) ** 2
        return (flat(v) @ self._matrices(v)[0]).reshape(v.shape)

    def solve(self, v: Tensor) -> Tensor:
        """R^-1 v for each row of v (B, *y_shape)."""
        check_density(self.std)
        if self.std is not None:
            return v / matched("noise", self.std, v) ** 2
        return torch.cholesky_solve(flat(v).T, self._matrices(v)[1]).T.reshape(v.shape)

    def check(self, y: Tensor) -> None:
        """InputError unless y (B, *y_shape) is finite and as large as the noise."""
        check_entries(y, y.isfinite(), "finite numbers are accepted")
        if self.std is not None:
            matched("noise", self.std, y)
        else:
            self._matrices(y)

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """R and its Cholesky factor, in the dtype and on the device of like (B, *y_shape)."""
        (r, factor), entries = next(iter(self._kept.values())), like[:1].numel()
        if len(r) != entries and len(like):
            raise InputError(f"covariance: got {tuple(r.shape)}, {(entries, entries)} is accepted, as y has entries")
        kind = (like.dtype, like.device)
        if kind not in self._kept:
            self._kept[kind] = r.to(like.device, like.dtype), factor.to(like.device, like.dtype)
        return self._kept[kind]


def _factorised(covariance: Any) -> tuple[Tensor, Tensor]:
    """R in float64 and its Cholesky factor."""
    accepted = "a symmetric positive definite matrix is accepted"
    try:
        r = torch.as_tensor(covariance, dtype=torch.float64).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"covariance: got {covariance!r}, {accepted}") from None
    if r.ndim == 2 and r.shape[0] == r.shape[1] and torch.allclose(r, r.T):
        factor, info = torch.linalg.cholesky_ex(r)
        if int(info) == 0:
            return r, factor
    raise InputError(f"covariance: got shape {tuple(r.shape)}, {accepted}")


@dataclass(frozen=True)
class LogNormal:
    """y = clean exp(std eps), eps ~ N(0, 1) for each entry: multiplicative noise, clean >= 0.

    For clean > 0 the density of an entry is exp(-(log y - log clean)^2 / (2 std^2)) / (y std sqrt(2 pi)), y > 0. For
    clean = 0, y is 0 with certainty, and log_prob is 0 there (the log probability of that atom). A clean value below
    zero, as a solver's rounding gives where the answer is zero, counts as zero. y and clean of which one is positive
    and the other is not, or y < 0, have log_prob = -inf, and a gradient of zero.
    """

    std: float

    def __post_init__(self) -> None:
        check_std(self.std)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape)."""
        noise = normal(clean, generator)
        return clean.clamp(min=0.0) * (self.std * noise).exp()

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,); InputError where the noise is zero and there is no density."""
        check_density(self.std)
        y = paired(y, clean)
        inside = (y > 0) & (clean > 0)
        ratio = torch.where(inside, y, 1.0).log() - torch.where(inside, clean, 1.0).log()
        density = log_gaussian(ratio, self.std) - torch.where(inside, y, 1.0).log()
        outside = torch.where((y == 0) & (clean <= 0), 0.0, -math.inf).to(density)
        return total(torch.where(inside, density, outside))

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """Derivative of log_prob by clean, of its shape (B, *y_shape); zero where the density is."""
        check_density(self.std)
        y = paired(y, clean)
        inside = (y > 0) & (clean > 0)
        positive = torch.where(inside, clean, 1.0)
        return torch.where(inside, (y / positive).log(), 0.0) / (positive * self.std**2)

    def gaussian(self, y: Tensor, clean: Tensor | None = None) -> tuple[Tensor, Gaussian]:
        """The data and the Gaussian law of the same relative spread: std |clean|, or std |y| where no clean is given.

        At least a thousandth of std times the largest |y| of the row, so that it is not certain of zero.
        """
        check_density(self.std)
        least = 1e-3 * y.abs().flatten(1).amax(1).clamp(min=torch.finfo(y.dtype).tiny)
        size = (y if clean is None else clean).abs()
        return y, Gaussian(self.std * torch.maximum(size, least.reshape(-1, *[1] * (y.ndim - 1))))

    def check(self, y: Tensor) -> None:
        """InputError unless y is finite and >= 0."""
        check_entries(y, y.isfinite() & (y >= 0), "finite numbers >= 0 are accepted")


@dataclass(frozen=True)
class Saturating:
    """y = min(clean + std eps, level), eps ~ N(0, 1) for each entry: sensors that cannot read more than `level`.

    Below the level the density is N(clean, std^2), and the level itself has the probability Phi((clean - level) /
    std): log_prob is with respect to length plus an atom at the level. What is within a float32's rounding of the
    level is at the level; above it log_prob = -inf.
    """

    std: float
    level: float

    def __post_init__(self) -> None:
        check_std(self.std)
        if not (isinstance(self.level, int | float) and math.isfinite(self.level)):
            raise InputError(f"level: got {self.level!r}, a finite number is accepted")

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape)."""
        noise = normal(clean, generator)
        return (clean + self.std * noise).clamp(max=self.level)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,); InputError where the noise is zero and there is no density."""
        check_density(self.std)
        y = paired(y, clean)
        margin = torch.finfo(torch.float32).eps * abs(self.level)
        full, above = (y - self.level).abs() <= margin, y - self.level > margin
        density = log_gaussian(y - clean, self.std)
        atom = torch.special.log_ndtr((clean - self.level) / self.std)
        return total(torch.where(full, atom, density).masked_fill(above, -math.inf))

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """Derivative of log_prob by clean, of its shape (B, *y_shape); zero where the density is."""
        check_density(self.std)
        y = paired(y, clean)
        margin = torch.finfo(torch.float32).eps * abs(self.level)
        z = (clean - self.level) / self.std
        hazard = torch.exp(-0.5 * z.square() - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(z)) / self.std
        below = torch.where(y > self.level + margin, 0.0, (y - clean) / self.std**2)
        return torch.where((y - self.level).abs() <= margin, hazard, below)

    def gaussian(self, y: Tensor, clean: Tensor | None = None) -> tuple[Tensor, Gaussian]:
        """The data and the Gaussian law N(clean, std^2); a reading at the level agrees with any clean above it."""
        check_density(self.std)
        if clean is None:
            return y, Gaussian(self.std)
        full = y >= self.level - torch.finfo(torch.float32).eps * abs(self.level)
        return torch.where(full, torch.maximum(y, clean), y), Gaussian(self.std)

    def check(self, y: Tensor) -> None:
        """InputError unless y is finite and at most the level."""
        margin = torch.finfo(torch.float32).eps * abs(self.level)
        good = y.isfinite() & (y - self.level <= margin)
        check_entries(y, good, f"finite numbers up to the level {self.level!r} are accepted")
