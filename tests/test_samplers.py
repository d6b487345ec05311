"""Samplers against exact laws.

Gaussian models: the exact law of the chain itself (see `exact.chain_law`) against samples, and against the exact
marginal as the steps double. Mixtures: steps are doubled until no statistic changes by more than a quarter of its
Monte-Carlo error, then samples are compared with closed-form expectations and distribution functions. Wrong scores,
wrong noise and biased denoisers go through the very same statistics and must be flagged.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest, norm

import fokker
from exact import (
    ALL_SAMPLERS,
    ALPHAS,
    COVARIANCES,
    LANGEVIN,
    MEANS,
    NOISE_FACTOR,
    PROCESSES,
    RATE,
    SAMPLERS,
    WEIGHTS,
    Biased,
    Fixed,
    Frozen,
    Scaled,
    chain_law,
    exact_law,
    gaussian,
    growing,
    levels,
    limit,
    mixture,
    mixture_draw,
    mixture_features,
    mixture_z,
    moment_z,
    wrong,
)
from fokker.noise import White
from fokker.samplers import Carried
from fokker.samplers.transition import alpha_integral

HIGH, LOW = 10.0, 0.3  # noise levels between which orders are measured
# Samplers that step in rho do the same on every process (test_contracts.py), so three processes stand for all.
IN_TIME = [name for name in SAMPLERS if name.startswith(("euler", "heun_time"))]
COMBINATIONS = [(p, s) for p in PROCESSES for s in IN_TIME]
COMBINATIONS += [(p, s) for p in ("ve_linear", "vp1.5", "ddpm_cosine") for s in SAMPLERS if s not in IN_TIME]
# The g^2 of DDPM jumps at i/N: a rule of order 2 in time keeps its order only on steps that are much longer.
SMOOTH = [(p, s) for p, s in COMBINATIONS if not (p.startswith("ddpm") and s.startswith("heun_time"))]


# --- Gaussians: samples against the chain's own affine recursion

DRAWS = 8192
GAUSSIAN_LIMIT = limit(5 * len(COMBINATIONS))  # five moments each; false-alarm rate 1e-4 for all together


def drawn_z(model, sampler, law, times, seed):
    samples = fokker.sample(model, (DRAWS, 2), sampler=sampler, grid=times, seed=seed).samples
    return moment_z(samples, *law).abs().max()


@pytest.mark.parametrize(("process", "sampler"), COMBINATIONS)
def test_samples_follow_the_law_of_the_chain(process, sampler):
    model, step = gaussian(PROCESSES[process]), SAMPLERS[sampler][0]
    times = levels(model.process, 8, HIGH, LOW)
    assert drawn_z(model, step, chain_law(model, step, times), times, seed=3) < GAUSSIAN_LIMIT


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_follow_the_law_of_the_chain_with_correlated_noise(sampler):
    model = gaussian(replace(PROCESSES["vp1.5"], noise=Fixed()))
    step = SAMPLERS[sampler][0]
    times = levels(model.process, 8, HIGH, LOW)
    assert drawn_z(model, step, chain_law(model, step, times), times, seed=4) < GAUSSIAN_LIMIT


@dataclass(frozen=True)
class TooMuchNoise(fokker.EulerMaruyama):
    """Its noise has 1.1 times the right standard deviation."""

    def kernel(self, model, state, t, s, cond):
        mean, std = super().kernel(model, state, t, s, cond)
        return mean, 1.1 * std


@pytest.mark.parametrize("kind", [Scaled, Biased])
@pytest.mark.parametrize("sampler", ["transition1_1", "transition2_0", "euler_maruyama_1", "heun"])
def test_control_a_wrong_model_is_flagged_by_the_law_of_the_chain(kind, sampler):
    model, step = gaussian(PROCESSES["vp1.5"]), SAMPLERS[sampler][0]
    times = levels(model.process, 8, HIGH, LOW)
    assert drawn_z(wrong(kind, model), step, chain_law(model, step, times), times, seed=3) > GAUSSIAN_LIMIT


def test_control_a_wrong_noise_factor_is_flagged_by_the_law_of_the_chain():
    model, right = gaussian(PROCESSES["vp1.5"]), fokker.EulerMaruyama(alpha=1.0)
    times = levels(model.process, 8, HIGH, LOW)
    assert drawn_z(model, TooMuchNoise(alpha=1.0), chain_law(model, right, times), times, seed=3) > GAUSSIAN_LIMIT


# --- Gaussians: order of convergence of the chain's law (no Monte-Carlo error)


def errors_of_law(model, sampler, steps):
    """Distance of mean and covariance from the exact marginal at rho = LOW."""
    out = []
    for count in steps:
        times = levels(model.process, count, HIGH, LOW)
        (mean, covariance), (m, c) = chain_law(model, sampler, times), exact_law(model, float(times[-1]))
        out.append(float(torch.cat([mean - m, (covariance - c).flatten()]).norm()))
    return out


def measured_order(model, sampler):
    """Slope of log error against log step, extrapolated to step zero: slopes behave as order + c / steps."""
    e = errors_of_law(model, sampler, (24, 48, 96))
    return 2 * math.log2(e[1] / e[2]) - math.log2(e[0] / e[1])


@pytest.mark.parametrize(("process", "sampler"), SMOOTH)
def test_order_is_as_declared(process, sampler):
    step, order = SAMPLERS[sampler]
    assert measured_order(gaussian(PROCESSES[process]), step) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("sampler", ["transition1_1", "transition2_1", "euler_maruyama_1", "heun"])
def test_order_with_correlated_noise(sampler):
    step, order = SAMPLERS[sampler]
    model = gaussian(replace(PROCESSES["vp2"], noise=Fixed()))
    assert measured_order(model, step) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("kind", [Scaled, Biased])
def test_control_a_wrong_model_does_not_converge(kind):
    model = gaussian(PROCESSES["vp2"])
    assert measured_order(wrong(kind, model), fokker.Heun()) < 0.5


def test_control_wrong_noise_does_not_converge():
    assert measured_order(gaussian(PROCESSES["vp2"]), TooMuchNoise(alpha=1.0)) < 0.5


def flow(model, x, t, s):
    """The exact probability flow of a Gaussian: in its eigenbasis deviations scale as sqrt(lambda + rho^2)."""
    process, mean = model.process, model.moments.mean
    values, vectors = torch.linalg.eigh(model.moments.factor @ model.moments.factor.T)
    high, low = (float(process.noise_to_signal(v)) for v in (t, s))
    u = (x / process.scale(t) - mean) @ vectors * ((values + low**2) / (values + high**2)).sqrt()
    return process.scale(s) * (mean + u @ vectors.T)


@pytest.mark.parametrize("process", PROCESSES)
def test_rk45_error_follows_its_tolerance(process):
    model = gaussian(PROCESSES[process])
    times = levels(model.process, 1, HIGH, LOW)
    previous = math.inf
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        sampler = fokker.RK45(rtol=tolerance, atol=tolerance)
        result = fokker.sample(model, (100, 2), sampler=sampler, grid=times, trajectory=True, seed=1)
        error = (result.samples - flow(model, result.trajectory[0], *times.tolist())).abs().max()
        # In units of x; the flow to lower noise contracts, so local errors do not grow.
        assert error < 30 * tolerance and error < previous / 5
        previous = float(error)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("sampler", "order"), [("transition1_0", 1), ("transition2_0", 2), ("heun", 2)])
def test_paths_of_the_ode_follow_the_exact_flow(process, sampler, order):
    model, errors = gaussian(PROCESSES[process]), []
    for steps in (48, 96):
        times = levels(model.process, steps, HIGH, LOW)
        result = fokker.sample(model, (50, 2), sampler=SAMPLERS[sampler][0], grid=times, trajectory=True)
        exact = flow(model, result.trajectory[0], float(times[0]), float(times[-1]))
        errors.append(float((result.samples - exact).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


# --- Steps against formulas written out on their own


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("alpha", [*ALPHAS, growing])
def test_transition_is_exact_for_a_frozen_denoiser(process, order, alpha):
    point = torch.tensor([1.3, -0.2], dtype=torch.float64)
    model = Frozen(PROCESSES[process], point)
    times = levels(model.process, 5, HIGH, LOW)
    mean, covariance = chain_law(model, fokker.Transition(alpha=alpha, order=order), times)
    m, sigma = (float(v) for v in (model.process.scale(times[-1]), model.process.sigma(times[-1])))
    torch.testing.assert_close(mean, m * point, rtol=0, atol=1e-12)
    torch.testing.assert_close(covariance, sigma**2 * torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)


def one_step(process, rho_t=2.0, rho_s=1.1):
    model = mixture(PROCESSES[process])
    t, s = float(model.process.time_of(rho_t)), float(model.process.time_of(rho_s))
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    (m_t, m_s), (s_t, s_s) = ([float(f(v)) for v in (t, s)] for f in (model.process.scale, model.process.sigma))
    return model, x, t, s, m_t, m_s, s_t, s_s


@pytest.mark.parametrize("process", PROCESSES)
def test_alpha_zero_is_ddim(process):
    model, x, t, s, m_t, m_s, s_t, s_s = one_step(process)
    mean, std = fokker.Transition(alpha=0.0).kernel(model, Carried(x), t, s, {})
    x_0_hat = model.denoise(x, t)
    eps = (x - m_t * x_0_hat) / s_t
    torch.testing.assert_close(mean.x, m_s * x_0_hat + s_s * eps, rtol=0, atol=1e-12)
    assert float(std) == 0.0


@pytest.mark.parametrize("process", PROCESSES)
def test_alpha_one_is_the_ancestral_step(process):
    """The law of x_s given x_t and x_0, by Bayes' rule for x_s | x_0 and x_t | x_s, at x_0 = x_0_hat."""
    model, x, t, s, m_t, m_s, s_t, s_s = one_step(process)
    mean, std = fokker.Transition(alpha=1.0).kernel(model, Carried(x), t, s, {})
    ratio = m_t / m_s
    added = s_t**2 - ratio**2 * s_s**2
    precision = 1 / s_s**2 + ratio**2 / added
    bayes = (m_s * model.denoise(x, t) / s_s**2 + ratio * x / added) / precision
    torch.testing.assert_close(mean.x, bayes, rtol=0, atol=1e-11)
    assert float(std) == pytest.approx(precision**-0.5, rel=1e-11)


