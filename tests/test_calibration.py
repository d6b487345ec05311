"""Simulation-based calibration and TARP: exact laws by enumeration, the false-alarm rate, and what each of them flags.

The model is linear and Gaussian, x ~ N(0, C) in four dimensions, two noisy sums y = H x + e: its posterior is known,
with half the prior's standard deviations and a correlation of -0.83 inside each sum. A failure must have p < RATE
/ 100; what is exact, or not visible, is called a failure with a probability of RATE for a whole list.
"""

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy.stats import kstest

from exact import RATE, limit
from fokker.diagnostics import sbc, tarp
from fokker.errors import InputError

C = 0.5 ** np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
H = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
NOISE = 0.3
GAIN = C @ H.T @ np.linalg.inv(H @ C @ H.T + NOISE**2 * np.eye(2))
COVARIANCE = C - GAIN @ H @ C
FACTOR, PRIOR = np.linalg.cholesky(COVARIANCE), np.linalg.cholesky(C)
STD = np.sqrt(np.diag(COVARIANCE))

POSTERIORS = {  # of conditional means m and standard normals z
    "exact": lambda m, z: m + z @ FACTOR.T,
    "narrow": lambda m, z: m + 0.8 * z @ FACTOR.T,
    "wide": lambda m, z: m + 1.2 * z @ FACTOR.T,
    "biased": lambda m, z: m + 0.5 * STD + z @ FACTOR.T,
    "prior": lambda m, z: z @ PRIOR.T,
    "independent": lambda m, z: m + STD * z,  # the right marginals
}


def log_likelihood(x, y):
    return -np.square(y - x @ H.T).sum(-1) / (2 * NOISE**2)


DIAGNOSTICS = {  # ranks of samples X (M, n, 4) against x (M, 4), given y (M, 2)
    "entries": lambda X, x, y: sbc.ranks(X, x),
    "sums": lambda X, x, y: sbc.ranks(X @ H.T, x @ H.T),
    "likelihood": lambda X, x, y: sbc.ranks(log_likelihood(X, y[:, None]), log_likelihood(x, y)),
    "tarp prior": lambda X, x, y: tarp.tarp_ranks(X, x, "prior"),
    "tarp uniform": lambda X, x, y: tarp.tarp_ranks(X, x, "uniform"),
    "tarp y": lambda X, x, y: tarp.tarp_ranks(X, x, y @ np.linalg.pinv(H).T),
}

# What does not see a failure, however many cases: everything else must.
BLIND = {("prior", "entries"), ("prior", "sums"), ("prior", "tarp prior"), ("prior", "tarp uniform")}
BLIND |= {("independent", "entries")}


def cases(kind, count, n, rng):
    x = rng.normal(size=(count, 4)) @ PRIOR.T
    y = x @ H.T + NOISE * rng.normal(size=(count, 2))
    return POSTERIORS[kind]((y @ GAIN.T)[:, None], rng.normal(size=(count, n, 4))), x, y


def least_p(rank, n):
    """The p-value of all entries together, by Bonferroni."""
    p = sbc.p_value(rank, n)
    return p.min() * p.size


# --- What is flagged


@pytest.mark.parametrize("kind", POSTERIORS)
@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_each_failure_and_who_sees_it(kind, name):
    samples, x, y = cases(kind, 2500, 50, np.random.default_rng(0))
    p = least_p(DIAGNOSTICS[name](samples, x, y), 50)
    passes = kind == "exact" or (kind, name) in BLIND
    assert p > RATE / (len(DIAGNOSTICS) + len(BLIND)) if passes else p < RATE / 100


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_false_alarms_of_the_exact_posterior_are_as_stated(name):
    """p-values of 500 independent data sets: how many are below a rate."""
    rng, rates = np.random.default_rng(1), np.array([0.01, 0.05, 0.2, 0.5])
    rank = [DIAGNOSTICS[name](*cases("exact", 60, 25, rng)).reshape(60, -1)[:, 0] for _ in range(500)]
    p = sbc.p_value(np.stack(rank, axis=1), 25)
    z = ((p[:, None] <= rates).mean(0) - rates) / np.sqrt(rates * (1 - rates) / len(p))
    assert np.abs(z).max() < limit(len(rates) * len(DIAGNOSTICS))


