"""pCN chains, orthants of a Gaussian, and thresholded fields: three ways to one posterior."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from exact import limit
from fokker import operators as ops
from fokker.diagnostics.chains import ess
from fokker.errors import InputError
from fokker.reference.gaussian_field import GaussianField
from fokker.reference.orthant import Orthant
from fokker.reference.pcn import pcn
from fokker.reference.thresholded import ThresholdedPosterior
from test_field_references import eigenvalues

# --- Orthants


def correlated(m, seed=0):
    points = np.random.default_rng(seed).uniform(size=(m, 2))
    return np.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 0.1) + 1e-3 * np.eye(m)


def test_orthant_of_two_is_the_arcsine_law():
    for r in (-0.9, 0.0, 0.7):
        law = Orthant([[1.0, r], [r, 1.0]], [1, 1])
        found = np.exp(law.sample(1000, np.random.default_rng(0))[1])
        assert abs(found - (0.25 + np.arcsin(r) / (2 * np.pi))) < 0.005


def test_orthant_samples_and_probability():
    """Against plain rejection in 6 dimensions: means and second moments, and the probability."""
    c, signs = correlated(6), np.array([1, 1, -1, 1, -1, 1])
    rng = np.random.default_rng(1)
    plain = rng.multivariate_normal(np.zeros(6), c, 2_000_000)
    share = (np.sign(plain) == signs).all(1)
    plain = plain[share]
    samples, log_probability = Orthant(c, signs).sample(len(plain), rng)
    assert (np.sign(samples) == signs).all()
    error = np.sqrt(share.mean() / len(share))
    assert abs(np.exp(log_probability) - share.mean()) < limit(1) * error

    def z(x):
        features = [np.concatenate([v, (v[:, :, None] * v[:, None])[:, *np.triu_indices(6)]], 1) for v in (plain, x)]
        gap = features[0].mean(0) - features[1].mean(0)
        return np.abs(gap / np.sqrt(sum(f.var(0) / len(f) for f in features))).max()

    assert z(samples) < limit(27)
    assert z(1.05 * samples) > limit(27)  # control


def test_orthant_in_many_dimensions():
    """31 dimensions: marginals beyond reach of plain rejection, against Gibbs sampling."""
    m = 31
    c = correlated(m, 3)
    truth = np.linalg.cholesky(c) @ np.random.default_rng(4).standard_normal(m)
    law = Orthant(c, np.sign(truth))
    samples, log_probability = law.sample(4000, np.random.default_rng(5))
    assert law.log_bound - 3 < log_probability < law.log_bound and law.acceptance > 0.05
    precision, rng = np.linalg.inv(c), np.random.default_rng(6)
    g, sums, chains = np.tile(truth, (2000, 1)), 0.0, 2000
    for sweep in range(300):
        for i in range(m):
            sd = precision[i, i] ** -0.5
            mean = g[:, i] - g @ precision[i] / precision[i, i]
            s = np.sign(truth[i])
            u = rng.random(chains) * norm.cdf(s * mean / sd)
            g[:, i] = s * (s * mean - sd * norm.ppf(u))
        sums = sums + (g if sweep >= 150 else 0.0)
    gap = samples.mean(0) - sums.mean(0) / 150
    error = np.sqrt(samples.var(0) / len(samples) + (sums / 150).var(0) / chains)
    assert np.abs(gap / error).max() < limit(m)


@pytest.mark.parametrize(
    ("covariance", "signs", "message"),
    [
        (np.eye(2), [1, 0], r"covariance and signs: got shapes \(2, 2\) and \(2,\)"),
        (np.ones((2, 2)), [1, 1], "covariance: got a singular matrix"),
    ],
)
def test_orthant_refuses(covariance, signs, message):
    with pytest.raises(InputError, match=message):
        Orthant(covariance, signs)


# --- pCN

GRID = (4, 4)


def chain_z(samples, expected):
    """z of the mean of each entry of samples (C, D, *shape), the error taken from the effective sample size."""
    x = np.asarray(samples)
    return (x.mean((0, 1)) - expected) * np.sqrt(ess(x)) / x.std((0, 1))


def linear_case(noise=0.5):
    field = GaussianField(100 * eigenvalues(GRID))
    operator = ops.Inpainting.random(GRID, 0.25, seed=2)
    y = operator(field.draw(2, seed=3)) + torch.tensor([[0.2], [-0.3]])
    return field, operator, y, noise


def linear_chains(wrong=1.0, **settings):
    field, operator, y, noise = linear_case()

    def log_likelihood(x):
        return -0.5 * ((operator(x) - y[:, None]) ** 2).sum(-1) / (wrong * noise) ** 2

    settings = {"cases": 2, "chains": 8, "burn": 500, "draws": 1000, "thin": 6, "seed": 1} | settings
    return pcn(lambda key: field.colour(key.normal(GRID).double()), log_likelihood, **settings)


def test_pcn_on_a_linear_gaussian_is_the_exact_posterior():
    field, operator, y, noise = linear_case()
    exact, found = field.posterior(operator, noise), linear_chains()
    assert found.samples.shape == (2, 8, 1000, *GRID)
    assert (found.rhat < 1.01).all() and (found.ess > 1000).all()
    assert (np.abs(found.acceptance - 0.25) < 0.1).all() and (found.step < 1).all()

    def worst(result):
        z = []
        for case in (0, 1):
            mean, std = exact.mean(y[case]).numpy(), exact.std().numpy()
            x = result.samples[case].numpy()
            z += [chain_z(x, mean), chain_z((x - mean) ** 2, std**2)]
        return np.abs(z).max()

    count = 2 * 2 * 16
    assert worst(found) < limit(count)
    assert worst(linear_chains(wrong=1.5, thin=2)) > limit(count)  # control: a likelihood too wide
    shrunk = pcn(
        lambda key: 0.8 * field.colour(key.normal(GRID).double()),
        lambda x: -0.5 * ((operator(x) - y[:, None]) ** 2).sum(-1) / noise**2,
        cases=2, chains=8, burn=500, draws=1000, thin=2, seed=1,
    )  # fmt: skip
    assert worst(shrunk) > limit(count)  # control: proposals of another prior


def test_pcn_runs_again_and_starts_where_told():
    short = {"burn": 20, "draws": 10, "thin": 1}
    one, two = linear_chains(**short), linear_chains(**short)
    assert torch.equal(one.samples, two.samples)
    start = torch.full((2, 8, *GRID), 50.0, dtype=torch.float64)
    first = linear_chains(start=start, burn=0, draws=4, thin=1).samples[:, :, 0]
    assert float((first - start).abs().min()) < 30 and float(first.mean()) > 20
    tempered = linear_chains(burn=20, draws=10, thin=1, temper=20)
    assert not torch.equal(tempered.samples, one.samples)
    points = pcn(lambda key: key.normal((3,)), lambda x: x[..., 0], draws=5, burn=5, of=lambda x: x[..., :2])
    assert points.samples.shape == (1, 4, 5, 2)


def test_pcn_leaves_the_impossible():
    """x > 1: of probability 0.16, started anywhere; the tail's mean is phi(1) / Phi(-1)."""

    def log_likelihood(x):
        return torch.where(x[..., 0] > 1, 0.0, -torch.inf)

    found = pcn(lambda key: key.normal((1,)).double(), log_likelihood, chains=16, burn=300, draws=2000, thin=2)
    x = found.samples[0].numpy()
    assert x.min() > 1
    assert abs(chain_z(x, norm.pdf(1) / norm.sf(1))[0]) < limit(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "chains: got 0, a whole number from 1 on"),
        ({"draws": 2}, "draws: got 2, a whole number from 4 on"),
        ({"temper": 600}, "temper: got 600, a whole number from 0 to burn = 500"),
        ({"start": torch.zeros(3, 8, 4, 4)}, r"start: got shape \(3, 8, 4, 4\), \(2, 8, \*shape\)"),
        ({"wrong": float("nan")}, "log_likelihood: got NaN"),
    ],
)
def test_pcn_refuses(settings, message):
    with pytest.raises(InputError, match=message):
        linear_chains(**settings)


