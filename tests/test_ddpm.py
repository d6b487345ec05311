"""DDPM: the discrete process, its indices, ancestral sampling and networks with integer indices, to rounding."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import fokker
from exact import Fixed, gaussian, mixture
from fokker.errors import InputError
from fokker.processes import process_from_settings
from fokker.rng import Key, Rows
from fokker.samplers import Carried, sampler_from_settings
from fokker.states import Moments
from fokker.time_grid import grid_from_settings

F64 = torch.float64
OWN = np.random.default_rng(0).uniform(0.001, 0.3, 40)
PROCESSES = {
    "linear": fokker.DDPM(),
    "cosine": fokker.DDPM(schedule="cosine"),
    "short": fokker.DDPM(steps=50, beta_max=0.35),
    "own": fokker.DDPM(betas=OWN),
    "one": fokker.DDPM(betas=[0.5]),
}
each = pytest.mark.parametrize("name", PROCESSES)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=0)


# --- The process


def test_betas_are_the_published_ones():
    linear, cosine = PROCESSES["linear"], PROCESSES["cosine"]
    close(linear.betas, torch.from_numpy(np.linspace(1e-4, 0.02, 1000)))
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    close(cosine.betas, torch.from_numpy(np.minimum(1 - f[1:] / f[:-1], 0.999)), 1e-10)
    close(cosine.alpha_bars[:-1], torch.from_numpy(f[:-1] / f[0]), 1e-10)  # but for the last, where beta is cut
    assert float(cosine.betas[-1]) == 0.999
    assert float(linear.alpha_bars[-1]) == pytest.approx(4.036e-5, rel=1e-3)  # as in Ho et al. 2020


@each
def test_the_process_is_the_chain_at_its_indices(name):
    process = PROCESSES[name]
    i = torch.arange(process.steps + 1)
    t, abar = process.time(i), process.alpha_bars
    close(abar, torch.cat([torch.ones(1, dtype=F64), (1 - process.betas).cumprod(0)]), 1e-12)
    assert t.tolist() == [k / process.steps for k in i.tolist()]
    close(process.scale(t), abar.sqrt())
    close(process.sigma(t[1:]), (1 - abar[1:]).sqrt(), 1e-10)
    close(process.noise_to_signal(t[1:]), ((1 - abar[1:]) / abar[1:]).sqrt(), 1e-10)
    close(process.time_of(process.noise_to_signal(t[1:])), t[1:], 1e-11)
    middle = (t[1:] + t[:-1]) / 2  # beta is constant on a step
    close(process.diffusion_squared(middle), -process.steps * torch.log(1 - process.betas))
    close(process.scale(middle) ** 4, abar[1:] * abar[:-1], 1e-11)


@each
def test_settings_and_copies(name):
    process = PROCESSES[name]
    assert process_from_settings(process.settings()) == process == replace(process)
    assert hash(replace(process)) == hash(process)
    assert replace(process).settings() == process.settings()
    assert replace(process, noise=Fixed()) != process
    assert ("betas" in process.settings()) == (name in ("own", "one"))
    assert fokker.DDPM(betas=process.betas.tolist()) == process  # a schedule's own betas are that schedule
    assert fokker.DDPM(betas=[0.3, 0.2]).schedule == "given"


def test_schedules_differ():
    assert PROCESSES["linear"] != PROCESSES["cosine"] != fokker.VariancePreserving()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"steps": 10.0}, "steps: got 10.0"),
        ({"steps": True}, "steps: got True"),
        ({"schedule": "quadratic"}, "schedule: got 'quadratic'"),
        ({"schedule": "given"}, "schedule: got 'given'"),
        ({"beta_min": 0.0}, "beta_min: got 0.0"),
        ({"beta_max": 1.0}, "beta_max: got 1.0"),
        ({"beta_max": math.nan}, "beta_max: got nan"),
        ({"beta_min": "a"}, "beta_min: got 'a'"),
        ({"betas": []}, "betas: got shape"),
        ({"betas": [[0.1]]}, "betas: got shape"),
        ({"betas": 0.1}, "betas: got shape"),
        ({"betas": [0.1, 0.0]}, "betas: got 0.0 as beta_2"),
        ({"betas": [1.0]}, "betas: got 1.0 as beta_1"),
        ({"betas": [0.1, -0.2]}, "betas: got -0.2"),
        ({"betas": [math.nan, 0.2]}, "betas: got nan"),
        ({"betas": ["a"]}, "betas: got list"),
        ({"betas": [0.1, 0.2], "steps": 3}, "steps: got 3 with 2"),
    ],
)
def test_bad_parameters_are_refused(given, reason):
    with pytest.raises(InputError, match=reason):
        fokker.DDPM(**given)


@pytest.mark.parametrize("i", [-1, 51, 0.5, [3, 99]])
def test_bad_indices_are_refused(i):
    with pytest.raises(InputError, match="i: got"):
        PROCESSES["short"].time(torch.as_tensor(i))


@each
def test_posterior_is_that_of_bayes_rule(name):
    """x_{i-1} given x_0 and x_i, from x_{i-1} | x_0 and x_i | x_{i-1} by precisions."""
    process = PROCESSES[name]
    x_0, x_t = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    betas, abar = process.betas.tolist(), process.alpha_bars.tolist()
    for i in range(2, process.steps + 1, max(1, process.steps // 13)):
        prior, beta = 1 - abar[i - 1], betas[i - 1]
        precision = 1 / prior + (1 - beta) / beta
        mean = (math.sqrt(abar[i - 1]) * x_0 / prior + math.sqrt(1 - beta) * x_t / beta) / precision
        found = process.posterior(x_0, x_t, i)
        torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-9)
        assert float(found.beta) == betas[i - 1]
        assert float(found.beta_tilde) == pytest.approx(1 / precision, rel=1e-9)
    first = process.posterior(x_0, x_t, 1)
    torch.testing.assert_close(first.mean, x_0, rtol=1e-12, atol=1e-12)
    assert float(first.beta_tilde) == 0.0


def test_posterior_of_rows_with_indices_of_their_own():
    process, i = PROCESSES["short"], torch.tensor([1, 7, 50])
    x_0, x_t = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    found = process.posterior(x_0, x_t, i)
    assert found.beta.shape == found.beta_tilde.shape == (3, 1, 1)
    for row, k in enumerate(i.tolist()):
        single = process.posterior(x_0[row : row + 1], x_t[row : row + 1], k)
        close(found.mean[row], single.mean[0])
        assert float(found.beta_tilde[row]) == float(single.beta_tilde)
    assert process.posterior(x_0.float(), x_t.float(), 3).mean.dtype == torch.float32
    for bad in (0, 51):
        with pytest.raises(InputError, match="i: got"):
            process.posterior(x_0, x_t, bad)


def test_the_posterior_is_the_transition_of_alpha_one():
    process = PROCESSES["linear"]
    model = mixture(process)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    for i in (2, 300, 700):
        t, s = (float(process.time(k)) for k in (i, i - 1))
        mean, std = fokker.Transition(alpha=1.0).kernel(model, Carried(x), t, s, {})
        known = process.posterior(model.denoise(x, t), x, i)
        torch.testing.assert_close(mean.x, known.mean, rtol=0, atol=1e-11)
        assert float(std) ** 2 == pytest.approx(float(known.beta_tilde), rel=1e-9)


# --- The grid of indices


def test_indices_are_evenly_spaced_among_those_known():
    process, grid = PROCESSES["short"], fokker.DDPMIndices()
    low, high = process.time(3), process.time(41)
    assert (grid(process, 39, float(low), float(high)) * 50).round().tolist() == list(range(41, 2, -1))
    assert torch.equal(grid(process, 3, float(low), float(high)), process.time(torch.tensor([41, 22, 3])))
    assert torch.equal(grid(process, 1, float(low), float(high)), process.time(torch.tensor([41])))
    assert (grid(process, 2, 0.001, float(high) + 0.019) * 50).round().tolist() == [41, 1]
    times = grid(process, 17, float(low), float(high)).mul(50).round()
    assert bool((times.diff() <= -2).all()) and bool((times.diff() >= -3).all())
    with pytest.raises(InputError, match="steps: got 40, the model knows 39"):
        grid(process, 40, float(low), float(high))
    with pytest.raises(InputError, match="no index"):
        grid(process, 1, float(low) + 0.001, float(low) + 0.002)
    with pytest.raises(InputError, match="VariancePreserving"):
        fokker.sample(gaussian(fokker.VariancePreserving()), (2, 2), grid=grid)
    assert grid_from_settings(grid.settings()) == grid


# --- Ancestral sampling


def known_everywhere(process, kind=mixture):
    """An exact model that may be called at every index, so that the chain starts at i = N."""
    model = kind(process)
    rho = process.noise_to_signal(process.time(torch.tensor([1, process.steps])))
    model.rho_range = (float(rho[0]), float(rho[1]))
    return model


def eps_of(model):
    """The network of the model: eps(x_t, index) with index 0 ... N - 1."""

    def network(x_t, index):
        t = model.process.time(index + 1)
        m, sigma = model.process.scale(t)[:, None], model.process.sigma(t)[:, None]
        return (x_t - m * model.denoise(x_t, t)) / sigma

    return network


def textbook(network, betas, x, noise, variance):
    """Algorithm 2 of Ho et al. 2020, with the epsilon network's own indices N - 1 ... 0."""
    alphas = 1 - betas
    bars = np.cumprod(alphas)
    for k in range(len(betas) - 1, -1, -1):
        eps = network(x, torch.full((len(x),), k))
        x = (x - betas[k] / math.sqrt(1 - bars[k]) * eps) / math.sqrt(alphas[k])
        if k > 0:
            var = betas[k] if variance == "beta" else (1 - bars[k - 1]) / (1 - bars[k]) * betas[k]
            x = x + math.sqrt(var) * noise(len(betas) - k)
    return x


