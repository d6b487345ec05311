"""The variational bound and the learned variance against closed forms on Gaussians.

Statistical limits: |z| of `exact.limit` with the exact standard deviation of each term, false-alarm rate 1e-4 a test.
"""

import math

import pytest
import torch
from scipy.stats import norm

import fokker
from exact import COVARIANCE, MEAN, Fixed, Scaled, gaussian, limit, wrong
from fokker import variational
from fokker.errors import InputError
from fokker.rng import torch_generator
from fokker.score import Denoiser
from fokker.states import Moments

F64 = torch.float64
LOG_2PI = math.log(2 * math.pi)


def whole(process, mean, covariance):
    """The exact model of a Gaussian, at every index of the process."""
    model = fokker.GaussianScore(process, mean, covariance)
    rho = process.noise_to_signal(process.time(torch.tensor([1, process.steps])))
    model.rho_range = (float(rho[0]), float(rho[1]))
    return model


def one(process, std, mean=0.0):
    return whole(process, torch.tensor([mean], dtype=F64), torch.tensor([[std**2]], dtype=F64))


def draws(mean, covariance, count, seed=0):
    xi = torch.randn(count, len(mean), generator=torch_generator(seed, "bound"), dtype=F64)
    return mean + xi @ torch.linalg.cholesky(covariance).T


def short(steps):
    """Linear betas with as much noise in all as 1000 steps to 0.02."""
    return fokker.DDPM(steps, beta_min=0.1 / steps, beta_max=min(20 / steps, 0.999))


def reference(process, x_0, mean, covariance, variance):
    """Expectation and variance of every term for every row, written in x with alpha_bars, entry by entry.

    In x_t: D = mean + K (x_t / m - mean), so x_0 - D = (1 - K)(x_0 - mean) - K rho eps =: a - B eps, and
    E |a - B eps|_i^2 = a_i^2 + (B B^T)_ii; its variance over eps is 2 sum_ij (B B^T)_ij^2 + 4 a^T B B^T a.
    """
    abar, betas = process.alpha_bars.tolist(), process.betas.tolist()
    size, eye = len(mean), torch.eye(len(mean), dtype=F64)
    offset = x_0 - mean
    last = abar[-1] * covariance + (1 - abar[-1]) * eye
    prior = 0.5 * (
        (1 - abar[-1]) * torch.linalg.inv(last).trace()
        - size
        + abar[-1] * torch.einsum("bi,ij,bj->b", offset, torch.linalg.inv(last), offset)
        + torch.logdet(last)
        - size * math.log(1 - abar[-1])
    )
    means, variances = [], []
    for i in range(len(betas), 0, -1):
        rho2 = (1 - abar[i]) / abar[i]
        gain = covariance @ torch.linalg.inv(covariance + rho2 * eye)
        a, b = offset @ (eye - gain).T, rho2 * gain @ gain.T
        square = (a**2).sum(1) + b.trace()
        spread = 2 * (b**2).sum() + 4 * torch.einsum("bi,ij,bj->b", a, b, a)
        tilde = (1 - abar[i - 1]) / (1 - abar[i]) * betas[i - 1]
        if i > 1:
            on_x_0 = math.sqrt(abar[i - 1]) * betas[i - 1] / (1 - abar[i])
            s = tilde if variance == "posterior" else betas[i - 1]
            means.append(0.5 * (size * (math.log(s / tilde) + tilde / s - 1) + on_x_0**2 * square / s))
            variances.append((on_x_0**2 / 2 / s) ** 2 * spread)
        else:
            s = betas[0] if variance == "beta" else (1 - abar[1]) / (1 - abar[2]) * betas[1]
            means.append(0.5 * (size * (LOG_2PI + math.log(s)) + square / s))
            variances.append((0.5 / s) ** 2 * spread)
    return prior, torch.stack(means, 1), torch.stack(variances, 1)


def z_of(bound, expected, variances):
    """z of the average over rows of every term."""
    terms = torch.cat([bound.steps, bound.decoder[:, None]], 1)
    return (terms - expected).sum(0) / variances.sum(0).sqrt()


