"""What samples tell of themselves: silent for exact posteriors, also heavy and far ones, and told where they fail.

False alarms: in a measurement at most 2e-6 by its misfit, 1e-9 a sample by the prior. With a few hundred measurements
of 64 samples in a test that is below 1e-3 in all.
"""

import warnings

import pytest
import torch

import fokker
from exact import gaussian, mixture
from fokker.operators import Matrix
from fokker.posterior.doubts import Doubt, collected, tell
from fokker.posterior.problem import MEASURED, Problem
from fokker.problems.battery_cases import all_cases
from laws import LAWS
from test_functions import SMALL, fields
from test_guided import F64, VE, A, posterior_mixture


def doubts(call, *given, **more):
    """The doubts of a call, in words."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        call(*given, **more)
    return [str(one.message) for one in told if isinstance(one.message, Doubt)]


def of_samples(problem, x, y, first=0):
    return doubts(tell, problem, x, {MEASURED: y}, first, "more steps may do better")


def draw(score, n, generator):
    """Draws (n, d) of a mixture."""
    which = torch.multinomial(score.weights, n, True, generator=generator)
    roots = torch.linalg.cholesky(score.covariances)[which]
    xi = torch.randn(n, score.means.shape[1], generator=generator, dtype=F64)
    return score.means[which] + torch.einsum("nij,nj->ni", roots, xi)


# --- Data


def test_exact_samples_raise_no_doubt_and_a_noise_stated_too_small_does():
    """Data of the model, samples of the exact posterior; then R a sixteenth of what it is: median chi-square of 3 data
    is then 16 times 2.4, and 30.7 is the limit.
    """
    generator = torch.Generator().manual_seed(0)
    y = draw(mixture(VE), 100, generator) @ A.T
    y = y + 0.3 * torch.randn(y.shape, generator=generator, dtype=F64)
    exact = [posterior_mixture(VE, A, torch.tensor(0.09, dtype=F64), one)[0] for one in y]
    x = torch.stack([draw(one, 64, generator) for one in exact])
    assert not of_samples(Problem(mixture(VE), Matrix(A), fokker.Gaussian(0.3)), x, y)
    (told,) = of_samples(Problem(mixture(VE), Matrix(A), fokker.Gaussian(0.075)), x, y, first=5)
    assert (
        told.startswith("measurement ") and "where about 3 is expected" in told and "noise is stated too small" in told
    )


@pytest.mark.parametrize("name", ["laplace", "student", "poisson", "multiplicative", "log_normal", "unknown"])
def test_the_misfit_of_other_laws_is_judged_by_their_own_draws(name):
    """The truth itself as the sample of 2,000 measurements; then data that are far from it."""
    law, generator = LAWS[name].build(1), torch.Generator().manual_seed(1)
    x = 0.1 + 2 * torch.rand(2000, 3, generator=generator, dtype=F64)
    y = law.sample(x, generator)
    prior = fokker.GaussianScore(VE, torch.ones(3, dtype=F64), torch.eye(3, dtype=F64))
    problem = Problem(prior, lambda x: 1.0 * x, law)
    assert not of_samples(problem, x[:, None], y)
    assert of_samples(problem, x[:3, None], (y[:3] + 1).round() * 1e6)


# --- The prior


def test_heavy_tails_and_far_posteriors_raise_no_doubt_and_what_the_prior_has_not_does():
    """A mode of half a percent 60 away, 13 deviations of the whole; the data say nothing."""
    eye = torch.eye(2, dtype=F64)
    prior = fokker.MixtureScore(
        VE, [0.995, 0.005], torch.tensor([[0.0, 0.0], [60.0, 0.0]], dtype=F64), torch.stack([eye, eye])
    )
    problem, generator = Problem(prior, Matrix(A), fokker.Gaussian(1e4)), torch.Generator().manual_seed(2)
    x, y = draw(prior, 8000, generator).reshape(8, 1000, 2), torch.zeros(8, 3, dtype=F64)
    assert bool(((x[..., 0] - prior.moments.mean[0]) > 12 * prior.moments.std[0]).any())
    assert not of_samples(problem, x, y)
    x[3, :2, 0] -= 80.0
    (told,) = of_samples(problem, x, y, first=10)
    assert told.startswith("measurement 13: 2 of 1000 samples lie where the prior has no mass")
    assert "went astray" in told and "contradicts" not in told
    x[3, :, 0] = x[4, :, 0] - 160.0
    (told,) = of_samples(problem, x, y)
    assert told.startswith("measurement 3: 1000 of 1000 samples") and "y contradicts the prior" in told
    far = gaussian(VE).moments.mean + gaussian(VE).moments.std * (11.5 + torch.rand(1, 200, 2, dtype=F64))
    assert not of_samples(Problem(gaussian(VE), Matrix(A), fokker.Gaussian(1e4)), far, y[:1])  # partly beyond 12


def test_samplers_that_fail_are_told_and_others_are_not():
    """DPS at the edge of its stability: all of one case, a few of another."""
    for case, words in (("gaussian-8-over-0.3", "misfit is"), ("mixture-8-over-0.3", "of 100 samples lie where")):
        built = all_cases()[case].build()
        given = {"forward": built.forward, "likelihood": built.likelihood}
        y = built.measurements(4)
        (told,) = doubts(fokker.DPS(built.prior, **given).sample, y, 100, steps=32)
        assert words in told and "went astray" in told
        assert not doubts(fokker.PiGDM(built.prior, **given).sample, y, 100, steps=32)


@pytest.mark.parametrize("noise", [0.01, 1.0])
@pytest.mark.parametrize("method", [fokker.PiGDM, fokker.DAPS])
def test_data_impossible_under_the_prior_are_told(method, noise):
    """With little noise the samples follow y away from the prior; with more they fit neither."""
    posterior = method(mixture(VE), forward=lambda x: 1.0 * x, likelihood=fokker.Gaussian(noise))
    (told,) = doubts(posterior.sample, torch.tensor([[0.5, 0.2], [90.0, -90.0]]), 50, steps=64)
    assert told.startswith("measurement 1: ") and "y contradicts the prior" in told


def test_functions_far_from_their_prior_are_told():
    """Their noise is coloured, and has a deviation of its own at every point. Seen at centres of cells."""
    prior = fokker.fit_functions(fields(), steps=1, network=SMALL).no_network()
    posterior = fokker.FunctionPosterior.of_values(prior, [5.5 / 16, 12.5 / 16], likelihood=fokker.Gaussian(1e-3))
    y = torch.tensor([[1.0, 1.2], [100.0, 100.0]])
    (told,) = doubts(posterior.sample, y, 32)
    assert told.startswith("measurement 1: 32 of 32 samples lie where the prior has no mass")


def test_digits_that_float32_has_not_are_no_misfit():
    """Noise far below the rounding of y; a noise of 100 roundings, stated a hundredth, is seen."""
    problem = Problem(mixture(VE, torch.float32), lambda x: x + 1e4, fokker.Gaussian(1e-5))
    x = torch.zeros(1, 64, 2) + torch.linspace(0, 1e-3, 64)[:, None]
    assert not of_samples(problem, x, torch.tensor([[1e4, 1e4]]))
    assert of_samples(problem, x + 0.1, torch.tensor([[1e4, 1e4]]))


def test_doubts_are_collected_and_other_warnings_told():
    posterior = fokker.PiGDM(mixture(VE), forward=lambda x: 1.0 * x, likelihood=fokker.Gaussian(0.01))
    with pytest.warns(UserWarning, match="something else"), collected() as found:
        posterior.sample(torch.tensor([90.0, -90.0]), 50, steps=64)
        warnings.warn("something else", stacklevel=1)
    assert len(found) == 1 and "contradicts the prior" in str(found[0])
