"""Scores made of scores, against exact posteriors and exact products.

Statistical tests: false-alarm rate 1e-4 each (`exact.limit`), with a control that is flagged.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

import fokker
from exact import COVARIANCE, MEAN, PROCESSES, Fixed, gaussian, limit, mixture, mixture_draw, moment_z
from fokker.coordinates import Standard, Unchanged
from fokker.errors import InputError
from fokker.networks.denoiser import NetworkScore
from fokker.posterior.recipes import DEFAULT
from fokker.posterior_coordinates import Posterior
from fokker.score import Denoiser, GaussianScore, Joint, MixtureScore
from fokker.states import Moments
from fokker.training import TrainSettings

F64 = torch.float64
NOISES = {"white": fokker.White(), "correlated": Fixed()}
each_process = pytest.mark.parametrize("process", PROCESSES)
each_noise = pytest.mark.parametrize("noise", NOISES)
TIMES = (0.05, 0.4, 0.9)
H = torch.tensor([[1.0, 0.5]], dtype=F64)
R = torch.tensor([[0.3]], dtype=F64)
Y = torch.tensor([0.9], dtype=F64)


def states(count=9, seed=0):
    return 2 * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def close(a, b, tolerance=1e-8):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class LinearData:
    """p(y | x_t) for y = H x_0 + N(0, R) under a mixture prior, from x_0 | x_t component by component."""

    def __init__(self, prior):
        self.prior, self.calls = prior, 0

    def __call__(self, x_t, t, cond):
        self.calls += 1
        process, prior = self.prior.process, self.prior
        m, sigma = (f(t).reshape(-1, 1, 1, 1) for f in (process.scale, process.sigma))
        c, covariances = process.noise.apply(torch.eye(2, dtype=F64)), prior.covariances[None]
        total = m**2 * covariances + sigma**2 * c
        gain = m * covariances @ torch.linalg.inv(total)
        offset = x_t[:, None] - m[..., 0] * prior.means
        mean = prior.means + (gain @ offset[..., None])[..., 0]
        covariance = covariances - m * gain @ covariances
        log = prior.weights.log() + MultivariateNormal(m[..., 0] * prior.means, total).log_prob(x_t[:, None])
        data = MultivariateNormal((H @ mean[..., None])[..., 0], H @ covariance @ H.T + R).log_prob(Y)
        return torch.logsumexp(log.log_softmax(1) + data, 1)


def exact_posterior(prior):
    """The mixture p(x_0 | y)."""
    c, mu = prior.covariances, prior.means
    gain = c @ H.T @ torch.linalg.inv(H @ c @ H.T + R)
    means = mu + (gain @ (Y - mu @ H.T)[..., None])[..., 0]
    evidence = MultivariateNormal(mu @ H.T, H @ c @ H.T + R).log_prob(Y)
    weights = (prior.weights.log() + evidence).softmax(0)
    return MixtureScore(prior.process, weights, means, c - gain @ H @ c)


# --- A known p(y | x_t)


@each_process
@each_noise
@pytest.mark.parametrize("kind", [gaussian, mixture])
def test_tilted_is_the_exact_posterior(process, noise, kind):
    prior = kind(replace(PROCESSES[process], noise=NOISES[noise]))
    exact, tilted = exact_posterior(prior), fokker.TiltedScore(prior, LinearData(prior))
    for t in (*TIMES, torch.linspace(0.1, 0.8, 9, dtype=F64)):
        close(tilted.denoise(states(), t), exact.denoise(states(), t))
        close(tilted.score(states(), t), exact.score(states(), t))
    moved = fokker.TiltedScore(prior.on(PROCESSES["vp1"]), LinearData(prior.on(PROCESSES["vp1"])))
    close(moved.score(states(), 0.3), exact.on(PROCESSES["vp1"]).score(states(), 0.3))


def drawn(model, count=4000):
    return fokker.sample(model, (count, 2), sampler=fokker.Transition(alpha=1.0, order=2), steps=64, seed=2).samples


def posterior_z(samples, prior):
    exact = exact_posterior(prior)
    return moment_z(samples, exact.means[0], exact.covariances[0]).abs().max()


def test_samples_follow_the_posterior():
    """alpha = 1, 64 steps: the bias of the steps, and of a first draw that knows nothing of y, is below 0.02 of a
    standard deviation, about one standard error; to rounding the path is that of the exact model with that draw."""
    prior = gaussian(PROCESSES["vp1.5"])
    tilted, exact = fokker.TiltedScore(prior, LinearData(prior)), exact_posterior(prior)
    samples = drawn(tilted)
    assert posterior_z(samples, prior) < limit(5)
    exact.moments, exact.rho_range = prior.moments, prior.rho_range
    close(samples, drawn(exact), 1e-7)


def test_control_a_wrong_likelihood_is_flagged():
    """DPS-like: p(y | x_t) taken at the denoised value, without its spread."""
    prior = gaussian(PROCESSES["vp1.5"])

    def at_the_mean(x_t, t, cond):
        return MultivariateNormal(prior.denoise(x_t, t) @ H.T, R).log_prob(Y)

    assert posterior_z(drawn(fokker.TiltedScore(prior, at_the_mean)), prior) > limit(5)


def test_samples_of_a_tilted_mixture():
    """To rounding they are those of the exact posterior with the same first draw."""
    prior = mixture(PROCESSES["vp2"])
    exact = exact_posterior(prior)
    exact.moments, exact.rho_range, exact.data_std = prior.moments, prior.rho_range, prior.data_std
    close(drawn(fokker.TiltedScore(prior, LinearData(prior)), 200), drawn(exact, 200), 1e-6)


def test_log_prob_of_a_tilted_model():
    """Its divergence differentiates the gradient again; the first draw is the prior's in both."""
    prior = gaussian(PROCESSES["vp1.5"])
    exact = exact_posterior(prior)
    exact.moments, exact.rho_range = prior.moments, prior.rho_range
    found = fokker.log_prob(fokker.TiltedScore(prior, LinearData(prior)), states())
    close(found, fokker.log_prob(exact, states()), 1e-6)