CASES = {
    "one": (short(30), torch.tensor([0.3], dtype=F64), torch.tensor([[0.49]], dtype=F64)),
    "two": (fokker.DDPM(25, "cosine"), MEAN, COVARIANCE),
}


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("case", CASES)
def test_every_term_is_its_closed_form(case, variance):
    process, mean, covariance = CASES[case]
    x = draws(mean, covariance, 6000)
    model = whole(process, mean, covariance)
    bound = fokker.variational_bound(model, x, variance)
    prior, expected, variances = reference(process, x, mean, covariance, variance)
    torch.testing.assert_close(bound.prior, prior, rtol=1e-6, atol=1e-9)
    assert bound.steps.shape == (6000, process.steps - 1) and bound.decoder.shape == (6000,)
    allowed = limit(process.steps)
    assert z_of(bound, expected, variances).abs().max() < allowed
    torch.testing.assert_close(bound.total, bound.prior + bound.steps.sum(1) + bound.decoder)
    torch.testing.assert_close(bound.bits_per_dim, bound.total / len(mean) / math.log(2))
    # Negative controls: another variance, and a wrong model.
    other = "beta" if variance == "posterior" else "posterior"
    assert z_of(fokker.variational_bound(model, x, other), expected, variances).abs().max() > 2 * allowed
    assert z_of(fokker.variational_bound(wrong(Scaled, model), x, variance), expected, variances).abs().max() > allowed


def expected_total(process, std, variance):
    """The mean of the bound over x ~ N(0, std^2), exactly: the reference is linear in x^2."""
    values = []
    for x in (0.0, std):
        x_0 = torch.tensor([[x]], dtype=F64)
        prior, terms, _ = reference(
            process, x_0, torch.zeros(1, dtype=F64), torch.tensor([[std**2]], dtype=F64), variance
        )
        values.append(float(prior) + float(terms.sum()))
    return values[1]


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_the_bound_is_above_the_entropy_and_closes_with_more_steps(variance):
    """Data N(0, 0.6^2): the mean of -log p is its entropy. The mean of the bound is found by 3000 draws."""
    std = 0.6
    entropy = 0.5 * (LOG_2PI + 1) + math.log(std)
    gaps = []
    for steps in (15, 60, 240):
        process = short(steps)
        gaps.append(expected_total(process, std, variance) - entropy)
        x = draws(torch.zeros(1, dtype=F64), torch.tensor([[std**2]], dtype=F64), 3000)
        bound = fokker.variational_bound(one(process, std), x, variance)
        _, expected, variances = reference(
            process, x, torch.zeros(1, dtype=F64), torch.tensor([[std**2]], dtype=F64), variance
        )
        z = (bound.steps.sum(1) + bound.decoder - expected.sum(1)).sum() / variances.sum().sqrt()
        assert abs(float(z)) < limit(3)
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < gaps[0] / 3


def test_a_wrong_model_has_a_larger_bound():
    process = short(100)
    model = whole(process, MEAN, COVARIANCE)
    x = draws(MEAN, COVARIANCE, 2000)
    right, scaled = (fokker.variational_bound(m, x).total for m in (model, wrong(Scaled, model)))
    excess = scaled - right  # the same draws for both
    assert float(excess.mean() / excess.std()) * 2000**0.5 > limit(1)
    entropy = float(torch.logdet(COVARIANCE)) / 2 + LOG_2PI + 1
    assert float(right.mean()) > entropy - limit(1) * float(right.std()) / 2000**0.5


def test_beta_is_the_best_variance_for_unit_data():
    """N(0, 1): with beta every step of the chain is exact, so the bound is -log p itself for every row on average."""
    process = short(40)
    total = expected_total(process, 1.0, "beta")
    # Only the first draw is not the chain's: here it is, N(0, 1).
    assert total == pytest.approx(0.5 * (LOG_2PI + 1), abs=1e-10)
    assert expected_total(process, 1.0, "posterior") > total + 0.1
    assert expected_total(process, 0.5, "beta") > 0.5 * (LOG_2PI + 1) + math.log(0.5) + 1e-3


# --- Data on a grid


def test_the_discretised_decoder_is_a_probability():
    """Of the 5 cells together 1 for every z_1; each one by the distribution function."""
    process = short(20)
    model = one(process, 0.5)
    for bins in (5, torch.tensor([-0.9, -0.5, 0.1, 0.2, 1.4], dtype=F64)):
        levels = torch.linspace(-1, 1, 5, dtype=F64) if isinstance(bins, int) else bins
        borders = [-math.inf, *((levels[1:] + levels[:-1]) / 2).tolist(), math.inf]
        for x_0_hat, std in ((0.2, 0.3), (-1.5, 0.1), (3.0, 0.2)):
            guess = torch.full((5, 1), x_0_hat, dtype=F64)
            log = variational._cell(levels[:, None], guess, torch.tensor(2 * math.log(std), dtype=F64), levels)
            assert float(log.exp().sum()) == pytest.approx(1, rel=1e-12)
            for k in range(5):
                low, high = ((v - x_0_hat) / std for v in (borders[k], borders[k + 1]))
                # By the tail that the cell lies in, where the difference keeps its digits.
                exact = norm.cdf(high) - norm.cdf(low) if low < 0 else norm.sf(low) - norm.sf(high)
                assert float(log[k]) == pytest.approx(math.log(exact), rel=1e-9, abs=1e-12)
        x = levels[torch.tensor([0, 4, 2])][:, None]
        discrete, density = (fokker.variational_bound(model, x, bins=b) for b in (bins, None))
        assert torch.equal(discrete.steps, density.steps) and bool((discrete.decoder >= 0).all())


