"""Exact score models against autograd and quadrature, joint models, conversions of parametrisations."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

import fokker
from exact import COVARIANCE, MEAN, PROCESSES, Fixed, gaussian, limit, mixture, moment_z
from fokker.errors import InputError
from fokker.parametrisations import PARAMETRISATIONS, from_x0, skip_and_out, to_x0
from fokker.rng import Key, Rows
from fokker.score import GaussianScore, Joint, MixtureScore
from fokker.states import Moments, as_cond, column, row_mean

F64 = torch.float64
NOISES = {"white": fokker.White(), "correlated": Fixed()}
each_process = pytest.mark.parametrize("process", PROCESSES)
each_noise = pytest.mark.parametrize("noise", NOISES)


def states(count=7, seed=0):
    return 2 * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


@each_process
@each_noise
@pytest.mark.parametrize("kind", [gaussian, mixture])
def test_score_is_the_gradient_of_log_prob(process, noise, kind):
    model = kind(replace(PROCESSES[process], noise=NOISES[noise]))
    for t in (0.05, 0.4, 0.9):
        x = states().requires_grad_()
        log = model.log_prob(x, t)
        gradient = torch.autograd.grad(log.sum(), x)[0]
        torch.testing.assert_close(model.score(x.detach(), t), gradient, rtol=1e-8, atol=1e-9)


@each_process
@each_noise
def test_log_prob_is_that_of_the_mixture_of_gaussians(process, noise):
    """p_t = sum_k w_k N(m mu_k, m^2 C_k + sigma^2 C), written with another library's densities."""
    model = mixture(replace(PROCESSES[process], noise=NOISES[noise]))
    for t in (0.05, 0.4, 0.9):
        m, sigma = model.process.scale(t), model.process.sigma(t)
        c = model.process.noise.apply(torch.eye(2, dtype=F64))
        parts = MultivariateNormal(m * model.means, m**2 * model.covariances + sigma**2 * c)
        log = torch.logsumexp(model.weights.log() + parts.log_prob(states()[:, None]), 1)
        torch.testing.assert_close(model.log_prob(states(), t), log, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("process", ["ve_linear", "vp1", "vp3"])
@each_noise
def test_denoiser_is_the_posterior_mean_by_quadrature(process, noise):
    """E[x_0 | x_t] by the trapezoidal rule on a grid of x_0 in two dimensions."""
    model = mixture(replace(PROCESSES[process], noise=NOISES[noise]))
    axis = torch.linspace(-6, 6, 241, dtype=F64)
    x_0 = torch.cartesian_prod(axis, axis)
    prior = MultivariateNormal(model.means, model.covariances).log_prob(x_0[:, None])
    prior = torch.logsumexp(model.weights.log() + prior, 1)
    t = float(model.process.time_of(0.8))
    m, sigma = model.process.scale(t), model.process.sigma(t)
    c = model.process.noise.apply(torch.eye(2, dtype=F64))
    for x in states(3):
        weight = (prior + MultivariateNormal(m * x_0, sigma**2 * c).log_prob(x)).softmax(0)
        torch.testing.assert_close(model.denoise(x[None], t)[0], weight @ x_0, rtol=0, atol=1e-9)


def test_one_dimension_integrates_to_one():
    model = MixtureScore(PROCESSES["vp1.5"], [0.3, 0.7], [[-1.0], [2.0]], torch.tensor([[[0.2]], [[0.5]]], dtype=F64))
    x = torch.linspace(-40, 40, 20001, dtype=F64)[:, None]
    for t in (1e-3, 0.3, 1.0):
        assert float(torch.trapezoid(model.log_prob(x, t).exp(), x[:, 0])) == pytest.approx(1.0, abs=1e-10)


@each_process
@each_noise
def test_posterior_covariance_is_the_slope_of_the_denoiser(process, noise):
    """Cov[x_0 | x_t] = (sigma^2 / m) J C, for a Gaussian against conditioning written out."""
    model = gaussian(replace(PROCESSES[process], noise=NOISES[noise]))
    t = float(model.process.time_of(0.7))
    m, sigma = model.process.scale(t), model.process.sigma(t)
    c = model.process.noise.apply(torch.eye(2, dtype=F64))
    jacobian = torch.autograd.functional.jacobian(lambda x: model.denoise(x[None], t)[0], states(1)[0])
    exact = torch.linalg.inv(torch.linalg.inv(COVARIANCE) + m**2 / sigma**2 * torch.linalg.inv(c))
    torch.testing.assert_close(sigma**2 / m * jacobian @ c, exact, rtol=1e-9, atol=1e-10)


@each_process
def test_the_denoiser_is_the_same_on_every_process(process):
    model = mixture(PROCESSES["vp2"])
    other, z = model.on(PROCESSES[process]), states()
    for rho in (0.01, 1.0, 15.0):
        t, t_2 = PROCESSES[process].time_of(rho), model.process.time_of(rho)
        here = other.denoise(z * other.process.scale(t), t)
        torch.testing.assert_close(here, model.denoise(z * model.process.scale(t_2), t_2), rtol=1e-9, atol=1e-9)
    assert other.rho_range == model.rho_range and other.dtype == model.dtype
    low, high = (float(other.process.noise_to_signal(t)) for t in other.time_range)
    assert low == pytest.approx(model.rho_range[0], rel=1e-9)
    assert high <= model.rho_range[1] * (1 + 1e-9)


@pytest.mark.parametrize("method", ["denoise", "score", "log_prob"])
def test_a_time_for_each_row(method):
    model, x = mixture(PROCESSES["vp1.5"]), states(5)
    times = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=F64)
    whole = getattr(model, method)(x, times)
    rows = torch.cat([getattr(model, method)(x[i : i + 1], float(times[i])) for i in range(5)])
    torch.testing.assert_close(whole, rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_that_of_the_means(dtype):
    model = mixture(PROCESSES["vp2"], dtype)
    assert model.dtype == dtype and model.on(PROCESSES["vp1"]).dtype == dtype
    x = states().to(dtype)
    tolerance = {torch.float32: 3e-5, torch.float64: 1e-12}[dtype]
    exact = mixture(PROCESSES["vp2"])
    for method in ("denoise", "score", "log_prob"):
        value = getattr(model, method)(x, 0.4)
        assert value.dtype == dtype
        expected = getattr(exact, method)(x.double(), 0.4)
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    assert MixtureScore(PROCESSES["vp2"], [1.0], [[0.0]], [[[1.0]]]).dtype == torch.float32


def test_singular_components_and_zero_weights():
    """Point masses: the denoiser of two points is the weighted mean with logistic weights."""
    points = torch.tensor([[-1.0], [1.0], [5.0]], dtype=F64)
    model = MixtureScore(PROCESSES["ve_linear"], [0.5, 0.5, 0.0], points, torch.zeros(3, 1, 1, dtype=F64))
    z, rho = torch.linspace(-3, 3, 11, dtype=F64)[:, None], 0.9
    t = PROCESSES["ve_linear"].time_of(rho)
    torch.testing.assert_close(model.denoise(z, t), torch.tanh(z / rho**2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "means", "covariances"),
    [
        ([1.0], [0.0], [[1.0]]),
        ([0.5], [[0.0], [1.0]], [[[1.0]], [[1.0]]]),
        ([1.0], [[0.0, 1.0]], [[[1.0]]]),
        ([-1.0, 2.0], [[0.0], [1.0]], [[[1.0]], [[1.0]]]),
        ([0.0], [[0.0]], [[[1.0]]]),
        ([1.0], [[float("nan")]], [[[1.0]]]),
        ([1.0], [[0.0]], [[[float("inf")]]]),
        ([1.0], [[0.0]], [[[-1.0]]]),
    ],
)
def test_bad_mixtures_are_refused(weights, means, covariances):
    with pytest.raises(InputError):
        MixtureScore(PROCESSES["vp2"], weights, means, covariances)


def test_a_process_below_the_levels_of_the_model_is_refused():
    model = gaussian(PROCESSES["vp2"]).on(fokker.VarianceExploding(sigma_max=1e-4))
    with pytest.raises(InputError, match="process"):
        _ = model.time_range


# --- The first draw


@each_process
@each_noise
def test_first_draw_has_the_moments_of_that_level(process, noise):
    """False-alarm rate 1e-4 over all cases of this test."""
    model = mixture(replace(PROCESSES[process], noise=NOISES[noise]))
    count, t = 20_000, 0.6
    x = model.start((count, 2), t, Key(2, Rows.grid(1, count)), {})
    m, sigma = model.process.scale(t), model.process.sigma(t)
    mean = model.weights @ model.means
    offset = model.means - mean
    cov = torch.einsum("k,kij->ij", model.weights, model.covariances + offset[:, :, None] * offset[:, None])
    c = model.process.noise.apply(torch.eye(2, dtype=F64))
    z = moment_z(x, m * mean, m**2 * cov + sigma**2 * c)
    assert z.abs().max() < limit(5 * len(PROCESSES) * len(NOISES))


def test_moments_entry_by_entry_and_by_a_matrix():
    key, like = Key(0, Rows.grid(1, 4)), torch.empty(4, 2, 3, dtype=F64)
    std = torch.arange(1.0, 7.0).reshape(2, 3)
    xi = key.normal((2, 3)).double()
    torch.testing.assert_close(Moments(std, std).draw(like, key), std.double() + std.double() * xi)
    torch.testing.assert_close(Moments(torch.zeros(2, 3), torch.tensor(2.0)).draw(like, key), 2 * xi)
    factor = torch.tensor([[1.0, 0.0], [3.0, 2.0]], dtype=F64)
    flat = torch.empty(4, 2, dtype=F64)
    expected = MEAN + key.normal((2,)).double() @ factor.T
    torch.testing.assert_close(Moments(MEAN, factor).draw(flat, key), expected)


# --- Joint models


def pair():
    return gaussian(PROCESSES["vp1.5"]), MixtureScore(
        PROCESSES["ve_linear"],
        [0.4, 0.6],
        torch.tensor([[-1.0], [1.0]], dtype=F64),
        0.1 * torch.ones(2, 1, 1, dtype=F64),
    )


def test_joint_applies_each_model_to_its_part():
    x, k = pair()
    joint = Joint(x=x, k=k)
    state = {"x": states(4), "k": states(4)[:, :1]}
    for method in ("denoise", "score"):
        value = getattr(joint, method)(state, 0.3)
        assert torch.equal(value["x"], getattr(x, method)(state["x"], 0.3))
        assert torch.equal(value["k"], getattr(k, method)(state["k"], 0.3))
    assert joint.time_range[0] == max(x.time_range[0], k.time_range[0])
    assert joint.time_range[1] == min(x.time_range[1], k.time_range[1])
    moved = joint.on(PROCESSES["vp3"])
    assert moved.process == {"x": PROCESSES["vp3"], "k": PROCESSES["vp3"]}


def test_joint_refuses_other_parts():
    joint = Joint(x=pair()[0])
    for state in (states(), {"k": states()}, {"x": states(), "k": states()}):
        with pytest.raises(InputError, match="parts x"):
            joint.denoise(state, 0.3)
    with pytest.raises(InputError, match="Joint"):
        Joint()
    with pytest.raises(InputError, match="x_t"):
        pair()[0].denoise({"x": states()}, 0.3)


# --- Conversions


@each_process
@pytest.mark.parametrize("t", [1e-4, 0.05, 0.5, 1.0])
def test_conversions_round_trip(process, t):
    process, x_t, x_0 = PROCESSES[process], states(seed=1), states(seed=2)
    t = torch.tensor(t, dtype=F64)
    given = from_x0(x_t, t, process, x_0)
    assert tuple(given) == PARAMETRISATIONS
    for name, value in given.items():
        back = to_x0(x_t, t, process, **{name: value})
        torch.testing.assert_close(back, x_0, rtol=1e-10, atol=1e-9)
        at_level = skip_and_out(name, process, process.noise_to_signal(t))
        at_time = skip_and_out(name, process, process.noise_to_signal(t), t)
        torch.testing.assert_close(at_level, at_time, rtol=1e-9, atol=1e-9)


@each_process
def test_conversions_are_the_definitions(process):
    """Of all five, with m' and sigma' of the velocity u = m' x_0 + sigma' eps by autograd."""
    process, x_0, eps = PROCESSES[process], states(seed=1), states(seed=2)
    t = torch.linspace(0.1, 0.9, 7, dtype=F64, requires_grad=True)
    m, sigma = process.scale(t), process.sigma(t)
    rates = [torch.autograd.grad(v.sum(), t)[0] if v.requires_grad else torch.zeros(7) for v in (m, sigma)]
    m, sigma, m_rate, sigma_rate = (column(v.detach(), x_0) for v in (m, sigma, *rates))
    t, x_t = t.detach(), m * x_0 + sigma * eps
    found = from_x0(x_t, t, process, x_0)
    velocity = m_rate * x_0 + sigma_rate * eps
    torch.testing.assert_close(found["x0"], x_0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["eps"], eps, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found["score"], -eps / sigma, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found["v"], m * eps - sigma * x_0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found["flow"], velocity, rtol=1e-8, atol=1e-8)
    back = (sigma_rate * x_t - sigma * velocity) / (m * sigma_rate - sigma * m_rate)
    torch.testing.assert_close(to_x0(x_t, t, process, flow=velocity), back, rtol=1e-8, atol=1e-8)
    model = gaussian(process)
    score = model.score(x_0, t)
    torch.testing.assert_close(to_x0(x_0, t, process, score=score), model.denoise(x_0, t), rtol=1e-9, atol=1e-9)
    # The velocity is that of the probability-flow ODE, f x - g^2 score / 2.
    f, g2 = column(process.drift(t), x_0), column(process.diffusion_squared(t), x_0)
    flow = f * x_0 - g2 * score / 2
    torch.testing.assert_close(to_x0(x_0, t, process, flow=flow), model.denoise(x_0, t), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n", [0.5, 1, 1.5, 2, 3, 4])
def test_conversions_keep_their_digits_in_single_precision(n):
    """To x_0 near t = 0 from all of them, for every n; at the end rho digits are lost from eps and score alone."""
    process, x_0, eps = fokker.VariancePreserving(n=n), states(200, seed=1), states(200, seed=2)
    for t in (1e-8, 1e-4, 0.01, 0.3, 0.9, 1.0):
        t = torch.tensor(t, dtype=F64)
        x_t = process.scale(t) * x_0 + process.sigma(t) * eps
        for name, value in from_x0(x_t, t, process, x_0).items():
            back = to_x0(x_t.float(), t, process, **{name: value.float()})
            lost = float(process.noise_to_signal(t)) if name in ("eps", "score") or n < 1 else 0.0
            assert float((back - x_0).abs().max()) < 2e-6 * (1 + lost)


def test_conversions_need_one_parametrisation():
    for given in ({}, {"other": states()}, {"eps": states(), "v": states()}):
        with pytest.raises(InputError, match="parametrisation"):
            to_x0(states(), torch.tensor(0.5), PROCESSES["vp2"], **given)


# --- Small parts


def test_conditions_are_a_tensor_or_a_dict_of_tensors():
    y = states()
    assert as_cond(None) == {} and as_cond(y)["y"] is y and as_cond({"a": y})["a"] is y
    for wrong in ([1.0], {"y": [1.0]}, 3):
        with pytest.raises(InputError, match="cond"):
            as_cond(wrong)


def test_row_mean_leaves_padding_out():
    value = torch.tensor([[[1.0, 3.0], [100.0, 100.0]], [[2.0, 2.0], [4.0, 8.0]]])
    assert row_mean(value, {}).tolist() == [51.0, 4.0]
    assert row_mean(value, {"mask": torch.tensor([[1, 0], [1, 1]])}).tolist() == [2.0, 4.0]
    assert row_mean(value, {"mask": torch.zeros(2, 2)}).tolist() == [0.0, 0.0]


def test_a_denoiser_belongs_to_its_noise():
    """An exact model takes any noise; what a network has learned holds for one."""

    class Learned(GaussianScore):
        on = fokker.score.Denoiser.on

    model = Learned(PROCESSES["vp2"], MEAN, COVARIANCE)
    assert model.on(PROCESSES["vp1"]).process is PROCESSES["vp1"]
    with pytest.raises(InputError, match="noise"):
        model.on(replace(PROCESSES["vp1"], noise=Fixed()))
