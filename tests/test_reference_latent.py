"""Reference posteriors through nonlinear maps: exact whatever guides the chains.

Statistical limits: see `rectified_models`.
"""

import numpy as np
import pytest

from fokker.errors import InputError
from fokker.reference import latent
from fokker.reference.gaussian import LinearGaussian
from fokker.reference.latent import latent_laplace, latent_posterior
from fokker.reference.surrogate import ForwardMap, Surrogate
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


class Linear:
    def __init__(self, operator):
        self.operator, self.rows, self.slopes = operator, 0, 0

    def forward(self, x):
        self.rows += len(x)
        return self.value((x[:, None] @ self.operator.T)[:, 0])

    def jacobian(self, x):
        self.slopes += len(x)
        return self.slope((x[:, None] @ self.operator.T)[:, 0])[:, :, None] * self.operator

    def value(self, c):
        return c

    def slope(self, c):
        return np.ones_like(c)


class Square(Linear):
    def value(self, c):
        return c + 0.5 * c**2

    def slope(self, c):
        return 1 + c


class Saturated(Linear):
    def value(self, c):
        return 2 * np.tanh(c / 2)

    def slope(self, c):
        return 1 / np.cosh(c / 2) ** 2


COVARIANCE, OPERATOR = np.array([[1.0, 0.8], [0.8, 1.0]]), np.array([[1.0, 0.5], [-0.3, 0.8]])
SMALL = {1: (np.eye(1), np.eye(1)), 2: (COVARIANCE, OPERATOR)}


def through(problem, noise):
    return lambda y, x: gaussian_log_prob(np.eye(len(problem.operator)), noise)(y, problem.forward(x))


def data(problem, cases, mean, covariance, noise, seed=0):
    rng = np.random.default_rng(seed)
    x, _ = simulate(rng, cases, mean, covariance, np.zeros((1, len(covariance))), 0.0)
    clean = problem.forward(x)
    return clean + noise * rng.standard_normal(clean.shape)


# --- Parts


@pytest.mark.parametrize("kind", [Linear, Square, Saturated])
def test_jacobians_of_the_test_maps(kind):
    problem, x, h = kind(OPERATOR), np.random.default_rng(0).uniform(0.1, 2, size=(4, 2)), 1e-6
    numeric = np.stack([problem.forward(x + s) - problem.forward(x - s) for s in h * np.eye(2)], -1) / (2 * h)
    np.testing.assert_allclose(problem.jacobian(x), numeric, rtol=1e-7, atol=1e-7)


def test_gradient_of_the_exact_energy():
    covariance, operator = model(4, 5)
    problem, rng = Saturated(operator), np.random.default_rng(2)
    y = data(problem, 3, 0.5, covariance, 0.3)
    counted = ForwardMap(problem.forward, problem.jacobian, 3)
    target = latent._Exact(np.full(4, 0.5), covariance, counted, 0.3, y)
    assert_gradient(target.at(np.array([2, 0])), rng.normal(0.3, 1, size=(2, 3, 4)))
    assert counted.solves[1] == 0 and counted.solves[2] == counted.solves[0] > 0


def test_guide_of_a_quadratic_map_is_that_map():
    covariance, operator = model(4, 5)
    problem, rng = Square(operator), np.random.default_rng(1)
    y = data(problem, 3, 0.5, covariance, 0.3)
    exact = gaussian_target(np.full(4, 0.5), covariance, operator, 0.3, y)
    guide = Surrogate(exact, y, 0.3, np.sqrt(np.diag(covariance)))
    for i, x in enumerate(rng.uniform(0, 2, size=(3, 40, 4))):
        values, slopes = problem.forward(x), problem.jacobian(x)
        values[i], slopes[i + 5] = np.nan, np.inf  # left out
        guide.fit(i, x, values, slopes)
    x = rng.uniform(0, 2, size=(2, 7, 4))
    residual = problem.forward(x.reshape(-1, 4)).reshape(2, 7, 5) - y[[2, 0], None]
    slope = np.einsum("mck,mckd->mcd", residual, problem.jacobian(x.reshape(-1, 4)).reshape(2, 7, 5, 4)) / 0.3**2
    part = guide.at(np.array([2, 0]))
    misfit = 0.5 * (residual**2).sum(-1) / 0.3**2
    np.testing.assert_allclose(part.misfit(x), misfit, atol=0.01 * misfit.max())  # the ridge takes some curvature
    np.testing.assert_allclose(part.slope(x, np.empty_like(x)), slope, atol=0.01 * np.abs(slope).max())
    np.testing.assert_allclose(part.local(x[:, 0])[0], part.slope(x, np.empty_like(x))[:, 0], rtol=1e-12)
    everything_failed = Surrogate(exact, y, 0.3, np.ones(4))
    everything_failed.fit(0, x[0], np.full((7, 5), np.nan), np.zeros((7, 5, 4)))
    assert not everything_failed.slope(x, np.empty_like(x)).any()