def test_alpha_one_is_ddpm():
    model, x, t, s, m_t, m_s, *_ = one_step("vp2")
    mean, std = fokker.Transition(alpha=1.0).kernel(model, Carried(x), t, s, {})
    abar, before = m_t**2, m_s**2
    kept = abar / before
    beta = 1 - kept
    posterior = before**0.5 * beta / (1 - abar) * model.denoise(x, t) + kept**0.5 * (1 - before) / (1 - abar) * x
    torch.testing.assert_close(mean.x, posterior, rtol=0, atol=1e-12)
    assert float(std) ** 2 == pytest.approx((1 - before) / (1 - abar) * beta, rel=1e-12)


@pytest.mark.parametrize("alpha", [*ALPHAS, growing])
def test_any_alpha_is_ddim_with_the_eta_of_the_step(alpha):
    model, x, t, s, m_t, m_s, s_t, s_s = one_step("vp2")
    mean, std = fokker.Transition(alpha=alpha).kernel(model, Carried(x), t, s, {})
    r = (s_s / m_s) / (s_t / m_t)
    integral = alpha_integral(alpha, s_s / m_s, s_t / m_t)
    eta = math.sqrt((1 - math.exp(-2 * integral)) / (1 - r**2))
    variance = eta**2 * (1 - m_s**2) / (1 - m_t**2) * (1 - m_t**2 / m_s**2)
    x_0_hat = model.denoise(x, t)
    eps = (x - m_t * x_0_hat) / s_t
    torch.testing.assert_close(mean.x, m_s * x_0_hat + math.sqrt(1 - m_s**2 - variance) * eps, rtol=0, atol=1e-12)
    assert float(std) == pytest.approx(math.sqrt(variance), rel=1e-11, abs=1e-15)


