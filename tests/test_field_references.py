"""Exact posteriors of Gaussian fields: against dense algebra, many digits, and sampling.

Statistical tests compare z-scores with `limit`: a false alarm of the whole list has probability RATE.
"""

import math

import mpmath
import numpy as np
import pytest
import torch

from exact import limit, moment_z
from fokker import operators as ops
from fokker.errors import InputError
from fokker.grids import cosine_matrix, dct, dst, idct, idst, sine_matrix
from fokker.reference.gaussian_field import EmpiricalField, GaussianField

SHAPE = (6, 5)


def eigenvalues(shape=SHAPE, tau=3.0, alpha=2.0):
    """(-Lap + tau^2)^-alpha on Neumann cosines without the constant, for values on the grid."""
    k, j = (torch.arange(n, dtype=torch.float64) for n in shape)
    values = math.prod(shape) * (math.pi**2 * (k[:, None] ** 2 + j**2) + tau**2) ** -alpha
    values[0, 0] = 0.0
    return values


def dense(field):
    """C (N, N)."""
    size = math.prod(field.shape)
    return field.apply(torch.eye(size, dtype=torch.float64).unflatten(1, field.shape)).flatten(1)


SEEN = ops.Inpainting.random(SHAPE, 0.3, seed=1)
SOLVE = ops.DirichletSolve(SHAPE, 1.0)
OPERATORS = {"points": SEEN, "solution": SEEN @ SOLVE}


@pytest.mark.parametrize(("matrix", "there", "back"), [(cosine_matrix, dct, idct), (sine_matrix, dst, idst)])
def test_transforms_are_orthonormal(matrix, there, back):
    eye = torch.eye(7, dtype=torch.float64)
    torch.testing.assert_close(matrix(7) @ matrix(7).T, eye, rtol=0, atol=1e-14)
    x = torch.randn(2, 3, 4, 7, dtype=torch.float64)
    torch.testing.assert_close(there(x, 2), matrix(4) @ x @ matrix(7).T)
    torch.testing.assert_close(back(there(x, 2), 2), x, rtol=0, atol=1e-14)
    assert there(x.float(), 2).dtype == torch.float32


@pytest.mark.parametrize("noise", [0.0, 0.01, 2.0])
@pytest.mark.parametrize("name", OPERATORS)
def test_posterior_is_conditioning_of_the_dense_gaussian(name, noise):
    field, operator = GaussianField(eigenvalues()), OPERATORS[name]
    noise = noise * float(operator(field.draw(1)).std())
    posterior = field.posterior(operator, noise)
    c, a, g = dense(field), operator.matrix(), SOLVE.matrix()
    s = a @ c @ a.T + noise**2 * torch.eye(len(a), dtype=torch.float64)
    y = operator(field.draw(4, seed=2)).flatten(1)
    gain = torch.linalg.solve(s, a @ c).T
    mean, covariance = y @ gain.T, c - gain @ a @ c
    close = {"rtol": 1e-8, "atol": 1e-9 * float(c.diagonal().max().sqrt())}
    torch.testing.assert_close(posterior.mean(y).flatten(1), mean, **close)
    torch.testing.assert_close(posterior.mean(y[0]).flatten(), mean[0], **close)
    torch.testing.assert_close(posterior.mean(y, of=SOLVE).flatten(1), mean @ g.T, **close)
    torch.testing.assert_close(posterior.std().flatten() ** 2, covariance.diagonal(), rtol=0, atol=1e-10)
    through = (g @ covariance @ g.T).diagonal()
    torch.testing.assert_close(posterior.std(of=SOLVE).flatten() ** 2, through, rtol=0, atol=1e-13)
    torch.testing.assert_close(posterior.data_covariance, s, rtol=1e-12, atol=1e-14)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(len(a), dtype=torch.float64), s).log_prob(y)
    torch.testing.assert_close(posterior.log_evidence(y), evidence, rtol=1e-8, atol=1e-8)