def test_at_one_level_a_constant_function_multiplies_the_density():
    """What Langevin samplers target: p_t(x) L(x), here a product of two Gaussians."""
    prior, t = gaussian(PROCESSES["vp2"]), 0.3

    def factor(x_t, t, cond):
        return MultivariateNormal(x_t @ H.T, R).log_prob(Y)

    m, sigma = prior.process.scale(t), prior.process.sigma(t)
    precision = torch.linalg.inv(m**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=F64))
    exact = (m * MEAN - states()) @ precision + (Y - states() @ H.T) @ torch.linalg.inv(R) @ H
    close(fokker.TiltedScore(prior, factor).score(states(), t), exact)


class Watched(Denoiser):
    """A model that tells how it was called; its denoised value depends on cond["c"] alone, if there is one."""

    def __init__(self, process=PROCESSES["vp2"]):
        self.process, self.dtype, self.device = process, F64, torch.device("cpu")
        self.rho_range, self.data_std = (0.01, 20.0), 1.0
        self.moments = Moments(torch.zeros(2, dtype=F64), torch.ones((), dtype=F64))
        self.batches, self.prepared = [], 0

    def prepare(self, cond):
        cond = fokker.states.as_cond(cond)
        if "c" in cond and "embedding" not in cond:
            self.prepared += 1
            return {**cond, "embedding": 10 * cond["c"]}
        return cond

    def denoised(self, z, rho, cond):
        self.batches.append(len(z))
        return self.prepare(cond)["embedding"].expand_as(z) if "c" in cond else z / (1 + rho.reshape(-1, 1) ** 2)


