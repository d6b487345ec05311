"""The conditional densities: density, distribution function and samplers agree, each with a control that must not.

Kolmogorov-Smirnov p-values are compared with RATE over the number of tests of a list (Bonferroni); seeds are fixed.
"""

import numpy as np
import pytest
from scipy import integrate
from scipy.stats import kstest

from exact import RATE
from fokker.errors import InputError
from fokker.problems.densities import DENSITIES, SCALE, WIDTH, Spiral, get

CASES = [(name, y) for name, density in DENSITIES.items() for y in density.y_values]
LEAST = RATE / len(CASES)  # p-value
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


def panels(support, count=1500):
    """Ends of panels, and nodes and weights of a Gauss-Legendre rule in each (count, 8)."""
    ends = np.linspace(*support, count + 1)
    half = np.diff(ends)[:, None] / 2
    return ends, ends[:-1, None] + half * (1 + NODES), half * WEIGHTS


@pytest.mark.parametrize(("name", "y"), [*CASES, ("spiral", 1.5), ("bimodal", 4.0), ("tanh", 2.0)])
def test_the_distribution_function_is_the_integral_of_the_density(name, y):
    density = get(name)
    ends, x, weights = panels(density.support(y))
    grown = np.append(0, (density.pdf(x, y) * weights).sum(1).cumsum())
    assert grown[-1] == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(density.cdf(ends, y), grown, atol=1e-12)
    assert np.abs(density.cdf(ends, y + 0.01) - grown).max() > 1e-4  # control: another y


@pytest.mark.parametrize("name", DENSITIES)
def test_the_marginal_integrates_to_one_and_arrays_broadcast(name):
    density = get(name)
    _, y, weights = panels((-2, 2) if name == "tanh" else (-9, 9))
    assert (density.marginal(y) * weights).sum() == pytest.approx(1, abs=1e-12)
    x, y = np.linspace(-1, 1.5, 5)[:, None], np.array(density.y_values)
    for value in (density.pdf, density.cdf):
        assert value(x, y).shape == (5, 4)
        np.testing.assert_allclose(value(x, y)[:, 2], value(x[:, 0], y[2]), rtol=1e-12)


@pytest.mark.parametrize(("x", "y"), [(-0.4, 0.3), (0.9, -0.8), (0.1, 0.8), (1.2, 1.4)])
def test_the_spiral_against_adaptive_quadrature(x, y):
    def joint(t, in_x):
        there = ((y - 0.1 * t * np.cos(t)) / WIDTH) ** 2 + (((x - 0.1 * t * np.sin(t)) / WIDTH) ** 2 if in_x else 0)
        return np.exp(-there / 2) / (np.sqrt(2 * np.pi) * WIDTH) ** (2 if in_x else 1)

    both, one = (integrate.quad(joint, *Spiral.angles, (in_x,), limit=500, epsabs=1e-13)[0] for in_x in (True, False))
    assert float(get("spiral").pdf(x, y)) == pytest.approx(both / one, rel=1e-9)
    assert float(get("spiral").marginal(y)) == pytest.approx(one / (3 * np.pi), rel=1e-9)


def test_the_tanh_density_has_its_edge_and_mean():
    draws = get("tanh").conditional(np.full(20_000, 0.5), np.random.default_rng(0))
    assert draws.min() >= np.tanh(0.5) and get("tanh").pdf(np.tanh(0.5) - 1e-9, 0.5) == 0
    assert abs(draws.mean() - np.tanh(0.5) - SCALE) < 5 * SCALE / 20_000**0.5


@pytest.mark.parametrize(("name", "y"), CASES)
def test_exact_draws_follow_the_distribution_function(name, y):
    density = get(name)
    draws = density.conditional(np.full(20_000, y), np.random.default_rng(1))
    assert kstest(draws, lambda x: density.cdf(x, y)).pvalue > LEAST
    assert kstest(draws, lambda x: density.cdf(x, y + 0.1)).pvalue < LEAST  # control: another y


@pytest.mark.parametrize("name", DENSITIES)
def test_pairs_follow_the_joint_law(name):
    """u = F(x given y) is uniform, and independent of y; y has the marginal."""
    density = get(name)
    x, y = density.sample(20_000, np.random.default_rng(2))
    assert x.shape == y.shape == (20_000, 1) and x.dtype == y.dtype == np.float64
    u, high = density.cdf(x, y)[:, 0], y[:, 0] > np.median(y)
    for part in (u, u[high], u[~high]):
        assert kstest(part, "uniform").pvalue > RATE / 12
    ends, nodes, weights = panels((-2, 2) if name == "tanh" else (-9, 9))
    grown = np.append(0, (density.marginal(nodes) * weights).sum(1).cumsum())
    assert kstest(y[:, 0], lambda v: np.interp(v, ends, grown)).pvalue > RATE / 12
    assert kstest(density.cdf(x, np.roll(y, 1))[:, 0], "uniform").pvalue < RATE / 12  # control: other pairs
    again = density.sample(20_000, np.random.default_rng(2))
    assert (again[0] == x).all() and (again[1] == y).all()


@pytest.mark.parametrize("name", DENSITIES)
def test_many_y_at_once_are_drawn_each_from_its_own(name):
    density = get(name)
    y = np.random.default_rng(3).uniform(-1, 1, (100, 50))
    x = density.conditional(y, np.random.default_rng(4))
    assert x.shape == y.shape
    assert kstest(density.cdf(x, y).ravel(), "uniform").pvalue > RATE / 3


def test_an_unknown_density_is_refused():
    with pytest.raises(InputError, match="density: got 'gauss', one of tanh, bimodal, spiral is accepted"):
        get("gauss")
