"""Importance weights: exact where the answer is known, and flagged where they cannot help."""

import math
import warnings

import numpy as np
import pytest
import torch

import fokker
from fokker.diagnostics.importance import smoothed
from fokker.errors import InputError

NOISE = 0.5


def normal(x, mean, std):
    return (-0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)).sum(-1)


@pytest.fixture(scope="module")
def posterior():
    """x N(0, I), y = x + noise; one step of training: the Gaussian of posterior coordinates."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 2))
    return fokker.fit(x, x + NOISE * rng.standard_normal(x.shape), steps=1)


def test_another_prior_gives_its_own_posterior_and_evidence(posterior):
    """Prior N(0.5, 0.8^2): closed forms of mean, deviation and log p(y); 5,000 draws of ESS near 2,500."""
    y = torch.tensor([[0.3, -0.4], [1.0, 0.8]])
    drawn = posterior.sample(y, 5000)
    found = posterior.reweight(drawn, lambda x: normal(x, 0.5, 0.8), lambda x, y: normal(y, x, NOISE))
    precision = 1 / 0.8**2 + 1 / NOISE**2
    mean, std = (0.5 / 0.8**2 + y / NOISE**2) / precision, precision**-0.5
    assert bool((found.checks["k_hat"] < 0.5).all()) and bool((found.checks["ess"] > 1250).all())
    limit = 5 * std / found.checks["ess"].sqrt()  # five standard errors, 6e-7 each
    assert bool(((found.mean() - mean).abs() < limit[:, None]).all())
    assert bool(((found.std() - std).abs() < limit[:, None]).all())
    evidence = normal(y.double(), 0.5, math.sqrt(0.8**2 + NOISE**2))
    assert torch.allclose(found.log_evidence, evidence, atol=0.06)
    assert torch.allclose(found.log_weights.exp().sum(1), torch.ones(2).double())
    one = posterior.reweight(
        posterior.sample(y[0], 2000), lambda x: normal(x, 0.5, 0.8), lambda x, y: normal(y, x, NOISE)
    )
    assert one.log_weights.shape == (2000,) and one.log_evidence.shape == () and one.checks["ess"].shape == ()
    assert "log_weight" in one.to_arviz()["sample_stats"]


def test_a_prior_elsewhere_is_flagged(posterior):
    drawn = posterior.sample([0.0, 0.0], 2000)
    with pytest.warns(UserWarning, match="k_hat is above"):
        found = posterior.reweight(drawn, lambda x: normal(x, 4.0, 0.3), lambda x, y: normal(y, x, NOISE))
    assert float(found.checks["k_hat"]) > 0.7 and float(found.checks["ess"]) < 100


def test_the_samples_law_itself_has_equal_weights(posterior):
    drawn = posterior.sample([0.2, 0.1], 1000)
    found = posterior.reweight(drawn, lambda x: posterior.log_prob(x, [0.2, 0.1]), lambda x, y: 0 * x[:, 0])
    assert float(found.checks["ess"]) == pytest.approx(1000, rel=1e-6)
    assert float(found.log_evidence) == pytest.approx(0, abs=1e-9)


def test_wrong_functions_and_samples(posterior):
    drawn = posterior.sample([0.0, 0.0], 100)
    zero = lambda x, y=None: 0 * x[:, 0]  # noqa: E731
    for wrong, word in ((lambda x: x, "log_prior: returned shape"), (lambda x: zero(x) / 0, "log_weights: got NaN")):
        with pytest.raises(InputError, match=word):
            posterior.reweight(drawn, wrong, zero)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weighted = posterior.reweight(drawn, zero, zero)
    with pytest.raises(InputError, match="has weights already"):
        posterior.reweight(weighted, zero, zero)
    with pytest.raises(InputError, match="at least 50"):
        posterior.reweight(posterior.sample([0.0, 0.0], 20), zero, zero)


def test_smoothing_of_known_tails():
    """Weights r^-k of uniform r have the tail index k: within 0.15 of it over 20,000; zero weights count as such."""
    r = np.random.default_rng(0).uniform(size=(3, 20_000))
    found = smoothed(-np.array([[0.2], [0.5], [0.9]]) * np.log(r))
    assert np.abs(found.k_hat - [0.2, 0.5, 0.9]).max() < 0.15
    assert np.allclose(np.exp(found.log_weights).sum(1), 1)
    some = smoothed(np.where(np.arange(1000) < 400, 0.0, -np.inf))
    assert some.log_mean == pytest.approx(math.log(0.4)) and some.ess == pytest.approx(400, rel=1e-3)
    for bad in (np.zeros(10), np.full(100, np.nan), np.full(100, -np.inf), np.full(100, np.inf)):
        with pytest.raises(InputError, match="log_weights"):
            smoothed(bad)
