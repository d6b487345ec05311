"""Langevin steps: along the levels (predictor-corrector, annealed) and on one density (SGLD, plain score ascent).

On a Gaussian all of them are affine. Their moments follow a recursion of matrices written out here, in z = x / m, with
none of the code of the samplers; `chain_law` must agree with it, and its limits are known in closed form.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import fokker
from exact import (
    COVARIANCE,
    COVARIANCES,
    LANGEVIN,
    MEAN,
    MEANS,
    NOISE_FACTOR,
    PROCESSES,
    Fixed,
    Scaled,
    chain_law,
    exact_law,
    gaussian,
    levels,
    limit,
    mixture,
    mixture_draw,
    mixture_z,
    moment_z,
    wrong,
)
from fokker.errors import InputError
from fokker.noise import White
from fokker.score import Joint

F64 = torch.float64
EYE = torch.eye(2, dtype=F64)
HIGH, LOW = 10.0, 0.3


# --- Predictor-corrector and annealed Langevin: the law of the chain


class Moments:
    """Mean and covariance of z along a chain, for data N(MEAN, COVARIANCE) and noise N(0, C)."""

    def __init__(self, noise, rho):
        self.noise = EYE if noise.white else NOISE_FACTOR @ NOISE_FACTOR.T
        self.mean, self.covariance = MEAN, COVARIANCE + rho**2 * self.noise

    def towards_denoised(self, rho, part, variance):
        """z <- z + part (D(z; rho) - z) + N(0, variance C)."""
        slope = COVARIANCE @ torch.linalg.inv(COVARIANCE + rho**2 * self.noise)
        matrix = EYE + part * (slope - EYE)
        self.mean = MEAN + matrix @ (self.mean - MEAN)
        self.covariance = matrix @ self.covariance @ matrix.T + variance * self.noise

    def transition(self, rho_t, rho_s, alpha):
        r = rho_s / rho_t
        self.towards_denoised(rho_t, 1 - r ** (1 + alpha), rho_s**2 * (1 - r ** (2 * alpha)))

    def langevin(self, rho, size, steps):
        for _ in range(steps):
            self.towards_denoised(rho, size, 2 * size * rho**2)

    def error(self, rho):
        exact = COVARIANCE + rho**2 * self.noise
        return float(torch.cat([self.mean - MEAN, (self.covariance - exact).flatten()]).norm())


def chain(sampler, rho, noise=None):
    """The moments at the end of `rho`, for the samplers of this file."""
    moments = Moments(noise or White(), rho[0])
    for high, low in itertools.pairwise(rho):
        if isinstance(sampler, fokker.AnnealedLangevin):
            moments.langevin(low, sampler.step_size / 2, sampler.steps)
        else:
            moments.transition(high, low, sampler.predictor.alpha)
            moments.langevin(low, sampler.step_size, sampler.steps)
    return moments


def of_levels(process, steps):
    times = levels(process, steps, HIGH, LOW)
    return times, process.noise_to_signal(times).tolist()


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("noise", [White(), Fixed()])
@pytest.mark.parametrize("sampler", LANGEVIN)
def test_the_law_of_the_chain_is_the_recursion_of_its_moments(process, noise, sampler):
    """Every draw counts once, with its own noise: two draws under one key would change the covariance."""
    model = gaussian(replace(PROCESSES[process], noise=noise))
    times, rho = of_levels(model.process, 6)
    mean, covariance = chain_law(model, LANGEVIN[sampler], times)
    expected, m = chain(LANGEVIN[sampler], rho, noise), float(model.process.scale(times[-1]))
    torch.testing.assert_close(mean, m * expected.mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(covariance, m**2 * expected.covariance, rtol=0, atol=1e-10)


def test_correctors_inside_correctors_draw_noise_of_their_own():
    model = gaussian(PROCESSES["vp2"])
    inner = fokker.PredictorCorrector(fokker.Transition(alpha=0.5), steps=2, step_size=0.2)
    times, rho = of_levels(model.process, 1)
    _, covariance = chain_law(model, fokker.PredictorCorrector(inner, steps=2, step_size=0.1), times)
    moments = chain(inner, rho)
    moments.langevin(rho[-1], 0.1, 2)
    torch.testing.assert_close(covariance, exact_scale(model, times) ** 2 * moments.covariance, rtol=0, atol=1e-10)


def exact_scale(model, times):
    return float(model.process.scale(times[-1]))


@pytest.mark.parametrize("sampler", LANGEVIN)
@pytest.mark.parametrize("noise", [White(), Fixed()])
def test_samples_follow_the_law_of_the_chain(sampler, noise):
    """Five moments each; false-alarm rate 1e-4 for the four together. A wrong model is flagged."""
    model = gaussian(replace(PROCESSES["vp1.5"], noise=noise))
    times, _ = of_levels(model.process, 8)
    law = chain_law(model, LANGEVIN[sampler], times)
    right, scaled = (
        moment_z(fokker.sample(m, (8192, 2), sampler=LANGEVIN[sampler], grid=times, seed=3).samples, *law).abs().max()
        for m in (model, wrong(Scaled, model))
    )
    assert right < limit(20) < scaled


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_predictor_corrector_converges_as_steps_grow_and_their_size_falls(alpha):
    """Order 1 with step_size = 2 / steps; with a fixed one the bias of Langevin dynamics is left (control)."""

    def error(steps, size):
        rho = of_levels(PROCESSES["vp2"], steps)[1]
        return chain(fokker.PredictorCorrector(fokker.Transition(alpha), 1, size), rho).error(rho[-1])

    e = [error(steps, 2 / steps) for steps in (100, 200, 400)]
    assert 2 * math.log2(e[1] / e[2]) - math.log2(e[0] / e[1]) == pytest.approx(1, abs=0.1)
    assert error(400, 0.3) > 2 * e[2]


def test_many_corrections_forget_the_error_of_the_predictor():
    """At one level their law is that of Langevin dynamics: 1 / (1 - eps / (2 v)) too wide where the variance is v."""
    rho = of_levels(PROCESSES["vp2"], 3)[1]
    size = 0.2
    moments = chain(fokker.PredictorCorrector(fokker.Transition(), 2000, size), rho)
    values, vectors = torch.linalg.eigh(COVARIANCE + rho[-1] ** 2 * EYE)
    biased = vectors @ torch.diag(values / (1 - size * rho[-1] ** 2 / (2 * values))) @ vectors.T
    torch.testing.assert_close(moments.covariance, biased, rtol=0, atol=1e-9)
    few = chain(fokker.PredictorCorrector(fokker.Transition(), 1, size), rho)
    assert moments.error(rho[-1]) < few.error(rho[-1]) / 5


def test_annealed_langevin_converges_as_its_steps_grow_and_their_size_falls():
    """With steps enough to forget the level before, the error is proportional to the size."""
    rho = of_levels(PROCESSES["vp2"], 4)[1]
    e = [chain(fokker.AnnealedLangevin(size, steps), rho).error(rho[-1]) for size, steps in
         ((0.4, 500), (0.2, 1000), (0.1, 2000))]  # fmt: skip
    assert all(math.log2(a / b) == pytest.approx(1, abs=0.1) for a, b in ((e[0], e[1]), (e[1], e[2])))
    assert chain(fokker.AnnealedLangevin(0.1, 3), rho).error(rho[-1]) > 10 * e[2]  # control: too few steps


def z_of(model, sampler, steps, count):
    times = torch.cat([levels(model.process, steps, HIGH, 0.05), torch.zeros(1, dtype=F64)])
    samples = fokker.sample(model, (count, 2), sampler=sampler, grid=times, seed=5).samples
    return float(mixture_z(samples).abs().max())


def test_predictor_corrector_samples_a_mixture():
    """17 averages, false-alarm rate 1e-4; a wrong model is flagged."""
    right = mixture(PROCESSES["vp1.5"], torch.float32)
    sampler = fokker.PredictorCorrector(steps=1, step_size=0.02)
    assert z_of(right, sampler, 128, 2048) < limit(17) < z_of(wrong(Scaled, right), sampler, 128, 2048)


def test_annealed_langevin_samples_a_mixture():
    """17 averages, false-alarm rate 1e-4; too few steps at each level lag behind the levels and are flagged."""
    model = mixture(PROCESSES["vp1.5"], torch.float32)
    enough, few = (fokker.AnnealedLangevin(step_size=0.1, steps=steps) for steps in (30, 2))
    assert z_of(model, enough, 64, 512) < limit(17) < z_of(model, few, 64, 512)


# --- One density


def test_langevin_has_the_law_of_its_recursion():
    """From a point, with white and with correlated noise, and for a function; false-alarm rate 1e-4 for all."""
    step, steps, count = 0.1, 7, 8192
    start = torch.tensor([2.0, -1.0], dtype=F64).expand(count, 2)
    for noise in (White(), Fixed()):
        model = gaussian(replace(PROCESSES["vp2"], noise=noise))
        t = float(model.process.time_of(0.5))
        mean, covariance = exact_law(model, t)
        c = EYE if noise.white else NOISE_FACTOR @ NOISE_FACTOR.T
        matrix = EYE - step / 2 * c @ torch.linalg.inv(covariance)
        m, v = start[0], 0 * EYE
        for _ in range(steps):
            m, v = mean + matrix @ (m - mean), matrix @ v @ matrix.T + step * c
        result = fokker.langevin(model, start, t, step=step, steps=steps, seed=2)
        assert moment_z(result.samples, m, v).abs().max() < limit(15)
        assert result.nfe == steps and result.settings["time"] == t
        if noise.white:
            by_hand = fokker.langevin(lambda x: model.score(x, t), start, step=step, steps=steps, seed=2)  # noqa: B023
            torch.testing.assert_close(by_hand.samples, result.samples, rtol=0, atol=1e-10)
            assert moment_z(by_hand.samples, m, v).abs().max() < limit(15)
        assert moment_z(result.samples, m, 1.1 * v).abs().max() > limit(15)  # control


@pytest.mark.parametrize("step", [0.2, 1.0, 2.0])
def test_the_stationary_variance_of_a_unit_gaussian_has_the_bias_of_the_step(step):
    """1 / (1 - step/4), from N(0, 1) after 80 steps; without the bias it is flagged."""
    start = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    samples = fokker.langevin(torch.neg, start, step=step, steps=80, seed=1).samples
    zero, one = torch.zeros(1, dtype=F64), torch.ones(1, 1, dtype=F64)
    assert moment_z(samples, zero, one / (1 - step / 4)).abs().max() < limit(6)
    assert moment_z(samples, zero, one).abs().max() > limit(6)


def test_langevin_keeps_a_mixture_and_ascent_does_not():
    """The right and the wrong way: from exact samples, steps with noise keep their law, without it they collapse."""
    model = mixture(PROCESSES["ve_linear"])
    t, start = model.time_range[0], mixture_draw(2000, seed=1)
    kept = fokker.langevin(model, start, t, step=0.005, steps=100).samples
    assert mixture_z(kept).abs().max() < limit(17)
    assert (kept - start).norm(dim=1).median() > 0.3  # it did move
    climbed = fokker.langevin(model, start[:400], t, step=0.02, steps=2000, noise=False).samples
    assert mixture_z(climbed).abs().max() > limit(17)
    assert model.score(climbed, t).norm(dim=1).max() < 1e-6  # all at modes
    nearest = (climbed[:, None] - MEANS).norm(dim=2).argmin(1)
    for k in range(3):
        mode = climbed[nearest == k]
        assert len(mode) > 50 and (mode - mode[0]).norm(dim=1).max() < 1e-6  # no spread is left ...
        assert (mode[0] - MEANS[k]).norm() < 0.1 < COVARIANCES[k].diagonal().min() ** 0.5  # ... where there was some


def test_langevin_of_a_sample_does_not_depend_on_the_batch():
    model, start = mixture(PROCESSES["vp2"]), mixture_draw(300, seed=2)
    given = {"step": 0.01, "steps": 5, "trajectory": True}
    whole, part = (fokker.langevin(model, start[:n], 0.1, seed=4, **given) for n in (300, 7))
    torch.testing.assert_close(part.trajectory, whole.trajectory[:, :7], rtol=0, atol=1e-12)
    assert whole.trajectory.shape == (6, 300, 2) and torch.equal(whole.trajectory[0], start)
    assert torch.equal(whole.trajectory[-1], whole.samples)
    other = fokker.langevin(model, start, 0.1, seed=5, **given)
    assert not torch.equal(other.samples, whole.samples) and whole.settings["seed"] == 4


def test_langevin_of_named_parts_and_conditions():
    class Moved(fokker.MixtureScore):
        def denoised(self, z, rho, cond):
            return super().denoised(z - cond["y"], rho, cond) + cond["y"]

    model, x = mixture(PROCESSES["ve_linear"]), mixture_draw(20, seed=3)
    given = {"step": 0.01, "steps": 4}
    parts = fokker.langevin(Joint(a=model, b=model), {"a": x, "b": x}, 0.02, **given).samples
    assert not torch.allclose(parts["a"], parts["b"])
    moved = Moved(model.process, model.weights, model.means, model.covariances)
    y = torch.ones(1, 2, dtype=F64)
    found = fokker.langevin(moved, x + y, 0.02, cond=y, **given).samples
    torch.testing.assert_close(found - y, fokker.langevin(model, x, 0.02, **given).samples, rtol=0, atol=1e-12)


def test_langevin_says_where_it_diverges():
    """The score -x^3: a step that is stable near 0 is not far out."""
    x = torch.ones(5, 1)
    x[3] = 30.0
    with pytest.raises(FloatingPointError, match=r"after step \d+, first at sample 3 of measurement 0 \(1 rows"):
        fokker.langevin(lambda x: -(x**3), x, step=0.1, steps=50)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("step", {"step": v}) for v in (0, -0.1, float("nan"), float("inf"), "1")),
        *(("steps", {"steps": v}) for v in (0, -3, 1.5, True, None)),
        *(("x", {"x": v}) for v in (torch.full((3, 2), torch.nan), torch.zeros(0, 2), torch.tensor(1.0), np.ones(3))),
        *(("t", {"t": v}) for v in (None, 0.0, 1.5, -1, True, float("nan"))),
        ("t", {"model": torch.neg}),
        ("cond", {"model": torch.neg, "t": None, "cond": torch.zeros(1, 2)}),
        ("model", {"model": lambda x: x.sum(1), "t": None}),
        ("seed", {"seed": -1}),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(name, bad):
    given = {"model": gaussian(PROCESSES["vp2"]), "x": torch.zeros(3, 2), "t": 0.1, "step": 0.1, "steps": 2, **bad}
    with pytest.raises(InputError, match=rf"\b{name}\b"):
        fokker.langevin(**given)