def test_map_counts_what_is_asked_and_what_fails():
    def forward(x):
        return np.where(x[:, :1] > 1, np.nan, x)

    counted = ForwardMap(forward, forward, 3)
    x = np.array([[[0.5, 0.0], [2.0, 0.0]], [[2.0, 0.0], [3.0, 0.0]]])
    values = counted.values(x, np.array([2, 0]))
    assert values.shape == (2, 2, 2) and np.isnan(values[1]).all()
    assert counted.solves.tolist() == [2, 0, 2] and counted.failed.tolist() == [2, 0, 1]


# --- The law


def test_linear_without_clipping_is_the_closed_form():
    covariance, operator = model(6, 6)
    problem = Linear(operator)
    y = data(problem, 4, 30.0, covariance, 0.7)
    exact = LinearGaussian(30.0, covariance, operator, 0.7)
    mean, variance = exact.mean(y), np.diag(exact.covariance)
    start = latent_laplace(y, 30.0, covariance, problem.forward, problem.jacobian, 0.7)
    np.testing.assert_allclose(start.mode, mean, atol=1e-6)
    np.testing.assert_allclose(start.covariance, np.tile(exact.covariance, (4, 1, 1)), atol=1e-9)

    def furthest(samples, size):
        size = np.minimum(size, samples.shape[1])[:, None]
        z = (samples.mean(1) - mean) / np.sqrt(variance / size), (samples.var(1) / variance - 1) * np.sqrt(size / 2)
        return max(np.abs(part).max() for part in z)

    right = latent_posterior(y, 30.0, covariance, problem.forward, problem.jacobian, 0.7)
    assert right.resolved.all() and furthest(right.samples, right.ess) < LIMIT
    assert furthest(start.sample(4000), np.full(4, 4000)) < LIMIT  # here Laplace is exact
    wrong = latent_posterior(y, 30.0, covariance, problem.forward, problem.jacobian, 0.35)  # control: half the noise
    assert furthest(wrong.samples, wrong.ess) > FLAG


@pytest.mark.parametrize("kind", [Linear, Square, Saturated])
@pytest.mark.parametrize("d", [1, 2])
def test_it_is_quadrature_and_laplace_is_not(kind, d):
    covariance, operator = SMALL[d]
    problem = kind(operator)
    y = data(problem, 4, 0.2, covariance, 0.4)
    exact = quadrature(y, 0.2, covariance, through(problem, 0.4))
    right = latent_posterior(y, 0.2, covariance, problem.forward, problem.jacobian, 0.4, n=2000)
    assert right.resolved.all() and not right.failed.any()
    assert np.abs(distances(right, *exact)).max() < LIMIT

    class Independent:  # control: the competitor, judged in the same way
        samples, ess = right.laplace.sample(20_000), np.full(4, 20_000.0)

    assert np.abs(distances(Independent, *exact)).max() > FLAG


def test_a_wrong_jacobian_costs_acceptance_not_exactness():
    covariance, operator = model(2, 3, length=0.5)
    problem = Saturated(2 * operator)
    y = data(problem, 4, 1.0, covariance, 0.2)
    exact = quadrature(y, 1.0, covariance, through(problem, 0.2))
    right, wrong = (
        latent_posterior(y, 1.0, covariance, problem.forward, lambda x, f=factor: f * problem.jacobian(x), 0.2)
        for factor in (1.0, 0.5)
    )
    assert right.resolved.all() and wrong.resolved.all()
    assert np.abs(distances(wrong, *exact)).max() < LIMIT
    assert wrong.acceptance.mean() < right.acceptance.mean() - 0.05 and wrong.solves.sum() > right.solves.sum()


