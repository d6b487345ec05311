"""Likelihoods: density and draw of one law."""

import itertools
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


@pytest.mark.parametrize("law", [fokker.Gaussian, fokker.LogNormal, lambda std: fokker.Saturating(std, 1.0)])
@pytest.mark.parametrize("std", [-0.1, math.nan, math.inf, "1"])
def test_bad_standard_deviations_are_refused(law, std):
    with pytest.raises(InputError, match="noise"):
        law(std)


@pytest.mark.parametrize("level", [math.nan, math.inf, "1"])
def test_bad_levels_are_refused(level):
    with pytest.raises(InputError, match="level"):
        fokker.Saturating(0.1, level)


def test_bad_covariances_are_refused():
    for wrong in (torch.eye(2) - 1, torch.zeros(2, 2), torch.ones(3), torch.ones(2, 3), -torch.eye(2)):
        with pytest.raises(InputError, match="covariance"):
            fokker.Gaussian(covariance=wrong)
    for both in ({}, {"std": 0.1, "covariance": torch.eye(2)}):
        with pytest.raises(InputError, match="exactly one"):
            fokker.Gaussian(**both)


# --- Noise that is not Gaussian

EDGES = torch.tensor([-4.0, 0.2, 0.5, 0.8, 0.9, 1.0, 1.1, 1.3, 1.5, 12.0], dtype=torch.float64)  # of bins of y
OTHERS = {
    "log-normal": (lambda s: fokker.LogNormal(0.4 * s), math.inf),
    "saturating": (lambda s: fokker.Saturating(0.4 * s, 1.5), 1.5),
}


def bin_probabilities(law, clean, level):
    """By the trapezoidal rule on the density, the atom at the level in the last bin."""
    out = torch.zeros(len(EDGES) - 1, dtype=torch.float64)
    for i, (a, b) in enumerate(itertools.pairwise(EDGES)):
        y = torch.linspace(max(a, -4.0), min(b, level), 4001, dtype=torch.float64) if a < level else EDGES[:0]
        if len(y):
            y = y[y != level] if level < math.inf else y
            density = law.log_prob(y[:, None], torch.full_like(y, clean)[:, None]).exp()
            out[i] = torch.trapezoid(density, y)
    if level < math.inf:
        atom = torch.tensor([[level]], dtype=torch.float64)
        out[-1] += law.log_prob(atom, torch.full_like(atom, clean)).exp()[0]
    return out


@pytest.mark.parametrize("clean", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", OTHERS)
def test_other_densities_integrate_to_one_and_draws_agree(name, clean):
    """Counts in nine bins; false-alarm rate 1e-4 for each case."""
    build, level = OTHERS[name]
    p = bin_probabilities(build(1), clean, level)
    assert abs(float(p.sum()) - 1) < 1e-3

    def z(scale):
        y = build(scale).sample(torch.full((50_000, 1), clean, dtype=torch.float64), torch_generator(1, "noise"))
        assert y.max() <= level
        count = torch.histogram(y.flatten().clamp(-3.99, 11.99), EDGES).hist
        return (count - 50_000 * p)[p > 1e-4] / (50_000 * p * (1 - p))[p > 1e-4].sqrt()

    assert z(1).abs().max() < limit(len(p))
    assert z(1.1).abs().max() > limit(len(p))  # control: noise of another size


@pytest.mark.parametrize(
    "law", [fokker.Gaussian(0.3), fokker.Gaussian(covariance=R), *(b(1) for b, _ in OTHERS.values())]
)
def test_slope_is_the_derivative_of_the_log_density(law):
    generator = torch.Generator().manual_seed(2)
    clean = (0.1 + 2 * torch.rand(20, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    y = law.sample(clean.detach(), generator)
    assert not isinstance(law, fokker.Saturating) or 0.1 < (y == 1.5).double().mean() < 0.8
    (exact,) = torch.autograd.grad(law.log_prob(y, clean).sum(), clean)
    torch.testing.assert_close(law.slope(y, clean), exact, rtol=1e-9, atol=1e-9)
    h = 1e-6 * torch.eye(3, dtype=torch.float64)
    numeric = torch.stack([law.log_prob(y, clean + d) - law.log_prob(y, clean - d) for d in h], -1) / 2e-6
    torch.testing.assert_close(exact, numeric, rtol=1e-5, atol=1e-5)


def test_log_normal_at_and_below_zero():
    law = fokker.LogNormal(0.2)
    clean = torch.tensor([[0.0], [-1e-9], [0.0], [-1e-9], [1.0], [1.0]], requires_grad=True)
    assert (law.sample(clean.detach()[:4], torch_generator(0, "noise")) == 0).all()
    y = torch.tensor([[0.0], [0.0], [1.0], [1.0], [0.0], [-1.0]])
    log_prob = law.log_prob(y, clean)
    assert log_prob.tolist() == [0.0, 0.0] + [-math.inf] * 4
    assert not law.slope(y, clean).any()
    assert not torch.autograd.grad(log_prob[:2].sum(), clean)[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_readings_keep_their_atom_through_single_precision(dtype):
    law, clean = fokker.Saturating(0.1, 0.7), torch.ones(5, 2, dtype=torch.float64)
    y = law.sample(clean, torch_generator(0, "noise")).clamp(min=0.7).float().to(dtype)
    atom = torch.special.log_ndtr(torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(law.log_prob(y, clean), 2 * atom.expand(5), rtol=1e-6, atol=1e-6)
    assert (law.log_prob(y + 1e-3, clean) == -math.inf).all() and not law.slope(y + 1e-3, clean).any()


@pytest.mark.parametrize("law", [fokker.LogNormal(0.0), fokker.Saturating(0.0, 0.5)])
def test_other_laws_without_noise_draw_the_data_and_have_no_density(law):
    clean = torch.tensor([[0.2, 0.4], [0.5, 0.3]])
    assert torch.equal(law.sample(clean, torch_generator(0, "noise")), clean)
    for ask in (law.log_prob, law.slope):
        with pytest.raises(InputError, match="noise"):
            ask(clean, clean)
