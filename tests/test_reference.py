"""Reference posteriors: the closed form, and rectified Gaussians by Hamiltonian Monte Carlo.

Limits are in Monte-Carlo standard errors. |z| < 5 is a false alarm with probability 6e-7 per number, below 1e-4 for
each test (the seeds are fixed). Where the effective sample size is used, it is the smallest of the case, so z is
at most what is stated.
"""

import numpy as np
import pytest

from fokker.diagnostics.coverage import coverage_per_case
from fokker.errors import InputError
from fokker.reference import hmc, rectified_prior
from fokker.reference.gaussian import LinearGaussian
from fokker.reference.rectified import rectified_posterior
from rectified_models import (
    FLAG,
    LIMIT,
    assert_gradient,
    distances,
    gaussian_log_prob,
    gaussian_target,
    model,
    quadrature,
    simulate,
)

# --- Closed form


@pytest.mark.parametrize(("d", "k"), [(4, 4), (5, 3), (3, 6)])
@pytest.mark.parametrize("correlated", [False, True])
def test_closed_form_is_conditioning_of_the_joint_gaussian(d, k, correlated):
    covariance, operator = model(d, k)
    mean, y = np.linspace(-1, 2, d), np.random.default_rng(1).normal(size=(6, k))
    r = 0.3**2 * np.eye(k) + (0.2 * np.ones((k, k)) if correlated else 0)
    posterior = LinearGaussian(mean, covariance, operator, r if correlated else 0.3)
    gain = covariance @ operator.T @ np.linalg.inv(operator @ covariance @ operator.T + r)
    np.testing.assert_allclose(posterior.mean(y), mean + (y - operator @ mean) @ gain.T, atol=1e-9)
    np.testing.assert_allclose(posterior.covariance, covariance - gain @ operator @ covariance, atol=1e-9)


def test_closed_form_without_noise():
    covariance, operator = model(5, 5)
    x = np.random.default_rng(2).normal(size=(3, 5))
    point = LinearGaussian(0.5, covariance, operator, 0.0)
    np.testing.assert_allclose(point.mean(x @ operator.T), x, atol=1e-8)
    assert np.abs(point.covariance).max() < 1e-16
    some = LinearGaussian(0.5, covariance, operator[:2], 0.0)  # no inverse: what is seen is met, the rest is prior
    samples = some.sample(x @ operator[:2].T, 50)
    np.testing.assert_allclose(samples @ operator[:2].T, (x @ operator[:2].T)[:, None].repeat(50, 1), atol=1e-8)
    limit = LinearGaussian(0.5, covariance, operator[:2], 1e-6)
    np.testing.assert_allclose(some.covariance, limit.covariance, atol=1e-8)
    twice = LinearGaussian(0.5, covariance, operator[[0, 0]], 0.0)  # a dependent row
    np.testing.assert_allclose(twice.covariance, LinearGaussian(0.5, covariance, operator[:1], 0).covariance, atol=1e-8)


def test_closed_form_samples():
    covariance, operator = model(3, 2)
    posterior = LinearGaussian(1.0, covariance, operator, 0.5)
    y, n = np.random.default_rng(3).normal(size=(2, 2)), 40_000
    samples, sd = posterior.sample(y, n, seed=4), np.sqrt(np.diag(posterior.covariance))

    def distance(mean, sd):
        z = (samples - mean[:, None]) / sd
        return max(np.abs(z.mean(1)).max() * np.sqrt(n), np.abs((z**2).mean(1) - 1).max() * np.sqrt(n / 2))

    assert distance(posterior.mean(y), sd) < LIMIT
    assert distance(posterior.mean(y), 1.1 * sd) > FLAG  # control: a wrong width
    assert distance(posterior.mean(y) + 0.1 * sd, sd) > FLAG  # control: a wrong mean
    np.testing.assert_array_equal(posterior.sample(y[:1], 10, seed=4), posterior.sample(y, 10, seed=4)[:1])
    assert not np.array_equal(posterior.sample(y, 10, seed=5), posterior.sample(y, 10, seed=4))


# --- Rectified: parts


@pytest.mark.parametrize("layouts", [False, True])
def test_gradient_is_the_derivative_of_the_energy(layouts):
    covariance, operator = model(6, 5)
    rng = np.random.default_rng(5)
    on = rng.random((3, 5)) < 0.6 if layouts else None
    target = gaussian_target(np.full(6, 0.2), covariance, operator, 0.3, rng.normal(size=(3, 5)), on)
    assert_gradient(target, rng.normal(size=(3, 2, 6)))


