"""Likelihoods p(y given clean data): each has a log density and draws noise, so data and inference cannot disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fokker.errors import InputError


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


@dataclass(frozen=True)
class Gaussian:
    """y = clean + N(0, std^2), or N(0, R) over the flattened entries of y: Gaussian(0.05) or Gaussian(covariance=R)."""

    std: float | None = None
    covariance: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.std is None) == (self.covariance is None):
            raise InputError("Gaussian: exactly one of std and covariance is accepted")
        if self.std is not None:
            _check_std(self.std)
        if self.covariance is not None:
            r = torch.as_tensor(self.covariance, dtype=torch.float64)
            if (
                r.ndim != 2
                or r.shape[0] != r.shape[1]
                or not torch.allclose(r, r.T)
                or int(torch.linalg.cholesky_ex(r)[1]) != 0
            ):
                raise InputError(
                    f"covariance: got shape {tuple(r.shape)}, a symmetric positive definite matrix is accepted"
                )

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape)."""
        noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
        if self.std is not None:
            return clean + self.std * noise
        return clean + (noise.flatten(1) @ self._factor(clean).T).reshape(clean.shape)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,); InputError where the noise is zero and there is no density."""
        residual = (y - clean).flatten(1)
        size = residual.shape[1]
        _check_density(self.std)
        if self.std is not None:
            quadratic, log_det = (residual / self.std).square().sum(1), 2 * size * math.log(self.std)
        else:
            factor = self._factor(y)
            quadratic = torch.linalg.solve_triangular(factor, residual.T, upper=False).square().sum(0)
            log_det = 2 * float(factor.diagonal().log().sum())
        return -0.5 * (quadratic + log_det + size * math.log(2 * math.pi))

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """Derivative of log_prob by clean, of its shape (B, *y_shape)."""
        _check_density(self.std)
        if self.std is not None:
            return (y - clean) / self.std**2
        return torch.cholesky_solve((y - clean).flatten(1).T, self._factor(y)).T.reshape(clean.shape)

    def _factor(self, like: Tensor) -> Tensor:
        return torch.linalg.cholesky(torch.as_tensor(self.covariance, dtype=torch.float64)).to(like)


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
        _check_std(self.std)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape)."""
        noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
        return clean.clamp(min=0.0) * (self.std * noise).exp()

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,); InputError where the noise is zero and there is no density."""
        _check_density(self.std)
        inside = (y > 0) & (clean > 0)
        ratio = torch.where(inside, y, 1.0).log() - torch.where(inside, clean, 1.0).log()
        density = _log_gaussian(ratio, self.std) - torch.where(inside, y, 1.0).log()
        outside = torch.where((y == 0) & (clean <= 0), 0.0, -math.inf).to(density)
        return torch.where(inside, density, outside).flatten(1).sum(1)

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """Derivative of log_prob by clean, of its shape (B, *y_shape); zero where the density is."""
        _check_density(self.std)
        inside = (y > 0) & (clean > 0)
        positive = torch.where(inside, clean, 1.0)
        return torch.where(inside, (y / positive).log(), 0.0) / (positive * self.std**2)


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
        _check_std(self.std)
        if not (isinstance(self.level, int | float) and math.isfinite(self.level)):
            raise InputError(f"level: got {self.level!r}, a finite number is accepted")

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape)."""
        noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
        return (clean + self.std * noise).clamp(max=self.level)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,); InputError where the noise is zero and there is no density."""
        _check_density(self.std)
        margin = torch.finfo(torch.float32).eps * abs(self.level)
        full, above = (y - self.level).abs() <= margin, y - self.level > margin
        density = _log_gaussian(y - clean, self.std)
        atom = torch.special.log_ndtr((clean - self.level) / self.std)
        return torch.where(full, atom, density).masked_fill(above, -math.inf).flatten(1).sum(1)

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """Derivative of log_prob by clean, of its shape (B, *y_shape); zero where the density is."""
        _check_density(self.std)
        margin = torch.finfo(torch.float32).eps * abs(self.level)
        z = (clean - self.level) / self.std
        hazard = torch.exp(-0.5 * z.square() - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(z)) / self.std
        below = torch.where(y > self.level + margin, 0.0, (y - clean) / self.std**2)
        return torch.where((y - self.level).abs() <= margin, hazard, below)


def _log_gaussian(residual: Tensor, std: float) -> Tensor:
    """log of N(residual; 0, std^2), entry by entry."""
    return -0.5 * (residual / std).square() - math.log(std) - 0.5 * math.log(2 * math.pi)


def _check_std(std: float) -> None:
    if not (isinstance(std, int | float) and math.isfinite(std) and std >= 0):
        raise InputError(f"noise: got {std!r}, a finite standard deviation >= 0 is accepted")


def _check_density(std: float | None) -> None:
    if std == 0:
        raise InputError("noise: got 0, a density needs a standard deviation > 0")
