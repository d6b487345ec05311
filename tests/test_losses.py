"""The denoising loss against its closed form on Gaussians.

Statistical limits: |z| of `exact.limit`, false-alarm rate 1e-4 for each test.
"""

import math

import pytest
import torch
from scipy.stats import kstest, norm

import fokker
from exact import COVARIANCE, MEAN, NOISE_FACTOR, PROCESSES, Fixed, gaussian, limit
from fokker.errors import InputError
from fokker.losses import LogNormalLevels, UniformTimes, denoising, weight
from fokker.rng import torch_generator
from fokker.score import GaussianScore

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
    rho = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    torch.testing.assert_close(weight("eps", rho, 2.0), 1 / rho**2)
    torch.testing.assert_close(weight("edm", rho, 2.0), (rho**2 + 4) / (4 * rho**2))
    # On the eps form |sigma s + z|^2 = |D - x_0|^2 / rho^2 the edm weight is (rho^2 + d^2) / d^2.
    torch.testing.assert_close(weight("edm", rho, 2.0) / weight("eps", rho, 2.0), (rho**2 + 4) / 4)
    with pytest.raises(InputError, match="weighting"):
        weight("other", rho, 1.0)


def test_edm_weight_makes_every_level_alike():
    """A Gaussian of standard deviation d has posterior variance 1 / weight: its weighted loss is 1 at every level."""
    rho, d = torch.logspace(-2, 2, 9, dtype=torch.float64), 1.7
    variance = rho**2 * d**2 / (rho**2 + d**2)
    torch.testing.assert_close(weight("edm", rho, d) * variance, torch.ones_like(rho))


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