def loop_noise(seed, count):
    return lambda step: Key(seed, Rows.grid(1, count), step, "/step0").normal((2,)).double()


@pytest.mark.parametrize(
    ("name", "variance"),
    [("linear", "beta"), ("short", "posterior"), ("short", "beta"), ("own", "posterior"), ("own", "beta")],
)
def test_ancestral_on_the_indices_is_the_textbook_loop(name, variance):
    process = PROCESSES[name]
    model = known_everywhere(process)
    result = fokker.sample(
        model, (20, 2), sampler=fokker.Ancestral(variance), grid=fokker.DDPMIndices(), steps=process.steps, seed=3,
        trajectory=True,
    )  # fmt: skip
    expected = textbook(eps_of(model), process.betas.numpy(), result.trajectory[0], loop_noise(3, 20), variance)
    torch.testing.assert_close(result.samples, expected, rtol=1e-7, atol=1e-7)
    assert result.nfe == process.steps
    assert result.settings["sampler"] == {"name": "ancestral", "variance": variance}
    # Negative control: the other variance is another chain.
    other = "beta" if variance == "posterior" else "posterior"
    wrong = textbook(eps_of(model), process.betas.numpy(), result.trajectory[0], loop_noise(3, 20), other)
    assert float((result.samples - wrong).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["vp1", "vp3", "ve", "ddpm"])
