"""Special cases that are equalities: known samplers, written out as their papers have them, and ours, to rounding.

All chains take their first draw and their noise from the same keys, so whole paths are compared, in float64.
"""

import itertools
import math

import pytest
import torch

import fokker
from exact import PROCESSES, growing, mixture
from fokker.rng import Key, Rows

F64 = torch.float64
COUNT, STEPS, SEED = 30, 12, 3


def path(model, sampler):
    """Times and states of a run on the default grid."""
    result = fokker.sample(model, (COUNT, 2), sampler=sampler, steps=STEPS, seed=SEED, trajectory=True)
    return result.settings["times"], result.trajectory


def xi(step):
    """The noise of a step."""
    return Key(SEED, Rows.grid(1, COUNT)).at(step=step, part="step0").normal((2,)).double()


def written_out(model, times, first, step):
    """The path of x_s = step(x_t, x_0_hat, t, s, number), with the denoised value at the end."""
    states = [first]
    for k, (t, s) in enumerate(itertools.pairwise(times), 1):
        x_0_hat = model.denoise(states[-1], t)
        states.append(x_0_hat if s == 0 else step(states[-1], x_0_hat, t, s, k))
    return torch.stack(states)


def close(a, b, tolerance=1e-11):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_ddim_ends_are_transitions(process, end):
    model = mixture(PROCESSES[process])
    close(path(model, fokker.DDIM(eta=end))[1], path(model, fokker.Transition(alpha=end))[1])


def ddim(process, eta, forgotten=False):
    """Song, Meng, Ermon 2021, equations 12 and 16, in alpha-bar."""

    def step(x, x_0_hat, t, s, k):
        abar_t, abar_s = (float(process.scale(u)) ** 2 for u in (t, s))
        sigma = eta * math.sqrt((1 - abar_s) / (1 - abar_t)) * math.sqrt(1 - abar_t / abar_s)
        eps = (x - math.sqrt(abar_t) * x_0_hat) / math.sqrt(1 - abar_t)
        left = 1 - abar_s - (0 if forgotten else sigma**2)
        return math.sqrt(abar_s) * x_0_hat + math.sqrt(left) * eps + sigma * xi(k)

    return step


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0])
def test_ddim_is_the_loop_of_its_paper(eta):
    model = mixture(PROCESSES["vp2"])
    times, states = path(model, fokker.DDIM(eta))
    close(written_out(model, times, states[0], ddim(model.process, eta)), states, 1e-9)


def test_control_the_misprinted_loop_of_ddim_is_another():
    """Without -sigma^2 under the root."""
    model = mixture(PROCESSES["vp2"])
    times, states = path(model, fokker.DDIM(0.8))
    other = written_out(model, times, states[0], ddim(model.process, 0.8, forgotten=True))
    assert float((other - states).abs().max()) > 0.1


def test_alpha_zero_is_the_loop_of_ddim():
    model = mixture(PROCESSES["vp2"])
    times, states = path(model, fokker.Transition(alpha=0.0))
    close(written_out(model, times, states[0], ddim(model.process, 0.0)), states, 1e-9)


def test_alpha_one_is_the_ancestral_loop_of_ddpm_with_beta_tilde():
    """Ho et al. 2020, equations 6 and 7."""
    model = mixture(PROCESSES["vp2"])

    def step(x, x_0_hat, t, s, k):
        abar_t, abar_s = (float(model.process.scale(u)) ** 2 for u in (t, s))
        kept = abar_t / abar_s
        beta = 1 - kept
        on_x_0, on_x = math.sqrt(abar_s) * beta / (1 - abar_t), math.sqrt(kept) * (1 - abar_s) / (1 - abar_t)
        beta_tilde = (1 - abar_s) / (1 - abar_t) * beta
        return on_x_0 * x_0_hat + on_x * x + math.sqrt(beta_tilde) * xi(k)

    times, states = path(model, fokker.Transition(alpha=1.0))
    close(written_out(model, times, states[0], step), states, 1e-9)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("eta", [0.2, 0.7, 1.0])
