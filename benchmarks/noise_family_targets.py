"""Exact targets of noise_family.py: mixtures and three conditional densities, of mean 0 and variance 1.

Their denoisers are closed forms or quadratures exact to single precision. Also their exact quantiles, and the noise
that makes one-dimensional chains almost free of Monte-Carlo error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from fokker import MixtureScore, VariancePreserving
from fokker.noise import White
from fokker.problems.densities import DENSITIES
from fokker.rng import Key
from fokker.score import RHO_RANGE, Denoiser
from fokker.states import Cond, Moments

BLOCK = 1024  # particles that share the stratification of their noise
LEGENDRE = {k: np.polynomial.legendre.leggauss(k) for k in (40, 64, 200)}


@dataclass(frozen=True)
class Stratified:
    """White noise for states (B, 1) whose averages over a block hardly vary (array-RQMC, L'Ecuyer et al. 2008).

    In a block the row of rank i gets the normal quantile of the fractional part of i golden + U, U uniform and the
    block's own: each row's noise is N(0, 1), and rows that are close to each other get noise that is spread evenly.
    """

    white = True

    def sample(self, like: Tensor, key: Key, points: Tensor | None = None) -> Tensor:
        """One draw for each row."""
        first = replace(key, rows=key.rows[::BLOCK])
        shift = torch.special.ndtr(first.normal((1,)).double())
        u = (torch.arange(BLOCK, dtype=torch.float64) * ((math.sqrt(5) - 1) / 2) + shift) % 1
        order = like.reshape(-1, BLOCK).argsort(1)
        spread = torch.zeros_like(u).scatter(1, order, u)  # back from the order of size to that of the rows
        return torch.special.ndtri(spread.clamp(1e-12, 1 - 1e-12)).reshape(like.shape).to(like)


class Line(Denoiser):
    """Exact denoiser of x given y for one of the three densities, x standardised by its mean and deviation."""

    def __init__(self, name: str, y: float):
        self.name, self.y, self.process = name, y, VariancePreserving(noise=Stratified())
        self.support = DENSITIES[name].support(y)
        x = quantiles(self.cdf, self.support, 2**12)
        self.shift, self.width = x.mean(), x.std()
        self.dtype, self.device, self.data_std, self.rho_range = torch.float32, torch.device("cpu"), 1.0, RHO_RANGE
        self.moments = Moments(torch.zeros(1), torch.ones(1))

    def cdf(self, x: NDArray) -> NDArray:
        """F(x given y), not standardised."""
        return DENSITIES[self.name].cdf(x, self.y)

    def denoised(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        """E[x_0 | z], in standardised coordinates; some rows at a time, which then stay in the cache."""
        mean = {"tanh": self._tanh, "bimodal": self._bimodal, "spiral": self._spiral}[self.name]
        level = self.width * float(rho)
        rows = [(mean(self.shift + self.width * v, level) - self.shift) / self.width for v in z.split(BLOCK)]
        return torch.cat(rows).to(z)

    def _tanh(self, z: Tensor, rho: float) -> Tensor:
        """The mean of a normal cut off below tanh y; erfcx avoids the cancellation far out."""
        mean = z.double() - rho**2 / 0.3
        cut = (math.tanh(self.y) - mean) / rho
        return mean + rho * math.sqrt(2 / math.pi) / torch.special.erfcx(cut / math.sqrt(2))

    def _bimodal(self, z: Tensor, rho: float) -> Tensor:
        """Gauss-Legendre over x where 3 x^2 phi(x^3 - y) N(z; x, rho^2) is not negligible."""
        low, high = self.support
        local = 14 * rho < high - low
        half = 7 * rho if local else (high - low) / 2
        nodes, weights = (torch.from_numpy(v).to(z) for v in LEGENDRE[40 if local else 64])
        x = ((z - half).clamp(low, high - 2 * half) if local else low) + half * (nodes + 1)
        log = 2 * x.abs().log() - (x**3 - self.y) ** 2 / 2 - ((z - x) / rho) ** 2 / 2
        w = weights * (log - log.amax(1, keepdim=True)).exp()
        return (w * x).sum(1, keepdim=True) / w.sum(1, keepdim=True)

    def _spiral(self, z: Tensor, rho: float) -> Tensor:
        """Gauss-Legendre over the angle: a mixture of Gaussians of variance 0.01 in x, as exact as that in y."""
        nodes, weights = (torch.from_numpy(v) for v in LEGENDRE[200])
        t = 1.5 * math.pi * (2 + nodes)
        log = weights.log() - 50 * (self.y - 0.1 * t * t.cos()) ** 2
        kept = log > log.max() - 20
        a, variance = (0.1 * t * t.sin())[kept].to(z), 0.01 + rho**2
        w = (log[kept].to(z) - (z - a) ** 2 / (2 * variance)).softmax(1)
        return (w @ a[:, None] * rho**2 + 0.01 * z) / variance


def standardised(weights: NDArray, means: NDArray, covariances: NDArray) -> MixtureScore:
    """The mixture after shift and scaling of every coordinate to mean 0 and variance 1."""
    weights = weights / weights.sum()
    mean = weights @ means
    second = np.einsum("k,kii->i", weights, covariances) + weights @ (means - mean) ** 2
    scale = np.sqrt(second)
    given = (weights, (means - mean) / scale, covariances / np.outer(scale, scale))
    noise = Stratified() if means.shape[1] == 1 else White()
    return MixtureScore(VariancePreserving(noise=noise), *(torch.tensor(v, dtype=torch.float32) for v in given))


def eight() -> MixtureScore:
    """Three components in eight dimensions, standard deviations 0.1 to 1 along random axes, centres 1.5 apart or so."""
    rng = np.random.default_rng(8)
    axes = np.linalg.qr(rng.standard_normal((3, 8, 8)))[0]
    spread = np.exp(rng.uniform(np.log(0.1), 0, (3, 8)))
    return standardised(
        np.ones(3), 1.5 * rng.standard_normal((3, 8)), np.einsum("kij,kj,klj->kil", axes, spread**2, axes)
    )


def plane() -> MixtureScore:
    """Three components in two dimensions."""
    means = np.array([[-1.5, 0.0], [1.0, 1.2], [1.2, -1.5]])
    covariances = np.array([[[0.2, 0.05], [0.05, 0.3]], [[0.1, -0.05], [-0.05, 0.15]], [[0.25, 0.0], [0.0, 0.08]]])
    return standardised(np.array([0.5, 0.3, 0.2]), means, covariances / 4)


def line(weights: list[float], means: list[float], stds: list[float]) -> MixtureScore:
    """Components on the line."""
    return standardised(np.array(weights), np.array(means)[:, None], np.array(stds)[:, None, None] ** 2)


TARGETS: dict[str, Callable[[], Denoiser]] = {
    "Gaussian": lambda: line([1], [0], [1]),
    "two modes": lambda: line([0.3, 0.7], [-1, 1], [0.1, 0.1]),
    "unequal scales": lambda: line([0.3, 0.3, 0.4], [-1, 0.2, 1.5], [0.02, 0.15, 0.6]),
    "tanh": lambda: Line("tanh", 0.5),
    "bimodal": lambda: Line("bimodal", 0.3),
    "spiral": lambda: Line("spiral", 0.8),
    "2-D mixture": plane,
    "8-D mixture": eight,
}


LINES = ("two modes", "unequal scales", "tanh", "bimodal", "spiral")  # over which means are taken


def quantiles(cdf: Callable[[NDArray], NDArray], support: tuple[float, float], count: int) -> NDArray:
    """The quantiles at (i + 1/2) / count, by bisection."""
    u = (np.arange(count) + 0.5) / count
    low, high = (np.full(count, v) for v in support)
    for _ in range(36):
        middle = (low + high) / 2
        below = cdf(middle) < u
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def projected(model: Denoiser, directions: NDArray, count: int) -> NDArray:
    """Exact quantiles of the target along unit directions (k, d): (k, count)."""
    if isinstance(model, Line):
        return (quantiles(model.cdf, model.support, count)[None] - model.shift) / model.width
    w, mu, c = (v.double().numpy() for v in (model.weights, model.means, model.covariances))
    out = []
    for v in directions:
        mean, std = mu @ v, np.sqrt(np.einsum("i,kij,j->k", v, c, v))
        out.append(quantiles(lambda x, m=mean, s=std: ndtr((x[:, None] - m) / s) @ w, (-12.0, 12.0), count))
    return np.array(out)
