"""Unconditional models: learned from samples of exact laws, saved, loaded, resumed, and their refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import fokker
from exact import WEIGHTS, exact_law, gaussian, limit, mixture, mixture_draw, mixture_z, moment_z
from fokker.errors import InputError
from fokker.operators import Matrix
from fokker.posterior.recipes import DEFAULT, PUBLISHED, adapted_prior

SMALL = replace(
    DEFAULT,
    network={"kind": "conditional_mlp", "width": 64, "depth": 3},
    training=replace(DEFAULT.training, steps=1500, batch_size=256, copies=2),
)
QUICK = replace(SMALL, training=replace(SMALL.training, steps=60, validate_every=20))


@pytest.fixture(scope="module")
def prior():
    return fokker.fit_prior(mixture_draw(20_000, 1), recipe=SMALL, seed=0)


def test_what_a_prior_and_posteriors_are_called():
    x = mixture_draw(200, 1)
    prior, posterior = fokker.fit_prior(x, recipe=QUICK), fokker.fit(x, x[:, :1], steps=1)
    assert repr(posterior) == "ConditionalPosterior(x_shape=(2,), y_shape=(1,), recipe='default')"
    assert repr(prior).startswith("Prior(x_shape=(2,), recipe='default', process=VarianceExploding(sigma_max=")
    one = fokker.PiGDM(prior, forward=torch.sin, likelihood=fokker.Poisson(gain=2.0))
    law, exact = "Poisson(gain=2.0, background=0.0)", gaussian(fokker.VarianceExploding())
    assert repr(one) == f"PiGDM(Prior, sin, {law}, x_shape=(2,), y_shape=(2,))"
    smc = fokker.TwistedSMC(exact, forward=Matrix(torch.eye(2)[:1]), likelihood=fokker.Gaussian(0.1))
    assert repr(smc).endswith("Matrix, Gaussian(std=0.1, covariance=None), x_shape=(2,), y_shape=(1,))")


def excess(model, exact, count=4000):
    """E w |D - D*|^2 at fixed levels, edm weight: zero for the exact denoiser, of order 1 for a useless one."""
    out, x_0 = [], mixture_draw(count, 2)
    for rho in (0.1, 0.3, 1.0, 3.0):
        noise = torch.from_numpy(np.random.default_rng(3).standard_normal(x_0.shape))
        level = torch.full((count,), rho, dtype=torch.float64)
        with torch.no_grad():
            error = model.denoised((x_0 + rho * noise).float(), level, {}) - exact.denoised(
                x_0 + rho * noise, level, {}
            )
        d = exact.data_std
        out.append(float(error.double().square().mean()) * (rho**2 + d**2) / (rho * d) ** 2)
    return out


def test_it_learns_the_denoiser_in_the_units_of_x(prior):
    """The mixture is not centred and has no unit variance: the model is of plain x all the same."""
    exact = mixture(fokker.VarianceExploding())
    assert max(excess(prior, exact)) < 0.02
    flat = gaussian(fokker.VarianceExploding())  # control: a denoiser of another law is told apart
    assert max(excess(flat, exact)) > 0.1


def test_samples_are_near_the_mixture_and_unlike_a_gaussian(prior):
    """A learned model is not exact: its features lie within 0.03 of the truth, a Gaussian of the same moments does not.

    3,000 samples have standard errors of at most 0.02, so the limit on their z is widened by that tolerance.
    """
    samples = prior.sample(3000, seed=4).samples
    assert float(mixture_z(samples).abs().max()) < limit(17) + 0.03 * 3000**0.5
    law = samples.double().mean(0).numpy(), samples.double().T.cov().numpy()
    same = torch.from_numpy(np.random.default_rng(5).multivariate_normal(*law, 3000))
    assert float(mixture_z(same).abs().max()) > limit(17) + 0.03 * 3000**0.5


def test_it_is_a_score_model_like_any_other(prior):
    """sample, other processes, score and log_prob take it; the density is near the exact one."""
    result = fokker.sample(prior, (500, 2), seed=4)
    assert result.samples.shape == (500, 2) and result.samples.dtype == torch.float32
    x = mixture_draw(200, 6)
    exact = mixture(fokker.VarianceExploding())
    truth = exact.log_prob(x, float(exact.process.time_of(prior.rho_range[0])))
    divergence = truth - fokker.log_prob(prior, x)  # its mean is the Kullback-Leibler divergence of the prior
    assert float(divergence.mean()) < 0.1
    blunt = gaussian(exact.process)  # control: another law
    assert float((truth - fokker.log_prob(blunt, x)).mean()) > 0.5
    other = prior.on(fokker.VariancePreserving(n=1))
    rho = torch.tensor(0.7, dtype=torch.float64)
    t, s = prior.process.time_of(rho), other.process.time_of(rho)
    m = float(other.process.scale(s))
    with torch.no_grad():
        torch.testing.assert_close(other.denoise(m * x.float(), s), prior.denoise(x.float(), t), rtol=1e-5, atol=1e-5)


def test_saved_loaded_and_continued(tmp_path):
    x = mixture_draw(500, 7)
    whole = fokker.fit_prior(x, recipe=QUICK, out=tmp_path / "a", seed=3)
    loaded = fokker.load(tmp_path / "a")
    assert isinstance(loaded, fokker.Prior) and loaded.x_shape == (2,)
    assert torch.equal(loaded.sample(50).samples, whole.sample(50).samples)

    class Stop(Exception):
        pass

    def stop(record):
        if record.step == 40:
            raise Stop

    with pytest.raises(Stop):
        fokker.fit_prior(x, recipe=QUICK, out=tmp_path / "b", seed=3, progress=stop)
    resumed = fokker.fit_prior(x, recipe=QUICK, out=tmp_path / "b", seed=3)
    assert torch.equal(resumed.sample(50).samples, whole.sample(50).samples)
    with pytest.raises(InputError, match="other data"):
        fokker.fit_prior(x + 1, recipe=QUICK, out=tmp_path / "b", seed=3)
    for path in (tmp_path / "a/model.json", tmp_path / "a/model.json/below"):
        with pytest.raises(InputError, match="got a file"):
            loaded.save(path)
    with pytest.raises(InputError, match="not a conditional model"):
        fokker.ConditionalPosterior.load(tmp_path / "a")


def test_any_shape_and_process():
    rng = np.random.default_rng(8)
    images = rng.normal(3.0, 0.2, (60, 3, 4))
    images[:, 0, 0] = 0.0  # a pixel that rests is an image's right
    prior = fokker.fit_prior(images, recipe=QUICK, process=fokker.VariancePreserving())
    samples = prior.sample(7, seed=1).samples
    assert samples.shape == (7, 3, 4) and abs(float(samples[:, 0, 0].mean())) < 0.1
    assert fokker.fit_prior(rng.normal(size=60), recipe=QUICK).sample(5).samples.shape == (5, 1)


def test_the_untrained_network_is_the_gaussian_of_one_scale():
    """The last layer starts at zero: D is linear around the mean, and samples of one scale have the data's moments."""
    x = mixture_draw(4000, 9) @ torch.diag(torch.tensor([1.0, 1.0], dtype=torch.float64)) + 5.0
    never = replace(SMALL, training=replace(SMALL.training, steps=1, warmup=10**9))
    prior = fokker.fit_prior(x, recipe=never)
    mean, d = prior.moments.mean, prior.data_std
    z, rho = x[:10].float(), torch.full((10,), 0.5, dtype=torch.float64)
    with torch.no_grad():
        wanted = mean + d**2 / (d**2 + 0.25) * (z - mean)
        torch.testing.assert_close(prior.denoised(z, rho, {}), wanted.float(), rtol=1e-4, atol=1e-4)


