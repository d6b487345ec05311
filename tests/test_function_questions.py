"""How a sampler should start: the closed form against the moments of ODE and SDE, integrated numerically."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from fokker.errors import InputError
from fokker.problems.function_questions import NOISE, RIGHT, STARTS, WITH_MEAN, distance, end_law

DATA = torch.tensor([2.0, 0.5, 0.01], dtype=torch.float64)
COLOURED = torch.tensor([1.0, 1.0, 0.02], dtype=torch.float64)
MEAN = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)


def integrated(rho, start, sde):
    """Mean and variance of z = f_t / m from rho down to 1e-4: dz = a (z - D)/s ds (+ sqrt(2 s c) dW), a = 1 or 2."""
    k, c, mean = DATA.numpy(), COLOURED.numpy(), MEAN.numpy()
    first = {NOISE: (0 * mean, rho**2 * c), WITH_MEAN: (mean, rho**2 * c), RIGHT: (mean, k + rho**2 * c)}[start]
    strength = 2.0 if sde else 1.0

    def slope(log_s, state):
        s, (m, v) = math.exp(log_s), state.reshape(2, 3)
        rate = strength * s**2 * c / (k + s**2 * c)  # of z - D, times s / s
        noise = 2 * s**2 * c if sde else 0.0
        return np.concatenate([rate * (m - mean), 2 * rate * v - noise])

    solved = solve_ivp(slope, (math.log(rho), math.log(1e-4)), np.concatenate(first), rtol=1e-10, atol=1e-12)
    return solved.y[:, -1].reshape(2, 3)


@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("rho", [0.7, 5.0, 40.0])
def test_the_end_is_that_of_the_integrated_moments(rho, start, sde):
    found, (mean, variance) = end_law(DATA, COLOURED, MEAN, rho, start, sde), integrated(rho, start, sde)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5, atol=1e-8)
    assert (distance(found, DATA, MEAN) == 0) == (start == RIGHT)


def test_errors_fall_at_the_rates_told():
    """A hundred times the level: noise alone 1e-2 by the ODE, 1e-4 by the SDE; with the mean 1e-4 and 1e-8."""

    def fall(start, sde):
        far, near = (distance(end_law(DATA, DATA, MEAN, rho, start, sde), DATA, MEAN) for rho in (3000.0, 30.0))
        return far / near

    assert fall(NOISE, False) == pytest.approx(1e-2, rel=0.01)
    assert fall(NOISE, True) == pytest.approx(1e-4, rel=0.01)
    assert fall(WITH_MEAN, False) == pytest.approx(1e-4, rel=0.01)
    assert fall(WITH_MEAN, True) < 1e-6


@pytest.mark.parametrize(("change", "told"), [({"start": "zero"}, "start: got"), ({"rho": 0.0}, "rho: got")])
def test_bad_input_is_told_in_one_line(change, told):
    with pytest.raises(InputError, match=told):
        end_law(DATA, DATA, MEAN, **({"rho": 1.0, "start": NOISE} | change))
