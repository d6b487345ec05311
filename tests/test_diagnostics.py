"""Scores, coverage and chain diagnostics: closed forms, ties, and a control that each must flag.

Statistical limits are in standard errors estimated from the cases: |z| < 4.5 is a false alarm with probability 7e-6
per comparison (the seeds are fixed, so a test that passes keeps passing).
"""

import math

import numpy as np
import pytest
from scipy.stats import norm

from fokker.diagnostics import chains, coverage, scores
from fokker.errors import InputError

LEVELS = [0.5, 0.8, 0.95]
LIMIT, FLAG = 4.5, 6.0


def z_of(values, expected):
    """Mean of independent values against its expectation, in standard errors."""
    return (values.mean(-1) - expected) / (values.std(-1, ddof=1) / np.sqrt(values.shape[-1]))


# --- CRPS


def test_crps_is_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 7, 2, 3)).round(1), rng.normal(size=(5, 2, 3)).round(1)
    pairs = np.abs(x[:, :, None] - x[:, None]).sum((1, 2)) / (2 * 7 * 6)
    np.testing.assert_allclose(scores.crps(x, y), np.abs(x - y[:, None]).mean(1) - pairs, atol=1e-12)
    np.testing.assert_allclose(scores.crps(x + 1e9, y + 1e9), scores.crps(x, y), atol=1e-6)


def test_crps_of_a_gaussian_is_the_closed_form_and_fair(monkeypatch):
    mu, sigma, y, cases, n = 0.4, 1.7, 2.0, 20_000, 5
    z = (y - mu) / sigma
    exact = sigma * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    x = np.random.default_rng(1).normal(mu, sigma, size=(cases, n))
    value = scores.crps(x, np.full(cases, y))
    assert abs(z_of(value, exact)) < LIMIT
    plain = np.abs(x - y).mean(1) - np.abs(x[:, :, None] - x[:, None]).sum((1, 2)) / (2 * n * n)
    assert z_of(plain, exact) > FLAG  # control: dividing by n^2 is not fair
    monkeypatch.setattr(scores, "_CHUNK", 101)
    np.testing.assert_array_equal(scores.crps(x[:500], np.full(500, y)), value[:500])


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 1.0), (0.0, 0.5), (0.0, 2.0)])
def test_crps_is_least_for_the_right_distribution(shift, scale):
    rng = np.random.default_rng(2)
    y, x = rng.normal(size=4000), rng.normal(size=(4000, 30))
    assert z_of(scores.crps(shift + scale * x, y) - scores.crps(x, y), 0.0) > FLAG


# --- Relative error


def test_relative_error_is_its_definition_and_says_what_a_sample_costs():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(4, 3, 5))
    gap = rng.normal(size=truth.shape)
    expected = [math.sqrt((g**2).sum() / (t**2).sum()) for g, t in zip(gap, truth)]
    np.testing.assert_allclose(scores.relative_error(truth + gap, truth), expected, rtol=1e-12)
    np.testing.assert_allclose(scores.relative_error(-3 * truth, truth), 4.0)
    mean, other = rng.normal(size=(2, 200, 400))  # truth = mean + noise, sample = mean + other noise
    truth = mean + 0.1 * rng.normal(size=mean.shape)
    ratio = scores.relative_error(mean + 0.1 * other, truth).mean() / scores.relative_error(mean, truth).mean()
    assert abs(ratio - math.sqrt(2)) < 0.02
    with pytest.raises(InputError, match="truth: case 1 is zero everywhere"):
        scores.relative_error(np.ones((2, 3)), np.array([[1.0, 0, 0], [0, 0, 0]]))
    with pytest.raises(InputError, match="have shape"):
        scores.relative_error(np.ones((2, 3)), np.ones((3, 3)))


# --- Coverage


@pytest.mark.parametrize("values", [np.arange(1.0), np.arange(7.0), [0, 0, 0, 1, 2], [0, 0, 0], np.arange(33.0)])
def test_coverage_is_exact_over_all_positions_of_the_truth(values):
    """Deterministic: averaged over which of n + 1 exchangeable values is the truth, coverage is the level itself."""
    values = np.concatenate([np.asarray(values, dtype=float), [9.0]])
    x = np.stack([np.delete(values, i) for i in range(len(values))])
    np.testing.assert_allclose(coverage.rank_coverage(x, values, LEVELS), LEVELS, atol=1e-12)


def coverage_z(x, y):
    value = coverage.coverage_per_case(x, y, LEVELS).mean(-1)  # (levels, M): one number per independent case
    return z_of(value, np.array(LEVELS))


@pytest.mark.parametrize("n", [2, 32, 200])
def test_coverage_of_right_samples_with_an_atom(n):
    rng = np.random.default_rng(3)
    x, y = (np.maximum(rng.normal(size=s), 0.0) for s in ((3000, n, 3), (3000, 3)))
    assert np.abs(coverage_z(x, y)).max() < LIMIT


def test_coverage_flags_narrow_wide_and_biased():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(3000, 32, 3)), rng.normal(size=(3000, 3))
    assert np.abs(coverage_z(x, y)).max() < LIMIT
    assert (coverage_z(0.8 * x, y) < -FLAG).all()
    assert (coverage_z(1.25 * x, y) > FLAG).all()
    assert (coverage_z(x + 0.5, y) < -FLAG).all()
    clipped = np.maximum(x, 0), np.maximum(y, 0)
    assert (coverage_z(np.where(clipped[0] > 0, clipped[0], 1e-9), clipped[1]) < -FLAG).all()  # the atom missed