def test_integral_of_a_varying_alpha():
    """int 2 rho / (1 + rho) dlog rho = 2 log((1 + rho_t) / (1 + rho_s))."""
    for low, high in ((0.5, 0.6), (0.1, 1.0), (0.002, 20.0)):
        exact = 2 * math.log((1 + high) / (1 + low))
        assert alpha_integral(growing, low, high) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("alpha", [*ALPHAS, growing])
@pytest.mark.parametrize("n", [1, 1.5, 2, 3])
def test_euler_maruyama_of_the_variance_preserving_process(n, alpha):
    model, x, t, s, m_t, _, s_t, _ = one_step(f"vp{n}")
    mean, std = fokker.EulerMaruyama(alpha=alpha).kernel(model, Carried(x), t, s, {})
    a = float(growing(torch.tensor(s_t / m_t, dtype=torch.float64))) if callable(alpha) else alpha
    beta, dtau = 0.001 + (15 - 0.001) * t, t - s
    g2 = beta * (1 - m_t**n) ** ((2 - n) / n)
    expected = x + (beta / 2 * x + (1 + a) / 2 * g2 * model.score(x, t)) * dtau
    torch.testing.assert_close(mean.x, expected, rtol=1e-9, atol=1e-10)
    assert float(std) == pytest.approx(math.sqrt(a * g2 * dtau), rel=1e-7)