def test_fine_bins_give_the_density_times_their_width():
    process = short(20)
    model = one(process, 0.3)
    x = torch.linspace(-1, 1, 4001, dtype=F64)[1:-1:97, None]
    discrete, density = (fokker.variational_bound(model, x, bins=b).decoder for b in (4001, None))
    torch.testing.assert_close(discrete, density - math.log(2 / 4000), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bins", [1, 0, True, 2.5, torch.tensor([0.0]), torch.tensor([1.0, 0.0])])
def test_bad_bins_are_refused(bins):
    with pytest.raises(InputError, match="bins: got"):
        fokker.variational_bound(one(short(5), 1.0), torch.zeros(2, 1), bins=bins)


def test_data_off_the_levels_are_refused():
    with pytest.raises(InputError, match=r"x: an entry is 0\.3 away"):
        fokker.variational_bound(one(short(5), 1.0), torch.tensor([[0.0], [0.3]]), bins=3)


# --- Rows, conditions, shapes


def test_a_row_does_not_depend_on_the_batch(monkeypatch):
    model, x = whole(short(12), MEAN, COVARIANCE), draws(MEAN, COVARIANCE, 300)
    bound = fokker.variational_bound(model, x, seed=4)
    for size in (1, 7, 299, 1000):
        monkeypatch.setattr(variational, "EVALUATIONS", size)
        some = fokker.variational_bound(model, x[: 2 * size], seed=4)
        torch.testing.assert_close(some.steps, bound.steps[: 2 * size], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(some.total, bound.total[: 2 * size], rtol=1e-10, atol=1e-10)
    assert not torch.equal(fokker.variational_bound(model, x, seed=5).steps, bound.steps)


class Pictures(Denoiser):
    """N(shift, std^2) for every entry of states of any shape, shift = cond["y"] (B, 1, ...)."""

    def __init__(self, process, shape, std):
        self.process, self.data_std, self.std = process, std, std
        self.dtype, self.device, self.rho_range = F64, torch.device("cpu"), (1e-4, 1e4)
        self.moments = Moments(torch.zeros(shape), torch.full(shape, std))

    def denoised(self, z, rho, cond):
        k = (self.std**2 / (self.std**2 + fokker.states.column(rho, z) ** 2)).to(z)
        shift = cond.get("y", torch.zeros(1)).to(z)
        return shift + k * (z - shift)


def test_states_of_any_shape():
    x = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    process = short(8)
    bound = fokker.variational_bound(Pictures(process, (2, 3), 0.5), x, "beta")
    flat = fokker.variational_bound(Pictures(process, (6,), 0.5), x.reshape(9, 6), "beta")
    torch.testing.assert_close(bound.total, flat.total)
    assert bound.size == 6
    exact = whole(process, torch.zeros(6, dtype=F64), 0.25 * torch.eye(6, dtype=F64))
    torch.testing.assert_close(fokker.variational_bound(exact, x.reshape(9, 6), "beta").total, flat.total)


def test_conditions_belong_to_their_rows():
    model, x = Pictures(short(8), (2,), 0.5), torch.zeros(6, 2, dtype=F64)
    y = torch.arange(6, dtype=F64)[:, None]
    moved = fokker.variational_bound(model, x + y, cond=y)
    still = fokker.variational_bound(model, x, cond=torch.zeros(1, 1, dtype=F64))
    torch.testing.assert_close(moved.steps, still.steps)
    torch.testing.assert_close(moved.decoder, still.decoder)
    with pytest.raises(InputError, match="'y': got 5 rows"):
        fokker.variational_bound(model, x, cond=y[:5])


def test_the_same_levels_give_the_same_bound_on_any_process():
    process = short(30)
    model, x = whole(process, MEAN, COVARIANCE), draws(MEAN, COVARIANCE, 50)
    indices = process.time(torch.tensor([30, 17, 9, 2, 1]))
    for other in (fokker.VarianceExploding(1000.0), fokker.VariancePreserving(n=1, beta_max=30.0)):
        grid = other.time_of(process.noise_to_signal(indices))
        for variance in ("posterior", "beta"):
            first = fokker.variational_bound(model, x, variance, grid=indices)
            second = fokker.variational_bound(model.on(other), x, variance, grid=grid)
            torch.testing.assert_close(second.steps, first.steps, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(second.total, first.total, rtol=1e-8, atol=1e-8)
    fewer = fokker.variational_bound(model, x, steps=10)
    assert fewer.steps.shape == (50, 9) and len(fewer.settings["times"]) == 10
    assert fokker.variational_bound(model, x, steps=1).steps.shape == (50, 0)


def test_only_known_indices_are_used():
    """A model that stops at 20 standard deviations: the chain starts at the highest index below."""
    process = fokker.DDPM()
    times = fokker.variational_bound(gaussian(process), MEAN[None]).settings["times"]
    rho = process.noise_to_signal(torch.tensor(times, dtype=F64))
    high = gaussian(process).rho_range[1]
    assert float(rho[0]) <= high < float(process.noise_to_signal(times[0] + 1e-3)) and times[-1] == 1e-3


@pytest.mark.parametrize(
    ("x", "given", "reason"),
    [
        (torch.zeros(0, 2), {}, "x: a tensor"),
        ([[0.0, 0.0]], {}, "x: a tensor"),
        (torch.tensor([[0.0, math.nan]]), {}, "x: got entries"),
        (torch.zeros(1, 2), {"variance": "none"}, "variance: got"),
        (torch.zeros(1, 2), {"steps": 0}, "steps: got"),
        (torch.zeros(1, 2), {"steps": 1001}, "steps: got 1001"),
        (torch.zeros(1, 2), {"grid": torch.tensor([0.1, 0.5])}, "grid: .* fall"),
    ],
)
def test_wrong_input_is_refused(x, given, reason):
    with pytest.raises(InputError, match=reason):
        fokker.variational_bound(gaussian(fokker.DDPM()), x, **given)


def test_models_without_a_bound_are_refused():
    x = torch.zeros(1, 2)
    for model, reason in (
        (fokker.Joint(a=gaussian(fokker.DDPM())), "model: got Joint"),
        (gaussian(fokker.DDPM(noise=Fixed())), "process: got correlated"),
        (gaussian(fokker.VariancePreserving()), "grid: DDPMIndices got a VariancePreserving"),
    ):
        for function in (fokker.variational_bound, fokker.fit_variance):
            with pytest.raises(InputError, match=reason):
                function(model, x)


# --- The learned variance


@pytest.mark.parametrize("std", [0.3, 1.0, 3.0])
def test_the_learned_variance_is_the_best_one(std):
    """For N(0, std^2) it is beta_tilde + (1 - r^2)^2 Var[x_0 | z], at std = 1 beta itself; and the bound is lower."""
    process = short(30)
    model = one(process, std)
    zero, covariance = torch.zeros(1, dtype=F64), torch.tensor([[std**2]], dtype=F64)
    head = fokker.fit_variance(model, draws(zero, covariance, 4000, seed=1))
    chain = variational._Chain.of(process.noise_to_signal(process.time(torch.arange(30, 0, -1))))
    rho2 = chain.rho**2
    best = chain.own + chain.gain * std**2 * rho2 / (std**2 + rho2)
    z = std * torch.linspace(-2, 2, 5, dtype=F64)[:, None] * (1 + rho2).sqrt()
    for k in range(30):
        x_0_hat = model.denoised(z[:, k : k + 1], chain.rho[k], {})
        found = chain.log_std2(head, torch.full((5,), k), z[:, k : k + 1], x_0_hat)
        assert float((found - best[k].log()).abs().max()) < 0.1
    # Control: no fixed variance is that near, but for beta at std = 1.
    away = [float((log - best.log()).abs().max()) for log in (chain.log_beta, chain.log_beta_tilde)]
    assert away[1] > 0.15 and (away[0] > 0.15) == (std != 1.0)
    if std == 1.0:
        torch.testing.assert_close(best.log(), chain.log_beta, rtol=0, atol=1e-9)
        return
    x = draws(zero, covariance, 3000, seed=2)
    learned = fokker.variational_bound(model, x, head)
    for fixed in ("posterior", "beta"):
        gain = fokker.variational_bound(model, x, fixed).total - learned.total
        assert float(gain.mean() / gain.std()) * 3000**0.5 > limit(2)