# --- Thresholded fields


def threshold_case(noise=0.225, shape=(8, 8)):
    field, operator = GaussianField(eigenvalues(shape)), ops.Inpainting.random(shape, 0.1, seed=4)
    a = torch.where(field.draw(1, seed=5)[0] > 0, 12.0, 3.0).double()
    y = operator(a) + noise * torch.tensor(np.random.default_rng(7).standard_normal(6))
    return field, operator, a, y, noise


def test_thresholded_posterior_against_pcn():
    field, operator, a, y, noise = threshold_case()
    law = ThresholdedPosterior(field, operator, y, noise)
    assert law.log_doubt < -500 and torch.equal(law.signs, torch.where(operator(a) > 5, 1.0, -1.0).double())
    exact = law.probability(20_000).numpy()

    def log_likelihood(x):
        return -0.5 * ((operator(law.values(x)) - y) ** 2).sum(-1) / noise**2

    found = pcn(
        lambda key: field.colour(key.normal((8, 8)).double()), log_likelihood,
        chains=16, burn=1500, draws=500, thin=25, temper=500, of=lambda x: x.float(),
    )  # fmt: skip
    assert found.rhat[0] < 1.02
    inside = (exact > 0.02) & (exact < 0.98)
    x = found.samples[0].numpy()[..., inside] > 0
    assert np.abs(chain_z(x, exact[inside])).max() < limit(inside.sum())
    prior = ThresholdedPosterior(field, operator, 15 - y, noise).probability(2000).numpy()
    assert np.abs(chain_z(x, prior[inside])).max() > limit(inside.sum())  # control: other data


