"""Gaussian processes: against dense algebra written out, a distribution of torch, and sampling."""

import math

import numpy as np
import pytest
import torch

import fokker
from exact import limit, moment_z
from fokker.errors import InputError
from fokker.reference.gaussian_process import GaussianProcess


def kernel(a, b):
    return 1.5 * torch.exp(-0.5 * torch.cdist(a, b) ** 2 / 0.2**2)


def points(count, dimension, seed):
    return torch.from_numpy(np.random.default_rng(seed).uniform(size=(count, dimension)))


FIELDS = {f"cosine_{d}": (fokker.CosineField(d, modes=m, alpha=2.0, tau=2.0), d) for d, m in ((1, 20), (2, 8))}
CASES = {"kernel_1": (kernel, 1), "kernel_3": (kernel, 3), **FIELDS}
every = pytest.mark.parametrize("name", CASES)


def setting(name, noise=0.3):
    law, d = CASES[name]
    process, where, query = GaussianProcess(law), points(7, d, 1), points(5, d, 2)
    k = {
        (i, j): process.covariance(a, b)
        for i, a in (("x", where), ("q", query))
        for j, b in (("x", where), ("q", query))
    }
    y = torch.from_numpy(np.random.default_rng(3).standard_normal((4, 7)))
    return process, where, query, k, y, noise