def test_euler_maruyama_with_correlated_noise_uses_c_times_the_score():
    process = replace(PROCESSES["vp1.5"], noise=Fixed())
    model, x = gaussian(process), torch.ones(3, 2, dtype=torch.float64)
    t, s = 0.6, 0.5
    mean, _ = fokker.EulerMaruyama(alpha=0.5).kernel(model, Carried(x), t, s, {})
    m, c = exact_law(model, t)
    score = (m - x) @ torch.linalg.inv(c)
    pull = 0.75 * process.diffusion_squared(t) * score @ (NOISE_FACTOR @ NOISE_FACTOR.T)
    expected = x + (-process.drift(t) * x + pull) * (t - s)
    torch.testing.assert_close(mean.x, expected, rtol=0, atol=1e-11)


def test_heun_written_out():
    model, x, t, s, m_t, m_s, *_ = one_step("vp3")
    out, _ = fokker.Heun().step(model, Carried(x), t, s, lambda draw=0: None, {})
    z, high, low = x / m_t, 2.0, 1.1

    def slope(z, rho):
        return (z - model.denoised(z, torch.tensor(rho, dtype=torch.float64), {})) / rho

    first = slope(z, high)
    second = slope(z + (low - high) * first, low)
    torch.testing.assert_close(out.x, m_s * (z + (low - high) * (first + second) / 2), rtol=0, atol=1e-11)


