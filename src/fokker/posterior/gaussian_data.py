"""Data with Gaussian noise, or with noise that has a Gaussian approximation, for methods that need its covariance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.likelihood_custom import MOST, LogDensity
from fokker.likelihoods import Gaussian, Likelihood
from fokker.posterior.problem import Problem


def as_gaussian(likelihood: Likelihood, y: Tensor, clean: Tensor | None = None) -> tuple[Tensor, Gaussian]:
    """The data and their Gaussian noise, in units of forward(x): y itself, or its likelihood's approximation.

    clean: forward(x) near which the approximation has to hold; None: as y alone tells.
    """
    if isinstance(likelihood, Gaussian):
        return y, likelihood
    data, law = likelihood.gaussian(y, clean)  # type: ignore[attr-defined]
    return data.to(y), law


class LinearData(NamedTuple):
    """Data less what is predicted (B, m), in float64, and their Gaussian noise, for data of `shape` (B, *y_shape)."""

    residual: Tensor
    law: Gaussian
    shape: torch.Size

    def noisy(self, v: Tensor) -> Tensor:
        """R v for v (B, m)."""
        return self.law.apply(v.reshape(self.shape)).flatten(1)

    def whitened(self, v: Tensor, transposed: bool = False) -> Tensor:
        """W v for v (B, m), W R W^T = I; or W^T v."""
        if self.law.covariance is None:
            return v / self.diagonal().sqrt()
        root = torch.linalg.cholesky(self.matrix())
        return torch.linalg.solve_triangular(root.T if transposed else root, v.T, upper=transposed).T

    def diagonal(self) -> Tensor:
        """The diagonal of R, (m,), or (B, m) where each row has its own."""
        return diagonal_of(self.law, self.shape).to(self.residual.device)

    def matrix(self) -> Tensor:
        """R (m, m), or (B, m, m) where each row has its own."""
        return matrix_of(self.law, self.shape).to(self.residual.device)


def has_gaussian(likelihood: Likelihood, problem: Problem) -> bool:
    """Whether the noise is Gaussian or has an approximation that is: one's own density has for up to 64 data."""
    few = not isinstance(likelihood, LogDensity) or math.prod(problem.y_shape) <= MOST
    return isinstance(likelihood, Gaussian) or (few and hasattr(likelihood, "gaussian"))


def check_gaussian(method: str, problem: Problem) -> None:
    """InputError unless the noise has a covariance, or an approximation that has, above 0 in every direction."""
    likelihood = problem.likelihood
    if not has_gaussian(likelihood, problem):
        raise InputError(
            f"likelihood: got {type(likelihood).__name__}, {method} needs one with a Gaussian approximation; DPS, DAPS "
            "and TwistedSMC take any"
        )
    probe = torch.ones(1, *problem.y_shape, dtype=torch.float64)
    _, law = as_gaussian(likelihood, probe)
    if law.covariance is not None:
        floor = float(torch.linalg.eigvalsh(law.covariance)[0])
    else:
        floor = float(torch.as_tensor(law.variance).min())
    if floor == 0:
        raise InputError(
            f"likelihood: got noise of 0, {method} needs a standard deviation above 0; DDRM takes 0, for operators "
            "with a known singular value decomposition"
        )
    law.log_prob(probe, probe)  # says so where the shape of the noise is not that of y


def matrix_of(law: Gaussian, shape: torch.Size) -> Tensor:
    """R (m, m), or (B, m, m) where each row has its own, for data of this shape (B, *y_shape), in float64."""
    return law.covariance if law.covariance is not None else torch.diag_embed(diagonal_of(law, shape))


def diagonal_of(law: Gaussian, shape: torch.Size) -> Tensor:
    """The diagonal of that."""
    if law.covariance is not None:
        return law.covariance.diagonal()
    variance = torch.as_tensor(law.variance, dtype=torch.float64)
    rows = variance.ndim == len(shape) and len(variance) > 1
    return variance.expand(shape if rows else shape[1:]).flatten(1 if rows else 0)
