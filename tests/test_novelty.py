"""Conformal p-values: exact for measurements like the known ones, small for others."""

import numpy as np
import pytest
from scipy.stats import binom

from fokker.diagnostics.novelty import Novelty
from fokker.errors import InputError


def curved(rng, count):
    """A noisy circle in the first two of five directions, the others small."""
    angle = rng.uniform(0, 2 * np.pi, count)
    y = 0.05 * rng.standard_normal((count, 5)) * np.array([1, 1, 1, 1e-2, 1e-2])
    y[:, 0] += np.cos(angle)
    y[:, 1] += np.sin(angle)
    return y


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_measurements_like_the_others_are_called_new_at_the_level(level):
    """One of 60 sets each: the number at or below the level is binomial; out of its 1e-4 range by chance 2e-4."""
    rng, count = np.random.default_rng(0), 0
    for seed in range(400):
        known = curved(rng, 119)  # 60 rank: p has steps of 1 / 61
        count += int(Novelty(known, seed).p_value(curved(rng, 1))[0] <= level + 1e-12)
    exact = np.floor(level * 61 + 1e-9) / 61
    assert binom.ppf(1e-4, 400, exact) <= count <= binom.ppf(1 - 1e-4, 400, exact)


@pytest.mark.parametrize(
    "y",
    [
        [3.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.1, 0.0],  # far off in a direction that hardly varies
    ],
)
def test_others_have_the_smallest_p(y):
    rng = np.random.default_rng(1)
    known = curved(rng, 999)
    assert Novelty(known).p_value([y])[0] == 1 / 501


def test_a_gap_between_the_others_is_seen():
    """In the middle of the circle every entry is as usual."""
    known = curved(np.random.default_rng(1), 999)[:, :2]
    assert Novelty(known).p_value([[0.0, 0.0]])[0] == 1 / 501


def test_a_direction_that_never_varied_is_seen():
    rng = np.random.default_rng(2)
    known = curved(rng, 200)
    known[:, 4] = known[:, 3]
    new = curved(rng, 1)
    new[:, 4] = new[:, 3] + 0.01
    assert Novelty(known).p_value(new)[0] == 1 / 101
    known[:, 4] = 7.0
    new[:, 4] = 7.5
    assert Novelty(known).p_value(new)[0] == 1 / 101


def test_more_directions_than_rows():
    """Images: 300 pixels of ten patterns, 100 known ones."""
    rng = np.random.default_rng(3)
    patterns = rng.standard_normal((10, 300))
    known, new = rng.standard_normal((100, 10)) @ patterns, rng.standard_normal((40, 10)) @ patterns
    judge = Novelty(known)
    assert (judge.p_value(new) > 0.05).mean() > 0.7
    assert (judge.p_value(new + 0.5 * rng.standard_normal(new.shape)) == 1 / 51).all()


def test_nearest_and_errors():
    known = curved(np.random.default_rng(4), 100)
    judge = Novelty(known)
    assert judge.nearest(known[17], known, 1)[0] == 17 and len(judge.nearest(known[0], known, 30)) == 30
    for bad in (known[:20], known[:, 0], np.where(known > 1, np.nan, known)):
        with pytest.raises(InputError, match="known"):
            Novelty(bad)
