"""Coordinates whose mean bends and whose width changes: against laws of just that kind, and where there is none."""

import math

import numpy as np
import pytest
import torch

import fokker
from exact import limit
from fokker.curved_coordinates import Curved, _log_scales
from fokker.posterior_coordinates import Posterior

COUNT = 20_000


def bent(count, seed=0):
    """y ~ N(0, I_3), u = (y_1, y_2), x_i = u_i - 0.08 (u_i^3 - 3 u_i) + exp(0.3 u_i - 1) z_i, z of correlation 0.6;
    with the exact mean and log scale.
    """
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((count, 3))
    u = y[:, :2]
    z = rng.standard_normal((count, 2)) @ np.linalg.cholesky([[1, 0.6], [0.6, 1]]).T
    mean, log_scale = u - 0.08 * (u**3 - 3 * u), 0.3 * u - 1
    return torch.from_numpy(mean + np.exp(log_scale) * z), torch.from_numpy(y), mean, log_scale


def test_a_mean_that_bends_and_a_width_that_changes_are_found():
    """Whitened fresh pairs have moments 0, 1 and correlation 0 within 5 standard errors and what 20,000 training pairs
    leave open (4 of their standard errors), in every third of u; the variances of plain posterior coordinates do not.
    """
    x, y, _, _ = bent(COUNT)
    found, plain = Curved.estimate(x, y), Posterior.estimate(x, y)
    assert isinstance(found, Curved)
    x, y, mean, log_scale = bent(30_000, seed=1)
    inside = y[:, :2].abs().amax(1) < 2.5
    errors = (found.mean({"y": y}) - torch.from_numpy(mean))[inside]
    assert float(errors.square().mean().sqrt()) < 0.03
    widths = found.std({"y": y}).log() - torch.from_numpy(log_scale)
    assert float(widths[inside].abs().mean()) < 0.03
    xi, other = (c.forward(x, {"y": y}) for c in (found, plain))
    wrong = 0
    for part in (y[:, 0] < -0.43, y[:, 0].abs() <= 0.43, y[:, 0] > 0.43):
        n = int(part.sum())
        room = 5 / math.sqrt(n) + 4 / math.sqrt(COUNT)
        assert abs(float(xi[part, 0].mean())) < room
        assert abs(float(xi[part, 0].var()) - 1) < math.sqrt(2) * room
        assert abs(float((xi[part, 0] * xi[part, 1]).mean())) < room
        wrong += abs(float(other[part, 0].var()) - 1) > 2 * math.sqrt(2) * room
    assert wrong >= 2


def test_forward_inverse_and_density_belong_together():
    x, y, _, _ = bent(2000)
    found = Curved.estimate(x, y)
    cond = {"y": y[:50]}
    xi = found.forward(x[:50], cond)
    assert torch.allclose(found.inverse(xi, cond), x[:50])
    slopes = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda v, k=k: found.inverse(v, {"y": y[k : k + 1]}), xi[k : k + 1])[
                0, :, 0
            ]
            for k in range(5)
        ]
    )
    assert torch.allclose(torch.linalg.slogdet(slopes)[1], found.log_det(cond)[:5])
    again = Curved(**found.tensors())
    assert torch.equal(again.forward(x[:50], cond), xi)


@pytest.mark.parametrize("size", [1, 4])
def test_a_gaussian_problem_keeps_plain_coordinates(size):
    """The criterion prefers curves to none with a chance far below 1e-6 where there are none."""
    rng = np.random.default_rng(2)
    for _ in range(5):
        x = rng.standard_normal((2000, size))
        y = x @ rng.standard_normal((size, 6)) + rng.standard_normal((2000, 6))
        assert type(Curved.estimate(torch.from_numpy(x), torch.from_numpy(y))) is Posterior


def test_gaps_and_directions_without_variance_keep_plain_coordinates():
    x, y, _, _ = bent(2000)
    gap = y.clone()
    gap[3, 1] = torch.nan
    assert type(Curved.estimate(x, gap)) is Posterior
    known = torch.cat([x, y[:, :1]], 1)
    assert type(Curved.estimate(known, y)) is Posterior


def test_log_scales_maximise_the_likelihood():
    """Against variances of groups: with a basis of indicators the maximum is the standard deviation of each group."""
    rng = np.random.default_rng(0)
    rest = torch.from_numpy(rng.standard_normal((900, 2)) * np.repeat([0.1, 1.0, 20.0], 300)[:, None])
    basis = torch.zeros(3, 900, 2, dtype=torch.float64)
    for k in range(3):
        basis[k, 300 * k : 300 * (k + 1)] = 1
    expected = rest.reshape(3, 300, 2).square().mean(1).sqrt().log()
    assert torch.allclose(_log_scales(basis, rest), expected, atol=1e-6)


def test_far_from_the_training_pairs_nothing_explodes():
    x, y, _, _ = bent(2000)
    found = Curved.estimate(x, y)
    far = {"y": torch.tensor([[1e6, -1e6, 0.0]], dtype=torch.float64)}
    edge = found.std({"y": y}).amax(0)
    assert bool((found.std(far)[0] <= edge * (1 + 1e-9)).all())


def test_the_default_fit_has_curves_and_samples_follow_them(tmp_path):
    """An untrained network leaves the coordinates alone: samples against the closed form at a false-alarm rate of 1e-4,
    with what 8,000 pairs leave open of 12 numbers.
    """
    x, y, _, _ = bent(8000)
    model = fokker.fit(x, y, steps=1, out=tmp_path / "fit")
    assert isinstance(model.coordinates, Curved)
    one = torch.tensor([1.0, -1.0, 0.5])
    found = fokker.load(tmp_path / "fit").sample(one, 4000).samples.double().numpy()
    mean, std = np.array([1.16, -1.16]), np.exp(np.array([0.3, -0.3]) - 1)
    error = std * math.sqrt(1 / 4000 + 12 / 8000)
    assert np.all(np.abs(found.mean(0) - mean) < limit(4) * error)
    assert np.all(np.abs(found.std(0) / std - 1) < limit(4) * math.sqrt(0.5 / 4000 + 12 / 8000))
    assert model.no_network().sample(one, 10).samples.shape == (10, 2)
