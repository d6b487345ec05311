"""Guided posteriors on exact priors: denoisers against closed forms, chains against exact posteriors, refusals.

Where a method is exact, its guided denoiser is E[x_0 given x_t and y] to rounding, at every level: no sampling error.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import fokker
from exact import COVARIANCE, COVARIANCES, MEAN, MEANS, WEIGHTS, gaussian, limit, mixture, moment_z
from fokker.operators import Matrix
from fokker.posterior.normal_equations import conjugate_gradients, projected, solve_dense
from fokker.posterior.problem import MEASURED
from fokker.reference.gaussian import LinearGaussian
from fokker.score import GaussianScore
from fokker.states import column

F64 = torch.float64
VE = fokker.VarianceExploding(sigma_max=100.0)
PROCESSES = {"ve": VE, "vp": fokker.VariancePreserving(n=1)}
LEVELS = (0.01, 0.1, 0.5, 1.0, 3.0, 10.0)
A = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.2, 1.1]], dtype=F64)  # more data than unknowns
ROW = torch.tensor([[0.6, -0.9]], dtype=F64)  # fewer
R = torch.tensor([[0.05, 0.02, 0.0], [0.02, 0.08, -0.01], [0.0, -0.01, 0.04]], dtype=F64)
NOISE = {"std": fokker.Gaussian(0.3), "covariance": fokker.Gaussian(covariance=R)}


def posterior_mixture(process, matrix, noise, y, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES):
    """The exact posterior of a Gaussian mixture, component by component."""
    noise = noise * torch.eye(len(matrix), dtype=F64) if noise.ndim == 0 else noise
    total = matrix @ covariances @ matrix.T + noise
    gain = covariances @ matrix.T @ torch.linalg.inv(total)
    offset = y - means @ matrix.T
    new_means = means + torch.einsum("kij,kj->ki", gain, offset)
    new_covariances = covariances - gain @ matrix @ covariances
    quadratic = torch.einsum("ki,kij,kj->k", offset, torch.linalg.inv(total), offset)
    log = weights.log() - 0.5 * (quadratic + torch.linalg.slogdet(total)[1])
    evidence = float(torch.logsumexp(log, 0) - 0.5 * len(y) * math.log(2 * math.pi))
    return fokker.MixtureScore(process, log.softmax(0), new_means, new_covariances), evidence


def isotropic(process):
    return fokker.GaussianScore(process, MEAN, 0.49 * torch.eye(2, dtype=F64))


def states(process, t, count=7):
    rng = torch.Generator().manual_seed(3)
    m, sigma = process.scale(t), process.sigma(t)
    return m * torch.randn(count, 2, generator=rng, dtype=F64) + sigma * torch.randn(count, 2, generator=rng, dtype=F64)


def deviation(posterior, exact, y, process):
    """The largest |D_y - E[x_0 given x_t, y]| over levels, in standard deviations of x_0 given x_t."""
    worst = 0.0
    for rho in LEVELS:
        t = process.time_of(rho)
        x = states(process, t)
        found = posterior.model().denoise(x, t, {MEASURED: y.expand(len(x), *y.shape)})
        worst = max(worst, float((found - exact.denoise(x, t)).abs().max()) / min(rho, 1.0))
    return worst


# --- Exact where they claim to be


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("noise", NOISE)
def test_moment_matching_is_exact_for_gaussian_priors(process, noise):
    process, likelihood = PROCESSES[process], NOISE[noise]
    y = torch.tensor([0.4, -0.9, 0.3], dtype=F64)
    prior = gaussian(process)
    exact, _ = posterior_mixture(
        process, A, R if noise == "covariance" else torch.tensor(0.09, dtype=F64), y,
        torch.ones(1, dtype=F64), MEAN[None], COVARIANCE[None],
    )  # fmt: skip
    for forward in (Matrix(A), lambda x: x @ A.T):
        assert deviation(fokker.MomentMatching(prior, forward=forward, likelihood=likelihood), exact, y, process) < 1e-9
    control = fokker.PiGDM(prior, forward=Matrix(A), likelihood=likelihood)  # its covariance is isotropic
    assert deviation(control, exact, y, process) > 0.01


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("noise", NOISE)
def test_pigdm_is_exact_for_isotropic_gaussian_priors(process, noise):
    process, likelihood = PROCESSES[process], NOISE[noise]
    y = torch.tensor([0.4, -0.9, 0.3], dtype=F64)
    exact, _ = posterior_mixture(
        process, A, R if noise == "covariance" else torch.tensor(0.09, dtype=F64), y,
        torch.ones(1, dtype=F64), MEAN[None], 0.49 * torch.eye(2, dtype=F64)[None],
    )  # fmt: skip
    for forward, close in ((Matrix(A), 1e-9 if noise == "std" else 1e-7), (lambda x: x @ A.T, 1e-9)):
        found = fokker.PiGDM(isotropic(process), forward=forward, likelihood=likelihood)
        assert deviation(found, exact, y, process) < close  # conjugate gradients where there is a covariance


@pytest.mark.parametrize("matrix", [A, ROW])
@pytest.mark.parametrize("process", PROCESSES)
def test_known_likelihood_is_exact_for_mixtures(process, matrix):
    process, likelihood = PROCESSES[process], fokker.Gaussian(0.3)
    y = torch.tensor([0.4, -0.9, 0.3], dtype=F64)[: len(matrix)]
    exact, _ = posterior_mixture(process, matrix, torch.tensor(0.09, dtype=F64), y)
    prior = mixture(process)
    known = fokker.KnownLikelihood(prior, forward=Matrix(matrix), likelihood=likelihood)
    assert deviation(known, exact, y, process) < 1e-9
    control = fokker.MomentMatching(prior, forward=Matrix(matrix), likelihood=likelihood)
    assert deviation(control, exact, y, process) > 0.05


def test_known_likelihood_by_a_function_of_the_user():
    y = torch.tensor([0.7], dtype=F64)
    prior = gaussian(VE)
    closed = fokker.KnownLikelihood(prior, forward=Matrix(ROW), likelihood=fokker.Gaussian(0.3))

    def log_prob(y, x_t, t):
        rho2 = VE.noise_to_signal(t) ** 2
        total = COVARIANCE + rho2 * torch.eye(2, dtype=F64)
        gain = COVARIANCE @ torch.linalg.inv(total)
        mean = MEAN + (x_t - MEAN) @ gain.T
        variance = ROW @ (COVARIANCE - gain @ COVARIANCE) @ ROW.T + 0.09
        return -0.5 * ((y - mean @ ROW.T) ** 2 / variance).sum(1)

    own = fokker.KnownLikelihood(prior, forward=Matrix(ROW), likelihood=fokker.Gaussian(0.3), log_prob=log_prob)
    t = VE.time_of(0.6)
    x = states(VE, t)
    cond = {MEASURED: y.expand(len(x), 1)}
    assert_allclose(own.model().denoise(x, t, cond), closed.model().denoise(x, t, cond), atol=1e-12)


def test_monte_carlo_approaches_the_exact_denoiser_as_draws_grow():
    """By more than the factor 4 that independent draws would give for 16 times as many."""
    y = torch.tensor([0.7], dtype=F64)
    exact, _ = posterior_mixture(VE, ROW, torch.tensor(0.25, dtype=F64), y)
    errors = []
    for draws in (2**10, 2**14):
        found = fokker.MonteCarlo(mixture(VE), forward=Matrix(ROW), likelihood=fokker.Gaussian(0.5), draws=draws)
        errors.append(deviation(found, exact, y, VE))
    assert errors[1] < 0.01 and errors[0] > 4 * errors[1]


def test_dps_takes_x_0_as_a_point():
    """D_y = D + (sigma^2/m) J^T A^T R^-1 (y - A D), J = m C (m^2 C + sigma^2)^-1 for a Gaussian prior."""
    y = torch.tensor([0.4, -0.9, 0.3], dtype=F64)
    for process in PROCESSES.values():
        prior = gaussian(process)
        posterior = fokker.DPS(prior, forward=Matrix(A), likelihood=fokker.Gaussian(covariance=R))
        for rho in LEVELS:
            t = process.time_of(rho)
            m, sigma, x = process.scale(t), process.sigma(t), states(process, t)
            d = prior.denoise(x, t)
            jacobian = m * COVARIANCE @ torch.linalg.inv(m**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=F64))
            gradient = (y - d @ A.T) @ torch.linalg.inv(R) @ A @ jacobian
            found = posterior.model().denoise(x, t, {MEASURED: y.expand(len(x), 3)})
            assert_allclose(found, d + sigma**2 / m * gradient, rtol=1e-9, atol=1e-9)


def test_the_released_step_of_dps_has_its_published_bias():
    """N(0, I) prior, A = I, 1000 DDPM steps: the variance is a recursion that uses nothing of the library's guidance.

    With |r| nearly the same for all samples (d = 256) the step is linear: x_s loses zeta' J r / |r|. Its variance over
    the exact one was measured as 0.028 with the released code (sigma 0.05, zeta' 0.3).
    """
    d, sigma_y, zeta = 256, 0.05, 0.3
    process = fokker.DDPM()
    prior = fokker.GaussianScore(process, torch.zeros(d, dtype=F64), torch.eye(d, dtype=F64))
    prior.rho_range = (1e-3, 1e3)  # all 1000 indices
    truth = torch.randn(d, generator=torch.Generator().manual_seed(1), dtype=F64)
    y = truth + sigma_y * torch.randn(d, generator=torch.Generator().manual_seed(2), dtype=F64)
    posterior = fokker.DPS(prior, forward=lambda x: 1.0 * x, likelihood=fokker.Gaussian(sigma_y), scale=zeta)
    found = posterior.sample(y, 16, sampler=fokker.Ancestral(), grid=fokker.DDPMIndices(), steps=1000)
    exact = sigma_y**2 / (1 + sigma_y**2)
    ratio = float(found.samples.double().var(0).mean()) / exact
    # 16 samples of 256 entries: the standard error of the ratio is sqrt(2 / (15 * 256)) = 2.3 % of it
    assert abs(ratio / 0.028 - 1) < 0.1


def test_moment_recursion_of_ddrm():
    """N(0, I) prior, diagonal operator: mean and variance of every coordinate by the recursion, z-scores of samples."""
    values, sigma_y, steps, count = torch.tensor([1.5, 0.4, 0.05], dtype=F64), 0.3, 20, 20_000
    matrix = torch.cat([torch.diag(values), torch.zeros(3, 1, dtype=F64)], 1)
    process = fokker.VarianceExploding(sigma_max=20.0)
    prior = fokker.GaussianScore(process, torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64))
    y = torch.tensor([0.6, -0.2, 0.1], dtype=F64)
    posterior = fokker.DDRM(prior, forward=Matrix(matrix), likelihood=fokker.Gaussian(sigma_y))
    found = posterior.sample(y, count, steps=steps)
    rho = [float(process.noise_to_signal(t)) for t in found.settings["times"]]
    s = torch.cat([values, torch.zeros(1, dtype=F64)])
    b = torch.cat([y / values, torch.zeros(1, dtype=F64)])
    spread = torch.where(s > 0, sigma_y / s, torch.inf)
    start = (spread < rho[0]) & (s > 0)
    mean = torch.where(start, b, 0.0)
    variance = torch.where(start, rho[0] ** 2 - spread**2, rho[0] ** 2 + 1.0)
    for before, after in itertools.pairwise(rho):
        shrink = 1 / (1 + before**2)  # D = shrink u
        keep = math.sqrt(1 - 0.85**2) * after
        on_u = torch.full((4,), shrink + keep / before * (1 - shrink), dtype=F64)
        on_b, noise = torch.zeros(4, dtype=F64), torch.full((4,), (0.85 * after) ** 2, dtype=F64)
        for i in range(3):
            if after < spread[i]:
                on_b[i] = keep / spread[i]
                on_u[i] = shrink * (1 - on_b[i])
            else:
                on_b[i], on_u[i], noise[i] = 1.0, 0.0, after**2 - spread[i] ** 2
        mean, variance = on_u * mean + on_b * b, on_u**2 * variance + noise
    z = moment_z(found.samples, mean, torch.diag(variance))
    assert float(z.abs().max()) < limit(len(z))
    exact = LinearGaussian(np.zeros(4), np.eye(4), matrix.numpy(), sigma_y)
    assert float(variance[0]) / exact.covariance[0, 0] < 0.6  # the method's own shrinkage is real


# --- Solvers


def test_the_three_ways_to_solve_agree():
    """In the spectrum, by a Cholesky factor, by conjugate gradients; moment matching by the latter two."""
    rng = np.random.default_rng(0)
    wide = torch.from_numpy(rng.standard_normal((80, 2)) / 5)  # 80 entries of y: beyond the dense limit
    y = torch.from_numpy(rng.standard_normal(80))
    prior = mixture(VE)
    t = VE.time_of(0.7)
    x = states(VE, t)
    few = {MEASURED: y[:5].expand(len(x), 5)}
    spectral = fokker.PiGDM(prior, forward=Matrix(wide[:5]), likelihood=fokker.Gaussian(0.3)).model()
    dense = fokker.PiGDM(prior, forward=lambda x: x @ wide[:5].T, likelihood=fokker.Gaussian(0.3)).model()
    assert_allclose(spectral.denoise(x, t, few), dense.denoise(x, t, few), atol=1e-10)
    assert_allclose(spectral.both(x, t, few)[2].diff(), dense.both(x, t, few)[2].diff(), atol=1e-10)
    many = {MEASURED: y.expand(len(x), 80)}
    # With R = 0.09 I, 80 entries carry as much as the two of the whitened operator: Q R' = wide.
    q, r = torch.linalg.qr(wide)
    short = {MEASURED: (q.T @ y).expand(len(x), 2)}
    for method in (fokker.PiGDM, fokker.MomentMatching):
        by_columns = method(prior, forward=lambda x: x @ r.T, likelihood=fokker.Gaussian(0.3)).model()
        for forward in (lambda x: x @ wide.T, Matrix(wide)):
            found = method(prior, forward=forward, likelihood=fokker.Gaussian(0.3)).model()
            # those of moment matching, where each product passes the network, stop at a ten-thousandth of the residual
            close = 1e-6 if method is fokker.PiGDM else 1e-3
            assert_allclose(found.denoise(x, t, many), by_columns.denoise(x, t, short), atol=close)


def test_conjugate_gradients_and_cholesky():
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(4, 10, 10, generator=rng, dtype=F64)
    matrix = root @ root.mT + torch.eye(10, dtype=F64)
    r = torch.randn(4, 10, generator=rng, dtype=F64)
    r[2] = 0
    want = torch.linalg.solve(matrix, r)
    u, value = conjugate_gradients(lambda v: torch.einsum("bij,bj->bi", matrix, v), r, tolerance=1e-12)
    assert_allclose(u, want, atol=1e-8)
    alone, _ = conjugate_gradients(lambda v: torch.einsum("bij,bj->bi", matrix[1:2], v), r[1:2], tolerance=1e-12)
    assert_allclose(alone, u[1:2], atol=1e-13)
    scaled, log = conjugate_gradients(
        lambda v: torch.einsum("bij,bj->bi", matrix, v), r, matrix.diagonal(dim1=1, dim2=2), 1e-12
    )
    assert_allclose(scaled, want, atol=1e-8)
    assert_allclose(log, value - 0.5 * matrix.diagonal(dim1=1, dim2=2).log().sum(1), atol=1e-7)
    dense, log = solve_dense(matrix - torch.eye(10, dtype=F64) / 2, torch.eye(10, dtype=F64) / 2, r)
    assert_allclose(dense, want, atol=1e-10)
    assert_allclose(log, value - 0.5 * torch.linalg.slogdet(matrix)[1], atol=1e-7)


def test_a_covariance_that_is_none_cannot_overshoot():
    """The shift N u of a prediction, in standard deviations of the noise, is at most the residual, whatever N is.

    Noise of all three kinds; N a covariance, one with a skew error, one with a negative eigenvalue near the noise. The
    control is the plain solution, which overshoots in the last.
    """
    rng = torch.Generator().manual_seed(3)
    root, skew = torch.randn(2, 40, 6, 6, generator=rng, dtype=F64)
    good = root @ root.mT
    direction = torch.nn.functional.normalize(torch.randn(40, 6, 1, generator=rng, dtype=F64), dim=1)
    inner = good @ direction
    bad = good - inner @ inner.mT / (direction.mT @ inner) - 0.99 * direction @ direction.mT
    r = torch.randn(40, 6, generator=rng, dtype=F64)
    for noise in (torch.eye(6, dtype=F64), torch.diag(torch.linspace(0.1, 2, 6, dtype=F64)), good[0] + good[:1]):
        whiten = torch.linalg.inv(torch.linalg.cholesky(noise))
        unit = whiten if whiten.ndim == 3 else whiten[None]
        for gram in (good, good + 20 * (skew - skew.mT), unit.inverse() @ bad @ unit.inverse().mT):
            u, _ = solve_dense(gram, noise, r)
            shift, whole = (torch.einsum("kij,bj->bi", unit, v) for v in (torch.einsum("bij,bj->bi", gram, u), r))
            assert bool((shift.norm(dim=1) <= whole.norm(dim=1) * (1 + 1e-9)).all())
    plain = torch.linalg.solve(bad + torch.eye(6, dtype=F64), r)
    assert bool((torch.einsum("bij,bj->bi", bad, plain).norm(dim=1) > 5 * r.norm(dim=1)).any())


def test_projections_solve_as_all_columns_do():
    """To rounding after as many products as entries, symmetric, positive or not; rows alone as beside others."""
    rng = torch.Generator().manual_seed(4)
    matrix = torch.randn(4, 10, 10, generator=rng, dtype=F64)
    matrix[0] = matrix[0] @ matrix[0].T
    matrix[3] = torch.eye(10, dtype=F64)  # one product is enough
    r = torch.randn(4, 10, generator=rng, dtype=F64)
    r[2] = 0
    u, value = projected(lambda v: torch.einsum("bij,bj->bi", matrix, v), r, 1e-12)
    assert_allclose(u, solve_dense(matrix, torch.eye(10, dtype=F64), r)[0], atol=1e-9)
    assert_allclose(value, -0.5 * (r * u).sum(1))
    assert float((u[:1] + torch.einsum("bij,bj->bi", matrix[:1], u[:1]) - r[:1]).abs().max()) < 1e-9
    alone, _ = projected(lambda v: torch.einsum("bij,bj->bi", matrix[1:2], v), r[1:2], 1e-12)
    assert_allclose(alone, u[1:2], atol=1e-12)
    rough, _ = projected(lambda v: torch.einsum("bij,bj->bi", matrix[:1], v), r[:1], 0.5)
    assert 1e-6 < float((rough + torch.einsum("bij,bj->bi", matrix[:1], rough) - r[:1]).norm()) < float(r[0].norm())


class Inexact(GaussianScore):
    """The exact denoiser of a Gaussian, and a linear error of 5 % of what a network puts out."""

    def denoised(self, z, rho, cond):
        mix = torch.randn(16, 16, generator=torch.Generator().manual_seed(5), dtype=F64).to(z)
        out = rho * self.data_std / (rho**2 + self.data_std**2)
        return super().denoised(z, rho, cond) + 0.05 * column(out, z) * ((z - self.moments.mean.to(z)) @ mix)


def test_moment_matching_holds_where_the_denoiser_is_a_little_wrong():
    """Smooth signals, five of 16 entries seen: the derivative of D is no covariance, and answers still stand.

    With the exact denoiser means are right to 0.2 deviations (256 samples and 64 steps), with the error to 1; made
    symmetric and raised to the noise, as is usual, the same derivative gives means that are 10^4 deviations off.
    """
    t = torch.arange(16, dtype=F64) / 16
    covariance = torch.exp(-0.5 * ((t[:, None] - t) / 0.15) ** 2) + 1e-4 * torch.eye(16, dtype=F64)
    seen = [1, 4, 7, 10, 14]
    truth = torch.linalg.cholesky(covariance) @ torch.randn(16, generator=torch.Generator().manual_seed(6), dtype=F64)
    y = 1 + truth[seen]
    gain = covariance[:, seen] @ torch.linalg.inv(covariance[seen][:, seen] + 0.05**2 * torch.eye(5, dtype=F64))
    std = (covariance - gain @ covariance[seen]).diagonal().sqrt()
    for kind, most in ((GaussianScore, 0.25), (Inexact, 1.0)):
        prior = kind(fokker.VarianceExploding(), torch.ones(16, dtype=F64), covariance)
        forward = Matrix(torch.eye(16, dtype=F64)[seen])
        samples = fokker.MomentMatching(prior, forward=forward, likelihood=fokker.Gaussian(0.05)).sample(y, 256).samples
        off = (samples.mean(0) - 1 - gain @ (y - 1)) / std
        ratio = samples.std(0) / std
        assert float(off.abs().max()) < most and float(ratio.min()) > 0.75 and float(ratio.max()) < 1.4