def test_heun_in_time_written_out():
    """A step with noise, and one so close to 0 that the correction is implicit."""
    process, a = PROCESSES["vp3"], 0.7
    model, xi = mixture(process), torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def drift(x, u, d=None):
        g2, m, sigma = (f(u) for f in (process.diffusion_squared, process.scale, process.sigma))
        d = model.denoise(x, u) if d is None else d
        return -process.drift(u) * x + (1 + a) / 2 * g2 * (m * d - x) / sigma**2

    for t, s, implicit in ((0.5, 0.4, False), (0.1, 0.02, True)):
        x, h = process.scale(t) * MEANS[[0]] + process.sigma(t) * xi.flip(0), t - s
        out, _ = fokker.HeunTime(alpha=a).step(model, Carried(x), t, s, lambda draw=0: xi, {})
        assert (h * (1 + a) / 2 * process.diffusion_squared(s) / process.sigma(s) ** 2 > 2) == implicit
        variance, _ = quad(lambda u: a * float(process.diffusion_squared(u)), s, t)
        guess = x + h * drift(x, t) + math.sqrt(variance) * xi
        # Implicit: the same equation with v(x_s, s) in place of v(guess, s), D still that of the guess.
        last = drift(out.x, s, model.denoise(guess, s)) if implicit else drift(guess, s)
        expected = guess + h / 2 * (last - drift(x, t))
        torch.testing.assert_close(out.x, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("n", [0.5, 1, 2, 3, 4])
def test_heun_in_time_is_usable_for_every_process_on_a_grid_uniform_in_time(n, alpha):
    """The whole way to 0, t_min being a small part of a step: the error of the law falls from the coarsest grid on."""
    model = gaussian(fokker.VariancePreserving(n))

    def error(sampler, steps):
        levels = fokker.UniformTime()(model.process, steps, *model.time_range)
        mean, covariance = chain_law(model, sampler, torch.cat([levels, torch.zeros(1, dtype=torch.float64)]))
        m, c = exact_law(model, 0.0)
        return float(torch.cat([mean - m, (covariance - c).flatten()]).norm())

    heun = [error(fokker.HeunTime(alpha), steps) for steps in (8, 32, 128)]
    assert heun[2] < heun[1] < heun[0] and heun[2] < heun[0] / 10


# --- Mixtures

COUNT = 512
FIRST = 64


@dataclass(frozen=True, eq=False)
class Paired(White):
    """Noise of a coarse step made from that of the two fine steps inside it: the same path, on both grids."""

    weights: np.ndarray  # (coarse steps, 2), each row of norm 1

    @classmethod
    def of(cls, process, fine_times, alpha):
        rho = [float(process.noise_to_signal(t)) for t in fine_times]
        first, second = (
            np.array([alpha_integral(alpha, b, a) for a, b in zip(rho[i:-1:2], rho[i + 1 :: 2])]) for i in (0, 1)
        )
        pair = np.stack([np.exp(-second) * np.sqrt(-np.expm1(-2 * first)), np.sqrt(-np.expm1(-2 * second))], 1)
        return cls(pair / np.maximum(np.linalg.norm(pair, axis=1, keepdims=True), 1e-300))

    def sample(self, like, key, points=None):
        if key.step == 0:
            return super().sample(like, key)
        first, second = self.weights[key.step - 1]
        earlier = super().sample(like, replace(key, step=2 * key.step - 1))
        return first * earlier + second * super().sample(like, replace(key, step=2 * key.step))


def change(one, other):
    """Largest change of a statistic, in Monte-Carlo standard errors of the second sample."""
    a, b = mixture_features(one), mixture_features(other)
    return float(((a.mean(0) - b.mean(0)).abs() / b.std(0)).max()) * len(b) ** 0.5


def run(model, sampler, steps, alpha=None, seed=5):
    """Samples over `steps` intervals; with `alpha`, driven by the noise that `2 * steps` intervals would use."""
    t_min, t_max = model.time_range
    grid = fokker.Karras()
    if alpha is not None and alpha != 0:
        other = type(model)(model.process, model.weights, model.means, model.covariances)
        other.dtype = model.dtype
        other.process = replace(
            model.process, noise=Paired.of(model.process, grid(model.process, 2 * steps + 1, t_min, t_max), alpha)
        )
        model = other
    return fokker.sample(model, (COUNT, 2), sampler=sampler, steps=steps + 1, grid=grid, seed=seed).samples


def settled(model, sampler):
    """Samples with so many steps (so small a tolerance) that half (tenfold) changes less than 1/4 standard error."""
    if sampler.adaptive:
        tolerance, coarse = 1e-2, run(model, fokker.RK45(1e-2, 1e-2), 1)
        while tolerance > 1e-8:
            tolerance /= 10
            fine = run(model, fokker.RK45(tolerance, tolerance), 1)
            if change(coarse, fine) < 0.25:
                return fine
            coarse = fine
    like_one = isinstance(sampler, fokker.Ancestral)  # steps as of alpha = 1
    steps, alpha = FIRST, getattr(sampler, "alpha", getattr(sampler, "eta", float(like_one)) ** 2)
    while steps <= 1024:
        coarse, fine = run(model, sampler, steps, alpha), run(model, sampler, 2 * steps)
        if change(coarse, fine) < 0.25:
            return fine
        steps *= 2
    raise AssertionError(f"{sampler} has not settled at {steps} steps")


def ks_p(samples):
    """p-values of Kolmogorov and Smirnov's test of four projections, whose distribution functions are closed form."""
    out = []
    for angle in (0.0, 0.25, 0.5, 0.75):
        w = torch.tensor([math.cos(math.pi * angle), math.sin(math.pi * angle)], dtype=torch.float64)
        mean, std = (MEANS @ w).numpy(), torch.einsum("i,kij,j->k", w, COVARIANCES, w).sqrt().numpy()

        def cdf(v, mean=mean, std=std):
            return norm.cdf(v[:, None], mean, std) @ WEIGHTS.numpy()

        out.append(kstest((samples.double() @ w).numpy(), cdf).pvalue)
    return out


# On one rho grid all processes are the same algorithm (test_contracts.py), but for Euler-Maruyama, which steps in t.
MIXTURES = [
    *[(list(PROCESSES)[i % 6], s) for i, s in enumerate(ALL_SAMPLERS) if s not in LANGEVIN],
    *[(p, s) for p in PROCESSES for s in ["euler_maruyama_1"]],
]
MIXTURES = list(dict.fromkeys(MIXTURES))
MIXTURE_LIMIT = limit(17 * len(MIXTURES), RATE / 2)  # 17 averages each ...
MIXTURE_P = RATE / 2 / (4 * len(MIXTURES))  # ... and four p-values: 1e-4 for all together


def flagged(samples):
    return float(mixture_z(samples).abs().max()) > MIXTURE_LIMIT or min(ks_p(samples)) < MIXTURE_P


@pytest.mark.parametrize(("process", "sampler"), MIXTURES)
def test_mixture_is_sampled(process, sampler):
    model = mixture(PROCESSES[process], torch.float32)
    assert not flagged(settled(model, ALL_SAMPLERS[sampler]))


def test_control_the_statistic_passes_exact_samples():
    assert not flagged(mixture_draw(COUNT, seed=0))


@pytest.mark.parametrize("sampler", ["transition2_0", "heun", "rk45"])
@pytest.mark.parametrize("kind", [Scaled, Biased])
def test_control_a_wrong_model_of_a_mixture_is_flagged(kind, sampler):
    model = wrong(kind, mixture(PROCESSES["vp1.5"], torch.float32))
    assert flagged(settled(model, ALL_SAMPLERS[sampler]))


@pytest.mark.parametrize("sampler", [fokker.Transition(alpha=1.0, order=2), fokker.EulerMaruyama(alpha=1.0)])
def test_control_wrong_models_are_flagged_with_noise_in_the_steps(sampler):
    """Langevin-like noise undoes part of an error: 32 times the samples, at which the right model still passes."""
    right = mixture(PROCESSES["vp1.5"], torch.float32)

    def drawn(model, sampler):
        return fokker.sample(model, (32 * COUNT, 2), sampler=sampler, steps=129, seed=5).samples

    assert not flagged(drawn(right, sampler))
    assert flagged(drawn(wrong(Scaled, right), sampler))
    if isinstance(sampler, fokker.EulerMaruyama):
        assert flagged(drawn(right, TooMuchNoise(alpha=1.0)))


@pytest.mark.parametrize("alpha", [*ALPHAS, growing])
@pytest.mark.parametrize("process", PROCESSES)
def test_gaussian_transition_is_exact_for_gaussian_data(process, alpha):
    """N(0, d^2 I): after three steps of any size the chain's law is that of x_t, to rounding; a point's is not."""
    d = 0.7
    model = fokker.GaussianScore(PROCESSES[process], torch.zeros(2).double(), d**2 * torch.eye(2).double())
    times = model.process.time_of(torch.tensor([12.0, 3.0, 0.5, 0.1], dtype=torch.float64))
    m, sigma = float(model.process.scale(times[-1])), float(model.process.sigma(times[-1]))
    exact = (m**2 * d**2 + sigma**2) * torch.eye(2).double()
    mean, covariance = chain_law(model, fokker.GaussianTransition(alpha=alpha), times)
    torch.testing.assert_close(mean, torch.zeros(2).double(), rtol=0, atol=1e-12)
    # With alpha a function of rho its integrals are by quadrature.
    torch.testing.assert_close(covariance, exact, rtol=1e-4 if callable(alpha) else 1e-9, atol=1e-12)
    _, other = chain_law(model, fokker.Transition(alpha=alpha, order=2), times)
    assert float((other - exact).abs().max()) > 0.05 * float(exact.max())


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("process", PROCESSES)
def test_gaussian_transition_does_not_feel_the_mean_of_the_data(process, alpha):
    """N(mu, d^2 I) with mu 40 deviations away: the same law, moved by m mu. The control is a model that does not tell
    its mean: in three steps its chain stays behind."""
    mu, d = torch.tensor([28.0, -7.0]).double(), 0.7
    model = fokker.GaussianScore(PROCESSES[process], mu, d**2 * torch.eye(2).double())
    times = model.process.time_of(torch.tensor([12.0, 3.0, 0.5, 0.1], dtype=torch.float64))
    m = float(model.process.scale(times[-1]))
    mean, covariance = chain_law(model, fokker.GaussianTransition(alpha=alpha), times)
    torch.testing.assert_close(mean, m * mu, rtol=1e-9, atol=1e-9)
    centred = fokker.GaussianScore(PROCESSES[process], 0 * mu, d**2 * torch.eye(2).double())
    torch.testing.assert_close(covariance, chain_law(centred, fokker.GaussianTransition(alpha=alpha), times)[1])
    model.data_mean = None
    late, _ = chain_law(model, fokker.GaussianTransition(alpha=alpha), times)
    assert float((late - m * mu).abs().max()) > 0.05 * m * d


def test_the_mean_of_each_named_part_is_its_own():
    """Normal data, exact for every step: false-alarm rate 5 * 6e-7."""
    means = {"x": torch.tensor([30.0, -20.0]), "k": torch.zeros(3)}
    parts = {n: fokker.GaussianScore(fokker.VarianceExploding(20.0), m, torch.eye(len(m))) for n, m in means.items()}
    shapes = {n: (50, len(m)) for n, m in means.items()}
    drawn = fokker.sample(fokker.Joint(**parts), shapes, sampler=fokker.GaussianTransition(), steps=4, seed=1).samples
    for name, mean in means.items():
        assert float((drawn[name].mean(0) - mean).abs().max()) < 5 / 50**0.5
