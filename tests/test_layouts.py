"""Layouts of sensors: their laws, and one model for all of them against the closed form of each.

Tolerances: `exact.limit` standard errors, a false-alarm rate of 1e-4 for each test.
"""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import fokker
from exact import limit
from fokker.errors import InputError
from fokker.likelihoods import Gaussian
from fokker.operators.layouts import RandomLayouts, with_count
from fokker.posterior.recipes import DEFAULT
from fokker.posterior.training_data import PATTERNS, Pairs
from fokker.posterior_coordinates import Posterior
from fokker.reference.gaussian import LinearGaussian
from fokker.rng import torch_generator
from fokker.training import TrainSettings

SMALL = {"kind": "conditional_mlp", "width": 32, "depth": 2, "trunk_width": 32, "trunk_depth": 2}
RECIPE = replace(DEFAULT, network=SMALL, training=TrainSettings(steps=60, batch_size=128, warmup=10, validate_every=20))
PAIRS, NOISE, MEAN = 20_000, 0.3, np.array([1.0, -2.0, 0.5])
PRIOR = np.array([[1.0, 0.4, 0.1], [0.4, 0.8, 0.2], [0.1, 0.2, 0.5]])
OPERATOR = np.random.default_rng(0).normal(size=(5, 3))
DRAWS = 4000


def draw(name):
    return torch_generator(0, name)


def test_every_entry_is_on_with_its_probability():
    omega = RandomLayouts(0.7).sample(20_000, (2, 3), draw("a")).double()
    z = (omega.mean(0) - 0.7) / (0.7 * 0.3 / len(omega)) ** 0.5
    assert omega.shape == (20_000, 2, 3) and float(z.abs().max()) < limit(6)
    correlation = torch.corrcoef(omega.flatten(1).T)[~torch.eye(6, dtype=bool)] * len(omega) ** 0.5
    assert float(correlation.abs().max()) < limit(30)
    assert float(((omega.mean(0) - 0.72) / (0.7 * 0.3 / len(omega)) ** 0.5).abs().max()) > limit(6)  # control


def test_blank_layouts_come_with_their_probability_and_leave_the_others_alone():
    omega = RandomLayouts(0.7, blank=0.1).sample(20_000, (30,), draw("b"))
    blank = ~omega.any(1)
    assert abs(float(blank.double().mean()) - 0.1) < limit(1) * (0.09 / len(omega)) ** 0.5
    rest = omega[~blank].double()
    assert abs(float(rest.mean()) - 0.7) < limit(1) * (0.21 / rest.numel()) ** 0.5
    assert bool(RandomLayouts(1.0).sample(100, (4,), draw("c")).all())


@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_layouts_with_a_count_are_all_equally_likely(count):
    omega = with_count(30_000, count, 6, draw(f"{count}"))
    assert bool((omega.sum(1) == count).all())
    p = count / 6
    if 0 < count < 6:
        z = (omega.double().mean(0) - p) / (p * (1 - p) / len(omega)) ** 0.5
        assert float(z.abs().max()) < limit(6)


def test_wrong_laws_are_refused():
    for bad in (0.0, -0.1, 1.1, float("nan"), "a"):
        with pytest.raises(InputError, match="probability: got"):
            RandomLayouts(bad)
    for bad in (1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="blank: got"):
            RandomLayouts(0.5, blank=bad)
    for bad in (-1, 7):
        with pytest.raises(InputError, match="0 to 6"):
            with_count(3, bad, 6, draw("d"))


# --- In training


