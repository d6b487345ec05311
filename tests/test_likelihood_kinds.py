"""Likelihoods, each kind by itself: counts, noise that grows with the signal, outliers, unknown levels, functions."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

import fokker
from exact import RATE
from fokker.errors import InputError
from fokker.reference.rectified import rectified_posterior
from fokker.rng import torch_generator
from laws import LAWS, logistic

ONE = {  # laws of a single entry: a limit of y from below, and the level of an atom
    **{name: (law.build(1), -math.inf, None) for name, law in LAWS.items() if name not in ("full", "poisson")},
    "diagonal": (fokker.Gaussian([0.5]), -math.inf, None),
    "full": (fokker.Gaussian(covariance=[[0.3]]), -math.inf, None),
    "log_normal": (fokker.LogNormal(0.4), 0.0, None),
    "saturating": (fokker.Saturating(0.4, 1.5), -math.inf, 1.5),
    "multiplicative_floor": (fokker.Multiplicative(0.2, 3.0), -math.inf, None),
}


def entry(value):
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize("clean", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", ONE)
def test_densities_integrate_to_one(name, clean):
    law, low, level = ONE[name]
    edges = [low, clean / 2, clean, 1.5 * clean, math.inf] if level is None else [low, clean - 1, level]

    def density(v):
        return float(law.log_prob(entry(v), entry(clean)).exp())

    found = sum(quad(density, *part)[0] for part in itertools.pairwise(edges))
    if level is not None:
        assert abs(found - 1) > 1e-3  # without its atom
        found += density(level)
    assert abs(found - 1) < 1e-7


def test_an_unknown_level_is_shared_by_entries():
    """The density of two entries integrates to one over the plane (in polar coordinates), and is no product."""
    law, zero = fokker.UnknownNoise(2.5, 0.6), torch.zeros(1, 2, dtype=torch.float64)

    def ring(r):
        return 2 * math.pi * r * float(law.log_prob(torch.tensor([[0.6 * r, 0.8 * r]]).double(), zero).exp())

    assert abs(quad(ring, 0, math.inf)[0] - 1) < 1e-7
    y = torch.tensor([[2.0, -2.0]]).double()
    alone = law.log_prob(y.T, zero.T)
    assert law.log_prob(y, zero) > alone.sum() + 0.1
    torch.testing.assert_close(alone, fokker.StudentT(5.0, math.sqrt(0.6 / 2.5)).log_prob(y.T, zero.T))


# --- Counts


@pytest.mark.parametrize("background", [0.0, 1.5, [0.5, 2.0]])
def test_probabilities_of_counts_add_up_to_one(background):
    law, clean = fokker.Poisson(2.0, background), torch.tensor([[0.7, 3.0]], dtype=torch.float64)
    y = torch.cartesian_prod(torch.arange(60), torch.arange(60)).double()
    assert abs(float(law.log_prob(y, clean).exp().sum()) - 1) < 1e-12
    assert abs(float(law.log_prob(y[60:], clean).exp().sum()) - 1) > 1e-3  # control: a row of zeros left out


def test_rates_at_and_below_zero():
    """Zero counts are certain there, others impossible; slope and autograd then both lead back."""
    law = fokker.Poisson(2.0, 1.0)
    clean = torch.tensor([[-0.5], [-3.0], [-0.5], [-3.0], [-3.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0.0], [0.0], [1.0], [1.0], [20.0]], dtype=torch.float64)
    assert not law.sample(clean, torch_generator(0, "noise")).any()
    log_prob = law.log_prob(y, clean)
    assert log_prob.tolist() == [0.0, 0.0] + [-math.inf] * 3
    back = torch.tensor([[0.0], [0.0], [2.0], [12.0], [2.5]], dtype=torch.float64)
    assert torch.equal(law.slope(y, clean), back)
    assert torch.equal(torch.autograd.grad(log_prob.sum(), clean)[0], back)
    both = torch.cat([clean, clean + 10], 1).detach().requires_grad_()
    (mixed,) = torch.autograd.grad(law.log_prob(y.expand(5, 2), both).sum(), both)
    torch.testing.assert_close(mixed, law.slope(y.expand(5, 2), both.detach()), rtol=1e-13, atol=1e-13)


def test_gradients_climb_from_impossible_rates_to_the_most_likely_one():
    law, y = fokker.Poisson(2.0, 1.0), torch.tensor([[3.0, 9.0, 0.0]], dtype=torch.float64)
    clean = torch.full((1, 3), -4.0, dtype=torch.float64)
    for _ in range(3000):
        clean += 0.05 * law.slope(y, clean)
    torch.testing.assert_close(clean[:, :2], torch.tensor([[1.0, 4.0]], dtype=torch.float64), rtol=1e-6, atol=0)
    assert law.log_prob(y[:, 2:], clean[:, 2:]) == 0


def test_counts_in_single_precision_and_as_integers():
    """float32 has 24 bits: log y! of a million counts would be off by one."""
    y = torch.tensor([[10**6], [10**6 + 700], [0]])
    clean = torch.full((3, 1), 1e6)
    exact = stats.poisson.logpmf(y.numpy(), 1e6).sum(1)
    np.testing.assert_allclose(fokker.Poisson().log_prob(y, clean), exact, rtol=1e-6)
    np.testing.assert_allclose(fokker.Poisson().slope(y, clean), y / 1e6 - 1, rtol=1e-5, atol=1e-7)
    fokker.Poisson().check(y)
    high = torch.full((1, 3), 3e8)  # where float32 knows every 32nd count only
    single, double = (fokker.Poisson(0.1).sample(v, torch_generator(0, "noise")) for v in (high, high.double()))
    assert torch.equal(single, double.float())
    data, _ = fokker.Poisson(4.0).gaussian(y)
    assert data.dtype == torch.float32 and data[0, 0] == 250_000


def test_counts_that_cannot_be_are_refused():
    law = fokker.Poisson(1.0, [0.0, 1.0])
    for value, told in ((-1.0, "-1.0"), (0.5, "0.5")):
        for ask in (law.check, law.gaussian):
            with pytest.raises(InputError, match=rf"^y: got {told} at \[0, 1\], counts 0, 1, 2, \.\.\. are accepted"):
                ask(torch.tensor([[3.0, value]]))
    for ask in (law.check, law.gaussian, lambda v: law.log_prob(v, v), lambda v: law.sample(v, torch_generator(0, ""))):
        with pytest.raises(InputError, match=r"^background: got shape \(2,\), one number, shape \(3,\)"):
            ask(torch.ones(4, 3))
    with pytest.raises(InputError, match=r"^rate: got 2e\+15 counts, up to 1e\+15 are accepted"):
        law.sample(torch.full((1, 2), 2e15), torch_generator(0, "noise"))


def test_gaps_stay_gaps():
    clean = torch.tensor([[1.0, math.nan]])
    laws = [law.build(1) for name, law in LAWS.items() if name not in ("full", "diagonal", "poisson")]
    for law in (*laws, fokker.Gaussian([0.1, 0.2]), fokker.Poisson()):
        assert law.sample(clean, torch_generator(0, "noise")).isnan().tolist() == [[False, True]]


def test_the_gaussian_law_of_counts():
    """Its gradient is 2 J^T Lambda r, Lambda = 1 / (2 y), and it is the Poisson law where counts are many."""
    law = fokker.Poisson(2.0, torch.tensor([1.0, 0.5]))
    y = torch.tensor([[7.0, 0.0], [1.0, 30.0]], dtype=torch.float64)
    clean = torch.tensor([[2.0, 0.3], [4.0, 11.0]], dtype=torch.float64, requires_grad=True)
    data, approximate = law.gaussian(y)
    rate = 2 * clean + torch.tensor([1.0, 0.5])
    (gradient,) = torch.autograd.grad(-(0.5 / y.clamp(min=1.0) * (y - rate) ** 2).sum(), clean)
    torch.testing.assert_close(approximate.slope(data, clean.detach()), gradient, rtol=1e-13, atol=0)
    torch.testing.assert_close(approximate.variance, y.clamp(min=1.0) / 4, rtol=1e-13, atol=0)

    def gap(counts):
        y = torch.tensor([[counts]], dtype=torch.float64)
        clean = (y + 0.5 * y.sqrt()) / 2
        data, approximate = fokker.Poisson(2.0).gaussian(y)
        found = approximate.log_prob(data, clean) - math.log(2)  # of a density in units of clean
        return abs(float(found - fokker.Poisson(2.0).log_prob(y, clean)))

    assert gap(1e8) < 1e-5 < 1e-3 < gap(10.0)


# --- Noise that grows with the signal, outliers, unknown levels


def test_multiplicative_noise_keeps_the_floor_and_the_sign():
    law, flat = fokker.Multiplicative(0.1, floor=0.5), fokker.Gaussian(0.05)
    small = torch.tensor([[-0.4, 0.0, 0.3]], dtype=torch.float64)
    y = small + 0.02
    assert torch.equal(law.log_prob(y, small), flat.log_prob(y, small))
    torch.testing.assert_close(law.slope(y, small), flat.slope(y, small), rtol=1e-13, atol=0)
    draws = (v.sample(small, torch_generator(0, "noise")) for v in (law, flat))
    torch.testing.assert_close(*draws, rtol=1e-13, atol=0)
    clean = torch.tensor([[-2.0, -0.5, 0.5, 3.0]], dtype=torch.float64, requires_grad=True)
    y = clean.detach() * 1.07
    (exact,) = torch.autograd.grad(law.log_prob(y, clean).sum(), clean)
    torch.testing.assert_close(law.slope(y, clean), exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(law.log_prob(-y, -clean), law.log_prob(y, clean), rtol=1e-13, atol=0)


def test_no_residual_no_slope():
    clean = torch.tensor([[1.0, -2.0]])
    for law in (fokker.Laplace(0.1), fokker.StudentT(3.0, 0.1), fokker.UnknownNoise(2.0, 1.0)):
        assert not law.slope(clean, clean).any()


def test_few_degrees_of_freedom_are_many_outliers():
    y, clean = torch.tensor([[8.0]]), torch.zeros(1, 1)
    near, far = fokker.StudentT(1e7, 1.0), fokker.StudentT(1.0, 1.0)
    torch.testing.assert_close(near.log_prob(y, clean), fokker.Gaussian(1.0).log_prob(y, clean), rtol=1e-3, atol=0)
    assert far.log_prob(y, clean) > near.log_prob(y, clean) + 20 and far.slope(y, clean).abs() < 0.3


def test_a_guess_worth_many_entries_is_a_known_level():
    y, clean = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    law, known = fokker.UnknownNoise(5e8, 5e8 * 0.49), fokker.Gaussian(0.7)
    torch.testing.assert_close(law.log_prob(y, clean), known.log_prob(y, clean), rtol=1e-6, atol=0)
    torch.testing.assert_close(law.slope(y, clean), known.slope(y, clean), rtol=1e-6, atol=0)
    assert (law.draw_level(y, clean, torch_generator(0, "level")) - 0.7).abs().max() < 1e-3


def test_levels_are_drawn_from_their_law_given_the_data():
    """Uniforms of sigma^2 given y and clean, and the prior again where y is drawn with levels of that prior.

    False-alarm rate 1e-4 for each. Controls: levels that are 3 % too high, and data of another level.
    """
    law, shape = fokker.UnknownNoise(2.5, 0.6), (20_000, 4)
    clean = torch.zeros(shape, dtype=torch.float64)
    prior = stats.invgamma(2.5, scale=0.6)

    def p_given(factor):
        y = torch.randn(shape, generator=torch_generator(1, "y"), dtype=torch.float64)
        level = factor * law.draw_level(y, clean, torch_generator(2, "level"))
        given = stats.invgamma(2.5 + 2, scale=0.6 + (y**2).sum(1).numpy() / 2)
        return stats.kstest(given.cdf(level.numpy() ** 2), "uniform").pvalue

    def p_prior(factor):
        y = factor * law.sample(clean, torch_generator(3, "y"))
        level = law.draw_level(y, clean, torch_generator(4, "level"))
        return stats.kstest(level.numpy() ** 2, prior.cdf).pvalue

    assert p_given(1.0) > RATE > p_given(1.03)
    assert p_prior(1.0) > RATE > p_prior(1.2)
    single = law.draw_level(clean[:5].float(), clean[:5].float(), torch_generator(2, "level"))
    assert single.shape == (5,) and single.dtype == torch.float32


# --- A function of one's own


def squares(y, clean):
    return -(y - clean).square().sum(1)


OWN = [
    (lambda y, c: squares(y, c)[:, None], r"log_prob: returned shape \(4, 1\), a tensor of shape \(4,\) is accepted"),
    (lambda y, c: squares(y, c).sum(), r"log_prob: returned shape \(\), a tensor of shape \(4,\) is accepted"),
    (lambda y, c: squares(y, c).tolist(), r"log_prob: returned list, a tensor of shape \(4,\) is accepted"),
    (lambda y, c: squares(y, c) * torch.tensor([1.0, 1.0, math.nan, 1.0]), "log_prob: returned nan in row 2, numbers"),
    (lambda y, c: squares(y, c) + math.inf, "log_prob: returned inf in row 0, numbers or -inf are accepted"),
    (lambda y, c: squares(y, c.detach()), "log_prob: its value does not depend on clean, a differentiable function is"),
    (lambda y, c: squares(y, y.clone().requires_grad_()), "log_prob: its value does not depend on clean"),
]


@pytest.mark.parametrize(("function", "message"), OWN)
def test_functions_that_fail_are_told_in_one_line(function, message):
    law, y, clean = fokker.LogDensity(function), torch.zeros(4, 3), torch.ones(4, 3)
    with pytest.raises(InputError, match=f"^{message}"):
        law.slope(y, clean)
    if "depend" not in message:
        with pytest.raises(InputError, match=f"^{message}"):
            law.log_prob(y, clean)


def test_a_gradient_that_is_lost_or_none_is_told():
    lost = fokker.LogDensity(lambda y, c: squares(y, c.detach()))
    y, clean = torch.zeros(2, 3), torch.zeros(2, 3)
    assert lost.log_prob(y, clean).shape == (2,)  # where none is asked for
    with pytest.raises(InputError, match="does not depend on clean"):
        lost.log_prob(y, clean.requires_grad_())
    steep = fokker.LogDensity(lambda y, c: -(y - c).square().sum(1).sqrt())
    with pytest.raises(InputError, match=r"^log_prob: its derivative by clean is NaN in row 0, finite numbers"):
        steep.slope(y, clean)


def test_functions_that_draw():
    clean = torch.zeros(4, 3)
    with pytest.raises(InputError, match=r"^sample: got none, LogDensity\(log_prob, sample\)"):
        fokker.LogDensity(squares).sample(clean, torch_generator(0, "noise"))
    for wrong, told in ((lambda c, g: c[0], r"shape \(3,\)"), (lambda c, g: c.numpy(), "ndarray")):
        with pytest.raises(InputError, match=rf"^sample: returned {told}, a tensor of shape \(4, 3\) is accepted"):
            fokker.LogDensity(squares, wrong).sample(clean, torch_generator(0, "noise"))


def test_impossible_data_and_no_grad_are_no_trouble():
    law = fokker.LogDensity(lambda y, c: torch.where((c > 0).all(1), squares(y, c), -math.inf))
    y, clean = torch.zeros(2, 1), torch.tensor([[1.0], [-1.0]])
    assert law.log_prob(y, clean).tolist() == [-1.0, -math.inf]
    with torch.no_grad():
        assert law.slope(y, clean).tolist() == [[-2.0], [0.0]]
    assert not clean.requires_grad


def test_a_function_is_printed_by_its_name():
    assert repr(fokker.LogDensity(logistic)) == "LogDensity(laws.logistic, None)"
    assert "partial" in repr(fokker.LogDensity(functools.partial(logistic)))


# --- Elsewhere


def test_a_reference_refuses_laws_that_tie_sensors_together():
    y, operator = np.ones((1, 3)), np.eye(3)
    for law in (fokker.UnknownNoise(2.0, 1.0), fokker.Gaussian([0.1, 0.2, 0.3])):
        with pytest.raises(InputError, match="independent from entry to entry"):
            rectified_posterior(y, 0.2, np.eye(3), operator, likelihood=law)


@pytest.mark.parametrize(
    "law",
    [fokker.StudentT(3.0, 0.3), fokker.UnknownNoise(2.0, 0.5), fokker.Poisson(4.0, 1.0), fokker.Saturating(0.3, 5.0)],
)
def test_gaussian_approximations_have_the_slope_of_their_law(law):
    """Near a given clean; a row's approximation does not depend on the others."""
    generator = torch.Generator().manual_seed(0)
    clean = 1 + torch.rand(6, 3, generator=generator, dtype=torch.float64)
    y = law.sample(clean, generator)
    data, gaussian = law.gaussian(y, clean)
    torch.testing.assert_close(gaussian.slope(data, clean), law.slope(y, clean))
    alone, of_one = law.gaussian(y[2:3], clean[2:3])
    torch.testing.assert_close(of_one.slope(alone, clean[2:3]), gaussian.slope(data, clean)[2:3])
    apart, without = law.gaussian(y)
    assert without.slope(apart, clean).shape == clean.shape and bool(torch.isfinite(apart).all())
