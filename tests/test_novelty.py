"""Conformal p-values: valid for measurements like the known ones, small for others."""

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
    """400 sets: at most as many as the level says (more than binomial once in 10,000), and not far fewer."""
    rng, count = np.random.default_rng(0), 0
    for seed in range(400):
        known = curved(rng, 119)  # 60 rank
        count += int(Novelty(known, seed).p_value(curved(rng, 1))[0] <= level + 1e-12)
    assert binom.ppf(1e-4, 400, level / 2) <= count <= binom.ppf(1 - 1e-4, 400, level)


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
    assert Novelty(known).p_value([y])[0] == 2 / 501


def test_a_gap_between_the_others_is_seen():
    """In the middle of the circle every entry is as usual."""
    known = curved(np.random.default_rng(1), 999)[:, :2]
    assert Novelty(known).p_value([[0.0, 0.0]])[0] == 2 / 501


def test_a_direction_that_never_varied_is_seen():
    rng = np.random.default_rng(2)
    known = curved(rng, 200)
    known[:, 4] = known[:, 3]
    new = curved(rng, 1)
    new[:, 4] = new[:, 3] + 0.01
    assert Novelty(known).p_value(new)[0] == 2 / 101
    known[:, 4] = 7.0
    new[:, 4] = 7.5
    assert Novelty(known).p_value(new)[0] == 2 / 101


def test_more_directions_than_rows():
    """Images: 300 pixels of ten patterns, 100 known ones."""
    rng = np.random.default_rng(3)
    patterns = rng.standard_normal((10, 300))
    known, new = rng.standard_normal((100, 10)) @ patterns, rng.standard_normal((40, 10)) @ patterns
    judge = Novelty(known)
    assert (judge.p_value(new) > 0.05).mean() > 0.7
    assert (judge.p_value(new + 0.5 * rng.standard_normal(new.shape)) == 2 / 51).all()


def test_a_common_offset_of_many_sensors_is_seen():
    """Sixty sensors read one curve with little noise: 0.4 on all of them is a small step in every direction but one."""
    rng = np.random.default_rng(5)
    level = rng.standard_normal((999, 1)) * np.linspace(0.5, 1.5, 60)
    known = level + 0.05 * rng.standard_normal((999, 60))
    assert Novelty(known).p_value(known[:1] + 4.0)[0] == 2 / 501


def test_errors():
    known = curved(np.random.default_rng(4), 100)
    assert Novelty(known).smallest == 2 / 51
    for bad in (known[:20], known[:, 0], np.where(known > 1, np.nan, known)):
        with pytest.raises(InputError, match="known"):
            Novelty(bad)
