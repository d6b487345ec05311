"""Encoding against the exact flow of a Gaussian, and its reconstruction; runs from a state of the user's own."""

import itertools
import math

import numpy as np
import pytest
import torch

import fokker
from exact import MEANS, PROCESSES, gaussian, mixture, mixture_draw
from fokker.errors import InputError
from fokker.rng import Rows
from fokker.samplers import loop
from fokker.score import Joint

F64 = torch.float64


def exact_code(model, x):
    """The exact probability flow of a Gaussian from rho_min, where z = x, to the highest level."""
    mean, process = model.moments.mean, model.process
    values, vectors = torch.linalg.eigh(model.moments.factor @ model.moments.factor.T)
    low, high = (process.noise_to_signal(t) for t in model.time_range)
    u = (x - mean) @ vectors * ((values + high**2) / (values + low**2)).sqrt()
    return process.scale(model.time_range[1]) * (mean + u @ vectors.T)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("order", [1, 2])
def test_codes_of_a_gaussian_converge_to_its_exact_flow(process, order):
    model = gaussian(PROCESSES[process])
    x = model.moments.mean + torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    exact, errors = exact_code(model, x), []
    for steps in (97, 193, 385):
        code = fokker.encode(model, x, steps=steps, order=order)
        errors.append(float((code.samples - exact).norm() / exact.norm()))
        assert code.nfe == steps - 1
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert 2 * slopes[1] - slopes[0] == pytest.approx(order, abs=0.15)
    assert errors[-1] < (0.1, 1e-3)[order - 1]


def lost(model, x, steps, order):
    """Median distance of x (B, 2) and its reconstruction on the same levels.

    Not the mean: points near the border between two components are pushed far apart by any error, and dominate it.
    """
    code = fokker.encode(model, x, steps=steps, order=order).samples
    back = fokker.sample(model, x.shape, start=code, steps=steps, sampler=fokker.Transition(alpha=0.0, order=order))
    return float((back.samples - x).norm(dim=1).median())


@pytest.mark.parametrize("order", [1, 2])
def test_reconstruction_error_falls_with_its_order(order):
    """On the mixture, over 32 to 128 steps: order 1, and 3 for order 2, whose leading errors cancel up and down."""
    model, x = mixture(PROCESSES["vp2"]), mixture_draw(200, seed=0)
    coarse, fine = (lost(model, x, steps, order) for steps in (32, 128))
    assert math.log2(coarse / fine) / 2 == pytest.approx((1, 3)[order - 1], abs=0.25)
    assert coarse < (0.2, 0.01)[order - 1]


def test_codes_of_samples_are_the_noise_they_came_from():
    model = mixture(PROCESSES["vp1.5"])
    made = fokker.sample(model, (100, 2), steps=400, trajectory=True)
    code = fokker.encode(model, made.samples, steps=400)
    torch.testing.assert_close(code.samples, made.trajectory[0], rtol=0, atol=0.01)


def test_control_another_first_state_does_not_come_back():
    model, x = mixture(PROCESSES["vp2"]), mixture_draw(200, seed=0)
    code = fokker.encode(model, x).samples
    back = fokker.sample(model, x.shape, start=code.flip(0)).samples
    assert float((back - x).square().mean().sqrt()) > 0.5


def test_codes_take_conditions_parts_and_chunks(monkeypatch):
    class Moved(fokker.MixtureScore):
        def denoised(self, z, rho, cond):
            return super().denoised(z - cond["y"], rho, cond) + cond["y"]

    base = mixture(PROCESSES["vp2"])
    model, x = Moved(base.process, base.weights, base.means, base.covariances), mixture_draw(20, seed=1)
    y = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    plain = fokker.encode(base, x)
    moved = fokker.encode(model, x + y, cond=y)
    m = base.process.scale(model.time_range[1])
    torch.testing.assert_close(moved.samples - m * y, plain.samples, rtol=0, atol=1e-9)
    joint = fokker.encode(Joint(a=base, b=base), {"a": x, "b": x})
    assert all(torch.equal(joint.samples[name], plain.samples) for name in "ab")
    monkeypatch.setattr(loop, "CHUNK", 7)
    assert torch.allclose(fokker.encode(model, x + y, cond=y).samples, moved.samples, rtol=0, atol=1e-12)
    some = fokker.sample(base, (20, 2), start=plain.samples).samples
    one = fokker.sample(base, (1, 2), start=plain.samples[3:4], rows=Rows(np.zeros(1, int), np.array([3]))).samples
    torch.testing.assert_close(some[3:4], one, rtol=0, atol=1e-12)


def test_a_start_of_your_own():
    model = mixture(PROCESSES["vp2"], torch.float32)
    first = torch.randn(10, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    result = fokker.sample(model, (10, 2), start=first, trajectory=True)
    assert result.samples.dtype == torch.float32
    assert torch.equal(result.trajectory[0], first.float())
    assert result.settings["start"] == "given" and "start" not in fokker.sample(model, (1, 2), steps=2).settings


@pytest.mark.parametrize(
    "start",
    [torch.zeros(9, 2), torch.zeros(10), torch.full((10, 2), torch.nan), [[0.0, 0.0]], {"x": torch.zeros(10, 2)}],
)
def test_bad_starts_are_refused(start):
    with pytest.raises(InputError, match="start"):
        fokker.sample(mixture(PROCESSES["vp2"]), (10, 2), start=start)
    joint, shapes = Joint(x=gaussian(PROCESSES["vp2"])), {"x": (10, 2)}
    with pytest.raises(InputError, match="start"):
        fokker.sample(joint, shapes, start=start if not isinstance(start, dict) else {"k": start["x"]})


def test_bad_points_to_encode_are_refused():
    model = gaussian(PROCESSES["vp2"])
    for x in (torch.full((3, 2), torch.inf), torch.zeros(0, 2), MEANS.numpy()):
        with pytest.raises(InputError, match="x: got"):
            fokker.encode(model, x)
    for bad in (
        {"steps": 1},
        {"steps": 0},
        {"order": 3},
        {"grid": torch.tensor([0.5, 0.0])},
        {"grid": torch.tensor([0.2, 0.5])},
    ):
        with pytest.raises(InputError, match=next(iter(bad))):
            fokker.encode(model, torch.zeros(3, 2), **bad)