def test_false_alarms_control_a_slightly_narrow_posterior():
    rng = np.random.default_rng(2)
    rank = [DIAGNOSTICS["tarp y"](*cases("narrow", 60, 25, rng)) for _ in range(500)]
    alarms = (sbc.p_value(np.stack(rank, axis=1), 25) <= 0.05).mean()
    assert (alarms - 0.05) / np.sqrt(0.05 * 0.95 / 500) > 10


def test_the_sign_of_the_difference_says_what_is_wrong():
    shapes = {}
    for kind in ("narrow", "wide", "biased"):
        samples, x, _ = cases(kind, 2500, 50, np.random.default_rng(3))
        shapes[kind] = sbc.ecdf_difference(sbc.ranks(samples, x), 50)
        lower, upper = sbc.bands(2500, 50)
        assert ((shapes[kind] < lower) | (shapes[kind] > upper)).any(-1).all()
    assert (shapes["narrow"][:, 4] > 0).all() and (shapes["narrow"][:, 45] < 0).all()
    assert (shapes["wide"][:, 4] < 0).all() and (shapes["wide"][:, 45] > 0).all()
    assert (shapes["biased"][:, 5:45] > 0).all()  # samples too high, truths low among them


# --- Ranks


def test_ranks_are_their_definition():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(40, 9, 2, 3)).round(0), rng.normal(size=(40, 2, 3)).round(0)
    rank, value = sbc.ranks(x, y, seed=7), sbc.pit(x, y, seed=7)
    less, equal = (x < y[:, None]).sum(1), (x == y[:, None]).sum(1)
    assert ((rank >= less) & (rank <= less + equal)).all() and (rank[equal > 1] != less[equal > 1]).any()
    np.testing.assert_array_equal(rank, np.floor(10 * value))
    assert (rank != sbc.ranks(x, y, seed=8)).any()
    np.testing.assert_array_equal(sbc.ranks(x.astype(np.float32), y, seed=7), rank)


def test_ranks_do_not_depend_on_parts(monkeypatch):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(41, 9, 3)).round(0), rng.normal(size=(41, 3)).round(0)
    rank, distance = sbc.ranks(x, y), tarp.tarp_ranks(x, y)
    bounds = [0, 1, 7, 20, 41]
    pieces = [sbc.ranks(x[a:b], y[a:b], first=a) for a, b in itertools.pairwise(bounds)]
    np.testing.assert_array_equal(np.concatenate(pieces), rank)
    assert (sbc.ranks(x[1:], y[1:]) != rank[1:]).any()  # control: without `first` the draws are others
    monkeypatch.setattr(sbc, "_CHUNK", 60)
    np.testing.assert_array_equal(sbc.ranks(x, y), rank)
    np.testing.assert_array_equal(tarp.tarp_ranks(x, y), distance)


def test_atoms_are_uniform_by_randomisation():
    """Half of all values are clipped to zero, a quarter of the pairs entirely."""
    rng = np.random.default_rng(6)
    x, y = (np.maximum(rng.normal(size=size), 0.0) for size in ((3000, 30, 2), (3000, 2)))
    u = sbc.pit(x, y)
    assert u.min() >= 0 and u.max() <= 1
    assert min(kstest(u[:, i], "uniform").pvalue for i in range(2)) > RATE
    for rank in (sbc.ranks(x, y), tarp.tarp_ranks(x, y), tarp.tarp_ranks(x, y, np.zeros((3000, 2)))):
        assert least_p(rank, 30) > RATE / 3
    assert least_p((x < y[:, None]).sum(1), 30) < RATE / 100  # control: ties not broken
    missed = np.where(x > 0, x, 1e-9)  # control: the atom beside its place
    assert least_p(sbc.ranks(missed, y), 30) < RATE / 100


