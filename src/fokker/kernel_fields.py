"""Matern kernels on points anywhere: their covariance matrices, and fields with them by random Fourier features.

Source: Rahimi and Recht 2007, "Random features for large-scale kernel machines".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.random_fields import Field, squared_exponential
from fokker.rng import check_seed, stream


def matern(points: np.ndarray, length: float, nu: float = 1.5, variance: float = 1.0) -> np.ndarray:
    """Matern covariance of points (P, d) -> (P, P), float64, of smoothness nu = 1/2, 3/2, 5/2 or infinity.

    With s = sqrt(2 nu) |x - x'| / length it is variance * exp(-s) times 1, 1 + s, or 1 + s + s^2 / 3; for infinity
    it is `squared_exponential`. InputError for another nu. Source: Rasmussen and Williams 2006, section 4.2.
    """
    check_smoothness(nu)
    if nu == math.inf:
        return squared_exponential(points, length, variance)
    if not length > 0 or not variance > 0:
        raise InputError(f"covariance length and variance: got {length!r} and {variance!r}, both must be > 0")
    points = np.asarray(points, float)
    s = math.sqrt(2 * nu) / length * np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    polynomial = {0.5: 1.0, 1.5: 1.0 + s, 2.5: 1.0 + s + s**2 / 3}[float(nu)]
    return variance * polynomial * np.exp(-s)


def check_smoothness(nu: float) -> None:
    """InputError where nu is none of those with a closed form."""
    if nu not in (0.5, 1.5, 2.5, math.inf):
        raise InputError(f"nu: got {nu!r}, 0.5, 1.5, 2.5 or inf is accepted")


@dataclass(frozen=True)
class KernelField(Field):
    """A field with nearly the covariance std^2 matern(|x - x'|; length, nu), at points of R^dimension.

    g(x) = std / sqrt(F) * sum_f (xi_f cos(w_f . x) + eta_f sin(w_f . x)), xi and eta ~ N(0, 1), for F = `features`
    frequencies w_f from the spectral density of the kernel: Student's t with 2 nu degrees of freedom and scale
    1 / length (normal for nu = infinity). They are fixed by `seed`, so the field is a law of its own, that of finitely
    many features, and `Correlated.apply` and `solve` are exact for it: Var g = std^2 everywhere, and
    Cov(g(x), g(x')) = std^2 / F * sum_f cos(w_f . (x - x')). Over seeds that is unbiased for the kernel std^2 r(h),
    with the standard error std^2 sqrt((1 + r(2 h) - 2 r(h)^2) / (2 F)), at most std^2 / sqrt(2 F): 3 % of the variance
    for 512 features. Exact kernels on few points: `fokker.kernel_fields.matern`.

    InputError for nu other than 1/2, 3/2, 5/2 or infinity, and for length or std that are not positive.
    """

    dimension: int = 1
    length: float = 0.2
    nu: float = 1.5
    std: float = 1.0
    features: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        check_smoothness(self.nu)
        check_seed(self.seed)
        if self.dimension < 1 or self.features < 1:
            raise InputError(f"dimension and features: got {self.dimension}, {self.features}; both must be at least 1")
        if not (0 < self.length < math.inf and 0 < self.std < math.inf):
            raise InputError(f"length and std: got {self.length}, {self.std}; finite numbers > 0 are accepted")

    @property
    def size(self) -> int:
        """Number of coefficients, 2 * features."""
        return 2 * self.features

    def basis(self, points: Tensor) -> Tensor:
        """std / sqrt(F) (cos(w . x), sin(w . x)) at points (..., P, dimension) -> (..., P, size), in float64.

        InputError for points of another dimension or not finite.
        """
        phase = self._checked(points) @ self._frequencies.to(points.device).T
        return self.std / math.sqrt(self.features) * torch.cat([phase.cos(), phase.sin()], -1)

    @cached_property
    def _frequencies(self) -> Tensor:
        """w (features, dimension)."""
        random = stream(self.seed, "kernel field")
        w = random.standard_normal((self.features, self.dimension)) / self.length
        if self.nu < math.inf:
            w *= (2 * self.nu / random.chisquare(2 * self.nu, (self.features, 1))) ** 0.5
        return torch.from_numpy(w)
