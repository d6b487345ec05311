"""Likelihoods: density and draw of one law."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import fokker
from exact import limit, moment_z
from fokker.errors import InputError
from fokker.rng import torch_generator

R = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.4, -0.1], [0.0, -0.1, 0.3]], dtype=torch.float64)
CASES = {
    "std": (fokker.Gaussian(0.3), 0.09 * torch.eye(3, dtype=torch.float64)),
    "full": (fokker.Gaussian(covariance=R), R),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_log_density_is_the_gaussian_one(name, shape):
    likelihood, covariance = CASES[name]
    y, clean = torch.randn(2, 8, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = MultivariateNormal(clean.flatten(1), covariance).log_prob(y.flatten(1))
    torch.testing.assert_close(likelihood.log_prob(y, clean), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_draws_have_that_covariance(name):
    """False-alarm rate 1e-4 for each case."""
    likelihood, covariance = CASES[name]
    clean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    y = likelihood.sample(clean.expand(20_000, 3), torch_generator(0, "noise"))
    z = moment_z(y, clean, covariance)
    assert z.abs().max() < limit(len(z))
    assert moment_z(clean + 1.05 * (y - clean), clean, covariance).abs().max() > limit(len(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_dtype_and_shape_of_draws(name, dtype):
    y = CASES[name][0].sample(torch.zeros(4, 3, 1, dtype=dtype), torch_generator(0, "noise"))
    assert y.shape == (4, 3, 1) and y.dtype == dtype


def test_no_noise_draws_the_data_and_has_no_density():
    clean = torch.ones(2, 3)
    assert torch.equal(fokker.Gaussian(0.0).sample(clean, torch_generator(0, "noise")), clean)
    with pytest.raises(InputError, match="noise"):
        fokker.Gaussian(0.0).log_prob(clean, clean)


@pytest.mark.parametrize("std", [-0.1, math.nan, math.inf, "1"])
def test_bad_standard_deviations_are_refused(std):
    with pytest.raises(InputError, match="noise"):
        fokker.Gaussian(std)


def test_bad_covariances_are_refused():
    for wrong in (torch.eye(2) - 1, torch.zeros(2, 2), torch.ones(3), torch.ones(2, 3), -torch.eye(2)):
        with pytest.raises(InputError, match="covariance"):
            fokker.Gaussian(covariance=wrong)
    for both in ({}, {"std": 0.1, "covariance": torch.eye(2)}):
        with pytest.raises(InputError, match="exactly one"):
            fokker.Gaussian(**both)
