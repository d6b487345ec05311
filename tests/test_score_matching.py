"""Explicit, sliced and denoising score matching by their minimisers.

For a linear score s(x) = b - A x every loss is quadratic in (A, b): its minimiser follows from one gradient and one
Hessian by autograd. On a finite sample it is known exactly from the sample's own moments; in the limit from the law.

Statistical limits: |z| of `exact.limit`, false-alarm rate 1e-4 for each test. The standard errors of a minimiser are
those of an M-estimator, H^-1 S H^-1 / N with S the covariance of the gradients of the rows.
"""

from functools import partial

import pytest
import torch

from exact import COVARIANCE, MEAN, PROCESSES, gaussian, limit
from fokker.errors import InputError
from fokker.rng import torch_generator
from fokker.score_matching import annealed, denoising_at, draw_directions, explicit, sliced

EYE = torch.eye(2, dtype=torch.float64)
SIGMAS = (3.0, 1.0, 0.4)
FEW, MANY = 300, 40_000


def drawn(count, levels=1):
    """x (count, 2) ~ N(MEAN, COVARIANCE) and noise (levels, count, 2)."""
    xi = torch.randn(1 + levels, count, 2, generator=torch_generator(0, "score matching"), dtype=torch.float64)
    return MEAN + xi[0] @ torch.linalg.cholesky(COVARIANCE).T, xi[1:]


def linear(theta):
    """s(x) = b - A x with theta = (A, b)."""
    return lambda x, sigma=None: theta[4:] - x @ theta[:4].reshape(2, 2).T


def pack(a, b):
    return torch.cat([a.flatten(), b])


