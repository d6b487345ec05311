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


@dataclass(frozen=True)
class Gaussian:
    """y = clean + N(0, std^2), or N(0, R) over the flattened entries of y: Gaussian(0.05) or Gaussian(covariance=R)."""

    std: float | None = None
    covariance: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.std is None) == (self.covariance is None):
            raise InputError("Gaussian: exactly one of std and covariance is accepted")
        if self.std is not None and not (
            isinstance(self.std, int | float) and math.isfinite(self.std) and self.std >= 0
        ):
            raise InputError(f"noise: got {self.std!r}, a finite standard deviation >= 0 is accepted")
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
        if self.std == 0:
            raise InputError("noise: got 0, a density needs a standard deviation > 0")
        if self.std is not None:
            quadratic, log_det = (residual / self.std).square().sum(1), 2 * size * math.log(self.std)
        else:
            factor = self._factor(y)
            quadratic = torch.linalg.solve_triangular(factor, residual.T, upper=False).square().sum(0)
            log_det = 2 * float(factor.diagonal().log().sum())
        return -0.5 * (quadratic + log_det + size * math.log(2 * math.pi))

    def _factor(self, like: Tensor) -> Tensor:
        return torch.linalg.cholesky(torch.as_tensor(self.covariance, dtype=torch.float64)).to(like)