def pairs(count=PAIRS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.multivariate_normal(MEAN, PRIOR, count)
    return x, x @ OPERATOR.T


def test_layouts_and_noise_are_drawn_anew_and_fixed_by_the_seed():
    x, clean = pairs(2000)
    data = Pairs(x, clean, RandomLayouts(0.6), Gaussian(NOISE), None, 0, 0.05)
    rows = data.rows(0, 256)
    first, again, other = (data.noisy(rows, "train", step)[1]["omega"] for step in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(torch.unique(first, dim=0)) <= PATTERNS and data.masked and not data.fixed
    assert not torch.equal(data.noisy(rows, "train", 0)[1]["y"], data.noisy(rows, "train", 1)[1]["y"])
    prints = {Pairs(x, clean, RandomLayouts(p), Gaussian(NOISE), None, 0, 0.05).fingerprint() for p in (0.6, 0.7)} | {
        Pairs(x, clean, None, Gaussian(NOISE), None, 0, 0.05).fingerprint()
    }
    assert len(prints) == 3


def test_coordinates_come_from_whole_rows():
    """What a layout only hides is known: as good an estimate as from complete data, exactly."""
    x, clean = pairs(2000)
    some = Pairs(x, clean, RandomLayouts(0.3), None, None, 0, 0.05).for_coordinates()
    whole = Pairs(x, clean, None, None, None, 0, 0.05).for_coordinates()
    assert all(torch.equal(a, b) for a, b in zip(some, whole))


def test_atoms_are_spread_by_how_uncertain_x_is_under_the_layouts():
    x, clean = pairs(4000)
    x = np.maximum(x, 0)
    few, all_on = (Pairs(x, clean, RandomLayouts(p), Gaussian(NOISE), (0.0, None), 0, 0.05) for p in (0.3, 1.0))
    whole = Pairs(x, clean, None, Gaussian(NOISE), (0.0, None), 0, 0.05)
    for data in (few, all_on, whole):
        data.spread_atoms()
    assert bool((few.spread > 1.2 * all_on.spread)[[0, 2]].all())  # the other is almost always at its bound
    assert torch.allclose(all_on.spread, whole.spread)


def test_missing_entries_and_layouts_together_are_refused():
    x, clean = pairs(50)
    clean[3, 2] = np.nan
    with pytest.raises(InputError, match="y: got NaN with layouts"):
        fokker.fit(x, clean, omega=RandomLayouts(0.5), recipe=RECIPE)


@pytest.mark.parametrize("omega", [0.7, -3, np.full((50, 5), 0.5), np.ones((50, 4)), "all"])
def test_what_is_no_mask_is_refused(omega):
    x, clean = pairs(50)
    with pytest.raises(InputError, match="omega: got"):
        fokker.fit(x, clean, omega=omega, recipe=RECIPE)


def test_what_is_no_likelihood_is_refused():
    with pytest.raises(InputError, match="likelihood: got"):
        fokker.fit(*pairs(50), likelihood=0.3, recipe=RECIPE)


@pytest.fixture(scope="module")
def posterior():
    return fokker.fit(*pairs(), omega=RandomLayouts(0.7, blank=0.03), likelihood=Gaussian(NOISE), recipe=RECIPE)


def check(posterior, y, seen, model=None):
    """Largest |z| of mean and standard deviation against the posterior given the sensors of `seen`."""
    exact = LinearGaussian(MEAN, PRIOR, OPERATOR[seen], NOISE) if seen.any() else None
    mean = exact.mean(y[:, seen]) if exact else np.broadcast_to(MEAN, (len(y), 3))
    std = np.sqrt(np.diag(exact.covariance if exact else PRIOR))
    drawn = posterior.sample(np.where(seen, y, np.nan), DRAWS).samples.double().numpy()
    # Coordinates are estimated from PAIRS rows: their error is that of a regression, of the order of 8 / PAIRS.
    error = std * np.sqrt(1 / DRAWS + 8 * (1 + ((mean - MEAN) ** 2 / np.diag(PRIOR)).max()) / PAIRS)
    spread = np.sqrt(1 / (2 * DRAWS) + 8 / PAIRS)
    z = np.abs(drawn.mean(1) - mean) / error
    return max(z.max(), np.abs(drawn.std(1) / std - 1).max() / spread)


LAYOUTS = [[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_one_model_gives_the_posterior_of_each_layout(posterior, layout):
    seen, y = np.array(layout, dtype=bool), pairs(6, seed=1)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert check(posterior, y, seen) < limit(6 * 6)


def test_control_another_layout_is_flagged(posterior):
    y = pairs(6, seed=1)[1]
    exact = LinearGaussian(MEAN, PRIOR, OPERATOR[[0, 2, 4]], NOISE)
    wrong = posterior.sample(y, DRAWS).samples.double().numpy()
    std = np.sqrt(np.diag(exact.covariance))
    assert np.abs(wrong.std(1) / std - 1).max() / np.sqrt(1 / (2 * DRAWS) + 8 / PAIRS) > limit(36)


def test_nothing_observed_says_that_it_is_the_prior(posterior):
    y = pairs(3, seed=1)[1]
    y[1] = np.nan
    with pytest.warns(UserWarning, match="nothing is observed in measurement 1: the answer there is the prior"):
        posterior.sample(y, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior.sample(y[:1], 5)


def test_the_mean_of_no_network(posterior):
    gaussian, y = posterior.no_network(), pairs(4, seed=1)[1]
    assert isinstance(posterior.coordinates, Posterior)
    y[2, 1] = np.nan
    mean = gaussian.mean(y)
    assert mean.shape == (4, 3) and torch.equal(gaussian.mean(y[2]), mean[2])
    drawn = gaussian.sample(y, DRAWS).samples.double()
    assert float(((drawn.mean(1) - mean) / drawn.std(1) * DRAWS**0.5).abs().max()) < limit(12)


def test_atoms_are_spread_further_where_y_tells_more():
    """By a half-normal of mean sqrt(2/pi) s where y tells nothing, by chi_5 of mean 2.128 s where it tells all.

    Over 10,000 atoms or more the mean excess is within 5 standard errors (false alarms: 6e-7 a try).
    """
    generator = np.random.default_rng(0)
    x = np.maximum(generator.standard_normal((20_000, 1)), 0)
    for noise, mean, std in ((1e4, math.sqrt(2 / math.pi), 0.603), (1e-3, 2.1277, 0.688)):
        data = Pairs(x, x + noise * generator.standard_normal(x.shape), None, None, (0.0, None), 0, 0.05)
        data.spread_atoms()
        rows = data.shown
        beyond = -data.noisy(rows, "train")[0][data.x_of(rows) == 0] / data.spread
        assert abs(float(beyond.mean()) - mean) < 5 * std / math.sqrt(len(beyond)) + 1e-2 * mean
