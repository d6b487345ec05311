"""Forward processes and time grids: identities that hold to rounding."""

import math

import numpy as np
import pytest
import torch

import fokker
from exact import PROCESSES
from fokker.errors import InputError
from fokker.processes import NoiseProcess, process_from_settings
from fokker.time_grid import check_times

TIMES = torch.cat([torch.logspace(-4, -1, 7, dtype=torch.float64), torch.linspace(0.15, 1, 12, dtype=torch.float64)])
MORE = {
    **PROCESSES,
    "vp0.5": fokker.VariancePreserving(n=0.5),
    "vp_constant": fokker.VariancePreserving(beta_min=8.0, beta_max=8.0),
    "vp_falling": fokker.VariancePreserving(n=1, beta_min=15.0, beta_max=0.1),
    "vp_from_zero": fokker.VariancePreserving(n=1.5, beta_min=0.0),
}
PRESERVING = [name for name in MORE if name.startswith("vp")]
each = pytest.mark.parametrize("name", MORE)


def derivative(function, t):
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t).sum(), t)[0]


@each
def test_drift_and_diffusion_are_those_of_scale_and_sigma(name):
    process = MORE[name]
    m, sigma, f = process.scale(TIMES), process.sigma(TIMES), process.drift(TIMES)
    m_slope = torch.zeros_like(TIMES) if name.startswith("ve") else derivative(process.scale, TIMES)
    torch.testing.assert_close(f, m_slope / m, rtol=1e-12, atol=1e-12)
    g2 = 2 * sigma * derivative(process.sigma, TIMES) - 2 * f * sigma**2
    torch.testing.assert_close(process.diffusion_squared(TIMES), g2, rtol=1e-9, atol=0)
    torch.testing.assert_close(process.noise_to_signal(TIMES), sigma / m, rtol=1e-12, atol=0)


@each
def test_data_at_time_zero_and_rising_noise(name):
    process = MORE[name]
    assert float(process.scale(0.0)) == 1.0
    assert float(process.sigma(0.0)) == 0.0 and float(process.noise_to_signal(0.0)) == 0.0
    assert bool((process.noise_to_signal(TIMES).diff() > 0).all())
    assert bool((process.diffusion_squared(TIMES) > 0).all())


@pytest.mark.parametrize("name", PRESERVING)
def test_variance_preserving_family(name):
    process = MORE[name]
    m, sigma, rho = process.scale(TIMES), process.sigma(TIMES), process.noise_to_signal(TIMES)
    torch.testing.assert_close(m**process.n + sigma**process.n, torch.ones_like(m), rtol=0, atol=1e-14)
    torch.testing.assert_close(m, (1 + rho**process.n) ** (-1 / process.n), rtol=1e-12, atol=0)


def test_the_signal_does_not_depend_on_n():
    for n in (0.5, 1, 1.5, 3):
        assert torch.equal(fokker.VariancePreserving(n=n).scale(TIMES), fokker.VariancePreserving().scale(TIMES))


def test_small_times_keep_their_digits():
    """sigma^n = n B / 2 (1 - n B / 4 + ...) with B = 0.001 t + ..., where 1 - m^n has no digits left."""
    for n in (1.0, 1.5, 2.0, 3.0):
        t = 1e-14
        b = 0.001 * t + (15 - 0.001) * t**2 / 2
        assert float(fokker.VariancePreserving(n=n).sigma(t)) == pytest.approx((n * b / 2) ** (1 / n), rel=1e-12)


@each
def test_time_of_inverts_noise_to_signal(name):
    process = MORE[name]
    high = float(process.noise_to_signal(1.0))
    rho = torch.cat(
        [torch.logspace(-12, 0, 25, dtype=torch.float64) * high, torch.tensor([0.0, high], dtype=torch.float64)]
    )
    t = process.time_of(rho)
    assert bool(((t >= 0) & (t <= 1)).all()) and float(t[-2]) == 0.0
    torch.testing.assert_close(process.noise_to_signal(t), rho, rtol=1e-9, atol=0)
    torch.testing.assert_close(process.time_of(process.noise_to_signal(TIMES)), TIMES, rtol=1e-9, atol=0)
    assert float(process.time_of(high)) == pytest.approx(1.0, abs=1e-12)


@each
@pytest.mark.parametrize("factor", [1.001, 10.0, math.inf, math.nan, -1.0])
def test_levels_that_are_never_reached_are_refused(name, factor):
    with pytest.raises(InputError, match="rho"):
        MORE[name].time_of(factor * float(MORE[name].noise_to_signal(1.0)))


@each
def test_heat_flow_composes(name):
    """Variance of x_t by the drift-diffusion equation dv/dt = 2 f v + g^2 from t1 to t2: the Green function's."""
    process, (t1, t2) = MORE[name], (0.2, 0.9)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(4))
    left = torch.arange(200, 900, dtype=torch.float64) / 1000  # g^2 of DDPM jumps at these
    u = left[:, None] + (nodes + 1) / 2000
    carried = process.scale(t2) / process.scale(u)
    added = (weights * carried**2 * process.diffusion_squared(u)).sum() / 2000
    whole = (process.scale(t2) / process.scale(t1)) ** 2 * process.sigma(t1) ** 2 + added
    assert float(whole) == pytest.approx(float(process.sigma(t2) ** 2), rel=1e-9)