def test_a_tilted_model_is_evaluated_once_and_leaves_no_graph():
    model = Watched()
    tilted = fokker.TiltedScore(model, lambda x_t, t, cond: -(x_t**2).sum(1) * cond["c"][:, 0])
    x = states().requires_grad_()
    with torch.no_grad():
        assert not tilted.denoise(x, 0.5, {"c": torch.ones(1, 2, dtype=F64)}).requires_grad
    assert model.batches == [9]
    model = Watched()
    tilted = fokker.TiltedScore(model, lambda x_t, t, cond: -(x_t**2).sum(1))
    result = fokker.sample(tilted, (30, 2), steps=8, cond={"c": torch.ones(1, 2, dtype=F64)})
    assert result.nfe == 8 and model.batches == [30] * 8 and model.prepared == 1
    assert not result.samples.requires_grad


def test_tilted_named_parts():
    x, k = gaussian(PROCESSES["vp2"]), GaussianScore(PROCESSES["vp2"], MEAN[:1], COVARIANCE[:1, :1])
    joint = Joint(x=x, k=k)
    state = {"x": states(), "k": states()[:, :1]}
    tilted = fokker.TiltedScore(joint, lambda s, t, cond: -0.5 * (s["x"][:, 0] * s["k"][:, 0]) ** 2)
    found, plain = tilted.score(state, 0.4), joint.score(state, 0.4)
    product = state["x"][:, :1] * state["k"]
    close(found["x"] - plain["x"], torch.cat([-product * state["k"], 0 * product], 1))
    close(found["k"] - plain["k"], -product * state["x"][:, :1])
    one = fokker.TiltedScore(joint, lambda s, t, cond: -(s["k"][:, 0] ** 2))  # a part may be left out
    close(one.score(state, 0.4)["x"], plain["x"])


@pytest.mark.parametrize(
    "function",
    [
        lambda x_t, t, cond: x_t.sum(),
        lambda x_t, t, cond: x_t,
        lambda x_t, t, cond: 0.0,
        lambda x_t, t, cond: torch.zeros(len(x_t)),
        lambda x_t, t, cond: x_t.detach().sum(1),
        lambda x_t, t, cond: torch.ones(len(x_t), requires_grad=True) * 2,
    ],
)
def test_bad_likelihoods_are_refused(function):
    with pytest.raises(InputError, match="log_likelihood"):
        fokker.TiltedScore(gaussian(PROCESSES["vp2"]), function).denoise(states(), 0.5)
    with pytest.raises(InputError, match="log_likelihood"):
        fokker.TiltedScore(gaussian(PROCESSES["vp2"]), "gaussian")
    with pytest.raises(InputError, match=r"log_likelihood: takes \(x_t\), a function of \(x_t, t, cond\)"):
        fokker.TiltedScore(gaussian(PROCESSES["vp2"]), lambda x_t: x_t.sum(1))


# --- Sums


def other_gaussian(process):
    return GaussianScore(process, MEAN + 1, 0.5 * COVARIANCE + 0.3 * torch.eye(2, dtype=F64))


@each_process
@each_noise
def test_scores_add_at_every_time(process, noise):
    """The score of p_t^0.7 q_t^1.5: of the product of the noised Gaussians, itself a Gaussian."""
    process = replace(PROCESSES[process], noise=NOISES[noise])
    p, q = gaussian(process), other_gaussian(process)
    total = fokker.SumScore([p, q], [0.7, 1.5])
    for t in (*TIMES, torch.linspace(0.1, 0.8, 9, dtype=F64)):
        m, sigma = (f(torch.as_tensor(t, dtype=F64)).reshape(-1, 1, 1) for f in (process.scale, process.sigma))
        c = process.noise.apply(torch.eye(2, dtype=F64))
        precision, pull = torch.zeros(2, 2, dtype=F64), torch.zeros(2, 1, dtype=F64)
        for model, weight in ((p, 0.7), (q, 1.5)):
            inverse = weight * torch.linalg.inv(m**2 * model.covariances + sigma**2 * c)
            precision, pull = precision + inverse, pull + inverse @ (m * model.means[:, :, None])
        exact = (pull - precision @ states()[..., None])[..., 0]
        close(total.score(states(), t), exact)
    other = PROCESSES["vp3"]
    if NOISES[noise].white:
        close(
            total.on(other).score(states(), 0.3),
            0.7 * p.on(other).score(states(), 0.3) + 1.5 * q.on(other).score(states(), 0.3),
        )