def test_trajectories_are_reversible_and_conserve_energy_to_second_order():
    covariance, operator = model(4, 4)
    rng = np.random.default_rng(6)
    y = np.tile(operator @ np.full(4, 8.0), (2, 1))
    target = gaussian_target(np.full(4, 8.0), covariance, operator, 1.0, y)  # far from the kinks
    metric = np.linalg.inv(target.precision + target.hessian) + np.zeros((2, 1, 1))
    g = 8.0 + 0.1 * rng.normal(size=(2, 3, 4))
    chains = hmc.Chains(target, g, np.ones((2, 3)), metric, np.ones(2), [])
    momentum = rng.normal(size=(2, 3, 4)) @ np.linalg.inv(np.linalg.cholesky(metric))
    work = np.empty((4, 2, 3, 4))
    change = []
    for step, leaps in ((0.2, 8), (0.1, 16)):
        new, fall = hmc.trajectory(target, chains, momentum, np.full((2, 3), step), np.array([leaps, leaps]), work)
        change.append(np.abs(target.energy(g) - target.energy(new) + fall).mean())
    assert change[1] < change[0] / 3 < 0.05


def test_mode_is_where_no_step_lowers_the_energy():
    """Also at kinks, where entries rest at zero: the prior pulls them up, the data down."""
    covariance, operator = model(6, 6)
    _, y = simulate(np.random.default_rng(12), 40, 0.2, covariance, operator, 0.1)
    target = gaussian_target(np.full(6, 0.2), covariance, operator, 0.1, y)
    found = rectified_prior.laplace(target, np.ones((40, 6)))
    assert (found.mode == 0).any() and (found.mode < 0).any() and (found.mode > 0).any()
    h, shift = 1e-7, np.eye(6)
    at = target.energy(found.mode[:, None])
    right, left = (target.energy(found.mode[:, None] + sign * h * shift) - at for sign in (1, -1))
    assert right.min() > -1e-9 and left.min() > -1e-9  # U rises to both sides: no slope above 1e-2, of slopes up to 1e3
    start = np.ones((40, 1, 6))  # control: there it falls
    assert (target.energy(start + h * shift) - target.energy(start)).min() < -1e-6
    inverse = np.linalg.inv(found.covariance)
    on = (found.mode > 0) * 1.0
    np.testing.assert_allclose(inverse - target.precision, on[:, :, None] * target.hessian * on[:, None], atol=1e-6)


# --- Rectified: the law


def test_without_clipping_it_is_the_closed_form():
    covariance, operator = model(6, 6)
    _, y = simulate(np.random.default_rng(7), 6, 30.0, covariance, operator, 0.7)
    exact = LinearGaussian(30.0, covariance, operator, 0.7)
    mean = exact.mean(y)
    moments = mean, mean**2 + np.diag(exact.covariance)
    right = rectified_posterior(y, 30.0, covariance, operator, 0.7, seed=1)
    assert right.resolved.all()
    assert np.abs(distances(right, *moments)).max() < LIMIT
    # E x^2 is all mean here: compare the variances themselves as well.
    relative = right.samples.var(1) / np.diag(exact.covariance) - 1
    assert np.abs(relative * np.sqrt(np.minimum(right.ess, 1000)[:, None] / 2)).max() < LIMIT
    wrong = rectified_posterior(y, 30.0, covariance, operator, 0.35, seed=1)  # control: half the noise
    relative = wrong.samples.var(1) / np.diag(exact.covariance) - 1
    assert np.abs(relative * np.sqrt(np.minimum(wrong.ess, 1000)[:, None] / 2)).max() > FLAG


@pytest.mark.parametrize(
    ("covariance", "operator", "noise"),
    [([[1.0]], [[1.0]], 0.5), ([[1.0, 0.8], [0.8, 1.0]], [[1.0, 0.5], [-0.3, 0.8]], 0.4)],
)
def test_with_clipping_it_is_quadrature(covariance, operator, noise):
    covariance, operator = np.array(covariance), np.array(operator)
    y = np.linspace(-0.8, 1.6, 5)[:, None] * np.ones(len(operator))
    exact = quadrature(y, 0.2, covariance, gaussian_log_prob(operator, noise))
    right = rectified_posterior(y, 0.2, covariance, operator, noise, seed=2, n=4000)
    assert right.resolved.all() and (right.samples == 0).any() and (right.samples >= 0).all()
    assert np.abs(distances(right, *exact)).max() < LIMIT
    wrong = rectified_posterior(y, 0.2, covariance, operator, 1.5 * noise, seed=2, n=4000)
    assert np.abs(distances(wrong, *exact)).max() > FLAG  # control


