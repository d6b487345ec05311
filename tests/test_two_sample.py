"""Distances between samples: closed forms, floors, and a shift that all of them see."""

import math

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from fokker.diagnostics.two_sample import c2st, compare, mmd, sliced_wasserstein
from fokker.errors import InputError


def normals(seed, rows, shift=0.0, size=3):
    return np.random.default_rng(seed).standard_normal((rows, size)) + shift


def test_c2st_of_shifted_normals_is_the_best_accuracy():
    """N(0, I) and N(delta, I): no classifier beats Phi(|delta| / 2) = 0.841; 2,000 rows know it to 0.008."""
    x, y = normals(0, 1000), normals(1, 1000, 2 / math.sqrt(3))
    assert c2st(x, y) == pytest.approx(0.841, abs=0.033)
    assert c2st(x, normals(2, 1000)) == pytest.approx(0.5, abs=0.045)
    assert c2st(x[:60], y[:60]) == c2st(x[:60], y[:60])


def test_sliced_wasserstein_of_a_shift():
    """In three dimensions |u . delta| averaged over directions u is |delta| / 2, its deviation 0.29 |delta|."""
    x = normals(0, 500)
    delta = np.array([0.6, -0.8, 0.0])
    assert sliced_wasserstein(x, x + delta) == pytest.approx(0.5, abs=5 * 0.29 / math.sqrt(200))
    assert sliced_wasserstein(x, x) == 0


def test_sliced_wasserstein_of_unequal_numbers_is_that_of_scipy():
    x, y = normals(0, 300, size=1), normals(1, 70, 0.3, size=1)
    assert sliced_wasserstein(x, y) == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-9)


def test_mmd_of_normals_is_the_closed_form_and_unbiased():
    """E k = (s^2 / (s^2 + 2))^(d/2) exp(-|delta|^2 / (2 (s^2 + 2))); means of 60 sets within 4.5 standard errors."""
    scale, delta = 1.5, 0.5
    factor = (scale**2 / (scale**2 + 2)) ** 1.5
    exact = 2 * factor * (1 - math.exp(-3 * delta**2 / (2 * (scale**2 + 2))))
    for shift, value in ((delta, exact), (0.0, 0.0)):
        found = np.array([mmd(normals(2 * i, 100), normals(2 * i + 1, 120, shift), scale) for i in range(60)])
        assert abs(found.mean() - value) < 4.5 * found.std(ddof=1) / math.sqrt(60)


def test_mmd_does_not_depend_on_blocks(monkeypatch):
    x, y = normals(0, 90), normals(1, 110, 0.2)
    whole = mmd(x, y)
    monkeypatch.setattr("fokker.diagnostics.two_sample._BLOCK", 7)
    assert mmd(x, y) == pytest.approx(whole, rel=1e-10)


def test_each_distance_stands_beside_its_floor():
    same = compare(normals(0, 400), normals(1, 800))
    other = compare(normals(0, 400, 0.5), normals(1, 800))
    assert set(same) == {"c2st", "sliced_wasserstein", "mmd", "sinkhorn"}
    for name, (distance, floor) in other.items():
        assert distance > 1.15 * abs(floor) and distance > same[name][0], name
        assert floor == same[name][1]
    assert abs(same["c2st"][0] - 0.5) < 0.07 and same["sliced_wasserstein"][0] < 2 * same["sliced_wasserstein"][1]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((5, 2)), np.zeros((50, 2))),
        (np.zeros(50), np.zeros(50)),
        (np.zeros((50, 2)), np.zeros((50, 3))),
        (np.full((50, 2), np.nan), np.zeros((50, 2))),
    ],
)
def test_wrong_samples(x, y):
    for distance in (c2st, sliced_wasserstein, mmd, compare):
        with pytest.raises(InputError, match="samples"):
            distance(x, y)
    with pytest.raises(InputError, match="scale"):
        mmd(normals(0, 30), normals(1, 30), -1.0)