def test_the_reverse_process_of_a_sum_does_not_sample_the_product():
    """Two equal N(0, 1): the product is N(0, 1/2), the ODE of the sum does not end there. Said in the module's head."""
    p = GaussianScore(PROCESSES["vp2"], torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    total = fokker.SumScore([p, p], [1, 1])
    variance = fokker.sample(total, (4000, 2), steps=128).samples.var(0)
    assert (variance < 0.1).all()


def test_a_sum_of_one_is_the_model_itself():
    model = mixture(PROCESSES["vp1.5"])
    total = fokker.SumScore([model], [1.0])
    assert total.time_range == model.time_range and total.data_std == model.data_std
    close(fokker.sample(total, (20, 2), steps=8).samples, fokker.sample(model, (20, 2), steps=8).samples, 1e-12)
    x = mixture_draw(10, 0)
    close(fokker.log_prob(total, x), fokker.log_prob(model, x), 1e-9)


def test_a_mixture_of_weights_reaches_the_common_range():
    p, q = gaussian(PROCESSES["vp2"]), other_gaussian(PROCESSES["vp2"])
    low, high = fokker.SumScore([p, q], [1, 1]).time_range
    assert low == max(p.time_range[0], q.time_range[0]) and high == min(p.time_range[1], q.time_range[1])


def test_the_same_thing_is_evaluated_once():
    model = Watched()
    close(fokker.SumScore([model, model], [0.5, 0.5]).denoise(states(), 0.5), Watched().denoise(states(), 0.5))
    assert model.batches == [9]
    fokker.SumScore([Watched(), model], [1.0, 0.0]).denoise(states(), 0.5)
    assert model.batches == [9]


def test_sums_of_named_parts():
    one = Joint(x=gaussian(PROCESSES["vp2"]), k=other_gaussian(PROCESSES["vp1"]))
    two = Joint(x=other_gaussian(PROCESSES["vp2"]), k=gaussian(PROCESSES["vp1"]))
    state = {"x": states(), "k": states(seed=1)}
    found = fokker.SumScore([one, two], [2, -1]).score(state, 0.4)
    for name in state:
        close(found[name], 2 * one.score(state, 0.4)[name] - two.score(state, 0.4)[name])


def test_sums_can_be_nested():
    model, c = Watched(), {"c": torch.tensor([[1.0, 2.0]], dtype=F64)}
    inner = fokker.classifier_free(model, 2.0, null_cond={"c": torch.zeros(1, 2, dtype=F64)})
    outer = fokker.SumScore([inner, model], [0.5, 0.5])
    prepared = outer.prepare(c)
    calls = model.prepared
    found = outer.denoise(states(), 0.5, prepared)
    assert model.prepared == calls
    close(found, (0.5 * 20 * c["c"] + 0.5 * 10 * c["c"]).expand(9, 2))


def network(coordinates, process=PROCESSES["vp2"]):
    class Zero(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, dtype=F64))

        def embed(self, features):
            return features.to(F64)

        def forward(self, x, level, embedding):
            return torch.tanh(x + self.weight * embedding[:, :2])

    moments = Moments(torch.zeros(2, dtype=F64), torch.ones((), dtype=F64))
    return NetworkScore(process, Zero(), coordinates, moments, (0.002, 20.0))