def test_coverage_does_not_depend_on_n_where_quantiles_do():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(20_000, 32)), rng.normal(size=20_000)
    low, high = np.quantile(x, [0.25, 0.75], axis=1)
    assert z_of(((low < y) & (y < high)).astype(float), 0.5) < -FLAG
    assert abs(coverage_z(x[..., None], y[:, None])[0]) < LIMIT


# --- Chains


def autoregressive(rng, rho, shape):
    x = np.empty(shape)
    x[:, 0] = rng.normal(size=shape[:1] + shape[2:])
    for t in range(1, shape[1]):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * rng.normal(size=shape[:1] + shape[2:])
    return x


@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.7, 0.9])
def test_ess_of_an_autoregression(rho):
    """Exact: S (1 - rho) / (1 + rho). The mean of 40 estimates; each scatters by about 10 %, so 8 % is five errors."""
    x = autoregressive(np.random.default_rng(6), rho, (4, 1000, 40))
    assert np.exp(np.log(chains.ess(x)).mean()) == pytest.approx(4000 * (1 - rho) / (1 + rho), rel=0.08)
    assert np.median(chains.split_rhat(x)) < 1.03


def test_rhat_flags_what_has_not_converged():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(4, 500, 5))
    x[0, :, 1] += 1.0  # a chain elsewhere
    x[0, :, 2] *= 3.0  # a chain too wide: seen in the tails alone
    x[..., 3] += np.linspace(0, 1.5, 500)  # every chain drifts: seen by splitting alone
    x[..., 4] = rng.standard_cauchy(size=(4, 500))  # no variance, yet converged
    rhat = chains.split_rhat(x)
    assert (rhat[[0, 4]] < 1.01).all()
    assert (rhat[[1, 2, 3]] > 1.03).all()
    assert chains.ess(x)[1] < 100 < 1500 < chains.ess(x)[0]


def test_constant_and_stuck_quantities():
    x = np.random.default_rng(8).normal(size=(4, 101, 4))
    x[..., 1] = 0.0
    x[..., 2] = np.arange(4)[:, None]
    x[..., 3] = np.sign(x[..., 3])  # |x - median| can be constant here
    rhat, size = chains.split_rhat(x), chains.ess(x)
    assert np.isnan(rhat[1]) and np.isnan(size[1]) and np.isfinite(size[[0, 3]]).all()
    assert rhat[2] > 10 and np.isfinite(rhat[[0, 3]]).all()


def test_chains_agree_with_arviz():
    stats = pytest.importorskip("arviz_stats.base").array_stats
    rng = np.random.default_rng(9)
    x = np.concatenate([autoregressive(rng, rho, (4, 401, 4)) for rho in (0.0, 0.5, 0.9)], axis=-1)
    x = np.concatenate([x, np.maximum(x, 0.0), x**3 + np.arange(4)[:, None, None]], axis=-1)
    rhat, size = chains.split_rhat(x), chains.ess(x)
    for i in range(x.shape[-1]):
        assert rhat[i] == pytest.approx(float(stats.rhat(x[..., i], method="rank")), rel=1e-6)
        assert size[i] == pytest.approx(float(stats.ess(x[..., i], method="bulk")), rel=0.03)


# --- Mistakes


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: scores.crps(np.ones((3, 4)), np.ones(2)), "shape"),
        (lambda: scores.crps(np.ones((3, 1)), np.ones(3)), "at least"),
        (lambda: scores.crps(np.full((3, 4), np.nan), np.ones(3)), "finite"),
        (lambda: coverage.rank_coverage(np.ones((3, 4)), np.ones(3), [0.5, 1.0]), "levels"),
        (lambda: coverage.rank_coverage(np.ones(3), np.ones(3), 0.5), "shape"),
        (lambda: chains.split_rhat(np.ones((4, 3))), "at least"),
        (lambda: chains.ess(np.full((4, 9), np.inf)), "finite"),
    ],
)
def test_mistakes_are_told_in_one_line(call, word):
    with pytest.raises(InputError, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_energy_score_of_standard_normals_is_the_closed_form():
    """E|X - x| - E|X - X'| / 2 = E|X - X'| / 2 = Gamma((d + 1) / 2) / Gamma(d / 2) for X, x, X' ~ N(0, I_d).

    Over 4,000 cases the mean is within 4.4 standard errors of it (false alarms: 1e-5), also in another scale; a wrong
    correlation raises it.
    """
    rng = np.random.default_rng(0)
    samples, truth = rng.standard_normal((4000, 50, 3)), rng.standard_normal((4000, 3))
    exact = math.gamma(2) / math.gamma(1.5)
    for scale, factor in ((1.0, 1.0), (0.5, 2.0)):
        value = scores.energy_score(samples, truth, scale)
        assert value.shape == (4000,)
        assert abs(value.mean() - factor * exact) < 4.4 * value.std() / math.sqrt(4000)
    both = truth[:, :1] + 0.1 * rng.standard_normal((4000, 2))
    near = rng.standard_normal((4000, 50, 1)) + 0.1 * rng.standard_normal((4000, 50, 2))
    apart = rng.standard_normal((4000, 50, 2))
    gap = scores.energy_score(apart, both) - scores.energy_score(near, both)
    assert gap.mean() > 5 * gap.std() / math.sqrt(4000)
    for bad in (0.0, -1.0, [1.0, math.nan, 1.0], [1.0, 2.0]):
        with pytest.raises(InputError, match="scale"):
            scores.energy_score(samples, truth, bad)
