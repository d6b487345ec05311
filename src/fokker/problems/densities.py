"""Three conditional densities p(x given y) of one variable each, known exactly: to see what a method gets wrong.

    tanh     y ~ U(-2, 2),                 x = tanh y + Gamma(shape 1, scale 0.3): a sharp edge
    bimodal  y, w ~ N(0, 1),               x = cbrt(y + w): two modes
    spiral   t ~ U(3 pi/2, 9 pi/2),        x = 0.1 t sin t + 0.1 w, y = 0.1 t cos t + 0.1 v: one to four modes

Source: Ray et al. 2023; Dasgupta et al. 2025 (arXiv 2504.07437), section 6. Neither says at which y its figures and
tables were made: `y_values` are our choice.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from fokker.errors import InputError
from fokker.posterior.recipes import DEFAULT, PUBLISHED

# One number given one number: a small network, which the conditions modulate.
DENSITY = replace(
    DEFAULT,
    network={
        "kind": "conditional_mlp", "width": 64, "depth": 3, "trunk_width": 32, "trunk_depth": 2,
        "modulate": True, "level_width": 16,
    },
    # The length is right for 10,000 pairs: 500 held out are too few to choose among the weights on the way.
    training=replace(DEFAULT.training, steps=2300, batch_size=256, learning_rate=5e-3, patience=0, keep_best=False),
    level_mean=-1.2,
    steps=16,
)  # fmt: skip
DENSITY_PUBLISHED = replace(PUBLISHED, coordinates="none")
SIGMA_MAX = 12.0  # of the published variance exploding process

SCALE = 0.3  # of tanh's Gamma variable
WIDTH = 0.1  # of the spiral's noise, in x and in y
_TAIL = 9.0  # standard deviations that hold all mass but 2e-19
_ROWS = 4096  # values at a time where each needs a sum over angles


class Density(ABC):
    """p(x, y) = p(y) p(x given y). x and y of `pdf` and `cdf` broadcast; everything is float64."""

    name: ClassVar[str]
    y_values: ClassVar[tuple[float, ...]]
    x_range: ClassVar[tuple[float, float]]
    """What figures show of x."""
    y_range: ClassVar[tuple[float, float]]
    """What figures show of y."""

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        """n independent pairs x (n, 1), y (n, 1)."""

    @abstractmethod
    def pdf(self, x: ArrayLike, y: ArrayLike) -> NDArray:
        """p(x given y)."""

    @abstractmethod
    def cdf(self, x: ArrayLike, y: ArrayLike) -> NDArray:
        """F(x given y) = P(X <= x given y)."""

    @abstractmethod
    def marginal(self, y: ArrayLike) -> NDArray:
        """p(y)."""

    @abstractmethod
    def conditional(self, y: ArrayLike, rng: np.random.Generator) -> NDArray:
        """One independent exact draw of x for every entry of y, in the shape of y."""

    @abstractmethod
    def support(self, y: float) -> tuple[float, float]:
        """An interval that holds all of p(x given y) but less than 1e-15; the density is smooth inside."""


class Tanh(Density):
    """p(x given y) = exp(-(x - tanh y)/s)/s for x >= tanh y, s = 0.3."""

    name = "tanh"
    y_values = (-1.2, -0.5, 0.5, 1.2)
    x_range, y_range = (-1.2, 2.2), (-2.2, 2.2)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        """y uniform, x given y."""
        y = rng.uniform(-2, 2, (n, 1))
        return self.conditional(y, rng), y

    def pdf(self, x: ArrayLike, y: ArrayLike) -> NDArray:
        """Zero below tanh y."""
        above = (np.asarray(x, np.float64) - np.tanh(y)) / SCALE
        return np.where(above >= 0, np.exp(-np.maximum(above, 0)) / SCALE, 0.0)

    def cdf(self, x: ArrayLike, y: ArrayLike) -> NDArray:
        """1 - exp(-(x - tanh y)/s)."""
        return -np.expm1(-np.maximum(np.asarray(x, np.float64) - np.tanh(y), 0) / SCALE)

    def marginal(self, y: ArrayLike) -> NDArray:
        """1/4 from -2 to 2."""
        return np.where(np.abs(np.asarray(y, np.float64)) <= 2, 0.25, 0.0)

    def conditional(self, y: ArrayLike, rng: np.random.Generator) -> NDArray:
        """tanh y plus an exponential variable."""
        y = np.asarray(y, np.float64)
        return np.tanh(y) + rng.exponential(SCALE, y.shape)

    def support(self, y: float) -> tuple[float, float]:
        """From the edge on."""
        return math.tanh(y), math.tanh(y) + 36 * SCALE


class Bimodal(Density):
    """p(x given y) = 3 x^2 phi(x^3 - y), phi the standard normal density."""

    name = "bimodal"
    y_values = (-1.0, -0.3, 0.3, 1.0)
    x_range, y_range = (-1.7, 1.7), (-3.0, 3.0)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        """y normal, x given y."""
        y = rng.standard_normal((n, 1))
        return self.conditional(y, rng), y

    def pdf(self, x: ArrayLike, y: ArrayLike) -> NDArray:
        """Zero at x = 0."""
        x = np.asarray(x, np.float64)
        return 3 * x**2 * _phi(x**3 - np.asarray(y, np.float64))

    def cdf(self, x: ArrayLike, y: ArrayLike) -> NDArray:
        """Phi(x^3 - y)."""
        return ndtr(np.asarray(x, np.float64) ** 3 - np.asarray(y, np.float64))

    def marginal(self, y: ArrayLike) -> NDArray:
        """phi(y)."""
        return _phi(np.asarray(y, np.float64))

    def conditional(self, y: ArrayLike, rng: np.random.Generator) -> NDArray:
        """The cube root of a normal variable around y."""
        y = np.asarray(y, np.float64)
        return np.cbrt(y + rng.standard_normal(y.shape))

    def support(self, y: float) -> tuple[float, float]:
        """The cube roots of the normal's."""
        return float(np.cbrt(y - _TAIL)), float(np.cbrt(y + _TAIL))