def test_eta_is_an_alpha_for_each_step(process, eta):
    """alpha = log(1 - eta^2 (1 - r^2)) / (2 log r) between rho_s = r rho_t and rho_t, as one function of rho."""
    model = mixture(PROCESSES[process])
    times, states = path(model, fokker.DDIM(eta))
    rho = torch.stack([model.process.noise_to_signal(t) for t in times[:-1]]).flip(0)  # rising
    r = rho[:-1] / rho[1:]
    alphas = torch.log(1 - eta**2 * (1 - r**2)) / (2 * torch.log(r))
    by_step = fokker.Transition(alpha=lambda level: alphas[torch.bucketize(level, rho[1:-1])])
    close(path(model, by_step)[1], states, 1e-9)
    constant = fokker.Transition(alpha=eta**2)
    assert eta == 1.0 or float((path(model, constant)[1] - states).abs().max()) > 0.01


@pytest.mark.parametrize("eta", [0.4, 0.9])
def test_eta_squared_is_the_alpha_of_small_steps(eta):
    model = mixture(PROCESSES["vp1.5"])
    kernels = [s.kernel(model, fokker.samplers.Carried(torch.ones(1, 2, dtype=F64)), 0.5, 0.5 - 1e-6, {})
               for s in (fokker.DDIM(eta), fokker.Transition(alpha=eta**2))]  # fmt: skip
    (mean, std), (other_mean, other_std) = kernels
    close(mean.x, other_mean.x, 1e-10)
    assert float(std) == pytest.approx(float(other_std), rel=1e-4)


def straight(process):
    """Euler's step of flow matching: on x = (1 - sigma) x_0 + sigma eps the velocity dx/dsigma is eps - x_0."""

    def step(x, x_0_hat, t, s, k):
        sigma_t, sigma_s = (float(process.sigma(u)) for u in (t, s))
        eps = (x - (1 - sigma_t) * x_0_hat) / sigma_t
        return x + (sigma_s - sigma_t) * (eps - x_0_hat)

    return step


def test_n_one_is_the_straight_path_of_flow_matching():
    model = mixture(PROCESSES["vp1"])
    t = torch.linspace(0, 1, 101, dtype=F64)
    close(model.process.scale(t) + model.process.sigma(t), torch.ones(101, dtype=F64), 1e-15)
    for sampler in (fokker.DDIM(), fokker.Transition(alpha=0.0)):
        times, states = path(model, sampler)
        close(written_out(model, times, states[0], straight(model.process)), states, 1e-10)


def test_control_no_other_process_is_straight():
    model = mixture(PROCESSES["vp1.5"])
    times, states = path(model, fokker.DDIM())
    assert float((written_out(model, times, states[0], straight(model.process)) - states).abs().max()) > 0.1


def test_heun_in_time_is_heun_where_time_is_the_noise_level():
    """On the linear variance exploding process t is rho, up to a factor: one rule."""
    model = mixture(PROCESSES["ve_linear"])
    grid = model.process.time_of(torch.tensor([20.0, 12.0, 7.0, 4.0, 2.5, 1.5], dtype=F64))  # no step is implicit
    runs = [fokker.sample(model, (COUNT, 2), sampler=s, grid=grid).samples for s in (fokker.Heun(), fokker.HeunTime())]
    close(*runs)


def test_a_langevin_step_too_small_to_matter_leaves_the_predictor():
    model = mixture(PROCESSES["vp2"])
    for predictor in (fokker.Transition(alpha=1.0), fokker.Heun(), fokker.EulerMaruyama(alpha=growing)):
        corrected = fokker.PredictorCorrector(predictor, steps=3, step_size=1e-24)
        close(path(model, corrected)[1], path(model, predictor)[1], 1e-9)
