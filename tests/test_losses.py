"""The denoising and time-dependent losses against their closed forms on Gaussians.

Statistical limits: |z| of `exact.limit`, false-alarm rate 1e-4 for each test.
"""

import math

import pytest
import torch
from scipy.stats import chisquare, kstest, norm

import fokker
from exact import COVARIANCE, MEAN, NOISE_FACTOR, PROCESSES, Fixed, gaussian, limit
from fokker.errors import InputError
from fokker.losses import WEIGHTINGS, ListedLevels, LogNormalLevels, UniformTimes, denoising, time_dependent, weight
from fokker.rng import torch_generator
from fokker.score import Denoiser, GaussianScore, Joint

COUNT = 40_000
LEVELS = (0.1, 0.7, 3.0)


class Gain(GaussianScore):
    """mean + (1 + more) K (z - mean): a family of linear denoisers with the best one at more = 0."""

    more = 0.0

    def denoised(self, z, rho, cond):
        best = super().denoised(z, rho, cond)
        return best + self.more * (best - MEAN)


def data(seed=0):
    generator = torch_generator(seed, "losses")
    xi, noise = torch.randn(2, COUNT, 2, generator=generator, dtype=torch.float64)
    return MEAN + xi @ torch.linalg.cholesky(COVARIANCE).T, noise


def loss(model, rho, noise_factor=None):
    x_0, noise = data()
    noise = noise if noise_factor is None else noise @ noise_factor.T
    return denoising(model, x_0, torch.full((COUNT,), rho, dtype=torch.float64), noise, {})


@pytest.mark.parametrize("rho", LEVELS)
@pytest.mark.parametrize("correlated", [False, True])
def test_the_exact_denoiser_has_the_posterior_variance_as_its_loss(rho, correlated):
    noise = Fixed() if correlated else fokker.White()
    c = NOISE_FACTOR @ NOISE_FACTOR.T if correlated else torch.eye(2, dtype=torch.float64)
    model = gaussian(fokker.VarianceExploding(noise=noise))
    value = loss(model, rho, NOISE_FACTOR if correlated else None)
    posterior = COVARIANCE - COVARIANCE @ torch.linalg.inv(COVARIANCE + rho**2 * c) @ COVARIANCE
    z = (value.mean() - posterior.trace() / 2) / value.std() * COUNT**0.5
    assert abs(float(z)) < limit(1)


@pytest.mark.parametrize("rho", LEVELS)
def test_any_other_gain_has_a_larger_loss_by_its_closed_form(rho):
    """The excess is more^2 tr(K C) / d exactly in expectation; the noise is shared, so it is seen clearly."""
    model, best = Gain(PROCESSES["vp2"], MEAN, COVARIANCE), loss(gaussian(PROCESSES["vp2"]), rho)
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + rho**2 * torch.eye(2, dtype=torch.float64))
    for more in (-0.3, -0.1, 0.1, 0.3):
        model.more = more
        excess = loss(model, rho) - best
        expected = more**2 * (gain @ COVARIANCE).trace() / 2
        assert abs(float((excess.mean() - expected) / excess.std())) * COUNT**0.5 < limit(4)
        assert float(expected) > 0
        # Negative control: half the excess is not what is seen, at the larger deviations.
        if abs(more) == 0.3:
            assert abs(float((excess.mean() - expected / 2) / excess.std())) * COUNT**0.5 > limit(4)


def test_padding_leaves_the_average():
    """Entries where the mask is zero change nothing, whatever stands there."""

    class Identity(GaussianScore):
        def denoised(self, z, rho, cond):
            return z

    model = Identity(PROCESSES["ve_linear"], MEAN, COVARIANCE)
    x_0, noise = torch.zeros(2, 5, 2), torch.arange(20.0).reshape(2, 5, 2)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    rho = torch.tensor([2.0, 0.5], dtype=torch.float64)
    value = denoising(model, x_0, rho, noise, {"mask": mask})
    expected = [4 * float((noise[0, :3] ** 2).mean()), 0.25 * float((noise[1] ** 2).mean())]
    assert value.tolist() == pytest.approx(expected)
    noise[0, 3:] = 1e6
    assert denoising(model, x_0, rho, noise, {"mask": mask}).tolist() == pytest.approx(expected)
    assert denoising(model, x_0, rho, noise, {})[0] > 1e6