PAIR = torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
STANDARD, POSTERIOR, PLAIN = (kind.estimate(PAIR[:, :2], PAIR[:, 2:]) for kind in (Standard, Posterior, Unchanged))
HALF = {"y": torch.ones(1, 2, dtype=F64)}
NONE = {"omega": torch.zeros(1, 2, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("one", "two", "match"),
    [
        (gaussian(PROCESSES["vp2"]), gaussian(PROCESSES["vp1"]), "its process"),
        (gaussian(PROCESSES["vp2"]), gaussian(replace(PROCESSES["vp2"], noise=Fixed())), "its noise"),
        (network(STANDARD), network(Standard.estimate(PAIR[:, :2] + 1, PAIR[:, 2:])), "its coordinates"),
        (network(STANDARD), network(POSTERIOR), "its coordinates"),
        (network(POSTERIOR), network(Posterior.estimate(PAIR[:100, :2], PAIR[:100, 2:])), "its coordinates"),
        (network(STANDARD), gaussian(PROCESSES["vp2"]), "its coordinates"),
        (gaussian(PROCESSES["vp2"]), fokker.SumScore([network(STANDARD)], [1]), "its coordinates"),
        (Joint(x=network(STANDARD)), Joint(x=network(POSTERIOR)), "its coordinates"),
        (fokker.TiltedScore(Joint(x=network(STANDARD)), print), Joint(x=network(POSTERIOR)), "its coordinates"),
        (gaussian(PROCESSES["vp2"]), Joint(x=gaussian(PROCESSES["vp2"])), "named parts"),
    ],
)
def test_scores_of_different_marginals_do_not_add(one, two, match):
    with pytest.raises(InputError, match=rf"models\[1\]: .*{match}|models\[1\]: {match}"):
        fokker.SumScore([one, two], [0.5, 0.5])


def test_scores_of_the_same_marginals_add():
    fokker.SumScore([network(PLAIN), gaussian(PROCESSES["vp2"])], [1, 1])
    fokker.SumScore([network(POSTERIOR), network(Posterior.estimate(PAIR[:, :2], PAIR[:, 2:]))], [1, 1], [HALF, HALF])
    # Only what is done to x matters, not how y is shown to the network.
    fokker.SumScore([network(STANDARD), network(Standard.estimate(PAIR[:, :2], PAIR[:, 3:]))], [1, 1])
    fokker.SumScore([gaussian(fokker.VarianceExploding()), gaussian(fokker.VarianceExploding())], [1, 1])


@pytest.mark.parametrize("conds", [[None, NONE], [HALF, {"y": 2 * HALF["y"]}], [HALF, {**HALF, **NONE}]])
def test_posterior_coordinates_at_other_conditions_do_not_add(conds):
    model = network(POSTERIOR)
    with pytest.raises(InputError, match=r"coordinates: got 'posterior'.*'standard', 'minmax' or 'none'"):
        fokker.SumScore([model, model], [0.5, 0.5], conds)
    with pytest.raises(InputError, match="coordinates: got 'posterior'"):
        fokker.SumScore([fokker.TiltedScore(model, print)] * 2, [0.5, 0.5], conds)
    fokker.SumScore([network(STANDARD)] * 2, [0.5, 0.5], conds)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("models", ([], [])),
        ("weights", ([gaussian(PROCESSES["vp2"])], [1.0, 2.0])),
        ("weights", ([gaussian(PROCESSES["vp2"])], [float("nan")])),
        ("weights", ([gaussian(PROCESSES["vp2"])], ["1"])),
        ("conds", ([gaussian(PROCESSES["vp2"])], [1.0], [None, None])),
    ],
)
def test_bad_sums_are_refused(name, given):
    with pytest.raises(InputError, match=name):
        fokker.SumScore(*given)


# --- Classifier-free guidance


def guided(model, weight):
    return fokker.classifier_free(model, weight, null_cond={"c": torch.zeros(1, 2, dtype=F64)})


