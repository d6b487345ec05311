"""Noise whose size depends on the signal, has outliers, or is not known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import gammaincinv, stdtrit
from torch import Tensor

from fokker.likelihood_checks import check_entries, flat, log_gaussian, normal, paired, positive, total, uniform
from fokker.likelihoods import Gaussian

FINITE = "finite numbers are accepted"


@dataclass(frozen=True)
class Multiplicative:
    """y = clean + std max(|clean|, floor) eps, eps ~ N(0, 1) for each entry: noise of a fixed fraction of the signal.

    The density of an entry is N(y; clean, std^2 max(|clean|, floor)^2). clean and y may have any sign (noise that
    keeps it is `LogNormal`). Without the floor there would be no density at clean = 0.

    std: > 0, the fraction (0.05 is 5 %); floor: > 0, in the units of y, the |clean| below which the noise shrinks no
    further. Raises InputError for anything else.
    """

    std: float
    floor: float = 1e-6

    def __post_init__(self) -> None:
        positive("std", self.std)
        positive("floor", self.floor)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape)."""
        return clean + self._spread(clean) * normal(clean, generator)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,)."""
        return total(log_gaussian(paired(y, clean) - clean, self._spread(clean)))

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """r / s^2 + (r^2 / s^2 - 1) / clean, r = y - clean, s the spread (its second part only above the floor)."""
        residual, spread = paired(y, clean) - clean, self._spread(clean)
        above = clean.abs() >= self.floor
        of_spread = ((residual / spread).square() - 1) / torch.where(above, clean, 1.0)
        return residual / spread.square() + torch.where(above, of_spread, 0.0)

    def check(self, y: Tensor) -> None:
        """InputError unless y is finite."""
        check_entries(y, y.isfinite(), FINITE)

    def gaussian(self, y: Tensor, clean: Tensor | None = None) -> tuple[Tensor, Gaussian]:
        """The data and the Gaussian law that approximates theirs: the spread at clean, or at y where none is given."""
        return y, Gaussian(self._spread(y if clean is None else clean))

    def _spread(self, clean: Tensor) -> Tensor:
        return self.std * clean.abs().clamp(min=self.floor)


@dataclass(frozen=True)
class Laplace:
    """y = clean + noise of density exp(-|r| / scale) / (2 scale) for each entry: double exponential noise.

    Its standard deviation is sqrt(2) scale. slope is sign(y - clean) / scale, and 0 at y = clean.

    scale: > 0, in the units of y. Raises InputError for anything else.
    """

    scale: float

    def __post_init__(self) -> None:
        positive("scale", self.scale)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape)."""
        first, second = uniform((2, *clean.shape), generator).log().unbind()  # minus two exponential variables
        return clean + (self.scale * (second - first)).to(dtype=clean.dtype, device=clean.device)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,)."""
        return total(-(paired(y, clean) - clean).abs() / self.scale - math.log(2 * self.scale))

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """Derivative of log_prob by clean, of its shape (B, *y_shape)."""
        return (paired(y, clean) - clean).sign() / self.scale

    def gaussian(self, y: Tensor, clean: Tensor | None = None) -> tuple[Tensor, Gaussian]:
        """The data and the Gaussian law of the same variance, 2 scale^2."""
        return y, Gaussian(math.sqrt(2) * self.scale)

    def check(self, y: Tensor) -> None:
        """InputError unless y is finite."""
        check_entries(y, y.isfinite(), FINITE)


@dataclass(frozen=True)
class StudentT:
    """y = clean + scale t, t of Student's law with df degrees of freedom for each entry: noise with outliers.

    The density of an entry is that of t, Gamma((df + 1) / 2) / (Gamma(df / 2) sqrt(pi df) scale)
    (1 + r^2 / (df scale^2))^(-(df + 1) / 2), r = y - clean. Its variance, df scale^2 / (df - 2), is finite for df > 2.

    df: > 0; scale: > 0, in the units of y. Raises InputError for anything else.
    """

    df: float
    scale: float

    def __post_init__(self) -> None:
        positive("df", self.df)
        positive("scale", self.scale)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape)."""
        t = torch.from_numpy(stdtrit(self.df, uniform(tuple(clean.shape), generator).numpy()))
        return clean + (self.scale * t).to(dtype=clean.dtype, device=clean.device)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,)."""
        return total(_log_student(_halves(paired(y, clean) - clean), 1, self.df / 2, self.df / 2 * self.scale**2))

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """(df + 1) r / (df scale^2 + r^2), the derivative of log_prob by clean (B, *y_shape)."""
        residual = paired(y, clean) - clean
        return (self.df + 1) * residual / (self.df * self.scale**2 + residual.square())

    def gaussian(self, y: Tensor, clean: Tensor | None = None) -> tuple[Tensor, Gaussian]:
        """The data and the Gaussian law with the same slope near clean, its variance (df scale^2 + r^2) / (df + 1).

        Without clean the variance is scale^2, that of the middle.
        """
        if clean is None:
            return y, Gaussian(self.scale)
        residual = paired(y, clean) - clean
        return y, Gaussian(((self.df * self.scale**2 + residual.square()) / (self.df + 1)).sqrt())

    def check(self, y: Tensor) -> None:
        """InputError unless y is finite."""
        check_entries(y, y.isfinite(), FINITE)


@dataclass(frozen=True)
class UnknownNoise:
    """y = clean + sigma eps, eps ~ N(0, 1) for each entry, sigma unknown: it is integrated out, or drawn with x.

    sigma^2 ~ InverseGamma(shape, rate), of density rate^shape / Gamma(shape) s^(-shape - 1) exp(-rate / s), is shared
    by all k entries of a row. log_prob is the exact marginal, a multivariate t: p(y given clean) =
    rate^shape Gamma(shape + k/2) / Gamma(shape) (2 pi)^(-k/2) (rate + |r|^2 / 2)^(-shape - k/2), r = y - clean.

    A guess sigma_0 of the level, worth n entries of data, is shape = n / 2, rate = n sigma_0^2 / 2.

    shape: > 0 (draws of sigma may overflow below 0.05); rate: > 0, in the squared units of y. Raises InputError for
    anything else.

    Source: Gelman et al., "Bayesian Data Analysis", 2013, sections 3.2 and 14.2.
    """

    shape: float
    rate: float

    def __post_init__(self) -> None:
        positive("shape", self.shape)
        positive("rate", self.rate)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape), each row with a level of its own."""
        level = _inverse_gamma(self.shape, torch.full((len(clean),), self.rate, dtype=torch.float64), generator).sqrt()
        return clean + _column(level, clean).to(dtype=clean.dtype, device=clean.device) * normal(clean, generator)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,), the level of noise integrated out."""
        residual = flat(paired(y, clean) - clean)
        return _log_student(_halves(residual).sum(1), residual.shape[1], self.shape, self.rate)

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """(shape + k/2) r / (rate + |r|^2 / 2), the derivative of log_prob by clean (B, *y_shape)."""
        residual = paired(y, clean) - clean
        shape, rate = self._given(residual)
        return shape * residual / _column(rate, residual)

    def draw_level(self, y: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        """sigma (B,) given y and clean: sigma^2 ~ InverseGamma(shape + k/2, rate + |r|^2 / 2), exactly."""
        shape, rate = self._given(paired(y, clean) - clean)
        return _inverse_gamma(shape, rate, generator).sqrt().to(clean.dtype)

    def gaussian(self, y: Tensor, clean: Tensor | None = None) -> tuple[Tensor, Gaussian]:
        """The data and the Gaussian law with the same slope near clean.

        Its variance is (rate + |r|^2 / 2) / (shape + k / 2) for k entries. Without clean it is the most probable one,
        rate / (shape + 1).
        """
        if clean is None:
            return y, Gaussian(math.sqrt(self.rate / (self.shape + 1)))
        residual = paired(y, clean) - clean
        shape, rate = self._given(residual)
        return y, Gaussian(_column((rate / shape).sqrt(), residual).expand_as(residual))

    def check(self, y: Tensor) -> None:
        """InputError unless y is finite."""
        check_entries(y, y.isfinite(), FINITE)

    def _given(self, residual: Tensor) -> tuple[float, Tensor]:
        """Shape and rate (B,) of sigma^2 given the residuals (B, *y_shape)."""
        rows = flat(residual)
        return self.shape + rows.shape[1] / 2, self.rate + _halves(rows).sum(1)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to be multiplied with like (B, *y_shape)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _halves(residual: Tensor) -> Tensor:
    return 0.5 * residual.square()


def _log_student(halves: Tensor, entries: int, shape: float, rate: float) -> Tensor:
    """log of the integral of N(r; 0, s I) InverseGamma(s; shape, rate) over s, halves = |r|^2 / 2 of `entries` each."""
    constant = math.lgamma(shape + entries / 2) - math.lgamma(shape) - entries / 2 * math.log(2 * math.pi * rate)
    return constant - (shape + entries / 2) * torch.log1p(halves / rate)


def _inverse_gamma(shape: float, rate: Tensor, generator: torch.Generator) -> Tensor:
    """One draw for each rate (B,), in float64 on its device, by inversion."""
    gamma = torch.from_numpy(gammaincinv(shape, uniform((len(rate),), generator).numpy()))
    return rate.to(torch.float64) / gamma.to(rate.device)