def test_a_gaussian_prior_has_the_right_moments():
    """Whitened moments within 0.05 and noise (false-alarm rate 1e-4); a shift of 0.2 is flagged."""
    exact = gaussian(fokker.VarianceExploding())
    mean, covariance = exact_law(exact, 0.0)
    rng = np.random.default_rng(10)
    x = rng.multivariate_normal(mean.numpy(), covariance.numpy(), 10_000)
    samples = fokker.fit_prior(x, recipe=SMALL).sample(4000, seed=2).samples
    assert float(moment_z(samples, mean, covariance).abs().max()) < limit(5) + 0.05 * 4000**0.5
    shifted = samples + 0.2 * covariance.diagonal().sqrt()
    assert float(moment_z(shifted, mean, covariance).abs().max()) > limit(5) + 0.05 * 4000**0.5


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (np.zeros((1, 2)), "x: got 1 rows"),
        (np.ones((40, 2)), "x: it never varies"),
        (np.random.default_rng(0).normal(size=(40, 2)) * [1, 0], "x: entries 1 never vary"),
        (np.random.default_rng(0).normal(size=(40, 2)) * [1, 1e5], "x: standard deviations"),
        (np.full((40, 2), np.nan), "x: got NaN"),
        (np.full((40, 2), np.inf), "x: got an infinite"),
        (np.zeros((40, 0)), "x: got rows of shape"),
        (["a", "b"], "x: got list"),
        (np.zeros((40, 2), complex), "x: got"),
    ],
)
def test_bad_samples_are_refused(x, reason):
    with pytest.raises(InputError, match=reason):
        fokker.fit_prior(x, recipe=QUICK)


def test_the_default_recipe_follows_the_number_of_rows():
    """Few rows are held back from being learned by heart; a recipe that is given stays as it is."""
    few, many = (adapted_prior(DEFAULT, rows) for rows in (1_500, 50_000))
    assert many == DEFAULT
    assert (few.training.batch_size, few.training.schedule, few.network["modulate"]) == (128, "plateau", True)
    assert (few.coordinates, few.level_mean, few.level_std) == (
        DEFAULT.coordinates, DEFAULT.level_mean, DEFAULT.level_std,
    )  # fmt: skip
    x = mixture_draw(60, 1)
    assert fokker.fit_prior(x, steps=1).recipe.training == replace(few.training, steps=1)
    assert fokker.fit_prior(x, recipe=DEFAULT, steps=1).recipe.training == replace(DEFAULT.training, steps=1)


def test_a_prior_has_no_conditions_to_be_weighted(prior):
    assert prior.coordinates is None and abs(float(WEIGHTS.sum()) - 1) < 1e-12
    with pytest.raises(InputError, match="n:"):
        prior.sample(0)
    with pytest.raises(InputError, match="recipe"):
        fokker.fit_prior(mixture_draw(50, 1), recipe="other")


def test_the_published_preconditioning_trains_too():
    recipe = replace(PUBLISHED, training=replace(PUBLISHED.training, steps=30, batch_size=100, validate_every=10))
    prior = fokker.fit_prior(mixture_draw(300, 1), recipe=recipe, process=fokker.VarianceExploding(5.0))
    assert prior.sample(5, steps=10).samples.isfinite().all()