class Spiral(Density):
    """p(x given y) = int N(x; a(t), w^2) N(y; b(t), w^2) dt / int N(y; b(t), w^2) dt, a, b = 0.1 t (sin t, cos t).

    Gauss-Legendre quadrature over t turns both integrals into sums, so p(x given y) is a mixture of Gaussians in x
    with positive weights, equal to the integral to rounding; density, distribution function and draws are all its own.
    """

    name = "spiral"
    y_values = (-0.8, -0.3, 0.3, 0.8)
    x_range, y_range = (-1.6, 1.9), (-1.3, 1.7)
    nodes: ClassVar[int] = 300
    angles: ClassVar[tuple[float, float]] = (1.5 * math.pi, 4.5 * math.pi)

    @cached_property
    def _rule(self) -> tuple[NDArray, NDArray, NDArray]:
        """a, b and log weights at the nodes; the weights sum to 1."""
        z, weight = np.polynomial.legendre.leggauss(self.nodes)
        t = self.angles[0] + (self.angles[1] - self.angles[0]) * (z + 1) / 2
        return 0.1 * t * np.sin(t), 0.1 * t * np.cos(t), np.log(weight / 2)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        """The angle uniform, then both coordinates."""
        t = rng.uniform(*self.angles, (n, 1))
        noise = WIDTH * rng.standard_normal((2, n, 1))
        return 0.1 * t * np.sin(t) + noise[0], 0.1 * t * np.cos(t) + noise[1]

    def _weights(self, y: NDArray) -> NDArray:
        """Of the Gaussians in x: (*shape of y, nodes), summing to 1 however far y is out."""
        _, b, log_weight = self._rule
        log_w = log_weight - 0.5 * ((y[..., None] - b) / WIDTH) ** 2
        w = np.exp(log_w - log_w.max(-1, keepdims=True))
        return w / w.sum(-1, keepdims=True)

    def pdf(self, x: ArrayLike, y: ArrayLike) -> NDArray:
        """The mixture's density."""
        return self._mixed(x, y, lambda z: _phi(z) / WIDTH)

    def cdf(self, x: ArrayLike, y: ArrayLike) -> NDArray:
        """The mixture's distribution function."""
        return self._mixed(x, y, ndtr)

    def _mixed(self, x: ArrayLike, y: ArrayLike, value: Callable[[NDArray], NDArray]) -> NDArray:
        """sum_k w_k(y) value((x - a_k)/w), some rows at a time."""
        a = self._rule[0]
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        shape = np.broadcast_shapes(x.shape, y.shape)
        flat = np.broadcast_to(x, shape).reshape(-1)
        if y.size == 1:  # one mixture for all x: what weighs nothing is left out
            weights = self._weights(y.reshape(1))
            kept = weights[0] > 1e-18
            a, weights = a[kept], np.broadcast_to(weights[:, kept], (flat.size, kept.sum()))
        else:
            weights = self._weights(np.broadcast_to(y, shape).reshape(-1))
        out = np.empty(flat.size)
        for first in range(0, flat.size, _ROWS):
            part = slice(first, first + _ROWS)
            out[part] = np.einsum("nk,nk->n", value((flat[part, None] - a) / WIDTH), weights[part])
        return out.reshape(shape)

    def marginal(self, y: ArrayLike) -> NDArray:
        """int N(y; b(t), w^2) dt over the range of t."""
        _, b, log_weight = self._rule
        return _phi((np.asarray(y, np.float64)[..., None] - b) / WIDTH) @ np.exp(log_weight) / WIDTH

    def conditional(self, y: ArrayLike, rng: np.random.Generator) -> NDArray:
        """A component of the mixture, then its Gaussian."""
        y = np.asarray(y, np.float64)
        below = self._weights(y).cumsum(-1)
        u = rng.random(y.shape) * below[..., -1]  # the sum is 1 to rounding only
        which = (below <= u[..., None]).sum(-1)
        return self._rule[0][which] + WIDTH * rng.standard_normal(y.shape)

    def support(self, y: float) -> tuple[float, float]:
        """All Gaussians of the mixture, for any y."""
        a = self._rule[0]
        return float(a.min() - _TAIL * WIDTH), float(a.max() + _TAIL * WIDTH)


DENSITIES: dict[str, Density] = {density.name: density for density in (Tanh(), Bimodal(), Spiral())}


def get(name: str) -> Density:
    """The density of this name; InputError for any other."""
    if name not in DENSITIES:
        raise InputError(f"density: got {name!r}, one of {', '.join(DENSITIES)} is accepted")
    return DENSITIES[name]


def _phi(z: NDArray) -> NDArray:
    return np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