@pytest.mark.parametrize("weight", [-0.5, 0.0, 0.3, 1.0, 2.5])
def test_classifier_free_is_the_line_through_both(weight):
    model, c = network(STANDARD), {"y": torch.tensor([[0.4, -1.0]], dtype=F64), "omega": torch.ones(1, 2, dtype=bool)}
    null = {"omega": torch.zeros(1, 2, dtype=torch.bool)}
    for t in (0.3, torch.tensor([0.3], dtype=F64), torch.linspace(0.2, 0.7, 9, dtype=F64)):
        with_cond, without = model.denoise(states(), t, c), model.denoise(states(), t, {**c, **null})
        assert (with_cond - without).abs().max() > 1e-2
        exact = without + weight * (with_cond - without)
        close(fokker.classifier_free(model, weight, c, null).denoise(states(), t), exact, 1e-12)
        close(fokker.classifier_free(model, weight, null_cond=null).denoise(states(), t, c), exact, 1e-12)


def test_both_conditions_go_through_in_one_batch_prepared_once():
    model = Watched()
    c = torch.arange(6.0, dtype=F64).reshape(3, 2)
    rows = fokker.rng.Rows.grid(3, 5)
    result = fokker.sample(guided(model, 2.0), (15, 2), steps=4, cond={"c": c}, rows=rows)
    assert model.batches == [30] * 4 and model.prepared == 2 and result.nfe == 4
    close(result.samples, (20 * c).repeat_interleave(5, 0))
    for weight in (0.0, 1.0):
        model = Watched()
        assert torch.equal(
            fokker.sample(guided(model, weight), (15, 2), steps=4, cond={"c": c}, rows=rows).samples,
            weight * (10 * c).repeat_interleave(5, 0),
        )
        assert model.batches == [15] * 4


def test_classifier_free_needs_a_null_condition():
    with pytest.raises(InputError, match="weight: got '2'"):
        fokker.classifier_free(network(STANDARD), "2", HALF, NONE)
    with pytest.raises(InputError, match="null_cond"):
        fokker.classifier_free(network(STANDARD), 2.0, HALF)
    with pytest.raises(InputError, match="'standard', 'minmax' or 'none'"):
        fokker.classifier_free(network(POSTERIOR), 2.0, null_cond=NONE)


SMALL = {"kind": "conditional_mlp", "width": 32, "depth": 2, "trunk_width": 32, "trunk_depth": 2}
RECIPE = replace(DEFAULT, network=SMALL, training=TrainSettings(steps=40, batch_size=128, copies=2, warmup=10))


def missing(count=2000):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 2))
    y = x + 0.5 * rng.normal(size=(count, 2))
    return x, np.where(rng.random((count, 2)) > 0.3, y, np.nan)


@pytest.mark.filterwarnings("ignore:nothing is observed")
def test_guidance_of_a_posterior():
    posterior = fokker.fit(*missing(), recipe=RECIPE, coordinates="standard")
    y = np.array([[1.0, -0.5], [0.2, np.nan]])
    plain, one = (posterior.sample(y, 50, **given) for given in ({}, {"guidance": 1.0}))
    assert torch.equal(one.samples, plain.samples) and one.settings["guidance"] == 1.0
    none = posterior.sample(np.full((2, 2), np.nan), 50)
    close(posterior.sample(y, 50, guidance=0.0).samples, none.samples, 1e-4)
    strong = posterior.sample(y, 50, guidance=2.0)
    assert not torch.allclose(strong.samples, plain.samples, atol=1e-2) and strong.nfe == plain.nfe
    alone = posterior.sample(y[0], 7, guidance=2.0)
    close(alone.samples, strong.samples[0, :7], 1e-4)


def test_guidance_that_is_not_possible_is_refused():
    posterior = fokker.fit(*missing(), recipe=RECIPE, steps=1)
    with pytest.raises(InputError, match="coordinates: got 'posterior'"):
        posterior.sample(np.zeros(2), 5, guidance=2.0)
    x, y = missing()
    complete = fokker.fit(x, np.nan_to_num(y), recipe=RECIPE, coordinates="standard", steps=1)
    with pytest.raises(InputError, match="guidance"):
        complete.sample(np.zeros(2), 5, guidance=2.0)
    with pytest.raises(InputError, match="weight: got nan"):
        fokker.fit(x, y, recipe=RECIPE, coordinates="standard", steps=1).sample(np.zeros(2), 5, guidance=float("nan"))
