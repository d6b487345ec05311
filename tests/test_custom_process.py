"""Processes from two functions: everything that follows from scale and sigma, against the closed forms."""

import math
from dataclasses import replace

import pytest
import torch

import fokker
from exact import Fixed, gaussian, mixture
from fokker.errors import InputError
from fokker.processes import NoiseProcess, as_time, process_from_settings, saved_settings

F64 = torch.float64
TIMES = torch.cat([torch.logspace(-4, -1, 7, dtype=F64), torch.linspace(0.15, 1, 12, dtype=F64)])


def integral(t):
    return 0.001 * t + 14.999 * t**2 / 2


def preserving(n):
    return lambda t: torch.exp(-integral(t) / 2), lambda t: (-torch.expm1(-n * integral(t) / 2)) ** (1 / n)


class TwoMethods(NoiseProcess):
    """VP(1.5) as a class of the user's own."""

    def scale(self, t):
        return preserving(1.5)[0](as_time(t))

    def sigma(self, t):
        return preserving(1.5)[1](as_time(t))


PAIRS = {
    **{f"vp{n}": (fokker.CustomProcess(*preserving(n)), fokker.VariancePreserving(n=n)) for n in (1, 1.5, 2, 3)},
    "ve": (fokker.CustomProcess(lambda t: 1.0, lambda t: 20 * t), fokker.VarianceExploding()),
    "class": (TwoMethods(), fokker.VariancePreserving(n=1.5)),
    "noise": (
        fokker.CustomProcess(*preserving(1), noise=Fixed()),
        fokker.VariancePreserving(n=1, noise=Fixed()),
    ),
}
each = pytest.mark.parametrize("pair", PAIRS)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=0)


@each
def test_all_functions_are_those_of_the_built_in_process(pair):
    own, known = PAIRS[pair]
    with torch.no_grad():
        for method in ("scale", "sigma", "drift", "noise_to_signal"):
            close(getattr(own, method)(TIMES), getattr(known, method)(TIMES))
        # g^2 is the difference of two terms: for VP(3) at t = 1e-4 each is a few times as large.
        close(own.diffusion_squared(TIMES), known.diffusion_squared(TIMES), 1e-11)
        assert float(own.drift(0.3)) == pytest.approx(float(known.drift(0.3)), rel=1e-12)
    assert not own.diffusion_squared(TIMES).requires_grad


@each
def test_times_are_found_to_rounding(pair):
    own, known = PAIRS[pair]
    high = float(known.noise_to_signal(1.0))
    rho = torch.logspace(-12, 0, 300, dtype=F64).reshape(3, 100) * high
    t = own.time_of(rho)
    assert t.shape == rho.shape
    close(own.noise_to_signal(t), rho, 5e-15 if pair == "ve" else 2e-14)
    close(t, known.time_of(rho), 1e-11)
    assert own.time_of(torch.tensor([0.0, high], dtype=F64)).tolist() == pytest.approx([0.0, 1.0], rel=1e-15)
    assert own.time_of(torch.zeros(0)).shape == (0,)
    for beyond in (1.001 * high, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="rho: got"):
            own.time_of(torch.tensor([0.1, beyond], dtype=F64))


@each
@pytest.mark.parametrize("sampler", [fokker.Transition(alpha=1.0), fokker.EulerMaruyama(), fokker.RK45()])
def test_samples_are_those_of_the_built_in_process(pair, sampler):
    own, known = PAIRS[pair]
    rho = torch.tensor([15.0, 6.0, 2.0, 0.7, 0.2, 0.05, 0.0], dtype=F64)
    found = [
        fokker.sample(mixture(p), (30, 2), sampler=sampler, grid=p.time_of(rho), seed=2).samples for p in (own, known)
    ]
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8)


def test_the_circle_that_ends_in_pure_noise():
    """m = cos, sigma = sin of pi t / 2: rho = tan is infinite at t = 1; the model stops at its own highest level."""
    for scale in (lambda t: torch.cos(math.pi / 2 * t), lambda t: torch.cos(math.pi / 2 * t) * (t < 1)):
        process = fokker.CustomProcess(scale, lambda t: torch.sin(math.pi / 2 * t))
        t = torch.tensor([0.1, 0.5, 0.9, 0.999], dtype=F64)
        close(process.diffusion_squared(t), math.pi * torch.tan(math.pi / 2 * t), 1e-10)
        close(process.time_of(torch.tan(math.pi / 2 * t)), t, 1e-14)
        model = gaussian(process)
        low, high = model.time_range
        assert (
            float(process.noise_to_signal(high)) == pytest.approx(model.rho_range[1], rel=1e-12) and 0 < low < high < 1
        )
        other = gaussian(fokker.VarianceExploding())
        for sampler in (fokker.Heun(), fokker.GaussianTransition(alpha=1.0)):
            samples, expected = (fokker.sample(m, (20, 2), sampler=sampler, steps=8).samples for m in (model, other))
            torch.testing.assert_close(samples, expected, rtol=1e-8, atol=1e-8)