def test_weights_written_out():
    rho, vp = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64), PROCESSES["vp1.5"]
    m, sigma = vp.scale(vp.time_of(rho)), vp.sigma(vp.time_of(rho))
    torch.testing.assert_close(weight("x0", rho, vp, 2.0), torch.ones_like(rho))
    torch.testing.assert_close(weight("eps", rho, vp, 2.0), 1 / rho**2)
    torch.testing.assert_close(weight("score", rho, vp, 2.0), (m / sigma**2) ** 2)
    torch.testing.assert_close(weight("v", rho, vp, 2.0), (m**2 + sigma**2) ** 2 / sigma**2)
    torch.testing.assert_close(weight("edm", rho, vp, 2.0), (rho**2 + 4) / (4 * rho**2))
    # On the eps form |sigma s + z|^2 = |D - x_0|^2 / rho^2 the edm weight is (rho^2 + d^2) / d^2.
    torch.testing.assert_close(weight("edm", rho, vp, 2.0) / weight("eps", rho, vp, 2.0), (rho**2 + 4) / 4)
    # On the clock rho = sigma_max t the flow loss is that of eps, times sigma_max^2.
    linear = PROCESSES["ve_linear"]
    torch.testing.assert_close(weight("flow", rho, linear, 2.0), 400 / rho**2)
    # A level beyond the process matters only where the process does.
    assert weight("edm", 1e6 * rho, vp, 1.0).isfinite().all() and weight("eps", 1e6 * rho, vp, 1.0).isfinite().all()
    with pytest.raises(InputError, match="rho"):
        weight("flow", 1e6 * rho, linear, 1.0)
    with pytest.raises(InputError, match="weighting"):
        weight("other", rho, vp, 1.0)


def test_edm_weight_makes_every_level_alike():
    """A Gaussian of standard deviation d has posterior variance 1 / weight: its weighted loss is 1 at every level."""
    rho, d = torch.logspace(-2, 2, 9, dtype=torch.float64), 1.7
    variance = rho**2 * d**2 / (rho**2 + d**2)
    torch.testing.assert_close(weight("edm", rho, PROCESSES["vp2"], d) * variance, torch.ones_like(rho))


def test_log_normal_levels():
    levels = LogNormalLevels((1e-6, 1e6), scale=3.0, mean=-1.2, std=1.2)(COUNT, torch_generator(0, "levels"))
    assert kstest(levels.div(3).log().numpy(), norm(-1.2, 1.2).cdf).pvalue > 1e-4
    cut = LogNormalLevels((0.5, 2.0))(COUNT, torch_generator(0, "levels"))
    assert float(cut.min()) == 0.5 and float(cut.max()) == 2.0 and cut.dtype == torch.float64


def test_uniform_times():
    process = PROCESSES["vp1.5"]
    rho = UniformTimes(process, 0.1, 0.8)(COUNT, torch_generator(0, "levels"))
    t = process.time_of(rho)
    assert kstest(t.numpy(), "uniform", (0.1, 0.7)).pvalue > 1e-4
    assert math.isclose(float(t.min()), 0.1, abs_tol=1e-3)


def test_listed_levels():
    """Ten times of a DDPM-like grid, all equally likely (chi-squared, false-alarm rate 1e-4)."""
    process = PROCESSES["vp2"]
    listed = tuple(process.noise_to_signal(torch.arange(1, 11, dtype=torch.float64) / 10).tolist())
    rho = ListedLevels(listed)(COUNT, torch_generator(0, "levels"))
    values, counts = rho.unique(return_counts=True)
    assert values.tolist() == sorted(listed) and rho.dtype == torch.float64
    assert chisquare(counts.numpy()).pvalue > 1e-4
    for wrong in ((), (1.0, 0.0), (1.0, -1.0), (math.nan,), ((1.0, 2.0),)):
        with pytest.raises(InputError, match="levels"):
            ListedLevels(wrong)


# --- Every parametrisation is the same loss with another weight


class Curved(Denoiser):
    """A denoiser that is neither linear nor anybody's posterior mean."""

    data_std = 1.3

    def __init__(self, process):
        self.process = process

    def denoised(self, z, rho, cond):
        return torch.stack([(z[:, 0] * z[:, 1]).sin(), z[:, 0] - (z[:, 1] / 2).cos()], 1)


def derivative(function, t):
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t).sum(), t)[0]


