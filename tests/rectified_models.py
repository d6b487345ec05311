"""Small models with the prior x = max(0, g), g Gaussian, and their moments by quadrature, for tests of references.

Limits are in Monte-Carlo standard errors: |z| < LIMIT is a false alarm with probability 6e-7 per number, below 1e-4
for each test (the seeds are fixed); a control must exceed FLAG.
"""

import numpy as np
from scipy.stats import norm

from fokker.reference import rectified

LIMIT, FLAG = 5.0, 8.0


def model(d, k, seed=0, length=1.5):
    """A smooth prior covariance (d, d) and a random operator (k, d)."""
    at = np.arange(d)
    covariance = np.exp(-((at[:, None] - at) ** 2) / (2 * length**2)) + 1e-4 * np.eye(d)
    return covariance, np.random.default_rng(seed).normal(size=(k, d))


def simulate(rng, cases, mean, covariance, operator, noise):
    g = mean + rng.standard_normal((cases, len(covariance))) @ np.linalg.cholesky(covariance).T
    x = np.maximum(g, 0.0)
    return x, x @ operator.T + noise * rng.standard_normal((cases, len(operator)))


def gaussian_target(mean, covariance, operator, noise, y, on=None):
    on = np.ones(y.shape, dtype=bool) if on is None else on
    return rectified._Gaussian.of(mean, covariance, operator, noise, y, on)


def assert_gradient(target, g, h=1e-5):
    """The gradient of U at g (m, C, d) by central differences, and that `local` says the same."""
    assert np.abs(g).min() > 2 * h and (g < 0).any() and (g > 0).any()
    analytic = target.gradient(g, np.empty_like(g), np.empty((2, *g.shape)))
    shift = h * np.eye(g.shape[-1])
    numeric = np.stack([target.energy(g + s) - target.energy(g - s) for s in shift], -1) / (2 * h)
    np.testing.assert_allclose(analytic, numeric, rtol=1e-5, atol=1e-5 * np.abs(analytic).max())
    x = np.maximum(g, 0.0)
    np.testing.assert_allclose(target.local(x[:, 0])[0], target.slope(x, np.empty_like(x))[:, 0], rtol=1e-9, atol=1e-9)


def distances(result, mean, second):
    """Errors of E x and E x^2, (M, 2 d), in Monte-Carlo standard errors from the smallest ESS of each case."""
    x = result.samples
    size = np.where(np.isnan(result.ess), x.shape[1], np.minimum(result.ess, x.shape[1]))[:, None]
    error = np.concatenate([x.mean(1) - mean, (x**2).mean(1) - second], axis=1)
    return error / (np.concatenate([x.std(1), (x**2).std(1)], axis=1) / np.sqrt(size))


def gaussian_log_prob(operator, noise):
    return lambda y, x: -0.5 * ((y - x @ operator.T) ** 2).sum(-1) / noise**2


def quadrature(y, mean, covariance, log_prob):
    """E x and E x^2 (M, d) on a fine grid of the latent; the midpoint rule is exact enough: 1e-4."""
    d = len(covariance)
    axis = np.arange(-7, 7, 0.02 if d == 2 else 0.0005) + mean
    g = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), -1).reshape(-1, d)
    x = np.maximum(g, 0.0)
    prior = -0.5 * ((g - mean) @ np.linalg.inv(covariance) * (g - mean)).sum(-1)
    out = []
    for case in y:
        log = prior + log_prob(case, x)
        weight = np.exp(log - log.max())
        out.append((weight @ np.concatenate([x, x**2], 1)) / weight.sum())
    return np.split(np.array(out), 2, axis=1)


def prior_moments(mean, covariance):
    """E x and E x^2 (d,) without data."""
    s = np.sqrt(np.diag(covariance))
    above, density = norm.cdf(mean / s), norm.pdf(mean / s)
    return mean * above + s * density, (mean**2 + s**2) * above + mean * s * density