def test_ancestral_posterior_is_the_transition_of_alpha_one(name):
    process = {
        "vp1": fokker.VariancePreserving(n=1), "vp3": fokker.VariancePreserving(n=3),
        "ve": fokker.VarianceExploding(noise=Fixed()), "ddpm": fokker.DDPM(),
    }[name]  # fmt: skip
    samples, expected = (
        fokker.sample(mixture(process), (20, 2), sampler=sampler, steps=20, seed=1).samples
        for sampler in (fokker.Ancestral(), fokker.Transition(alpha=1.0))
    )
    torch.testing.assert_close(samples, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sampler", [fokker.Ancestral(), fokker.Ancestral("beta"), fokker.Transition(alpha=0.5)])
def test_variance_preserving_two_on_the_grid_of_ddpm_is_ddpm(sampler):
    """VP(2) with beta from 0.1 to 20 at the levels of DDPM: the same samples, and for n = 2 the same states."""
    process, other = fokker.DDPM(), fokker.VariancePreserving(beta_min=0.1, beta_max=21.0)
    model = known_everywhere(process)
    times = torch.cat([process.time(torch.arange(1000, 0, -10)), torch.zeros(1, dtype=F64)])
    levels = other.time_of(process.noise_to_signal(times))
    first, second = (
        fokker.sample(m, (20, 2), sampler=sampler, grid=grid, seed=2, trajectory=True)
        for m, grid in ((model, times), (model.on(other), levels))
    )
    torch.testing.assert_close(first.trajectory, second.trajectory, rtol=1e-9, atol=1e-9)


def test_ancestral_refuses_other_variances():
    for bad in ("tilde", None, 0.5):
        with pytest.raises(InputError, match="variance: got"):
            fokker.Ancestral(bad)
    for sampler in (fokker.Ancestral(), fokker.Ancestral("beta")):
        assert sampler_from_settings(sampler.settings()) == sampler


@pytest.mark.parametrize(("value", "named"), [(0.0, "posterior"), (1.0, "beta")])
def test_a_head_at_its_ends_is_a_fixed_variance(value, named):
    model = mixture(fokker.DDPM())

    def head(z, rho, x_0_hat):
        assert z.shape == x_0_hat.shape and rho.ndim == 0
        return torch.full_like(z, value)

    samples, expected = (
        fokker.sample(model, (20, 2), sampler=fokker.Ancestral(v), steps=20).samples for v in (head, named)
    )
    torch.testing.assert_close(samples, expected, rtol=1e-11, atol=1e-11)


def test_a_head_sets_every_entry_and_needs_one_part():
    model = gaussian(fokker.DDPM())
    x = torch.zeros(4, 2, dtype=F64)
    v = torch.arange(8.0, dtype=F64).reshape(4, 2) / 8

    def head(z, rho, x_0_hat):
        return v

    t, s = 0.6, 0.5
    _, std = fokker.Ancestral(head).kernel(model, Carried(x), t, s, {})
    low, high = (float(fokker.Ancestral(n).kernel(model, Carried(x), t, s, {})[1]) for n in ("posterior", "beta"))
    torch.testing.assert_close(std, low ** (1 - v) * high**v, rtol=1e-12, atol=0)
    joint = fokker.Joint(a=model)
    with pytest.raises(InputError, match="variance: a head"):
        fokker.sample(joint, {"a": (3, 2)}, sampler=fokker.Ancestral(head))
    assert fokker.sample(joint, {"a": (3, 2)}, sampler=fokker.Ancestral("beta"), steps=3).samples["a"].shape == (3, 2)


# --- Networks from elsewhere


def wrapped(process, kind=gaussian, **given):
    model = known_everywhere(process, kind)
    return model, fokker.wrap_eps(eps_of(model), process, moments=model.moments, dtype=F64, **given)


@pytest.mark.parametrize("name", ["linear", "cosine", "short", "own"])
def test_a_wrapped_network_is_the_exact_model_at_the_indices(name):
    process = PROCESSES[name]
    model, found = wrapped(process)
    assert found.data_std == pytest.approx(model.data_std) and found.rho_range == pytest.approx(model.rho_range)
    i = torch.arange(1, process.steps + 1)
    x = torch.randn(len(i), 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    torch.testing.assert_close(found.denoise(x, process.time(i)), model.denoise(x, process.time(i)), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.score(x, process.time(7)), model.score(x, process.time(7)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_sampling_a_wrapped_network_is_the_textbook_loop(variance):
    process = PROCESSES["short"]
    network = eps_of(known_everywhere(process))
    model = fokker.wrap_eps(network, process, dtype=F64)  # mean 0 and std 1: DDPM's own first draw
    result = fokker.sample(
        model, (20, 2), sampler=fokker.Ancestral(variance), grid=fokker.DDPMIndices(), steps=50, trajectory=True
    )
    key = Key(0, Rows.grid(1, 20))
    noise, data = (key.at(part=part).normal((2,)).double() for part in ("noise", "data"))
    m, sigma = float(process.scale(1.0)), float(process.sigma(1.0))
    torch.testing.assert_close(result.trajectory[0], m * data + sigma * noise, rtol=0, atol=1e-12)
    assert m**2 + sigma**2 == pytest.approx(1, rel=1e-12)
    expected = textbook(network, process.betas.numpy(), result.trajectory[0], loop_noise(0, 20), variance)
    torch.testing.assert_close(result.samples, expected, rtol=1e-8, atol=1e-8)


def test_a_wrapped_network_on_another_process():
    """On the levels of the indices exact; between them the nearest index in log rho, z rescaled."""
    process, other = PROCESSES["linear"], fokker.VarianceExploding(sigma_max=200.0)
    model, found = wrapped(process)
    rho = process.noise_to_signal(process.time(torch.arange(1000, 0, -50)))
    times = torch.cat([other.time_of(rho), torch.zeros(1, dtype=F64)])
    samples, expected = (
        fokker.sample(m.on(other), (10, 2), sampler=fokker.Heun(), grid=times).samples for m in (found, model)
    )
    torch.testing.assert_close(samples, expected, rtol=1e-8, atol=1e-8)
    seen = []

    def network(x, index):
        seen.append((x, index))
        return torch.zeros_like(x)

    spy = fokker.wrap_eps(network, process, dtype=F64)
    i = torch.tensor([1, 400, 999])
    low, high = (process.noise_to_signal(process.time(k)).log() for k in (i, i + 1))
    z = torch.ones(3, 2, dtype=F64)
    for part, expected in ((0.49, i - 1), (0.51, i)):
        level = torch.lerp(low, high, part).exp()
        spy.denoised(z, level, {})
        assert seen[-1][1].tolist() == expected.tolist() and not seen[-1][1].is_floating_point()
        torch.testing.assert_close(seen[-1][0], z / (1 + level[:, None] ** 2).sqrt(), rtol=1e-12, atol=0)
    spy.denoised(z, process.noise_to_signal(0.5), {})
    assert seen[-1][1].tolist() == [499] * 3


def test_conditions_go_to_the_network_by_name():
    def network(x, index, *, y, scale):
        assert index.shape == (len(x),) and y.shape == x.shape
        return (x - y) * scale

    model = fokker.wrap_eps(network, PROCESSES["short"], dtype=F64)
    y, scale = torch.randn(6, 2, dtype=F64), torch.ones(1, 1, dtype=F64)
    assert fokker.sample(model, (6, 2), steps=3, cond={"y": y, "scale": scale}).samples.shape == (6, 2)
    with pytest.raises(TypeError, match="scale"):
        fokker.sample(model, (6, 2), steps=3, cond=y)


def test_dtype_of_a_wrapped_network_is_that_of_its_parameters():
    class Net(torch.nn.Linear):
        def forward(self, x, index):
            return super().forward(x) * (index[:, None] + 1)

    model = fokker.wrap_eps(Net(2, 2, dtype=F64), PROCESSES["short"], mean=torch.tensor([1.0, 2.0]), std=2.0)
    assert model.dtype == F64 and model.data_std == 2.0
    assert fokker.wrap_eps(lambda x, index: x, PROCESSES["short"]).dtype == torch.float32
    matrix = Moments(torch.zeros(2), torch.tensor([[1.0, 0.0], [2.0, 1.0]]))
    assert fokker.wrap_eps(Net(2, 2), PROCESSES["short"], moments=matrix).data_std == pytest.approx(math.sqrt(3))


def test_what_cannot_be_wrapped_is_refused():
    def network(x, index):
        return x

    with pytest.raises(InputError, match="process: got a VariancePreserving"):
        fokker.wrap_eps(network, fokker.VariancePreserving())
    with pytest.raises(InputError, match="process: got correlated"):
        fokker.wrap_eps(network, fokker.DDPM(noise=Fixed()))
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="std: got"):
            fokker.wrap_eps(network, fokker.DDPM(), std=bad)
