"""Verdicts in words: exact samples pass at the stated rate, every wrong kind is named."""

import numpy as np
import pytest
from scipy.stats import binom, kstest

from fokker.diagnostics.calibration import depends, features_of, judge, scores_of
from fokker.diagnostics.sbc import pit
from fokker.errors import InputError

NOISE = np.array([0.5, 1.0, 2.0])


def problem(seed, cases=600, draws=99, scale=1.0, shift=0.0):
    """x N(0, I) in three dimensions, y = x + noise: x given y is N(y / (1 + s^2), s^2 / (1 + s^2)); scaled, shifted."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((cases, 3))
    y = x + NOISE * rng.standard_normal(x.shape)
    mean, std = y / (1 + NOISE**2), np.sqrt(NOISE**2 / (1 + NOISE**2))
    shift = shift(y) if callable(shift) else shift
    scale = scale(y) if callable(scale) else scale
    samples = mean[:, None] + std * each_case(shift) + std * each_case(scale) * rng.standard_normal((cases, draws, 3))
    return samples, x, y, mean


def each_case(value):
    return np.asarray(value)[:, None] if np.ndim(value) == 2 else value


def test_scores_of_exact_samples_are_standard_normal_and_free_of_y():
    """Kolmogorov-Smirnov at 1e-4 each."""
    samples, x, y, _ = problem(0, 4000)
    z, v = scores_of(pit(samples, x))
    for score in (z, v):
        for j in range(3):
            assert kstest(score[:, j], "norm").pvalue > 1e-4
    p = [depends(z[:, j], features_of(y)) for j in range(3)] + [depends(v[:, j], features_of(y)) for j in range(3)]
    assert min(p) > 1e-4


def test_exact_samples_pass_at_the_stated_rate():
    """At a rate of 10 % at most 10 % of 200 sets are called wrong; more than 34 happen once in 1,000 by chance."""
    wrong = 0
    for seed in range(200):
        samples, x, y, mean = problem(seed, 150, 19)
        wrong += not judge(samples, x, y, from_y=mean, rate=0.1).calibrated
    assert wrong <= binom.ppf(0.999, 200, 0.1)
    assert wrong > 0  # the rate is close to what is stated, not far below


WRONG = {
    "too narrow": ({"scale": 0.8}, "over-confident by about a"),
    "too wide": ({"scale": 1.25}, "under-confident by about a"),
    "shifted": ({"shift": -0.4}, "samples lie too low, by 0."),
    "shifted up": ({"shift": 0.4}, "samples lie too high, by 0."),
    "wrong locally": ({"shift": lambda y: 0.4 * np.sign(y)}, "where its samples lie is wrong in a way that depends"),
    "width wrong locally": ({"scale": lambda y: np.where(y > 0, 1.35, 0.7)}, "how wide its samples are is wrong"),
}


@pytest.mark.parametrize(("how", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(how, words):
    samples, x, y, mean = problem(1, 1000, **how)
    found = judge(samples, x, y, from_y=mean)
    assert sum(words in text for text in found.words) == 3, found.words
    if isinstance(how.get("scale"), float):  # five standard errors of a width are 11 %
        assert np.allclose([entry.width * how["scale"] for entry in found.entries], 1, atol=0.12)


@pytest.mark.parametrize(("shift", "scale"), [(-3.0, 1.0), (10.0, 1.0), (0.0, 0.05)])
def test_gross_errors_are_not_mistaken_for_others(shift, scale):
    """Ranks saturate there; what is said of shift and width is not taken from them."""
    samples, x, y, _ = problem(8, 500, shift=shift, scale=scale)
    found = judge(samples, x, y)
    for entry in found.entries:
        assert entry.shift * scale == pytest.approx(
            -shift, abs=0.25, rel=0.02
        ) and entry.width * scale == pytest.approx(1, abs=0.2)
    said = " ".join(found.words)
    assert "under-confident" not in said and ("lie too" in said) == (shift != 0) and ("over-" in said) == (scale < 1)


def test_an_entry_that_never_varies_among_the_cases():
    samples, x, y, _ = problem(9, 100, 19)
    x[:, 1], samples[:, :, 1] = 0.0, 0.0
    found = judge(samples, x, y)
    assert found.entries[1].contraction is None and found.entries[1].shift == 0


def test_only_the_wrong_entry_is_named():
    samples, x, y, _ = problem(2, 1000)
    samples[:, :, 1] += 0.5
    words = judge(samples, x, y, ["growth", "decay", "source"]).words
    assert words and all(text.startswith("decay: ") for text in words)


def test_samples_that_ignore_y_are_seen():
    """Prior samples: ranks are uniform, only their dependence on y tells."""
    samples, x, y, mean = problem(3, 600)
    prior = np.random.default_rng(4).standard_normal(samples.shape)
    found = judge(prior, x, y, from_y=mean)
    assert all(entry.p_ranks > 1e-4 and abs(entry.contraction) < 0.2 for entry in found.entries)
    assert any(
        "where its samples lie is wrong in a way that depends on the measurement" in text for text in found.words
    )


def test_a_wrong_correlation_is_seen_by_whole_vectors():
    """x = (a, a + small): samples with right marginals and no correlation."""
    rng = np.random.default_rng(5)
    a = rng.standard_normal((800, 1))
    x = np.concatenate([a, a + 0.1 * rng.standard_normal(a.shape)], 1)
    samples = rng.standard_normal((800, 99, 2)) * np.array([1.0, np.sqrt(1.01)])
    found = judge(samples, x, rng.standard_normal((800, 2)))
    assert len(found.words) == 1 and "right one by one but not together" in found.words[0]


def test_contraction():
    samples, x, y, _ = problem(6, 2000)
    exact = 1 - NOISE**2 / (1 + NOISE**2)
    found = judge(samples, x, y)
    assert np.allclose([entry.contraction for entry in found.entries], exact, atol=0.06) and found.cases == 2000


def test_missing_entries_of_y_and_wrong_shapes():
    samples, x, y, _ = problem(7, 200, 19)
    y[::3, 0] = np.nan
    assert judge(samples, x, y).cases == 200
    with pytest.raises(InputError, match="at least 50 cases"):
        judge(samples[:20], x[:20], y[:20])
    with pytest.raises(InputError, match="shape"):
        judge(samples[:, :, :2], x, y)