def test_truths_rank_uniformly():
    """Simulation-based: coverage and mean rank of truths from the prior, one number per independent case."""
    covariance, operator = model(3, 3)
    x, y = simulate(np.random.default_rng(8), 200, 0.3, covariance, operator, 0.5)

    def z(noise, cases=200):
        result = rectified_posterior(y[:cases], 0.3, covariance, operator, noise, seed=3, n=100)
        assert result.resolved.mean() > 0.97
        truth = x[:cases]
        value = coverage_per_case(result.samples, truth, [0.5, 0.8, 0.95]).mean(-1) - [[0.5], [0.8], [0.95]]
        less, most = (f(result.samples, truth[:, None]).mean(1) for f in (np.less, np.less_equal))
        both = np.concatenate([value, (less + most).mean(1)[None] / 2 - 0.5])
        return np.abs(both.mean(1) / (both.std(1) / np.sqrt(cases))).max()

    assert z(0.5) < LIMIT
    assert z(0.2, 100) > FLAG  # control: too narrow (a prior in place of the posterior would pass: ranks miss it)


# --- Rectified: behaviour


def test_a_case_does_not_depend_on_the_others():
    covariance, operator = model(5, 5)
    _, y = simulate(np.random.default_rng(9), 5, 0.2, covariance, operator, 0.3)
    together = rectified_posterior(y, 0.2, covariance, operator, 0.3, seed=4, n=300)
    alone = rectified_posterior(y[3:4], 0.2, covariance, operator, 0.3, seed=4, n=300, first_case=3)
    np.testing.assert_array_equal(alone.samples[0], together.samples[3])
    assert alone.rhat[0] == together.rhat[3] and alone.iterations[0] == together.iterations[3]
    other = rectified_posterior(y[3:4], 0.2, covariance, operator, 0.3, seed=5, n=300, first_case=3)
    assert not np.array_equal(other.samples, alone.samples)


def test_unresolved_cases_are_reported():
    covariance, operator = model(12, 12, length=4.0)
    _, y = simulate(np.random.default_rng(10), 8, -0.5, covariance, operator, 0.02)
    short = rectified_posterior(y, -0.5, covariance, operator, 0.02, max_iterations=550)
    bad = (short.rhat > 1.01) | (short.ess < 400)
    assert bad.any() and np.array_equal(short.resolved, ~bad) and (short.iterations == 550).all()
    assert short.samples.shape == (8, 1000, 12) and np.isfinite(short.samples).all()


def test_all_entries_clipped_is_a_resolved_constant():
    result = rectified_posterior([[0.0, 0.0]], -50.0, np.eye(2), np.eye(2), 1.0, n=7)
    assert result.resolved.all() and np.isnan(result.rhat).all() and (result.samples == 0).all()
    assert result.samples.shape == (1, 7, 2)


def test_without_noise_it_is_the_point():
    covariance, operator = model(4, 4)
    x = np.maximum(np.random.default_rng(11).normal(size=(3, 4)), 0.0)
    result = rectified_posterior(x @ operator.T, 0.3, covariance, operator, 0.0, n=5)
    np.testing.assert_allclose(result.samples, x[:, None].repeat(5, 1), atol=1e-9)
    assert result.resolved.all() and (result.iterations == 0).all()


EYE = np.eye(2)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: LinearGaussian(np.ones(3), EYE, EYE, 1.0), "shapes"),
        (lambda: LinearGaussian(0.0, EYE, EYE, -1.0), "noise is -1"),
        (lambda: LinearGaussian(0.0, EYE, EYE, np.zeros((2, 2))), "positive definite"),
        (lambda: LinearGaussian(0.0, -EYE, EYE, 1.0), "eigenvalue"),
        (lambda: LinearGaussian(0.0, np.triu(np.ones((2, 2))), EYE, 1.0), "symmetric"),
        (lambda: LinearGaussian(0.0, EYE, EYE, 1.0).mean(np.ones((1, 3))), "y has shape"),
        (lambda: LinearGaussian(0.0, EYE, EYE, 1.0).sample(np.ones((1, 2)), 0), "n is 0"),
        (lambda: LinearGaussian(0.0, EYE, EYE, 1.0).sample(np.ones((1, 2)), 1, seed=-1), "seed is -1"),
        (lambda: rectified_posterior(np.ones((1, 2)), 0.0, EYE * np.nan, EYE, 1.0), "finite"),
        (lambda: rectified_posterior(np.ones((1, 2)), 0.0, np.ones((2, 2)), EYE, 1.0), "nugget"),
        (lambda: rectified_posterior(np.ones((1, 2)), 0.0, EYE, EYE, -1.0), "noise is -1"),
        (lambda: rectified_posterior(np.ones((1, 2)), 0.0, EYE, np.ones((2, 2)), 0.0), "no inverse"),
        (lambda: rectified_posterior(-np.ones((1, 2)), 0.0, EYE, EYE, 0.0), "x = -1"),
        (lambda: rectified_posterior(np.ones((1, 2)), 0.0, EYE, EYE, 1.0, chains=1), "chains is 1"),
        (lambda: rectified_posterior(np.ones((1, 2)), 0.0, EYE, EYE, 1.0, max_iterations=10), "at least 550"),
    ],
)
def test_mistakes_are_told_in_one_line(call, word):
    with pytest.raises(InputError, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)
