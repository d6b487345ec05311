"""Reference posteriors of rectified Gaussians where sensors are off, or their noise is not Gaussian.

Statistical limits: see `rectified_models`.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import lognorm, norm

import fokker
from fokker.errors import InputError
from fokker.reference import rectified
from fokker.reference.gaussian import LinearGaussian
from fokker.reference.rectified import rectified_posterior
from rectified_models import (
    FLAG,
    LIMIT,
    assert_gradient,
    distances,
    gaussian_log_prob,
    model,
    prior_moments,
    quadrature,
    simulate,
)

COVARIANCE, OPERATOR = np.array([[1.0, 0.8], [0.8, 1.0]]), np.array([[1.0, 0.5], [-0.3, 0.8], [0.4, 0.4]])
POSITIVE = np.abs(OPERATOR)
LAYOUTS = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=bool)


# --- Sensor layouts


def test_each_layout_is_the_quadrature_of_its_own_sensors():
    y = np.random.default_rng(0).normal(0.6, 0.6, size=LAYOUTS.shape)
    exact = [
        quadrature(case[None, on], 0.2, COVARIANCE, gaussian_log_prob(OPERATOR[on], 0.4))
        for case, on in zip(y, LAYOUTS)
    ]
    exact = [np.concatenate(moments) for moments in zip(*exact)]
    hidden = np.where(LAYOUTS, y, np.nan)
    right = rectified_posterior(hidden, 0.2, COVARIANCE, OPERATOR, 0.4, omega=LAYOUTS, n=4000)
    assert right.resolved.all()
    assert np.abs(distances(right, *exact)).max() < LIMIT
    wrong = rectified_posterior(np.where(LAYOUTS, y, 0.0), 0.2, COVARIANCE, OPERATOR, 0.4, n=4000)
    assert np.abs(distances(wrong, *exact))[1:].max() > FLAG  # control: what is off taken for a reading of zero


def test_each_layout_without_clipping_is_the_closed_form():
    covariance, operator = model(6, 6)
    rng = np.random.default_rng(1)
    _, y = simulate(rng, 6, 30.0, covariance, operator, 0.7)
    on = rng.random(y.shape) < 0.5
    result = rectified_posterior(y, 30.0, covariance, operator, 0.7, omega=on)
    for i, seen in enumerate(on):
        exact = LinearGaussian(30.0, covariance, operator[seen], 0.7)
        mean, variance = exact.mean(y[i : i + 1, seen]), np.diag(exact.covariance)
        size = min(result.ess[i], 1000)
        assert np.abs((result.samples[i].mean(0) - mean) / np.sqrt(variance / size)).max() < LIMIT
        assert np.abs((result.samples[i].var(0) / variance - 1) * np.sqrt(size / 2)).max() < LIMIT
    assert result.resolved.all()


@pytest.mark.parametrize("likelihood", [None, fokker.Saturating(0.4, 1.0)])
def test_no_sensor_on_is_the_prior(likelihood):
    covariance, operator = model(5, 4)
    on = np.zeros((3, 4), dtype=bool)
    on[1, :3] = True
    noise = 0.3 if likelihood is None else None
    y = np.where(on, 0.5, np.nan)
    result = rectified_posterior(y, 0.2, covariance, operator, noise, omega=on, likelihood=likelihood, n=2000)
    z = np.abs(distances(result, *prior_moments(0.2, covariance)))
    assert result.resolved.all() and (result.rhat <= 1.01).all()
    assert z[[0, 2]].max() < LIMIT
    assert z[1].max() > FLAG  # control: the case that has data


def test_a_case_does_not_depend_on_the_layouts_of_others():
    covariance, operator = model(5, 5)
    rng = np.random.default_rng(2)
    _, y = simulate(rng, 5, 0.2, covariance, operator, 0.3)
    on = rng.random(y.shape) < 0.6
    on[3] = True
    together = rectified_posterior(y, 0.2, covariance, operator, 0.3, omega=on, n=300, max_iterations=550)
    for i in (1, 3):
        one = slice(i, i + 1)
        more = {"n": 300, "first_case": i, "max_iterations": 550}
        alone = rectified_posterior(y[one], 0.2, covariance, operator, 0.3, omega=on[one], **more)
        np.testing.assert_array_equal(alone.samples[0], together.samples[i])
    plain = rectified_posterior(y[3:4], 0.2, covariance, operator, 0.3, **more)
    np.testing.assert_array_equal(plain.samples[0], together.samples[3])


# --- Noise that is not Gaussian

NOISES = {
    "gaussian": (lambda s: fokker.Gaussian(0.4 * s), lambda y, c, s: norm.logpdf(y, c, 0.4 * s)),
    "log-normal": (lambda s: fokker.LogNormal(0.3 * s), lambda y, c, s: lognorm.logpdf(y, 0.3 * s, scale=c)),
    "saturating": (
        lambda s: fokker.Saturating(0.3 * s, 1.0),
        lambda y, c, s: np.where(y == 1.0, norm.logsf(1.0, c, 0.3 * s), norm.logpdf(y, c, 0.3 * s)),
    ),
}


@pytest.mark.parametrize("name", NOISES)
def test_other_noise_is_quadrature(name):
    """The density in the quadrature is SciPy's."""
    build, density = NOISES[name]
    x = np.maximum(np.random.default_rng(3).normal(0.6, 1.0, size=(3, 2)), 0.05)
    y = build(1).sample(torch.from_numpy(x @ POSITIVE.T), torch.Generator().manual_seed(0)).numpy()
    assert name != "saturating" or 0.2 < (y == 1.0).mean() < 0.8

    def log_prob(case, x):
        clean = np.maximum(x @ POSITIVE.T, 1e-300)  # log-normal: no density at zero
        return density(case, clean, 1).sum(-1)

    exact = quadrature(y, 0.2, COVARIANCE, log_prob)
    right = rectified_posterior(y, 0.2, COVARIANCE, POSITIVE, likelihood=build(1))
    assert right.resolved.all()
    assert np.abs(distances(right, *exact)).max() < LIMIT
    wrong = rectified_posterior(y, 0.2, COVARIANCE, POSITIVE, likelihood=build(2))
    assert np.abs(distances(wrong, *exact)).max() > FLAG  # control: noise of another size