def test_the_straight_path_to_the_very_end():
    """m = 1 - t, sigma = t: scale(1) = 0 exactly."""
    process = fokker.CustomProcess(lambda t: 1 - t, lambda t: t)
    assert float(process.noise_to_signal(1.0)) == math.inf
    rho = torch.tensor([0.25, 3.0, 1e6], dtype=F64)
    close(process.time_of(rho), rho / (1 + rho), 1e-15)
    assert fokker.sample(gaussian(process), (5, 2), steps=4).samples.isfinite().all()
    with pytest.raises(InputError, match="rho"):
        process.time_of(math.inf)


def scale_of_mine(t):
    return torch.exp(-t)


def test_settings_record_the_names_and_no_file_takes_them():
    own = fokker.CustomProcess(scale_of_mine, lambda t: t)
    assert own.settings() == {"name": "custom", "scale": "scale_of_mine", "sigma": "<lambda>"}
    assert TwoMethods().settings() == {"name": "custom", "class": "TwoMethods"}
    assert fokker.sample(gaussian(own), (2, 2), steps=2).settings["process"] == own.settings()
    for process in (own, TwoMethods()):
        with pytest.raises(InputError, match=r"process: .* functions, which a file cannot hold"):
            saved_settings(process)
        with pytest.raises(InputError, match="process: got 'custom'"):
            process_from_settings(process.settings())
    known = fokker.VariancePreserving(n=3)
    assert saved_settings(known) == known.settings()


def test_a_class_with_a_name_is_restored():
    class Named(TwoMethods, kind="test_named"):
        def settings(self):
            return {"name": "test_named"}

    assert isinstance(process_from_settings(saved_settings(Named())), Named)
    del NoiseProcess.kinds["test_named"]


def test_copies_are_equal_and_keep_their_functions():
    own = fokker.CustomProcess(scale_of_mine, torch.clone)
    assert replace(own) == own == fokker.CustomProcess(scale=scale_of_mine, sigma=torch.clone)
    assert replace(own, noise=Fixed()) != own and replace(own, noise=Fixed()).scale == own.scale


@pytest.mark.parametrize(
    ("scale", "sigma", "reason"),
    [
        (None, lambda t: t, "scale: got None"),
        (lambda t: 1.0, 3.0, "sigma: got 3.0"),
        (lambda t: 1 + t * 0 + 0.1, lambda t: t, "scale: got 1.1 at t = 0"),
        (lambda t: 1.0, lambda t: t + 0.01, "sigma: got 0.01 at t = 0"),
        (lambda t: 1.0, lambda t: t / (0.5 - t), "sigma: got inf at t = 0.5"),
        (lambda t: torch.log(t), lambda t: t, "scale: got -inf at t = 0"),
        (lambda t: 1 - 2 * t, lambda t: t, "scale: got .* values > 0"),
        (lambda t: 1 - 1.001 * t, lambda t: t, "scale: got -0.001 at t = 1"),
        (lambda t: 1.0, lambda t: t * (1 - t), "sigma: sigma / scale does not rise from t = 0.5"),
        (lambda t: 1.0, lambda t: -t, "sigma: .* does not rise"),
        (lambda t: 1.0, lambda t: 0.0, "sigma: .* does not rise"),
        (lambda t: torch.from_numpy(1 / (1 + t.detach().numpy())), lambda t: t, "scale: its function left torch"),
        (lambda t: 1.0, lambda t: t.numpy(), "sigma: its function failed"),
        (lambda t: t.cosine(), lambda t: t, "scale: its function failed"),
        (lambda t: torch.ones(3), lambda t: t, "scale: got shape"),
    ],
)
def test_bad_functions_are_refused(scale, sigma, reason):
    with pytest.raises(InputError, match=reason):
        fokker.CustomProcess(scale, sigma)