@pytest.mark.parametrize("process", PROCESSES)
def test_squared_errors_of_all_parametrisations(process):
    """Of eps, score, v and the velocity u as they are defined, m' and sigma' by autograd; x_0 itself; |sigma s + z|."""
    model = Curved(PROCESSES[process])
    process, x_0, noise = model.process, *(part[:500] for part in data())
    t = torch.linspace(0.01, 0.95, 500, dtype=torch.float64)
    m, sigma = process.scale(t)[:, None], process.sigma(t)[:, None]
    m_rate = derivative(process.scale, t)[:, None] if process.scale(t).std() > 0 else 0 * m
    sigma_rate = derivative(process.sigma, t)[:, None]
    x_t = m * x_0 + sigma * noise
    x_0_hat, score = model.denoise(x_t, t), model.score(x_t, t)
    eps_hat = (x_t - m * x_0_hat) / sigma
    error = {
        "x0": x_0_hat - x_0,
        "eps": eps_hat - noise,
        "score": score + noise / sigma,
        "v": (m * eps_hat - sigma * x_0_hat) - (m * noise - sigma * x_0),
        "flow": (m_rate * x_0_hat + sigma_rate * eps_hat) - (m_rate * x_0 + sigma_rate * noise),
    }
    assert set(error) | {"edm"} == set(WEIGHTINGS)
    rho = process.noise_to_signal(t)
    plain = denoising(model, x_0, rho, noise, {})
    for name, value in error.items():
        expected = value.square().mean(1)
        torch.testing.assert_close(plain * weight(name, rho, process, 1.0), expected, rtol=1e-7, atol=1e-10)
        torch.testing.assert_close(time_dependent(model, x_0, t, noise, None, name), expected, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close((sigma * score + noise).square().mean(1), time_dependent(model, x_0, t, noise))
    edm = time_dependent(model, x_0, t, noise, weighting="edm")
    torch.testing.assert_close(edm, plain * (rho**2 + 1.69) / (1.69 * rho**2))


# --- Minimisers among linear denoisers, of x alone and of x given y


class Linear(Denoiser):
    """D = K z + H y + k, whatever the level, with theta = (K, H, k) (2, 2 + 1 + 1); without y it has no H."""

    data_std = 1.3

    def __init__(self, process, theta):
        self.process, self.theta = process, theta.reshape(2, -1)

    def denoised(self, z, rho, cond):
        return torch.cat([z, cond.get("y", z[:, :0]), torch.ones_like(z[:, :1])], 1) @ self.theta.T


OPERATOR = torch.tensor([[1.0, -0.5]], dtype=torch.float64)  # y = OPERATOR x + NOISE_Y n, jointly Gaussian with x
NOISE_Y = 0.5


def pairs(count, seed=0):
    x, noise = (part[:count] for part in data(seed))
    n = torch.randn(count, 1, generator=torch_generator(seed, "y"), dtype=torch.float64)
    return x, x @ OPERATOR.T + NOISE_Y * n, noise


def minimiser(process, x, y, t, noise, weighting):
    """The best theta of the quadratic loss by autograd, with its standard errors H^-1 S H^-1 / N."""

    def rows(theta):
        return time_dependent(Linear(process, theta), x, t, noise, y, weighting)

    size = 6 if y is None else 8
    zero = torch.zeros(size, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(lambda theta: rows(theta).mean(), zero)
    inverse = torch.linalg.inv(torch.autograd.functional.hessian(lambda theta: rows(theta).mean(), zero))
    best = -inverse @ gradient
    each = torch.stack([(rows(best + e) - rows(best - e)) / 2 for e in torch.eye(size, dtype=torch.float64)])
    return best.reshape(2, -1), (inverse @ each.cov() @ inverse / len(x)).diagonal().sqrt().reshape(2, -1)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_minimiser_on_a_sample_is_weighted_least_squares(process, weighting):
    process, (x, y, noise) = PROCESSES[process], pairs(200)
    t = torch.linspace(0.1, 0.6, 200, dtype=torch.float64)
    rho = process.noise_to_signal(t)
    w = weight(weighting, rho, process, Linear.data_std)[:, None] ** 0.5
    w = w / w.max()
    seen = torch.cat([x + rho[:, None] * noise, y, torch.ones_like(y)], 1)
    expected = torch.linalg.lstsq(w * seen, w * x).solution.T
    found, _ = minimiser(process, x, y, t, noise, weighting)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def law(rho_squared, given=True):
    """The best (K, H, k) of x_0 from z, and y where given, with this variance of the noise in z."""
    second = torch.cat([torch.eye(2, dtype=torch.float64), OPERATOR])[: 3 if given else 2]
    variance = torch.tensor([rho_squared, rho_squared, NOISE_Y**2], dtype=torch.float64)
    seen = second @ COVARIANCE @ second.T + torch.diag(variance[: len(second)])
    gain = COVARIANCE @ second.T @ torch.linalg.inv(seen)
    return torch.cat([gain, (MEAN - gain @ second @ MEAN)[:, None]], 1)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("given", [False, True])
def test_at_one_level_the_minimiser_is_the_conditional_mean(process, given):
    process, (x, y, noise) = PROCESSES[process], pairs(COUNT)
    for rho in LEVELS:
        found, error = minimiser(process, x, y if given else None, process.time_of(rho), noise, "eps")
        assert float(((found - law(rho**2, given)) / error).abs().max()) < limit(8 * len(LEVELS))
        # Control: the gain of another level.
        assert float(((found - law(1.2 * rho**2, given)) / error).abs().max()) > limit(8 * len(LEVELS))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_over_levels_the_weight_decides(weighting):
    """One linear denoiser for all levels sees the noise variance sum w rho^2 / sum w of the listed levels."""
    process, (x, y, noise) = PROCESSES["vp1.5"], pairs(COUNT)
    rho = ListedLevels(LEVELS)(COUNT, torch_generator(0, "levels"))
    found, error = minimiser(process, x, y, process.time_of(rho), noise, weighting)
    listed = torch.tensor(LEVELS, dtype=torch.float64)

    def z(name):
        w = weight(name, listed, process, Linear.data_std)
        return float(((found - law(float((w * listed**2).sum() / w.sum()))) / error).abs().max())

    assert z(weighting) < limit(8)
    assert all(z(other) > limit(8) for other in WEIGHTINGS if other != weighting)  # controls


def test_wrong_arguments_are_named():
    model, (x, y, noise) = Linear(PROCESSES["vp2"], torch.ones(8, dtype=torch.float64)), pairs(5)
    gone = torch.where(x == x[2, 0], torch.nan, x)
    for name, arguments in (
        ("x_0", (gone, 0.5, noise)),
        ("x_0", (x[0], 0.5, noise[0])),
        ("noise", (x, 0.5, gone)),
        ("noise", (x, 0.5, noise[:4])),
        ("t", (x, 0.0, noise)),
        ("t", (x, torch.full((4,), 0.5), noise)),
        ("t", (x, math.nan, noise)),
    ):
        with pytest.raises(InputError, match=f"^{name}: got"):
            time_dependent(model, *arguments, y)
    with pytest.raises(InputError, match="weighting"):
        time_dependent(model, x, 0.5, noise, y, "other")
    with pytest.raises(InputError, match="model"):
        time_dependent(Joint(a=gaussian(PROCESSES["vp2"])), x, 0.5, noise)


class Scaled(Denoiser):
    """D = theta z."""

    data_std = 3.0

    def __init__(self, process, theta):
        self.process, self.theta = process, theta

    def denoised(self, z, rho, cond):
        return self.theta * z


def test_relative_errors_leave_the_minimiser():
    """x_0 ~ N(0, 9) and rho = 2: the gradient at theta = 9/13 is zero. Control: D differentiated in the weights too."""
    generator = torch_generator(4, "relative")
    x, noise = (
        3 * torch.randn(2, 200_000, 1, generator=generator, dtype=torch.float64) / torch.tensor([[[1.0]], [[3.0]]])
    )
    theta = torch.tensor(9 / 13, dtype=torch.float64, requires_grad=True)
    model = Scaled(PROCESSES["ve_linear"], theta)
    rho = torch.full((len(x),), 2.0, dtype=torch.float64)
    per_row = denoising(model, x, rho, noise, {}, 0.1)
    guess = theta * (x + 2 * noise)
    through = ((guess - x).square() / (0.1 + (guess / 3).square()))[:, 0]
    torch.testing.assert_close(per_row, through)

    def z(rows):
        each = torch.stack([torch.autograd.grad(p.sum(), theta, retain_graph=True)[0] for p in rows.split(2000)])
        return float(each.mean().abs() / (each.std() / len(each) ** 0.5))

    assert z(per_row) < limit(1)
    assert z(through) > limit(1)