@pytest.mark.parametrize("name", NOISES)
def test_gradients_of_other_noise(name):
    rng = np.random.default_rng(4)
    covariance, operator = model(4, 5)
    on = rng.random((3, 5)) < 0.7
    y = np.minimum(rng.uniform(0.3, 1.5, size=(3, 5)), 1.0)
    target = rectified._General(np.full(4, 0.2), covariance, np.abs(operator), NOISES[name][0](1), y * on, on)
    assert_gradient(target, rng.uniform(-0.4, 1.0, size=(3, 2, 4)))


def test_layouts_and_other_noise_go_together():
    on = np.array([[1, 1, 0], [0, 1, 1]], dtype=bool)
    y = np.array([[0.7, 1.0, 0.4], [1.0, 1.0, 0.6]])
    density = NOISES["saturating"][1]
    exact = [
        quadrature(case[None, seen], 0.2, COVARIANCE, lambda v, x, b=POSITIVE[seen]: density(v, x @ b.T, 1).sum(-1))
        for case, seen in zip(y, on)
    ]
    exact = [np.concatenate(moments) for moments in zip(*exact)]
    law = fokker.Saturating(0.3, 1.0)
    right = rectified_posterior(np.where(on, y, np.nan), 0.2, COVARIANCE, POSITIVE, likelihood=law, omega=on)
    assert right.resolved.all()
    assert np.abs(distances(right, *exact)).max() < LIMIT
    wrong = rectified_posterior(y, 0.2, COVARIANCE, POSITIVE, likelihood=law)
    assert np.abs(distances(wrong, *exact)).max() > FLAG / 2  # control: all sensors; 1e-5 of such z are larger than 4


def test_data_that_no_flux_gives_is_reported_not_sampled():
    y, law = [[0.0, 0.5, 0.5], [0.5, 0.5, 0.5]], fokker.LogNormal(0.3)
    result = rectified_posterior(y, 0.2, COVARIANCE, POSITIVE, likelihood=law, n=10, max_iterations=550)
    assert not result.resolved[0] and np.isnan(result.samples[0]).all()
    assert math.isinf(result.rhat[0]) and result.ess[0] == 0
    assert np.isfinite(result.samples[1]).all() and result.ess[1] > 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({}, "exactly one"),
        ({"noise": 1.0, "likelihood": fokker.Gaussian(1.0)}, "exactly one"),
        ({"noise": 1.0, "omega": np.ones((2, 2), dtype=bool)}, "omega is bool of shape"),
        ({"noise": 1.0, "omega": np.ones((2, 3))}, "omega is float64"),
        ({"noise": 1.0, "y": np.full((2, 3), np.nan)}, "y holds NaN"),
        ({"noise": 1.0, "y": np.full((2, 3), np.nan), "omega": LAYOUTS[1:3]}, "y holds NaN"),
        ({"noise": 0.0, "omega": LAYOUTS[:2]}, "case 1 has 1 of 3 sensors on"),
        ({"likelihood": fokker.Gaussian(covariance=torch.eye(3) + 0.5)}, "independent from entry to entry"),
        ({"likelihood": fokker.Gaussian(0.0)}, "noise: got 0"),
        ({"noise": 1.0, "first_case": -1}, "first_case is -1"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, word):
    model_arguments = {"mean": 0.0, "covariance": COVARIANCE, "operator": OPERATOR}
    with pytest.raises(InputError, match=word) as caught:
        rectified_posterior(**({"y": np.ones((2, 3))} | model_arguments | arguments))
    assert "\n" not in str(caught.value)