@every
def test_posterior_is_conditioning_of_the_joint_gaussian(name):
    process, where, query, k, y, noise = setting(name)
    error = torch.diag(torch.linspace(0.1, 0.5, 7, dtype=torch.float64)) + 0.02
    for given, r in ((noise, noise**2 * torch.eye(7, dtype=torch.float64)), (error, error)):
        posterior = process.posterior(where, given)
        inverse = torch.linalg.inv(k["x", "x"] + r)
        torch.testing.assert_close(posterior.mean(y, query), y @ inverse @ k["x", "q"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(posterior.mean(y[0], query), posterior.mean(y, query)[0])
        covariance = k["q", "q"] - k["q", "x"] @ inverse @ k["x", "q"]
        torch.testing.assert_close(posterior.covariance(query), covariance, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(posterior.std(query), covariance.diagonal().sqrt(), rtol=1e-6, atol=1e-9)
        evidence = torch.distributions.MultivariateNormal(torch.zeros(7, dtype=torch.float64), k["x", "x"] + r)
        torch.testing.assert_close(posterior.log_evidence(y), evidence.log_prob(y))


@every
def test_denoiser_is_the_mean_given_the_noised_function(name):
    """Written out; jointly with observations, and with those alone where the noise is large."""
    process, context, query, k, _, _ = setting(name)
    noise, rho, std = fokker.CosineField(CASES[name][1], modes=12, alpha=2.0), 0.7, 0.2
    g = GaussianProcess(noise)
    c = g.covariance(context)
    z = process.draw(context, 3, seed=4) + rho * g.draw(context, 3, seed=5)
    expected = z @ torch.linalg.solve(k["x", "x"] + rho**2 * c, k["x", "q"])
    found = process.denoise(z, rho, context, query, c)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(process.denoise(z, rho, context, query, g), found)
    seen = points(4, CASES[name][1], 6)
    y = process.draw(seen, 1, seed=7)[0]
    both = torch.cat([context, seen])
    total = process.covariance(both) + torch.block_diag(rho**2 * c, std**2 * torch.eye(4, dtype=torch.float64))
    data = torch.cat([z, y.expand(3, -1)], 1)
    joint = process.denoise(z, rho, context, query, c, points=seen, y=y, std=std)
    torch.testing.assert_close(joint, data @ torch.linalg.solve(total, process.covariance(both, query)))
    far = process.denoise(z, 1e6, context, query, c, points=seen, y=y, std=std)
    torch.testing.assert_close(far, process.posterior(seen, std).mean(y, query).expand(3, -1), rtol=0, atol=1e-5)


@every
def test_draws_have_the_covariance(name):
    process, where, query, _, y, noise = setting(name)
    n = 20_000
    pair, count = where[:2], limit(2 * 5)
    x = process.draw(pair, n, seed=8)
    law = process.covariance(pair)
    assert float(moment_z(x, torch.zeros(2, dtype=torch.float64), law).abs().max()) < count
    assert float(moment_z(x, torch.zeros(2, dtype=torch.float64), 1.1 * law).abs().max()) > count  # control
    posterior = process.posterior(where, noise)
    samples = posterior.sample(y, query[:2], n, seed=9)
    assert samples.shape == (4, n, 2)
    law = posterior.covariance(query[:2])
    assert float(moment_z(samples[1], posterior.mean(y[1], query[:2]), law).abs().max()) < count
    assert float(moment_z(samples[1], posterior.mean(y[0], query[:2]), law).abs().max()) > count  # control
    torch.testing.assert_close(posterior.sample(y, query[:2], 3, seed=9), samples[:, :3], rtol=0, atol=1e-12)


def test_a_linear_function_has_the_expected_slope():
    """k(a, b) = a b: y = slope x, a posterior in one number by hand."""
    process = GaussianProcess(lambda a, b: a @ b.T)
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 3.0])
    slope = (1 * 1 + 2 * 3) / (1 + 4 + 0.25)
    assert math.isclose(float(process.posterior(x, 0.5).mean(y, [[3.0]])), 3 * slope, rel_tol=1e-12)


@every
def test_no_observation_gives_the_prior(name):
    process, where, query, k, _, _ = setting(name)
    d = where.shape[1]
    posterior = process.posterior(torch.zeros(0, d), 0.3)
    none = torch.zeros(2, 0)
    assert not posterior.mean(none, query).any() and posterior.mean(none, query).shape == (2, 5)
    torch.testing.assert_close(posterior.covariance(query), k["q", "q"])
    assert not posterior.log_evidence(none).any() and posterior.sample(none, query, 3).shape == (2, 3, 5)
    z = process.draw(where, 2)
    empty = process.denoise(z, 0.5, where, query, torch.eye(7), points=torch.zeros(0, d), y=torch.zeros(0))
    torch.testing.assert_close(empty, process.denoise(z, 0.5, where, query, torch.eye(7)))


@every
def test_a_point_seen_twice_is_a_point_seen_better(name):
    process, where, query, _, y, noise = setting(name)
    twice = process.posterior(torch.cat([where, where]), noise * 2**0.5)
    once = process.posterior(where, noise)
    mean = twice.mean(torch.cat([y + 0.1, y - 0.1], 1), query)
    torch.testing.assert_close(mean, once.mean(y, query), rtol=1e-8, atol=1e-9)
    with pytest.raises(InputError, match=r"points: got 14 whose values follow from each other") as caught:
        process.posterior(torch.cat([where, where]))
    assert "\n" not in str(caught.value)
    assert float((process.posterior(where).mean(y, where) - y).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, x: GaussianProcess(3.0), "kernel: got float, a function of two sets of points"),
        (lambda p, x: p.posterior(x, -0.1), "noise: got -0.1, a standard deviation"),
        (lambda p, x: p.posterior(x, torch.eye(3)), r"noise: got shape \(3, 3\), a number or a symmetric matrix"),
        (lambda p, x: p.posterior(x[:, 0], 0.1), r"points: got shape \(7,\), finite points"),
        (lambda p, x: p.posterior(x, 0.1).mean(torch.zeros(7), x[:, :1]), "points: got dimensions 2 and 1"),
        (lambda p, x: p.posterior(x, 0.1).mean(torch.zeros(6), x), r"y: got shape \(6,\), \(..., 7\)"),
        (lambda p, x: p.posterior(x, 0.1).mean(torch.full((7,), torch.nan), x), "y: got NaN"),
        (lambda p, x: p.denoise(torch.zeros(7), -1.0, x, x, torch.eye(7)), "rho: got -1.0, a number from 0"),
        (lambda p, x: p.denoise(torch.zeros(7), 1.0, x, x, torch.eye(7), points=x), "y: got none, the values"),
        (
            lambda p, x: p.denoise(torch.zeros(7), 0.0, torch.cat([x[:6], x[:1]]), x, torch.eye(7)),
            "points: got 7 whose",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make(GaussianProcess(kernel), points(7, 2, 1))
    assert "\n" not in str(caught.value)
