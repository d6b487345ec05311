"""Gaussian random fields: bases against closed forms, grids against bases, spectra from data, kernels, draws.

Statistical limits: all z of one test together raise a false alarm with a probability of 1e-4 (`exact.limit`).
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.fft import dctn, dstn
from scipy.special import gamma, kv

import fokker
from exact import limit, moment_z
from fokker.errors import InputError
from fokker.grids import COSINES, FOURIER, SINES, Grid, dct, dst, idct, idst
from fokker.kernel_fields import matern
from fokker.random_fields import squared_exponential
from fokker.rng import Key, Rows

F64 = torch.float64
KINDS = {"cosine": fokker.CosineField, "sine": fokker.SineField, "periodic": fokker.PeriodicField}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def close(a, b, tolerance=1e-11):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def covariance(field, points):
    basis = field.basis(points)
    return basis @ basis.T


# --- Bases against closed forms


def test_cosines_give_the_greens_function_of_neumann():
    """-g'' + tau^2 g: cosh(tau s) cosh(tau (1 - t)) / (tau sinh tau), s < t; the tail is below 2 / (pi^2 modes)."""
    x, tau, modes = uniform(12, 1), 3.0, 2000
    s, t = torch.minimum(x, x.T), torch.maximum(x, x.T)
    exact = (tau * s).cosh() * (tau * (1 - t)).cosh() / (tau * math.sinh(tau))
    close(covariance(fokker.CosineField(1, modes, 1.0, tau), x), exact, 2 / math.pi**2 / modes)
    assert (covariance(fokker.CosineField(1, modes, 1.0, tau, constant=False), x) - exact).abs().max() > 0.1


def test_sines_give_the_brownian_bridge():
    x, modes = uniform(12, 1), 2000
    exact = torch.minimum(x, x.T) - x * x.T
    close(covariance(fokker.SineField(1, modes, alpha=1.0, tau=0.0), x), exact, 2 / math.pi**2 / modes)


@pytest.mark.parametrize(("dimension", "modes", "nu", "tolerance"), [(1, 401, 1.5, 2e-3), (2, 81, 2.5, 2e-3)])
def test_periodic_matern_fields_have_the_matern_kernel(dimension, modes, nu, tolerance):
    """Images are 8 lengths away and more; what is cut is below the tolerance."""
    field = fokker.PeriodicField.matern(dimension, modes, 0.06, nu, std=1.5)
    x = 0.3 + 0.4 * uniform(10, dimension)
    found = covariance(field, x)
    close(found, torch.from_numpy(matern(x.numpy(), 0.06, nu, 1.5**2)), 1.5**2 * tolerance)
    close(found.diagonal(), torch.full((10,), 1.5**2, dtype=F64))
    assert (found - torch.from_numpy(matern(x.numpy(), 0.07, nu, 1.5**2))).abs().max() > 0.05


@each_kind
def test_matern_fields_have_the_mean_variance_asked_for(kind):
    field = kind.matern(2, 17, 0.3, 1.0, 0.7)
    assert field.mean_variance == pytest.approx(0.49, rel=1e-12) and field.alpha == 2.0
    on_grid = field.variance(Grid((40, 40)).points).mean()  # exact: products of two waves stay below 80
    assert float(on_grid) == pytest.approx(0.49, rel=1e-12)


def test_matern_fields_without_their_constant():
    field = fokker.CosineField.matern(2, 8, 0.3, 1.0, 0.7, constant=False)
    assert field.mean_variance == pytest.approx(0.49, rel=1e-12) and field.eigenvalues[0] == 0
    draw = field.on_grid(normal(3, field.size), (16, 16))
    close(draw.mean((1, 2)), torch.zeros(3, dtype=F64))


@each_kind
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_bases_are_orthogonal_with_the_eigenvalues_of_the_laplacian(kind, dimension):
    field = kind(dimension, 5, alpha=2.0, tau=1.5, amplitude=2.0)
    cells = Grid((12,) * dimension)
    basis = field.basis(cells.points)
    close(basis.T @ basis / cells.size, torch.diag(field.eigenvalues))
    # -Lap phi_k = ((lambda_k / amplitude^2)^(-1 / alpha) - tau^2) phi_k, by differences
    x, step = 0.2 + 0.6 * uniform(4, dimension), 1e-4
    laplace = sum(
        2 * field.basis(x) - field.basis(x + e) - field.basis(x - e) for e in step * torch.eye(dimension, dtype=F64)
    )
    mu = (field.eigenvalues / 4) ** -0.5 - 1.5**2
    close(laplace / step**2, mu * field.basis(x), 1e-3 * float(mu.max()))


# --- Grids


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (5, 8), (3, 1, 4)])
def test_transforms_are_those_of_scipy(shape):
    x, d = normal(3, 2, *shape), len(shape)
    axes = tuple(range(2, 2 + d))
    close(dct(x, d), torch.from_numpy(dctn(x.numpy(), 2, axes=axes, norm="ortho")))
    close(dst(x, d), torch.from_numpy(dstn(x.numpy(), 2, axes=axes, norm="ortho")))
    close(idct(dct(x, d), d), x)
    close(idst(dst(x, d), d), x)
    close(FOURIER.synthesise(FOURIER.analyse(x, d), d), x)


def test_points_of_a_grid_are_in_the_order_of_its_values():
    grid = fokker.Grid((2, 3))
    assert grid.dimension == 2 and grid.size == 6 and grid == fokker.Grid([2, 3])
    expected = [[x, y] for x in (1 / 4, 3 / 4) for y in (1 / 6, 1 / 2, 5 / 6)]
    close(grid.points, torch.tensor(expected, dtype=F64), 1e-15)


GRIDS = [((1,), 6), ((2,), 9), ((5,), 23), ((8,), 40), ((9,), 4), ((3, 4), 10), ((8, 5), 6), ((2, 3, 4), 5)]


@each_kind
@pytest.mark.parametrize(("shape", "modes"), GRIDS)
def test_fields_on_grids_equal_their_bases(kind, shape, modes):
    """Grids finer than the modes, as fine, and much coarser, where modes fold several times."""
    field = kind(len(shape), modes, 2.0, 1.3)
    basis, xi = field.basis(Grid(shape).points), normal(2, 3, field.size)
    close(field.on_grid(xi, shape).flatten(2), xi @ basis.T)
    waves = field.waves
    unit = torch.eye(math.prod(shape), dtype=F64).reshape(-1, *shape)
    dense = waves.synthesise(field.grid_eigenvalues(shape) * waves.analyse(unit, len(shape)), len(shape))
    close(dense.reshape(len(unit), -1), basis @ basis.T)


@each_kind
def test_control_modes_above_the_grid_count(kind):
    """Cutting the modes at the cells instead of folding them is another field."""
    field, xi = kind(1, 16, 1.0, 1.3), normal(1, 16)
    cut = replace(field, modes=8).on_grid(xi[:, :8], (8,))
    assert (field.on_grid(xi, (8,)) - cut).abs().max() > 1e-2


@pytest.mark.parametrize("waves", [COSINES, SINES, FOURIER])
def test_as_many_modes_as_cells_fill_the_grid(waves):
    for n in (1, 2, 5, 6):
        index, weight = waves.fold(n, n)
        assert sorted(index.tolist()) == list(range(n)) and bool((weight > 0).all())


@each_kind
def test_a_key_is_one_function_on_all_grids_and_points(kind):
    """Grids of 32, 64 and 128 cells, scattered points: exactly the values of one function."""
    field, key = kind(2, 40, 2.0, 3.0), Key(5, Rows.grid(1, 3))
    scattered = uniform(50, 2)

    def on(shape):
        return fokker.OnGrid(field, shape).sample(torch.empty(3, *shape, dtype=F64), key)

    xi = key.normal((field.size,))
    for n in (32, 64, 128):
        at = fokker.Correlated(field, Grid((n, n)).points[::97])
        close(on((n, n)).flatten(1)[:, ::97], at.sample(torch.empty(3, len(at.points), dtype=F64), key))
    close(field.at(xi, scattered), fokker.Correlated(field, scattered).sample(torch.empty(3, 50, dtype=F64), key))
    norms = [float(on((n, n)).square().mean()) for n in (64, 128)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-9)  # the midpoint rule is exact from 40 cells on
    white = [fokker.White().sample(torch.empty(3, n, n), key) for n in (32, 64)]
    assert (white[0] - white[1].unflatten(2, (32, 2)).unflatten(1, (32, 2)).mean((2, 4))).abs().max() > 1


def test_channels_on_grids_are_those_on_points():
    field, key = fokker.CosineField(2, 6, 2.0), Key(2, Rows.grid(1, 4))
    on_grid = fokker.OnGrid(field, (5, 4)).sample(torch.empty(4, 3, 5, 4, dtype=F64), key)
    on_points = fokker.Correlated(field, Grid((5, 4)).points).sample(torch.empty(4, 20, 3, dtype=F64), key)
    close(on_grid.flatten(2), on_points.mT)


def test_equal_noises_on_grids_are_one_law():
    """A denoiser may change to a process whose noise is equal, not merely the same object."""
    noise = fokker.OnGrid(fokker.CosineField(modes=8), (2,))
    process = fokker.VariancePreserving(noise=noise)
    model = fokker.GaussianScore(process, torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    again = fokker.OnGrid(fokker.CosineField(modes=8), [2])
    assert again == noise and hash(again) == hash(noise)
    assert fokker.score.Denoiser.on(model, replace(process, noise=again)).process.noise is again
    with pytest.raises(InputError, match="another law"):
        fokker.score.Denoiser.on(model, replace(process, noise=fokker.OnGrid(fokker.CosineField(modes=9), (2,))))
    a, b, c = (fokker.CosineSpectrum(torch.tensor(v, dtype=F64)) for v in ([1.0, 2.0], [1.0, 2.0], [2.0, 1.0]))
    assert a == b and hash(a) == hash(b) and a != c and a != noise


def test_exact_models_take_noise_on_a_grid():
    """The same samples as with the same law on points."""
    field = fokker.CosineField(modes=8, alpha=1.0, tau=2.0, amplitude=3.0)
    found = []
    for noise in (fokker.OnGrid(field, (3,)), fokker.Correlated(field, Grid((3,)).points)):
        process = fokker.VariancePreserving(noise=noise)
        model = fokker.GaussianScore(process, torch.ones(3, dtype=F64), torch.eye(3, dtype=F64) + 0.5)
        found.append(fokker.sample(model, (5, 3), sampler=fokker.Transition(alpha=1.0), steps=6).samples)
    close(found[0], found[1], 1e-9)


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        (fokker.CosineField(2, 7), (8, 7)),
        (fokker.CosineField(1, 8, constant=False), (8,)),
        (fokker.SineField(1, 64, alpha=9.0), (64,)),
    ],
)
def test_singular_noise_on_a_grid_is_refused(field, shape):
    noise, x = fokker.OnGrid(field, shape), torch.zeros(2, *shape)
    assert noise.sample(x, Key(0, Rows.grid(1, 2))).shape == x.shape
    for what in (noise.solve, noise.log_det):
        with pytest.raises(InputError, match="singular"):
            what(x)


@pytest.mark.parametrize("shape", [(8,), (2, 7, 8), (2, 8, 7), (2, 1, 1, 8, 8), (2, 8, 8, 3)])
def test_states_of_another_grid_are_refused(shape):
    noise = fokker.OnGrid(fokker.CosineField(2, 8), (8, 8))
    with pytest.raises(InputError, match="state: got shape"):
        noise.apply(torch.zeros(shape))
    with pytest.raises(InputError, match="state: got shape"):
        noise.sample(torch.zeros(shape), Key(0, Rows.grid(1, shape[0])))


@pytest.mark.parametrize("shape", [(), (0,), (3, -1), (2.0,), 4, "ab", None])
def test_bad_grids_are_refused(shape):
    with pytest.raises(InputError, match="shape"):
        fokker.Grid(shape)
    with pytest.raises(InputError, match="shape"):
        fokker.OnGrid(fokker.CosineField(), shape)


def test_grids_of_another_dimension_are_refused():
    with pytest.raises(InputError, match="dimension 1 takes 1 axes"):
        fokker.OnGrid(fokker.CosineField(), (4, 4))
    with pytest.raises(InputError, match="dimension 2"):
        fokker.CosineField(2, 4).on_grid(torch.zeros(16), (4,))


# --- Points


FIELDS = [
    fokker.CosineField(1, 6),
    fokker.SineField(2, 6),
    fokker.PeriodicField(3, 3),
    fokker.CosineSpectrum(uniform(3, 5)),
    fokker.CosineSpectrum(uniform(4, 5), torch.eye(4).reshape(2, 2, 2, 2) + 0.5),
    fokker.KernelField(2, features=7),
]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("channels", [(), (1,), (3,), (2, 2)])
def test_at_is_the_basis_times_the_coefficients(monkeypatch, field, channels):
    """Points shared by all rows and points of each row, some of them at a time."""
    xi = normal(3, field.size, *channels)
    for points in (uniform(9, field.dimension), uniform(3, 9, field.dimension)):
        exact = torch.einsum("bpk,bk...->bp...", field.basis(points).expand(3, -1, -1), xi)
        close(field.at(xi, points), exact, 1e-12)
        with monkeypatch.context() as patch:
            patch.setattr("fokker.random_fields._ENTRIES", 100)
            close(field.at(xi, points), exact, 1e-12)


@pytest.mark.parametrize("field", FIELDS)
def test_the_variance_is_that_of_the_basis_a_part_of_the_points_at_a_time(monkeypatch, field):
    monkeypatch.setattr("fokker.random_fields._ENTRIES", 3 * field.size)
    for points in (uniform(8, field.dimension), uniform(2, 8, field.dimension), uniform(0, field.dimension)):
        found = field.variance(points)
        assert found.shape == points.shape[:-1]
        close(found, field.basis(points).square().sum(-1), 1e-14)


@pytest.mark.parametrize("count", [1, 5])
def test_another_number_of_coefficients_is_refused(count):
    field = fokker.CosineField(2, 4)
    with pytest.raises(InputError, match=r"coefficients: got shape .*, \(B, 16, \*channels\) is accepted"):
        field.at(torch.zeros(3, count), uniform(4, 2))
    with pytest.raises(InputError, match=r"coefficients: got shape .*, \(\.\.\., 16\) is accepted"):
        field.on_grid(torch.zeros(3, count), (4, 4))


@pytest.mark.parametrize("kind", [fokker.CosineField, fokker.SineField])
def test_points_outside_the_cube_are_refused_by_name(kind):
    field, x = kind(2, 4, 2.0), uniform(5, 2)
    x[3] = torch.tensor([0.5, 1.01])
    x[4] = torch.tensor([-2.0, 0.5])
    with pytest.raises(InputError, match=r"points: got \(0.5, 1.01\) as point 3, points within \[0, 1\]"):
        field.basis(x)
    with pytest.raises(InputError, match=r"as point \(1, 0\)"):
        field.basis(torch.stack([x[:2], x[3:]]))
    with pytest.raises(InputError, match="as point 3"):
        field.at(normal(2, 16), x)
    edge = torch.tensor([[-5e-10, 1 + 5e-10]], dtype=F64)
    close(field.basis(edge), field.basis(edge.round()), 1e-7)
    with pytest.raises(InputError, match="nan"):
        field.basis(torch.full((1, 2), math.nan))


def test_periodic_fields_are_defined_everywhere():
    field, x = fokker.PeriodicField(2, 5), uniform(5, 2)
    close(field.basis(x + torch.tensor([1.0, -3.0])), field.basis(x), 1e-12)
    with pytest.raises(InputError, match="finite"):
        field.basis(torch.full((1, 2), math.inf))


@pytest.mark.parametrize("field", [fokker.SineField(2, 4), fokker.KernelField(2), fokker.PeriodicField(2, 4)])
@pytest.mark.parametrize("shape", [(3, 1), (3, 3), (2,)])
def test_points_of_another_dimension_are_refused(field, shape):
    with pytest.raises(InputError, match="points: got"):
        field.basis(torch.zeros(shape))


def test_periodic_fields_with_odd_modes_are_stationary():
    x = uniform(30, 2)
    assert float(fokker.PeriodicField(2, 7, 2.0).variance(x).std()) < 1e-12
    assert float(fokker.PeriodicField(2, 6, 2.0).variance(x).std()) > 1e-5


@pytest.mark.parametrize(("kind", "fine"), [("cosine", False), ("periodic", False), ("sine", True)])
def test_tau_may_be_zero_only_without_a_constant(kind, fine):
    if not fine:
        assert KINDS[kind](tau=0.0, constant=False).mean_variance < 1
        with pytest.raises(InputError, match="tau > 0"):
            KINDS[kind](tau=0.0)
    with pytest.raises(InputError, match="tau >= 0"):
        KINDS[kind](tau=-1.0, **({} if fine else {"constant": False}))


@pytest.mark.parametrize("wrong", [{"length": 0.0}, {"nu": -1.0}, {"nu": math.inf}, {"std": 0.0}, {"std": math.nan}])
def test_bad_matern_fields_are_refused(wrong):
    with pytest.raises(InputError, match="length, nu and std"):
        fokker.CosineField.matern(**wrong)


# --- Spectra from fields


def test_estimated_spectra_are_the_sample_variances_of_cosine_coefficients():
    values = normal(30, 6, 4) * torch.arange(1, 5) + 3
    field = fokker.CosineSpectrum.estimate(values)
    coefficients = dctn(values.numpy(), 2, axes=(1, 2), norm="ortho")
    exact = torch.from_numpy(coefficients.var(0, ddof=1))
    close(field.grid_eigenvalues((6, 4)), exact)
    close(fokker.CosineSpectrum.estimate(values.numpy().astype(np.float32)).spectrum, field.spectrum, 1e-6)
    assert field.mean_variance == pytest.approx(float(values.var(0).mean()), rel=1e-12)
    assert field.size == 24 and field.mode_shape == (6, 4) and field.dimension == 2


def test_estimated_spectra_find_the_field():
    """(N - 1) estimate / lambda is chi-square with N - 1 degrees of freedom; 5000 make it normal enough."""
    field, count = fokker.CosineField(2, 5, 2.0, 2.0), 5001
    draws = field.on_grid(normal(count, field.size), (5, 5))
    z = (fokker.CosineSpectrum.estimate(draws).eigenvalues / field.eigenvalues - 1) * math.sqrt((count - 1) / 2)
    assert z.abs().max() < limit(25)
    wrong = fokker.CosineField(2, 5, 2.0, 2.2)
    other = (fokker.CosineSpectrum.estimate(draws).eigenvalues / wrong.eigenvalues - 1) * math.sqrt((count - 1) / 2)
    assert other.abs().max() > limit(25)


def test_smoothed_spectra_of_few_fields_are_unbiased_where_the_spectrum_is_flat():
    """Four fields each time: the mean of 2000 estimates; without the correction it would be far off."""
    repeats = 2000
    white = normal(repeats, 4, 4, 6)
    found = torch.stack([fokker.CosineSpectrum.estimate(w, 0.5).spectrum for w in white]) * 24
    z = (found.mean(0) - 1) / found.std(0) * math.sqrt(repeats)
    assert z.abs().max() < limit(24)
    raw = torch.stack([fokker.CosineSpectrum.estimate(w).spectrum for w in white]) * 24
    assert (raw[:, 0, 0] == found[:, 0, 0]).all()  # no window at the constant
    assert found[:, :, 2].std() < 0.75 * raw[:, :, 2].std()
    uncorrected = raw[:, 0, 1:4].log().mean(1).exp()
    assert abs(uncorrected.mean() - 1) / uncorrected.std() * math.sqrt(repeats) > limit(24)


def test_smoothing_keeps_steep_spectra_and_zeros():
    """A power law with few percent of bias, an anisotropic one not blurred, modes that never vary kept out."""
    exact = fokker.CosineField(2, 24, 2.0, 2.0).eigenvalues.reshape(24, 24) * torch.linspace(1, 3, 24)[:, None]
    exact[0, 0] = 0.0
    draws = fokker.CosineSpectrum(exact).on_grid(normal(400, 24 * 24), (24, 24))
    raw, smooth = (fokker.CosineSpectrum.estimate(draws, s).spectrum / exact.clamp(min=1e-9) for s in (0.0, 0.25))
    assert smooth[0, 0] < 1e-9
    assert (smooth[8:, 8:] - 1).square().mean() < 0.1 * (raw[8:, 8:] - 1).square().mean()
    assert abs(float(smooth[8:, 8:].mean()) - 1) < 0.02


@pytest.mark.parametrize(
    ("values", "smoothing"),
    [
        (torch.zeros(5, 4), 0.0),
        (torch.ones(1, 4), 0.0),
        (torch.ones(4), 0.0),
        (torch.full((3, 4), math.nan), 0.0),
        (normal(3, 4), 1.0),
        (normal(3, 4), -0.1),
    ],
)
def test_bad_fields_for_a_spectrum_are_refused(values, smoothing):
    with pytest.raises(InputError):
        fokker.CosineSpectrum.estimate(values, smoothing)


@pytest.mark.parametrize("spectrum", [[-1.0, 1.0], [math.inf, 1.0], [0.0, 0.0], 1.0, []])
def test_bad_spectra_are_refused(spectrum):
    with pytest.raises(InputError, match="spectrum"):
        fokker.CosineSpectrum(torch.tensor(spectrum))


# --- Kernels on any points


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_matern_is_the_bessel_form(nu):
    x = np.random.default_rng(0).normal(size=(6, 3))
    found = matern(x, 0.8, nu, 2.0)
    s = math.sqrt(2 * nu) / 0.8 * np.linalg.norm(x[:, None] - x[None], axis=-1) + 2 * np.eye(6)
    exact = 2.0 * 2 ** (1 - nu) / gamma(nu) * s**nu * kv(nu, s)
    np.fill_diagonal(exact, 2.0)
    np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_matern_of_infinite_smoothness_is_squared_exponential():
    x = np.random.default_rng(0).normal(size=(6, 2))
    np.testing.assert_array_equal(matern(x, 0.8, math.inf, 2.0), squared_exponential(x, 0.8, 2.0))


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5, math.inf])
@pytest.mark.parametrize("dimension", [1, 3])
def test_features_have_the_kernel_within_their_standard_error(nu, dimension):
    """At points outside the unit cube too. The bound of the docstring, exact over seeds; another nu fails it."""
    x, count = 3 * uniform(9, dimension).numpy() - 1, 20_000
    field = fokker.KernelField(dimension, 0.8, nu, std=1.5, features=count, seed=3)
    found = covariance(field, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(np.diagonal(found), 1.5**2, rtol=1e-12)
    pairs = np.tril_indices(9, -1)

    def z(smoothness):
        r, twice = matern(x, 0.8, smoothness), matern(2 * x, 0.8, smoothness)
        error = 1.5**2 * np.sqrt((1 + twice - 2 * r**2)[pairs] / (2 * count))
        assert error.max() <= 1.5**2 / math.sqrt(2 * count) * (1 + 1e-12)
        return np.abs(found[pairs] - 1.5**2 * r[pairs]) / error

    assert z(nu).max() < limit(36)
    assert z({0.5: 2.5}.get(nu, 0.5)).max() > limit(36)


def test_draws_with_features_have_their_own_covariance():
    """What `apply` says is exact for finitely many features; the kernel itself is not it."""
    x, noise = uniform(4, 2), fokker.Correlated(fokker.KernelField(2, 0.5, 1.5, features=4))
    draws = noise.sample(torch.empty(20_000, 4, dtype=F64), Key(1, Rows.grid(1, 20_000)), x)
    exact = noise.apply(torch.eye(4, dtype=F64), x.expand(4, 4, 2))
    assert moment_z(draws, torch.zeros(4, dtype=F64), exact).abs().max() < limit(14)
    kernel = torch.from_numpy(matern(x.numpy(), 0.5, 1.5))
    assert moment_z(draws, torch.zeros(4, dtype=F64), kernel).abs().max() > limit(14)


def test_features_are_fixed_by_their_seed():
    x = uniform(3, 1)
    assert fokker.KernelField(seed=1) == fokker.KernelField(seed=1) != fokker.KernelField(seed=2)
    assert torch.equal(fokker.KernelField(seed=1).basis(x), fokker.KernelField(seed=1).basis(x))
    assert not torch.equal(fokker.KernelField(seed=1).basis(x), fokker.KernelField(seed=2).basis(x))


@pytest.mark.parametrize(
    "wrong", [{"dimension": 0}, {"length": 0.0}, {"nu": 1.0}, {"std": math.inf}, {"features": 0}, {"seed": -1}]
)
def test_bad_kernel_fields_are_refused(wrong):
    with pytest.raises(InputError):
        fokker.KernelField(**wrong)


@pytest.mark.parametrize("wrong", [{"length": 0.0}, {"nu": 2.0}, {"variance": 0.0}, {"nu": math.inf, "length": 0.0}])
def test_bad_matern_kernels_are_refused(wrong):
    with pytest.raises(InputError):
        matern(np.zeros((2, 1)), **{"length": 1.0, **wrong})


def brownian(count, cells, seed=0):
    """Brownian paths at the centres of cells: a covariance that cosines do not diagonalise."""
    steps = normal(count, cells, seed=seed) / math.sqrt(cells)
    return steps.cumsum(1) - steps / 2


def test_correlated_amplitudes_are_those_of_fields_that_change_from_place_to_place():
    """The covariance of 2,000 paths is their sample covariance, to rounding, where all modes are taken; a field
    without a preferred place keeps its independent amplitudes, and two numbers by their spectrum alone are far off."""
    paths = brownian(2000, 32)
    field, plain = fokker.CosineSpectrum.fitted(paths), fokker.CosineSpectrum.estimate(paths)
    assert field.leading is not None and field.leading.shape == (32, 32)
    basis, wrong = (f.basis(fokker.Grid((32,)).points) for f in (field, plain))
    close(basis @ basis.T, paths.T.cov(), 1e-10)
    assert float((wrong @ wrong.T - paths.T.cov()).abs().max()) > 0.2  # control
    even = fokker.CosineField(1, 32, 1.5, 5.0).on_grid(normal(2000, 32), (32,))
    assert fokker.CosineSpectrum.fitted(even).leading is None


@pytest.mark.parametrize("kind", ["lines", "one shape", "fixed edges", "nothing on one half"])
def test_correlated_amplitudes_that_depend_on_each_other_exactly(kind):
    """Fields of fewer dimensions than modes: their variance is found at every cell."""
    x, xi = fokker.Grid((32,)).points[:, 0], normal(400, 2)
    paths = brownian(400, 32)
    fields = {
        "lines": xi[:, :1] + xi[:, 1:] * x,
        "one shape": xi[:, :1] * torch.sin(3 * x),
        "fixed edges": paths * (x > 1 / 32) * (x < 31 / 32),
        "nothing on one half": paths * (x < 0.5),
    }[kind]
    field = fokker.CosineSpectrum.fitted(fields)
    close(field.variance(fokker.Grid((32,)).points), fields.var(0), 1e-9)


def test_correlated_amplitudes_of_few_modes_of_images():
    """6 x 6 of 12 x 12 modes from 120 fields: the variance differs from place to place, and most of that is found."""
    image = brownian(120 * 12, 12).reshape(120, 12, 12).cumsum(1)  # Brownian sheets
    field, plain = fokker.CosineSpectrum.fitted(image), fokker.CosineSpectrum.estimate(image)
    assert field.leading is not None and field.leading.shape == (6, 6, 6, 6)
    want = image.var(0).flatten()
    off, wrong = (float((f.variance(fokker.Grid((12, 12)).points) - want).square().mean()) for f in (field, plain))
    assert off < 0.05 * wrong
    same = fokker.CosineSpectrum(field.spectrum, field.leading)
    assert same == field and same != fokker.CosineSpectrum(field.spectrum)


@pytest.mark.parametrize(
    ("leading", "reason"),
    [
        (torch.eye(3), "the shape of the lowest modes twice"),
        (torch.eye(4).reshape(2, 2, 2, 2)[..., :1], "the shape of the lowest modes twice"),
        (torch.eye(12).reshape(3, 4, 3, 4), "the shape of the lowest modes twice"),
        (torch.eye(4).reshape(2, 2, 2, 2) * math.nan, "not finite or not symmetric"),
        (torch.arange(16.0).reshape(2, 2, 2, 2), "not finite or not symmetric"),
        (-torch.eye(4).reshape(2, 2, 2, 2), "eigenvalue|symmetric"),
    ],
)
def test_what_is_no_covariance_of_modes_is_refused(leading, reason):
    with pytest.raises(InputError, match=reason):
        fokker.CosineSpectrum(torch.ones(3, 3), leading)