def minimiser(loss, size=6):
    """argmin of the mean of a quadratic loss(theta) -> (B,), and its standard errors."""
    zero = torch.zeros(size, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(lambda theta: loss(theta).mean(), zero)
    hessian = torch.autograd.functional.hessian(lambda theta: loss(theta).mean(), zero)
    best = -torch.linalg.solve(hessian, gradient)
    # Central differences of a quadratic are exact.
    rows = torch.stack([(loss(best + e) - loss(best - e)) / 2 for e in torch.eye(size, dtype=torch.float64)])
    inverse = torch.linalg.inv(hessian)
    return best, (inverse @ rows.cov() @ inverse / rows.shape[1]).diagonal().sqrt().detach()


def moments(x):
    """Mean and covariance of a sample itself (divided by N)."""
    return x.mean(0), x.T.cov(correction=0)


def least_squares(target, x, weights=None):
    """(A, b) of the best b - A x for the target, in closed form from weighted sample moments."""
    w = torch.ones(len(x), dtype=torch.float64) if weights is None else weights
    w = w / w.sum()
    x_mean, mean = w @ x, w @ target
    a = -torch.linalg.solve((x - x_mean).T @ (w[:, None] * (x - x_mean)), (x - x_mean).T @ (w[:, None] * target)).T
    return pack(a, mean + a @ x_mean)


def curved(x):
    """A score that is no gradient and not linear, with a full Jacobian."""
    return torch.stack([x[:, 0].sin() * x[:, 1] - x[:, 0], x[:, 0] ** 2 + (x[:, 1] / 2).cos()], 1)


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def differs(found, expected):
    assert float((found - expected).detach().abs().max()) > 0.05


def z_of(found, expected):
    best, error = found
    return float(((best - expected) / error).abs().max())


# --- Explicit


def test_explicit_on_a_sample_gives_its_own_mean_and_covariance():
    x, _ = drawn(FEW)
    mean, covariance = moments(x)
    a = torch.linalg.inv(covariance)
    found, _ = minimiser(lambda theta: explicit(linear(theta), x))
    same(found, pack(a, a @ mean))
    # Controls: |s|^2 without its half, and a trace of the wrong sign.
    square = lambda theta: linear(theta)(x).square().sum(1)  # noqa: E731
    for wrong in (1, -3):
        found, _ = minimiser(lambda theta, wrong=wrong: wrong * explicit(linear(theta), x) + square(theta) / 2)
        differs(found, pack(a, a @ mean))


def test_explicit_in_the_limit_gives_the_score_of_the_law():
    x, _ = drawn(MANY)
    a = torch.linalg.inv(COVARIANCE)
    found = minimiser(lambda theta: explicit(linear(theta), x))
    assert z_of(found, pack(a, a @ MEAN)) < limit(6)
    assert z_of(found, pack(1.05 * a, 1.05 * a @ MEAN)) > limit(6)  # control


def test_explicit_is_the_trace_of_the_jacobian_for_any_shape():
    matrix = torch.randn(6, 6, generator=torch_generator(0, "matrix"), dtype=torch.float64)

    def score(x):
        return (x.flatten(1) @ matrix).sin().reshape(x.shape)

    x = torch.randn(5, 3, 2, generator=torch_generator(0, "x"), dtype=torch.float64)
    jacobian = [torch.autograd.functional.jacobian(lambda row: score(row[None])[0], row).reshape(6, 6) for row in x]
    expected = torch.stack([j.trace() for j in jacobian]) + score(x).square().sum((1, 2)) / 2
    same(explicit(score, x), expected)


@pytest.mark.parametrize("process", PROCESSES)
def test_explicit_of_an_exact_model_at_a_fixed_time(process):
    """At its own law E[tr grad s] = -E|s|^2, so the loss is -E|s|^2 / 2 = -tr(C_t^-1) / 2."""
    model, t = gaussian(PROCESSES[process]), 0.3
    m, sigma = model.process.scale(t), model.process.sigma(t)
    x, noise = drawn(MANY)
    value = explicit(partial(model.score, t=t), m * x + sigma * noise[0]).detach()
    expected = -torch.linalg.inv(m**2 * COVARIANCE + sigma**2 * EYE).trace() / 2
    assert abs(float((value.mean() - expected) / value.std())) * MANY**0.5 < limit(1)
    assert abs(float((value.mean() - 2 * expected) / value.std())) * MANY**0.5 > limit(1)  # control


# --- Sliced


def shared_directions(count=3):
    """The same directions for every row, so that their average with the data factorises."""
    v = torch.randn(count, 1, 2, generator=torch_generator(0, "directions"), dtype=torch.float64)
    return v.expand(count, FEW, 2), torch.einsum("mi,mj->ij", v[:, 0], v[:, 0]) / count


def test_sliced_on_a_sample_gives_its_own_mean_and_covariance():
    """Plain: whatever the directions are. Variance-reduced: A = V cov^-1, V the average of v v^T."""
    x, _ = drawn(FEW)
    v, second = shared_directions()
    mean, covariance = moments(x)
    a = torch.linalg.inv(covariance)
    plain, _ = minimiser(lambda theta: sliced(linear(theta), x, v))
    same(plain, pack(a, a @ mean))
    reduced, _ = minimiser(lambda theta: sliced(linear(theta), x, v, variance_reduced=True))
    same(reduced, pack(second @ a, second @ a @ mean))
    differs(reduced, plain)  # control: three directions are not isotropic


@pytest.mark.parametrize("score", [curved, linear(torch.arange(6.0, dtype=torch.float64))])
@pytest.mark.parametrize("variance_reduced", [False, True])
def test_sliced_over_all_axes_is_explicit(score, variance_reduced):
    x, _ = drawn(50)
    axes = (2**0.5 * EYE)[:, None].expand(2, 50, 2)
    expected = explicit(score, x)
    same(sliced(score, x, axes, variance_reduced=variance_reduced), expected)
    differs(sliced(score, x, axes[:1], variance_reduced=variance_reduced), expected)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
@pytest.mark.parametrize("variance_reduced", [False, True])
def test_sliced_in_the_limit_gives_the_score_of_the_law(law, variance_reduced):
    x, _ = drawn(MANY)
    v = draw_directions(x, 1, torch_generator(0, "directions"), law)
    a = torch.linalg.inv(COVARIANCE)
    found = minimiser(lambda theta: sliced(linear(theta), x, v, variance_reduced=variance_reduced))
    assert z_of(found, pack(a, a @ MEAN)) < limit(6)
    # Control: directions on the unit sphere. The plain form does not mind their length, the other one does.
    unit = v / v.norm(dim=-1, keepdim=True)
    found = minimiser(lambda theta: sliced(linear(theta), x, unit, variance_reduced=variance_reduced))
    assert (z_of(found, pack(a, a @ MEAN)) > limit(6)) == variance_reduced


def test_minimisers_vary_least_for_explicit_and_most_for_plain():
    """Standard errors of every entry of (A, b). The values of the loss are not ordered like that."""
    x, _ = drawn(MANY)
    v = draw_directions(x, 1, torch_generator(0, "directions"), "gaussian")
    exact = minimiser(lambda theta: explicit(linear(theta), x))[1]
    reduced = minimiser(lambda theta: sliced(linear(theta), x, v, variance_reduced=True))[1]
    plain = minimiser(lambda theta: sliced(linear(theta), x, v))[1]
    assert bool((exact < 0.9 * reduced).all()) and bool((reduced < 0.9 * plain).all())


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_directions_are_isotropic(law):
    x = torch.zeros(MANY, 2)
    v = draw_directions(x, 3, torch_generator(0, "directions"), law)
    assert v.shape == (3, MANY, 2) and v.dtype == x.dtype
    assert (v.unique().tolist() == [-1, 1]) == (law == "rademacher")
    first, products = v.mean(1), torch.stack([v[:, :, 0] * v[:, :, 1], v[:, :, 0] ** 2 - 1, v[:, :, 1] ** 2 - 1])
    error = products.std(2).clamp(min=1e-12) / MANY**0.5
    assert float((products.mean(2) / error).abs().max()) < limit(15)
    assert float(first.abs().max()) * MANY**0.5 < limit(15)
    assert abs(float((v[0] * v[1]).mean())) * (2 * MANY) ** 0.5 < limit(15)


# --- Denoising


@pytest.mark.parametrize("sigma", SIGMAS)
def test_denoising_on_a_sample_is_least_squares_on_the_noise_drawn(sigma):
    x, (noise,) = drawn(FEW)
    found, _ = minimiser(lambda theta: denoising_at(linear(theta), x, sigma, noise))
    same(found, least_squares(-noise / sigma, x + sigma * noise))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_denoising_in_the_limit_gives_the_score_of_the_noisy_law(sigma):
    x, (noise,) = drawn(MANY)
    a = torch.linalg.inv(COVARIANCE + sigma**2 * EYE)
    expected = pack(a, a @ MEAN)
    assert z_of(minimiser(lambda theta: denoising_at(linear(theta), x, sigma, noise)), expected) < limit(6)

    # Controls: the noise with the wrong sign, and without its 1 / sigma.
    def wrong(factor):
        return lambda theta: (linear(theta)(x + sigma * noise) + factor * noise).square().sum(1) / 2

    for factor in (-1 / sigma, 1.2 / sigma):
        assert z_of(minimiser(wrong(factor)), expected) > limit(6)


def test_denoising_and_explicit_differ_by_a_constant():
    """E denoising(s) - E explicit(s) at the noisy points = d / (2 sigma^2) for every s: it needs the halves of both."""
    x, (noise,) = drawn(MANY)
    for sigma in SIGMAS:
        for score in (curved, linear(torch.arange(6.0, dtype=torch.float64))):
            implicit = explicit(score, x + sigma * noise).detach()
            matching = denoising_at(score, x, sigma, noise)
            gap = matching - implicit
            assert abs(float((gap.mean() - 1 / sigma**2) / gap.std())) * MANY**0.5 < limit(6)
            for wrong in (2 * matching - implicit, matching - 2 * implicit):
                assert abs(float((wrong.mean() - 1 / sigma**2) / wrong.std())) * MANY**0.5 > limit(6)


# --- Annealed


def test_annealed_is_the_sum_over_levels_times_sigma_squared():
    x, noise = drawn(FEW, 3)

    def score(x, sigma):
        return curved(x) / sigma

    value = annealed(score, x, SIGMAS, noise)
    parts = [s**2 * denoising_at(partial(score, sigma=s), x, s, z) for s, z in zip(SIGMAS, noise)]
    same(value, sum(parts))
    same(annealed(score, x, torch.tensor(SIGMAS), noise), annealed(score, x, torch.tensor(SIGMAS).tolist(), noise))
    differs(value, sum(parts) / 3)  # control: a mean over levels


def test_annealed_of_one_score_for_all_levels():
    """Weighted least squares on the sample; in the limit A = (sum sigma^2) (sum sigma^2 (C + sigma^2))^-1."""
    x, noise = drawn(FEW, 3)
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    column = sigma[:, None, None]
    found, _ = minimiser(lambda theta: annealed(linear(theta), x, SIGMAS, noise))
    weights = (sigma**2).repeat_interleave(FEW)
    same(found, least_squares((-noise / column).flatten(0, 1), (x + column * noise).flatten(0, 1), weights))

    x, noise = drawn(MANY, 3)
    square = sigma**2
    a = square.sum() * torch.linalg.inv(square.sum() * COVARIANCE + (square**2).sum() * EYE)
    found = minimiser(lambda theta: annealed(linear(theta), x, SIGMAS, noise))
    assert z_of(found, pack(a, a @ MEAN)) < limit(6)

    # Control: every level counted once.
    def unweighted(theta):
        return sum(denoising_at(linear(theta), x, s, z) for s, z in zip(SIGMAS, noise))

    assert z_of(minimiser(unweighted), pack(a, a @ MEAN)) > limit(6)


def test_annealed_with_a_score_of_its_own_at_every_level():
    x, noise = drawn(MANY, 3)

    def score(theta):
        return lambda x, sigma: linear(theta.reshape(3, 6)[SIGMAS.index(sigma)])(x)

    inverses = [torch.linalg.inv(COVARIANCE + sigma**2 * EYE) for sigma in SIGMAS]
    expected = torch.cat([pack(a, a @ MEAN) for a in inverses])
    assert z_of(minimiser(lambda theta: annealed(score(theta), x, SIGMAS, noise), 18), expected) < limit(18)
    wrong = minimiser(lambda theta: annealed(score(theta), x, SIGMAS, noise.flip(0)), 18)
    assert z_of(wrong, expected) < limit(18)  # any independent noise will do
    expected[:6] = expected[6:12]
    assert z_of(wrong, expected) > limit(18)  # control


# --- How they are called


def test_without_gradients_the_values_are_the_same():
    x, noise = drawn(20)
    weight = torch.eye(2, dtype=torch.float64, requires_grad=True)

    def score(x):
        return curved(x) @ weight

    v = draw_directions(x, 2, torch_generator(0, "directions"))
    for loss in (
        lambda: explicit(score, x),
        lambda: sliced(score, x, v),
        lambda: denoising_at(score, x, 1.0, noise[0]),
    ):
        value = loss()
        assert value.shape == (20,) and value.requires_grad
        with torch.no_grad():
            assert torch.equal(loss(), value.detach()) and not loss().requires_grad


def test_a_score_that_does_not_depend_on_x_has_no_trace():
    x, _ = drawn(20)
    b = torch.ones(2, dtype=torch.float64, requires_grad=True)
    same(explicit(lambda x: b.expand_as(x), x).detach(), torch.ones(20, dtype=torch.float64))


X, NOISE = drawn(5, 2)
V = draw_directions(X, 2, torch_generator(0, "directions"))
GONE = torch.where(torch.arange(10).reshape(5, 2) == 7, torch.nan, X)
TWO = (2.0, 1.0)
ONE = linear(torch.ones(6, dtype=torch.float64))
WRONG_X = [GONE, X[:1], X[:0], X[0], X[0, 0], X.long(), X.numpy()]
WRONG_SCORES = [lambda x, sigma=None: x[:, :1], lambda x, sigma=None: x.T]
NO_GRADIENT = [torch.ones_like, torch.detach]
CALLS = {  # what is wrong: how it is called, and values to be refused
    "x explicit": (lambda x: explicit(ONE, x), WRONG_X),
    "x sliced": (lambda x: sliced(ONE, x, V), WRONG_X),
    "x denoising": (lambda x: denoising_at(ONE, x, 1.0, NOISE[0]), WRONG_X),
    "x annealed": (lambda x: annealed(ONE, x, TWO, NOISE), WRONG_X),
    "score explicit": (lambda score: explicit(score, X), WRONG_SCORES + NO_GRADIENT),
    "score sliced": (lambda score: sliced(score, X, V), WRONG_SCORES + NO_GRADIENT),
    "score denoising": (lambda score: denoising_at(score, X, 1.0, NOISE[0]), WRONG_SCORES),
    "score annealed": (lambda score: annealed(score, X, TWO, NOISE), WRONG_SCORES),
    "directions": (lambda v: sliced(ONE, X, v), [V[0], V[:, :4], V[:0], V[0, 0, 0], V * torch.nan]),
    "sigma": (lambda sigma: denoising_at(ONE, X, sigma, NOISE[0]), [0.0, -1.0, torch.nan, torch.inf]),
    "noise denoising": (lambda z: denoising_at(ONE, X, 1.0, z), [NOISE, NOISE[0, :4], NOISE[0, 0], NOISE[0] / 0]),
    "noise annealed": (lambda z: annealed(ONE, X, TWO, z), [NOISE[0], NOISE[:1], NOISE[:, :4], NOISE / 0]),
    "sigmas": (
        lambda sigmas: annealed(ONE, X, sigmas, NOISE),
        [(), (1.0, 2.0), (1.0, 1.0), (1.0, 0.0), (1.0, -2.0), (torch.nan, 1.0), torch.ones(1, 2)],
    ),
    "count": (lambda count: draw_directions(X, count, torch_generator(0, "v")), [0, 1.5, True]),
    "law": (lambda law: draw_directions(X, 1, torch_generator(0, "v"), law), ["uniform"]),
}


@pytest.mark.parametrize("what", CALLS)
def test_bad_input_is_named(what):
    call, refused = CALLS[what]
    for value in refused:
        with pytest.raises(InputError, match=f"^{what.split()[0]}: "):
            call(value)