# --- TARP


@pytest.mark.parametrize("references", ["prior", "uniform"])
def test_tarp_does_not_depend_on_units(references):
    samples, x, _ = cases("exact", 50, 20, np.random.default_rng(7))
    scale, shift = np.array([1e-6, 1.0, 1e3, 64.0]), np.array([0.0, 1e3, -1e5, 1.0])
    rank = tarp.tarp_ranks(samples, x, references)
    np.testing.assert_array_equal(tarp.tarp_ranks(samples * scale + shift, x * scale + shift, references), rank)
    assert (tarp.tarp_ranks(samples, x, references, seed=1) != rank).any()


def test_tarp_ranks_are_distances_to_the_references():
    rng = np.random.default_rng(8)
    x, y, points = rng.normal(size=(30, 9, 2, 2)), rng.normal(size=(30, 2, 2)), rng.normal(size=(30, 2, 2))
    x[..., 0] *= 100.0
    std = np.concatenate([x, y[:, None]], 1).std((0, 1))
    near = np.linalg.norm(((x - points[:, None]) / std).reshape(30, 9, 4), axis=-1)
    nearer = np.linalg.norm(((y - points) / std).reshape(30, 4), axis=-1)
    np.testing.assert_array_equal(tarp.tarp_ranks(x, y, points), (near < nearer[:, None]).sum(1))
    constant = np.concatenate([x, np.full((30, 9, 2, 1), 3.0)], -1)  # an entry of no spread changes nothing
    more = (np.concatenate([v, np.full((30, 2, 1), 3.0)], -1) for v in (y, points))
    np.testing.assert_array_equal(tarp.tarp_ranks(constant, *more), tarp.tarp_ranks(x, y, points))