def test_variance_of_the_field():
    field = GaussianField(eigenvalues())
    torch.testing.assert_close(field.variance().flatten(), dense(field).diagonal(), rtol=1e-12, atol=0)
    g = SOLVE.matrix()
    torch.testing.assert_close(field.variance(SOLVE).flatten(), (g @ dense(field) @ g.T).diagonal(), rtol=1e-10, atol=0)


def test_noise_free_data_need_no_jitter():
    """Against 80 digits where A C A^T is nearly singular: the relative error stays that of its root's condition."""
    shape, alpha = (8, 8), 9
    field, solve = GaussianField(eigenvalues(shape, alpha=alpha)), ops.DirichletSolve(shape)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:4, :5] = True
    seen = ops.Inpainting(mask) @ solve
    posterior = field.posterior(seen)
    y = seen(field.draw(1, seed=4))[0]
    with mpmath.workdps(80):
        b = many_digits(shape, alpha, mask.flatten().nonzero()[:, 0].tolist())
        white = b.T * mpmath.lu_solve(b * b.T, mpmath.matrix(y.tolist()))
        exact = field.colour(torch.tensor([float(v) for v in white], dtype=torch.float64).unflatten(0, shape))
    found, s = posterior.mean(y), posterior.data_covariance
    condition = float(torch.linalg.cond(posterior._r))
    assert condition > 3e7  # of A C A^T: 1e15, lost in float64

    def error(mean):
        return float((mean - exact).norm() / exact.norm())

    assert error(found) < 1e-11
    jitter = 1e-10 * s.diagonal().mean() * torch.eye(len(s), dtype=torch.float64)
    spoiled = field.apply(seen.adjoint(torch.linalg.solve(s + jitter, y)))
    assert error(spoiled) > 1e-5  # control: the usual jitter


def many_digits(shape, alpha, chosen):
    """A C^(1/2) for points of the Poisson solution as an mpmath matrix, from exact sines and cosines."""
    n, pi, half = shape[0], mpmath.pi, mpmath.mpf(1) / 2

    def waves(function, ks, plain):
        return mpmath.matrix(
            [
                [mpmath.sqrt(mpmath.mpf(2 - (k == plain)) / n) * function(pi * k * (j + half) / n) for j in range(n)]
                for k in ks
            ]
        )

    sines, cosines = waves(mpmath.sin, range(1, n + 1), n), waves(mpmath.cos, range(n), 0)
    mixed = sines * cosines.T
    rows = mpmath.zeros(len(chosen), n * n)
    for r, (i, j) in enumerate(divmod(index, n) for index in chosen):
        weights = mpmath.matrix(
            [[-sines[p, i] * sines[q, j] / (pi**2 * ((p + 1) ** 2 + (q + 1) ** 2)) for q in range(n)] for p in range(n)]
        )
        back = mixed.T * weights * mixed
        for k in range(n):
            for m in range(n):
                if k or m:
                    rows[r, k * n + m] = back[k, m] * n / mpmath.sqrt((pi**2 * (k * k + m * m) + 9) ** alpha)
    return rows


def test_samples_follow_the_posterior():
    field, operator = GaussianField(eigenvalues()), OPERATORS["points"]
    y = operator(field.draw(2, seed=5))
    posterior = field.posterior(operator, 0.05)
    n, size = 20_000, math.prod(SHAPE)
    a, c = operator.matrix(), dense(field)
    s = posterior.data_covariance
    covariance = c - c @ a.T @ torch.linalg.solve(s, a @ c)
    samples = posterior.sample(y, n, seed=6)
    assert samples.shape == (2, n, *SHAPE)
    values, vectors = torch.linalg.eigh(covariance)
    basis = vectors[:, 1:]  # the constant mode has no variance
    for case in (0, 1):
        flat = samples[case].flatten(1) @ basis
        mean = posterior.mean(y[case]).flatten() @ basis
        law = torch.diag(values[1:])
        assert float(moment_z(flat, mean, law).abs().max()) < limit(2 * size * (size + 3) / 2)
        assert float(moment_z(flat, mean, 1.2 * law).abs().max()) > limit(2 * size * (size + 3) / 2)  # control
    u = posterior.sample(y[0], n, seed=6, of=SOLVE)
    torch.testing.assert_close(u, SOLVE(samples[0]), rtol=0, atol=1e-15)
    torch.testing.assert_close(posterior.sample(y, 3, seed=6), samples[:, :3], rtol=0, atol=1e-12)
    torch.testing.assert_close(posterior.sample(y[1], 3, seed=6, case=1), samples[1, :3], rtol=0, atol=1e-12)
    each = posterior.sample_each(y[0].expand(3, -1), seed=6)
    torch.testing.assert_close(each, samples[0, :3], rtol=0, atol=1e-12)


