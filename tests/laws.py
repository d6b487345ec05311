"""The list of likelihoods that drives their tests, each with what scipy says of it.

`build(scale)` is a law for rows of three entries whose noise is `scale` times as wide, `density` the log density of
each row, `uniforms` the conditional distribution function of each entry given those before it: uniform in (0, 1) and
independent where y is drawn from the law (Rosenblatt 1952; at atoms a uniform v is laid between the two values).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

import fokker

R = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.4, -0.1], [0.0, -0.1, 0.3]], dtype=torch.float64)
STDS = torch.tensor([0.2, 0.5, 1.1], dtype=torch.float64)
BACKGROUND = np.array([0.5, 2.0, 0.0])
SHAPE, RATE = 2.5, 0.6
LEVEL = 1.5


@dataclass
class Law:
    build: Callable
    density: Callable
    uniforms: Callable
    discrete: bool = False


def entries(law, build, discrete=False, atom=None):
    """A law whose entries are independent: law(clean) is frozen in scipy, `atom` a level at which it is cut."""

    def density(y, clean):
        each = law(clean).logpmf(y) if discrete else law(clean).logpdf(y)
        return np.where(y == atom, law(clean).logsf(y), each).sum(1) if atom else each.sum(1)

    def uniforms(y, clean, v):
        if atom:
            below = law(clean).cdf(y)
            return np.where(y == atom, below + v * (1 - below), below)
        return law(clean).cdf(y - 1) + v * law(clean).pmf(y) if discrete else law(clean).cdf(y)

    return Law(build, density, uniforms, discrete)


def full_uniforms(y, clean, v):
    return stats.norm.cdf(np.linalg.solve(np.linalg.cholesky(R.numpy()), (y - clean).T).T)


def shared_density(y, clean):
    return stats.multivariate_t(np.zeros(3), RATE / SHAPE * np.eye(3), 2 * SHAPE).logpdf(y - clean)


def shared_uniforms(y, clean, v):
    """The entry j of a multivariate t given those before it is a t with j more degrees of freedom."""
    out, shape, rate = np.empty_like(y), SHAPE, np.full(len(y), RATE)
    for j, r in enumerate((y - clean).T):
        out[:, j] = stats.t(2 * shape, scale=np.sqrt(rate / shape)).cdf(r)
        shape, rate = shape + 0.5, rate + r**2 / 2
    return out


def logistic(y, clean):
    """log density of logistic noise of scale 0.3, as a user would write it."""
    z = (y - clean) / 0.3
    return (-z - 2 * torch.nn.functional.softplus(-z) - np.log(0.3)).flatten(1).sum(1)


def draw_logistic(scale):
    def draw(clean, generator):
        u = torch.rand(clean.shape, generator=generator, dtype=torch.float64)
        return clean + (0.3 * scale * torch.logit(u)).to(clean)

    return draw


LAWS = {
    "gaussian": entries(lambda c: stats.norm(c, 0.3), lambda s: fokker.Gaussian(0.3 * s)),
    "diagonal": entries(lambda c: stats.norm(c, STDS.numpy()), lambda s: fokker.Gaussian(STDS * s)),
    "full": Law(
        lambda s: fokker.Gaussian(covariance=R * s**2),
        lambda y, c: stats.multivariate_normal(np.zeros(3), R.numpy()).logpdf(y - c),
        full_uniforms,
    ),
    "log_normal": entries(lambda c: stats.lognorm(0.4, scale=c), lambda s: fokker.LogNormal(0.4 * s)),
    "saturating": entries(lambda c: stats.norm(c, 0.4), lambda s: fokker.Saturating(0.4 * s, LEVEL), atom=LEVEL),
    "poisson": entries(lambda c: stats.poisson(c * 3 + BACKGROUND), lambda s: fokker.Poisson(3 * s, BACKGROUND), True),
    "multiplicative": entries(lambda c: stats.norm(c, 0.2 * np.abs(c)), lambda s: fokker.Multiplicative(0.2 * s)),
    "laplace": entries(lambda c: stats.laplace(c, 0.3), lambda s: fokker.Laplace(0.3 * s)),
    "student": entries(lambda c: stats.t(3.5, c, 0.3), lambda s: fokker.StudentT(3.5, 0.3 * s)),
    "unknown": Law(lambda s: fokker.UnknownNoise(SHAPE, RATE * s**2), shared_density, shared_uniforms),
    "own": entries(lambda c: stats.logistic(c, 0.3), lambda s: fokker.LogDensity(logistic, draw_logistic(s))),
}


def data(law, rows=20, seed=2):
    """y and clean (rows, 3) in float64, the clean values in (0.1, 2.1)."""
    generator = torch.Generator().manual_seed(seed)
    clean = 0.1 + 2 * torch.rand(rows, 3, generator=generator, dtype=torch.float64)
    return law.sample(clean, generator), clean