def test_thresholded_samples():
    """They have the signs of the data, and the frequencies of `probability`."""
    field, operator, _, y, noise = threshold_case()
    law, n = ThresholdedPosterior(field, operator, y, noise), 4000
    g = law.sample(n, seed=3)
    assert g.shape == (n, 8, 8) and bool((operator(g).sign() == law.signs).all())
    p, high = law.probability(20_000), (g > 0).double().mean(0)
    inside = (p > 0.02) & (p < 0.98)
    z = ((high - p) * (n / (p * (1 - p))).sqrt())[inside]
    assert float(z.abs().max()) < limit(int(inside.sum()))
    assert torch.equal(law.values(g).unique(), torch.tensor([3.0, 12.0], dtype=torch.float64))
    torch.testing.assert_close(law.mean(100), 3 + 9 * law.probability(100))
    torch.testing.assert_close(law.sample(5, seed=3), g[:5], rtol=0, atol=1e-12)
    assert not torch.allclose(law.sample(5, seed=3, case=1), g[:5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": 0.0}, "low, high and noise: got 3.0, 12.0 and 0.0"),
        ({"low": 12.0}, "low, high and noise: got 12.0, 12.0"),
        ({"noise": 2.0}, "noise: got 2 for values 3 and 12, with which a sign is in doubt"),
        ({"noise": 100.0}, "noise: got 100 for values 3 and 12, with which a sign is in doubt"),
        ({"y": torch.zeros(3)}, r"y: got shape \(3,\), finite numbers \(6,\)"),
    ],
)
def test_thresholded_refuses(change, message):
    field, operator, _, y, noise = threshold_case()
    with pytest.raises(InputError, match=message) as caught:
        ThresholdedPosterior(field, operator, **({"y": y, "noise": noise} | change))
    assert "\n" not in str(caught.value)