def test_noise_free_samples_meet_the_data():
    field, operator = GaussianField(eigenvalues()), OPERATORS["solution"]
    y = operator(field.draw(1, seed=5))[0]
    samples = field.posterior(operator).sample(y, 5)
    torch.testing.assert_close(operator(samples), y.expand(5, *y.shape), rtol=0, atol=1e-12)
    assert float((samples - samples[0]).abs().max()) > 1e-3


def test_without_observations_the_posterior_is_the_prior():
    field, none = GaussianField(eigenvalues()), torch.zeros(3, 0)
    posterior = field.posterior(None, 0.1)
    assert not posterior.mean(none).any() and posterior.mean(none).shape == (3, *SHAPE)
    torch.testing.assert_close(posterior.std() ** 2, field.variance())
    assert posterior.sample(none, 2).shape == (3, 2, *SHAPE) and not posterior.log_evidence(none).any()


@pytest.mark.parametrize("chunk", [2**22, 90])
def test_empirical_field_is_regression_on_the_training_fields(monkeypatch, chunk):
    """Also with three fields seen at a time."""
    monkeypatch.setattr("fokker.reference.gaussian_field._CHUNK", chunk)
    field, operator = GaussianField(eigenvalues()), OPERATORS["solution"]
    training = field.draw(200, seed=7) + 0.3
    y = operator(field.draw(3, seed=8))
    posterior = EmpiricalField(training).posterior(operator, 1e-4)
    x, data = training.flatten(1), operator(training)
    x_mean, y_mean = x.mean(0), data.mean(0)
    joint = torch.cov(torch.cat([x, data], 1).T)
    s = joint[30:, 30:] + 1e-8 * torch.eye(len(joint) - 30, dtype=torch.float64)
    expected = x_mean + (y - y_mean) @ torch.linalg.solve(s, joint[30:, :30])
    torch.testing.assert_close(posterior.mean(y).flatten(1), expected, rtol=1e-8, atol=1e-8)
    covariance = joint[:30, :30] - joint[:30, 30:] @ torch.linalg.solve(s, joint[30:, :30])
    torch.testing.assert_close(posterior.std().flatten() ** 2, covariance.diagonal(), rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(EmpiricalField(training).variance().flatten(), x.var(0))
    assert posterior.sample(y, 4).shape == (3, 4, *SHAPE)
    few = EmpiricalField(training[:4])
    with pytest.raises(InputError, match="noise: got 0 with 9 observations of which one follows"):
        few.posterior(operator)
    assert few.posterior(operator, 1e-3).mean(y).shape == (3, *SHAPE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f, a: GaussianField(-eigenvalues()), r"eigenvalues: got shape \(6, 5\), numbers from 0 on"),
        (lambda f, a: EmpiricalField(torch.zeros(1, 6, 5)), r"fields: got shape \(1, 6, 5\), at least 2 fields"),
        (lambda f, a: f.posterior(a, -1.0), "noise: got -1.0, a standard deviation"),
        (lambda f, a: f.posterior(ops.Matrix(np.ones((2, 30)), SHAPE)), "noise: got 0 with 2 observations of which"),
        (lambda f, a: f.posterior(a).mean(torch.zeros(4)), r"y: got shape \(4,\), \(..., 9\) is accepted"),
        (lambda f, a: f.posterior(a).mean(torch.full((9,), math.nan)), "y: got NaN or infinity"),
    ],
)
def test_refused(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make(GaussianField(eigenvalues()), SEEN)
    assert "\n" not in str(caught.value)