def test_coverage_curve():
    rank = np.array([0, 0, 1, 3])
    alpha, coverage = tarp.coverage_curve(rank, 3)
    np.testing.assert_allclose(alpha, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(coverage, [0, 0.5, 0.75, 0.75, 1])
    assert np.abs(coverage - alpha).max() == pytest.approx(sbc.deviation(rank, 3)) == pytest.approx(0.25)


# --- Uniformity of integers


def oddness(rank, n):
    """The statistic of `p_value` in exact arithmetic."""
    size, tails = len(rank), []
    for k in range(n):
        p, count = Fraction(k + 1, n + 1), sum(r <= k for r in rank)
        law = [comb(size, j) * p**j * (1 - p) ** (size - j) for j in range(size + 1)]
        tails.append(min(sum(law[: count + 1]), sum(law[count:])))
    return min(tails)


@pytest.mark.parametrize(("size", "n"), [(1, 4), (3, 1), (4, 2), (5, 4), (7, 2), (3, 9)])
def test_p_values_and_bands_are_exact(size, n):
    """Over all (n + 1)^M equally likely outcomes."""
    outcomes = np.array(list(itertools.product(range(n + 1), repeat=size)))
    kinds, of = np.unique(np.sort(outcomes, axis=1), axis=0, return_inverse=True)
    weight = np.bincount(of.ravel()) / len(outcomes)
    statistic = [oddness(kind, n) for kind in kinds.tolist()]
    exact = [weight[[other <= mine for other in statistic]].sum() for mine in statistic]
    p = sbc.p_value(kinds.T, n)
    np.testing.assert_allclose(p, exact, rtol=1e-9)
    for level in (0.5, 0.8, 0.95):
        lower, upper = sbc.bands(size, n, level)
        difference = sbc.ecdf_difference(kinds.T, n)
        inside = ((difference >= lower) & (difference <= upper)).all(-1)
        assert weight[inside].sum() >= level
        np.testing.assert_array_equal(inside, p > max(p[~inside], default=0))  # as wide as one value of the statistic
        closer = inside & (p > p[inside].min())
        assert weight[closer].sum() < level or (p[inside] == p[inside].min()).all()  # no narrower bands would do


def test_p_values_of_many_ranks_are_uniform():
    """Of 2,000 sets of 300 ranks in 0..40; bands of 90 % hold 90 %."""
    rng, rates = np.random.default_rng(9), np.array([0.01, 0.1, 0.3, 0.6])
    rank = rng.integers(0, 41, size=(300, 2000))
    p = sbc.p_value(rank, 40)
    z = ((p[:, None] <= rates).mean(0) - rates) / np.sqrt(rates * (1 - rates) / 2000)
    assert np.abs(z).max() < limit(len(rates))
    lower, upper = sbc.bands(300, 40, 0.9)
    difference = sbc.ecdf_difference(rank, 40)
    np.testing.assert_array_equal(((difference < lower) | (difference > upper)).any(-1), p <= 0.1)


def test_p_values_stay_in_order_when_tiny():
    rank = np.arange(1000) % 51
    piled = np.stack([np.where(np.arange(1000) < m, 0, rank) for m in (0, 60, 100, 200, 1000)], axis=1)
    p = sbc.p_value(piled, 50)
    assert (np.diff(p) < 0).all() and p[0] > 0.99 and p[2] < 1e-9 and p[-1] < 1e-300


def test_deviation_is_kolmogorov_for_many_samples():
    rng = np.random.default_rng(10)
    x, y = rng.normal(size=(500, 4000)), rng.normal(0.1, 1.0, size=500)
    distance = kstest(sbc.pit(x, y), "uniform").statistic
    assert sbc.deviation(sbc.ranks(x, y), 4000) == pytest.approx(distance, abs=1 / 4000 + 1 / 500)
    np.testing.assert_allclose(sbc.deviation(np.array([[0, 2], [0, 1], [0, 0]]), 2), [2 / 3, 0], atol=1e-15)


# --- Mistakes


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: sbc.ranks(np.ones((3, 4)), np.ones(2)), "shape"),
        (lambda: sbc.ranks(np.ones((3, 0)), np.ones(3)), "at least"),
        (lambda: sbc.ranks(np.ones((0, 4)), np.ones(0)), "at least"),
        (lambda: sbc.ranks(np.full((3, 4), np.nan), np.ones(3)), "finite"),
        (lambda: sbc.pit(np.ones((3, 4)), np.full(3, np.inf)), "finite"),
        (lambda: sbc.ranks(np.ones((3, 4)), np.ones(3), seed=-1), "seed"),
        (lambda: sbc.ranks(np.ones((3, 4)), np.ones(3), first=-1), "first"),
        (lambda: sbc.deviation(np.array([0.5]), 4), "integers"),
        (lambda: sbc.p_value(np.array([], dtype=int), 4), "integers"),
        (lambda: sbc.p_value(np.array([0, 5]), 4), "0 to n = 4"),
        (lambda: sbc.ecdf_difference(np.array([0, 1]), 0), "n: got 0"),
        (lambda: sbc.bands(0, 4), "cases: got 0"),
        (lambda: sbc.bands(4, 2.5), "n: got 2.5"),
        (lambda: sbc.bands(4, 4, 95), "level: got 95"),
        (lambda: tarp.tarp_ranks(np.ones((3, 4, 2)), np.ones((3, 3))), "shape"),
        (lambda: tarp.tarp_ranks(np.full((3, 4), np.nan), np.ones(3)), "finite"),
        (lambda: tarp.tarp_ranks(np.ones((3, 4)), np.ones(3), "posterior"), "'posterior', prior or uniform"),
        (lambda: tarp.tarp_ranks(np.ones((1, 4)), np.ones(1)), "1 case"),
        (lambda: tarp.tarp_ranks(np.ones((3, 4)), np.ones(3), np.ones(2)), r"shape \(2,\)"),
        (lambda: tarp.tarp_ranks(np.ones((3, 4)), np.ones(3), np.full(3, np.nan)), "finite"),
    ],
)
def test_mistakes_are_told_in_one_line(call, word):
    with pytest.raises(InputError, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)
