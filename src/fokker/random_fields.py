"""Gaussian random fields: covariance kernels on points, and fields given by a spectral basis.

A field with a basis, g(x) = sum_k sqrt(lambda_k) xi_k phi_k(x), is a *function*: the coefficients xi fix it at every
point and every resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError


def squared_exponential(points: np.ndarray, length: float, variance: float = 1.0) -> np.ndarray:
    """RBF covariance variance * exp(-|x - x'|^2 / (2 length^2)) of points (P, d) -> (P, P), float64.

    Its eigenvalues fall below rounding within a few dozen points: add a nugget before factorising it.
    """
    if not length > 0 or not variance > 0:
        raise InputError(f"covariance length and variance: got {length!r} and {variance!r}, both must be > 0")
    points = np.asarray(points, float)
    distance2 = ((points[:, None] - points[None]) ** 2).sum(-1)
    return variance * np.exp(-distance2 / (2 * length**2))


@dataclass(frozen=True)
class CosineField:
    """N(0, (-Lap + tau^2)^-alpha) on the unit cube with Neumann boundary, cut at `modes` cosines per axis.

    g(x) = amplitude * sum_k (pi^2 |k|^2 + tau^2)^(-alpha/2) xi_k prod_j c_kj cos(pi k_j x_j), with c_0 = 1 and
    c_k = sqrt(2), xi_k ~ N(0, 1). The covariance is trace class for alpha > dimension / 2.
    """

    dimension: int = 1
    modes: int = 32
    alpha: float = 2.0
    tau: float = 1.0
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if self.dimension < 1 or self.modes < 1:
            raise InputError(f"dimension and modes: got {self.dimension}, {self.modes}; both must be at least 1")
        if not self.alpha > self.dimension / 2:
            raise InputError(f"alpha: got {self.alpha}, more than dimension / 2 = {self.dimension / 2} is accepted")
        if not (self.tau > 0 and self.amplitude > 0):
            raise InputError(f"tau and amplitude: got {self.tau}, {self.amplitude}; both must be > 0")

    @property
    def size(self) -> int:
        """Number of coefficients, modes^dimension."""
        return self.modes**self.dimension

    def basis(self, points: Tensor) -> Tensor:
        """sqrt(lambda_k) phi_k at points (..., P, dimension) -> (..., P, size), in float64."""
        if points.shape[-1] != self.dimension:
            raise InputError(
                f"points: got last axis {points.shape[-1]}, a field of dimension {self.dimension} takes "
                f"(..., P, {self.dimension})"
            )
        k = torch.arange(self.modes, dtype=torch.float64, device=points.device)
        factor = torch.where(k == 0, 1.0, torch.full_like(k, math.sqrt(2.0)))  # two numbers would be float32
        waves = factor * torch.cos(math.pi * k * points.to(torch.float64)[..., None])  # (..., P, d, modes)
        value = waves[..., 0, :]
        k2 = k**2
        for j in range(1, self.dimension):
            value = (value[..., :, None] * waves[..., j, None, :]).flatten(-2)
            k2 = (k2[:, None] + k[None] ** 2).flatten()
        return self.amplitude * (math.pi**2 * k2 + self.tau**2) ** (-self.alpha / 2) * value
