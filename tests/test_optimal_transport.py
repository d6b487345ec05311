"""Transport distances against closed forms, linear programming, and independent iterations."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import linear_sum_assignment, linprog
from scipy.special import logsumexp, ndtr, ndtri
from scipy.stats import kstest, norm

from fokker.diagnostics import optimal_transport
from fokker.diagnostics.optimal_transport import COSTS, kolmogorov_smirnov, sinkhorn, transport_plan, wasserstein_1d
from fokker.errors import InputError

NORMAL = (-9.0, 9.0)


def costs_between(x, y, cost):
    gap = np.linalg.norm(np.reshape(x, (len(x), -1))[:, None] - np.reshape(y, (len(y), -1)), axis=-1)
    return gap**2 if cost == "squared" else gap


# --- One dimension


def test_shifted_points_are_as_far_as_the_shift():
    x = np.random.default_rng(0).normal(size=300)
    assert wasserstein_1d(x, x + 0.7) == pytest.approx(0.7, rel=1e-12)
    assert wasserstein_1d(x, x) == 0
    assert wasserstein_1d([0.0, 0.0, 3.0], [1.0]) == pytest.approx(4 / 3, rel=1e-12)


@pytest.mark.parametrize("at", [-2.0, 0.0, 0.3, 12.0])
def test_one_point_against_a_gaussian(at):
    """E|X - a| = 2 phi(a) + a (2 Phi(a) - 1); also where the point is outside the support."""
    exact = 2 * norm.pdf(at) + at * (2 * ndtr(at) - 1)
    assert wasserstein_1d([at], ndtr, NORMAL) == pytest.approx(exact, rel=1e-10)


def test_many_points_against_a_gaussian():
    """int |Q_n - Q| du by adaptive quadrature, piece by piece with its zeros."""
    x = np.sort(np.random.default_rng(1).normal(0.2, 1.3, size=17))
    total = 0.0
    for i, value in enumerate(x):
        cuts = np.unique(np.clip([i / 17, ndtr(value), (i + 1) / 17], i / 17, (i + 1) / 17))
        for low, high in itertools.pairwise(cuts):
            total += quad(lambda u, value=value: abs(value - ndtri(u)), low, high, epsabs=1e-13, limit=200)[0]
    assert wasserstein_1d(x, ndtr, NORMAL) == pytest.approx(total, rel=1e-8)


def test_two_gaussians_by_quadrature():
    """Quantiles in place of samples: W1 between N(0, 1) and N(0.3, 1.5^2) is int |Phi - Phi((x - 0.3)/1.5)| dx."""
    exact = quad(lambda x: abs(ndtr(x) - ndtr((x - 0.3) / 1.5)), -15, 15, points=[-0.6], epsabs=1e-12, limit=200)[0]
    quantiles = ndtri((np.arange(200_000) + 0.5) / 200_000)
    assert wasserstein_1d(0.3 + 1.5 * quantiles, ndtr, NORMAL) == pytest.approx(exact, rel=1e-5)
    assert wasserstein_1d(0.3 + 1.5 * quantiles, quantiles) == pytest.approx(exact, rel=1e-5)
    assert wasserstein_1d(quantiles, ndtr, NORMAL) < 1e-4 < exact  # control: the same law


def test_kolmogorov_smirnov():
    x = np.random.default_rng(2).normal(0.1, 1.0, size=500)
    assert kolmogorov_smirnov(x, ndtr) == pytest.approx(kstest(x, "norm").statistic, rel=1e-12)
    assert kolmogorov_smirnov([0.0], ndtr) == 0.5
    assert kolmogorov_smirnov(x + 1, ndtr) > 0.3 > kolmogorov_smirnov(x, ndtr)


# --- Entropic transport


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("d", [1, 2])
def test_little_entropy_is_the_optimal_assignment(cost, d):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, d)), rng.normal(size=(40, d))
    costs = costs_between(x, y, cost)
    best = costs[linear_sum_assignment(costs)].mean()
    assert sinkhorn(x, y, 1e-5, cost) == pytest.approx(best, rel=1e-3)
    assert sinkhorn(x, y, 0.3, cost) > 1.05 * best  # control: much entropy


def test_little_entropy_is_the_linear_programme():
    rng = np.random.default_rng(4)
    a, b, costs = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(5)), rng.random((7, 5))
    rows = np.array([np.outer(np.eye(7)[i], np.ones(5)).ravel() for i in range(7)])
    columns = np.array([np.outer(np.ones(7), np.eye(5)[j]).ravel() for j in range(5)])
    best = linprog(costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.append(a, b)).fun
    assert (transport_plan(a, b, costs, 1e-5) * costs).sum() == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("reg", [0.05, 0.2])
def test_the_plan_is_that_of_many_plain_iterations(cost, reg):
    rng = np.random.default_rng(5)
    x, y = np.cbrt(rng.normal(size=60)), np.cbrt(rng.normal(size=50))
    costs, g = costs_between(x, y, cost), np.zeros(50)
    for _ in range(3000):
        f = -reg * (logsumexp((g - costs) / reg, axis=1) + np.log(60))
        g = -reg * (logsumexp((f[:, None] - costs) / reg, axis=0) + np.log(50))
    slow = np.exp((f[:, None] + g - costs) / reg)
    assert np.abs(slow.sum(1) - 1 / 60).sum() < 1e-9
    assert sinkhorn(x, y, reg, cost) == pytest.approx((slow * costs).sum(), rel=1e-5)


@pytest.mark.parametrize("reg", [0.05, 1.0])
def test_two_gaussians_in_closed_form(reg):
    """Squared cost: the plan is Gaussian with covariance c = sqrt(s^2 u^2 + (reg/4)^2) - reg/4 of x and y.

    Gauss-Legendre weights stand for the densities. Source: Janati et al. 2020.
    """
    s, u, shift = 1.0, 0.6, 0.5
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = 8 * nodes
    a, b = weights * norm.pdf(x, 0, s), weights * norm.pdf(x, shift, u)
    a, b = a / a.sum(), b / b.sum()
    costs = (x[:, None] - x) ** 2
    c = np.sqrt(s**2 * u**2 + reg**2 / 16) - reg / 4
    exact = shift**2 + s**2 + u**2 - 2 * c
    kept = np.ix_(a > 1e-14, b > 1e-14)
    a, b = a[a > 1e-14] / a[a > 1e-14].sum(), b[b > 1e-14] / b[b > 1e-14].sum()
    plan = transport_plan(a, b, costs[kept], reg)
    assert (plan * costs[kept]).sum() == pytest.approx(exact, rel=1e-4)
    assert exact > 1.01 * (shift**2 + (s - u) ** 2)  # control: not the distance without entropy


@pytest.mark.parametrize("cost", COSTS)
def test_nothing_underflows_and_clusters_converge(cost):
    """Two clusters of unequal size far apart, in units of reg: exp(-cost/reg) is zero between them."""
    rng = np.random.default_rng(6)
    x = np.concatenate([rng.normal(size=60), 500 + rng.normal(size=40)])
    y = np.concatenate([rng.normal(size=50), 500 + rng.normal(size=50)])
    costs = costs_between(x, y, cost)
    plan = transport_plan(np.full(100, 0.01), np.full(100, 0.01), costs, 0.01)
    assert max(np.abs(plan.sum(1) - 0.01).sum(), np.abs(plan.sum(0) - 0.01).sum()) <= 1e-6
    best = costs[linear_sum_assignment(costs)].mean()
    assert sinkhorn(x, y, 0.01, cost) == pytest.approx(best, rel=1e-2)


def test_what_has_not_converged_is_refused(monkeypatch):
    x = np.random.default_rng(7).normal(size=(2, 80))
    assert sinkhorn(*x) > 0
    monkeypatch.setattr(optimal_transport, "_NEWTON", 1)
    monkeypatch.setattr(optimal_transport, "_ITERATIONS", 2)
    with pytest.raises(FloatingPointError, match="does not converge"):
        sinkhorn(*x)


# --- Mistakes


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: wasserstein_1d([], [1.0]), "samples: got shape"),
        (lambda: wasserstein_1d([1.0], [np.nan]), "reference: got shape"),
        (lambda: wasserstein_1d([[1.0]], [1.0]), "samples: got shape"),
        (lambda: wasserstein_1d([1.0], ndtr), "support: got None"),
        (lambda: wasserstein_1d([1.0], ndtr, (1.0, 1.0)), "support: got"),
        (lambda: kolmogorov_smirnov([np.inf], ndtr), "samples: got shape"),
        (lambda: sinkhorn([1.0], [[1.0, 2.0]]), "y: got points of 2 entries"),
        (lambda: sinkhorn([np.nan], [1.0]), "x: got shape"),
        (lambda: sinkhorn([1.0], []), "y: got shape"),
        (lambda: sinkhorn([1.0], [1.0], 0.0), "reg: got 0.0"),
        (lambda: sinkhorn([1.0], [1.0], float("nan")), "reg: got nan"),
        (lambda: sinkhorn([1.0], [1.0], cost="cubic"), "cost: got 'cubic', one of euclidean, squared"),
    ],
)
def test_mistakes_are_told(call, told):
    with pytest.raises(InputError, match=told.replace("[", r"\[")):
        call()