def test_failed_solves_are_rejected_and_counted():
    """The posterior is then the one restricted to what can be solved."""
    problem = Saturated(OPERATOR)

    def forward(x):
        return np.where((x[:, :1] > 1.0) & (x[:, 1:] > 1.0), np.nan, problem.forward(x))

    y = np.array([[1.2, 0.4], [0.6, 0.2]])
    mean = np.array([0.2, 0.2])
    whole = through(problem, 0.4)

    def inside(y, x):
        return np.where((x > 1.0).all(-1), -np.inf, whole(y, x))

    result = latent_posterior(y, mean, COVARIANCE * 0.99, forward, problem.jacobian, 0.4, n=2000)
    assert result.resolved.all() and (result.failed > 0).all() and not (result.samples > 1).all(-1).any()
    assert np.abs(distances(result, *quadrature(y, 0.2, COVARIANCE * 0.99, inside))).max() < LIMIT
    assert np.abs(distances(result, *quadrature(y, 0.2, COVARIANCE * 0.99, whole))).max() > FLAG  # control


# --- Behaviour


def test_few_solves_in_30_dimensions_and_all_of_them_counted():
    covariance, operator = model(30, 30, length=4.0)
    problem = Saturated(0.3 * operator)
    y = data(problem, 3, 2.0, covariance, 0.1)
    problem.rows = problem.slopes = 0
    result = latent_posterior(y, 2.0, covariance, problem.forward, problem.jacobian, 0.1)
    assert result.resolved.all() and (result.ess >= 400).all() and (result.rhat <= 1.01).all()
    assert result.solves.max() <= 7500
    assert result.solves.sum() == problem.rows - 1 and result.jacobians.sum() == problem.slopes - 1  # the shape check


def test_a_case_does_not_depend_on_the_others():
    problem = Saturated(OPERATOR)
    y = data(problem, 4, 0.3, COVARIANCE, 0.3)
    call = {"forward": problem.forward, "jacobian": problem.jacobian, "noise": 0.3, "n": 50, "seed": 3}
    together = latent_posterior(y, 0.3, COVARIANCE, **call)
    alone = latent_posterior(y[2:3], 0.3, COVARIANCE, **call, first_case=2)
    np.testing.assert_array_equal(alone.samples[0], together.samples[2])
    assert alone.solves[0] == together.solves[2]
    np.testing.assert_array_equal(together.laplace.sample(5)[2:3], alone.laplace.sample(5, first_case=2))


def test_what_is_not_converged_is_reported():
    problem = Saturated(OPERATOR)
    y = data(problem, 3, 0.3, COVARIANCE, 0.02)
    result = latent_posterior(
        y, 0.3, COVARIANCE, problem.forward, problem.jacobian, 0.02, n=8, chains=2, max_iterations=350
    )
    bad = (result.rhat > 1.01) | (result.ess < 400)
    assert bad.any() and np.array_equal(result.resolved, ~bad) and (result.iterations == 350).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"noise": 0.0}, "noise is 0.0"),
        ({"y": np.ones((1, 3))}, "y has shape"),
        ({"mean": np.ones(3)}, "shapes"),
        ({"covariance": np.ones((2, 2))}, "nugget"),
        ({"jacobian": lambda x: x}, "forward and jacobian give shapes"),
        ({"forward": lambda x: x * np.nan}, "not finite at x"),
        ({"n": 0}, "n is 0"),
        ({"chains": 1}, "chains is 1"),
        ({"first_case": -1}, "first_case is -1"),
        ({"max_iterations": 349}, "at least 350"),
    ],
)
def test_mistakes_are_told_in_one_line(change, word):
    problem = Linear(OPERATOR)
    good = {"y": np.ones((1, 2)), "mean": 0.0, "covariance": COVARIANCE, "noise": 1.0}
    with pytest.raises(InputError, match=word) as caught:
        latent_posterior(**(good | {"forward": problem.forward, "jacobian": problem.jacobian} | change))
    assert "\n" not in str(caught.value)