@each
def test_numbers_and_tensors_of_any_shape(name):
    process = MORE[name]
    for method in ("scale", "sigma", "drift", "diffusion_squared", "noise_to_signal"):
        value = getattr(process, method)(TIMES[:4].reshape(2, 2))
        assert value.shape == (2, 2) and value.dtype == torch.float64
        assert float(getattr(process, method)(float(TIMES[3]))) == float(value[1, 1])
        assert getattr(process, method)(TIMES[:2].float()).dtype == torch.float64


@each
def test_settings_restore_the_process(name):
    assert isinstance(MORE[name], NoiseProcess)
    if name == "custom":
        with pytest.raises(InputError, match="process: got 'custom'"):
            process_from_settings(MORE[name].settings())
    else:
        assert process_from_settings(MORE[name].settings()) == MORE[name]


def test_schedules_written_out():
    linear, geometric = MORE["ve_linear"], MORE["ve_geometric"]
    assert float(linear.sigma(0.3)) == pytest.approx(6.0)
    ratio = 25.0 / 0.01
    assert float(geometric.sigma(0.3)) == pytest.approx(0.01 * math.sqrt(ratio**0.6 - 1), rel=1e-12)
    known = fokker.VariancePreserving()
    assert float(known.drift(0.3)) == pytest.approx(-0.5 * (0.001 + 14.999 * 0.3))
    assert float(known.diffusion_squared(0.3)) == pytest.approx(0.001 + 14.999 * 0.3)  # n = 2: g^2 = beta


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "2", None])
def test_bad_parameters_are_refused(value):
    with pytest.raises(InputError, match="n:"):
        fokker.VariancePreserving(n=value)
    with pytest.raises(InputError, match="beta_max"):
        fokker.VariancePreserving(beta_max=value)
    with pytest.raises(InputError, match="sigma_max"):
        fokker.VarianceExploding(sigma_max=value)
    with pytest.raises(InputError, match="sigma_min"):
        fokker.VarianceExploding(sigma_min=value)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "1"])
def test_bad_beta_min_is_refused(value):
    with pytest.raises(InputError, match="beta_min"):
        fokker.VariancePreserving(beta_min=value)


def test_bad_schedules_are_refused():
    with pytest.raises(InputError, match="schedule"):
        fokker.VarianceExploding(schedule="cubic")
    with pytest.raises(InputError, match="sigma_min"):
        fokker.VarianceExploding(sigma_max=1.0, sigma_min=1.0, schedule="geometric")
    for settings in ({"name": "other"}, {}):
        with pytest.raises(InputError, match="process"):
            process_from_settings(settings)


# --- Grids

GRIDS = {"karras": fokker.Karras(), "log_snr": fokker.LogSNR(), "uniform": fokker.UniformTime()}


@each
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 64])
def test_grids_fall_from_end_to_end(name, grid, steps):
    process = MORE[name]
    high = float(process.noise_to_signal(1.0))
    t_min, t_max = float(process.time_of(0.002 * high)), float(process.time_of(0.9 * high))
    times = GRIDS[grid](process, steps, t_min, t_max)
    assert times.shape == (steps,) and times.dtype == torch.float64
    assert float(times[0]) == t_max and (steps == 1 or float(times[-1]) == t_min)
    assert bool((times.diff() < 0).all())
    again = times.clone()
    assert torch.equal(GRIDS[grid](process, steps, t_min, t_max), again)


def test_grids_written_out():
    process = MORE["vp1.5"]
    t_min, t_max = (float(process.time_of(rho)) for rho in (0.01, 10.0))
    i = torch.arange(9, dtype=torch.float64) / 8
    karras = (10 ** (1 / 7) + i * (0.01 ** (1 / 7) - 10 ** (1 / 7))) ** 7
    for grid, rho in ((fokker.Karras(), karras), (fokker.LogSNR(), 10 * 1e-3**i)):
        torch.testing.assert_close(process.noise_to_signal(grid(process, 9, t_min, t_max)), rho, rtol=1e-9, atol=0)
    uniform = t_max + i * (t_min - t_max)
    torch.testing.assert_close(fokker.UniformTime()(process, 9, t_min, t_max), uniform, rtol=1e-12, atol=0)


@pytest.mark.parametrize("exponent", [0, -1.0, math.nan])
def test_bad_exponents_are_refused(exponent):
    with pytest.raises(InputError, match="exponent"):
        fokker.Karras(exponent)


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ([0.5], "at least two"),
        ([], "at least two"),
        ([[0.9, 0.5]], "at least two"),
        ([0.9, math.nan], "finite"),
        ([0.2, 0.9], "fall"),
        ([0.9, 0.5, 0.5], "fall"),
        ([0.9, 0.5, -0.1], "knows"),
        ([0.9, 0.05], "knows"),
        ([0.9, 0.05, 0.0], "knows"),
        ([0.99, 0.5], "knows"),
    ],
)
def test_bad_times_are_refused(times, reason):
    with pytest.raises(InputError, match=reason):
        check_times(torch.tensor(times, dtype=torch.float64), 0.1, 0.95)


@pytest.mark.parametrize("times", [[0.95, 0.1], [0.95, 0.1, 0.0], [0.5, 0.0]])
def test_good_times_are_taken(times):
    assert check_times(torch.tensor(times, dtype=torch.float64), 0.1, 0.95).tolist() == times
    # In single precision the ends are rounded, perhaps beyond the range: what is taken lies within it.
    single = check_times(torch.tensor(times), 0.1, 0.95)
    assert single.tolist() == pytest.approx(times, rel=1e-7) and single.dtype == torch.float64
    assert float(single.max()) <= 0.95 and float(single[single > 0].min()) >= 0.1
