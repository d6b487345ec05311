"""Laws of noise and Gaussian random fields.

Statistical limits: all z of one test together raise a false alarm with a probability of 1e-4 (`exact.limit`).
"""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import interpn
from skfem import MeshTri

import fokker
from exact import Fixed, limit, moment_z
from fokker.errors import InputError
from fokker.random_fields import squared_exponential
from fokker.rng import Key, Rows

LINE = fokker.CosineField(dimension=1, modes=24, alpha=1.5, tau=2.0, amplitude=1.5)
PLANE = fokker.CosineField(dimension=2, modes=6, alpha=1.5, tau=1.0)


def points(count, dimension=1, seed=0):
    return torch.rand(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coupled():
    """A spectrum whose lowest 3 x 2 modes are correlated."""
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leading = (root @ root.T / 6 + 0.1 * torch.eye(6, dtype=torch.float64)).reshape(3, 2, 3, 2)
    return fokker.CosineSpectrum(1 / (1 + points(6, 5)), leading)


COUPLED = coupled()


NOISES = {  # name: (noise, shape of the state)
    "white": (fokker.White(), (3,)),
    "white_image": (fokker.White(), (2, 3)),
    "line": (fokker.Correlated(LINE, points(5)), (5,)),
    "line_channels": (fokker.Correlated(LINE, points(4)), (4, 2)),
    "plane": (fokker.Correlated(PLANE, points(5, 2)), (5,)),
    "matrix": (Fixed(), (2,)),
    "features": (fokker.Correlated(fokker.KernelField(dimension=2, features=6), points(5, 2)), (5,)),
    "interpolated": (fokker.Correlated(fokker.InterpolatedField((12,)), points(5)), (5,)),
    "interpolated_channels": (fokker.Correlated(fokker.InterpolatedField((3, 4)), points(4, 2)), (4, 2)),
    "interpolated_box": (fokker.Correlated(fokker.InterpolatedField((2, 4, 3)), points(6, 3)), (6,)),
    "grid_cosine": (fokker.OnGrid(PLANE, (3, 4)), (3, 4)),
    "grid_cosine_channels": (fokker.OnGrid(LINE, (4,)), (2, 4)),
    "grid_sine": (fokker.OnGrid(fokker.SineField(2, 5, 1.5, 2.0), (3, 2)), (3, 2)),
    "grid_periodic": (fokker.OnGrid(fokker.PeriodicField(1, 9, 1.5, 4.0), (6,)), (6,)),
    "grid_spectrum": (fokker.OnGrid(fokker.CosineSpectrum(1 / (1 + points(3, 4))), (2, 3)), (2, 3)),
    "grid_coupled": (fokker.OnGrid(COUPLED, (5, 4)), (5, 4)),
    "grid_coupled_coarse": (fokker.OnGrid(COUPLED, (2, 2)), (2, 2)),
    "points_coupled": (fokker.Correlated(COUPLED, points(5, 2)), (5,)),
    "mesh": (fokker.Correlated(fokker.MeshField(MeshTri().refined(2), 20), points(5, 2)), (5,)),
    "mesh_even": (fokker.Correlated(fokker.SparseMeshField(MeshTri().refined(2), 2), points(5, 2)), (5,)),
    "mesh_odd": (fokker.Correlated(fokker.SparseMeshField(MeshTri().refined(2), 3), points(5, 2)), (5,)),
}


def covariance(noise, shape):
    """C as a matrix over flattened states, column by column from `apply`."""
    size = math.prod(shape)
    return noise.apply(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, size)


@pytest.mark.parametrize("name", NOISES)
def test_samples_have_the_covariance_that_apply_claims(name):
    noise, shape = NOISES[name]
    count = 20_000
    like = torch.empty(count, *shape, dtype=torch.float64)
    drawn = noise.sample(like, Key(1, Rows.grid(1, count))).flatten(1)
    c = covariance(noise, shape)
    z = moment_z(drawn, torch.zeros(len(c), dtype=torch.float64), c)
    assert z.abs().max() < limit(len(z))
    assert moment_z(1.1 * drawn, torch.zeros(len(c), dtype=torch.float64), c).abs().max() > limit(len(z))


@pytest.mark.parametrize("name", NOISES)
def test_apply_solve_and_log_det_belong_together(name):
    noise, shape = NOISES[name]
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c = covariance(noise, shape)
    torch.testing.assert_close(noise.solve(noise.apply(x)), x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(noise.apply(noise.solve(x)), x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(noise.apply(x).flatten(1), x.flatten(1) @ c)
    assert float(noise.log_det(x)) == pytest.approx(float(torch.linalg.slogdet(c)[1]), abs=1e-6)
    assert noise.white == bool((c == torch.eye(len(c))).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NOISES)
def test_dtype_and_shape_are_those_of_the_state(name, dtype):
    noise, shape = NOISES[name]
    like = torch.ones(4, *shape, dtype=dtype)
    for out in (noise.sample(like, Key(0, Rows.grid(1, 4))), noise.apply(like), noise.solve(like)):
        assert out.shape == like.shape and out.dtype == dtype


@pytest.mark.parametrize(("field", "dimension"), [(LINE, 1), (PLANE, 2), (fokker.InterpolatedField((5, 3, 4)), 3)])
def test_a_key_fixes_the_function_at_any_points(field, dimension):
    noise, key = fokker.Correlated(field), Key(3, Rows.grid(1, 6))
    coarse, fine = points(8, dimension), torch.cat([points(20, dimension, seed=1), points(8, dimension)])

    def at(where):
        return noise.sample(torch.empty(6, len(where), dtype=torch.float64), key, where)

    torch.testing.assert_close(at(fine)[:, 20:], at(coarse), rtol=0, atol=1e-12)
    per_row = torch.stack([fine, fine.flip(0), fine, fine, fine, fine])
    drawn = noise.sample(torch.empty(6, 28, dtype=torch.float64), key, per_row)
    torch.testing.assert_close(drawn[1], at(fine.flip(0))[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [(), (2,)])
def test_points_of_each_row(channels):
    noise = fokker.Correlated(LINE)
    where = torch.stack([points(5, seed=s) for s in range(3)])
    x = torch.randn(3, 5, *channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row in range(3):
        single = noise.apply(x[row : row + 1], where[row])
        torch.testing.assert_close(noise.apply(x, where)[row : row + 1], single, rtol=0, atol=1e-12)
        alone = noise.log_det(x[row : row + 1], where[row])
        assert float(noise.log_det(x, where)[row]) == pytest.approx(float(alone), abs=1e-9)
    torch.testing.assert_close(noise.solve(noise.apply(x, where), where), x, rtol=1e-5, atol=1e-5)


def test_missing_or_wrong_points_are_refused():
    noise, x = fokker.Correlated(LINE), torch.zeros(2, 5)
    with pytest.raises(InputError, match="points"):
        noise.apply(x)
    with pytest.raises(InputError, match="points"):
        noise.apply(x, points(4))
    with pytest.raises(InputError, match="points"):
        noise.apply(x, points(5, 2))


def test_a_singular_covariance_is_refused():
    few = fokker.Correlated(fokker.CosineField(modes=3), points(5))
    with pytest.raises(InputError, match="singular"):
        few.solve(torch.zeros(1, 5))
    twice = fokker.Correlated(LINE, points(3)[[0, 1, 1]])
    with pytest.raises(InputError, match="singular"):
        twice.log_det(torch.zeros(1, 3))


# --- White noise on a grid, interpolated


@pytest.mark.parametrize("nodes", [(9,), (3, 5), (3, 2, 4)])
def test_interpolated_noise_has_the_covariance_of_its_weights(nodes):
    """W by SciPy, one node after the other. False-alarm rate 1e-4; white noise at the points is the control."""
    field, where = fokker.InterpolatedField(nodes), points(4, len(nodes), seed=3)
    axes, unit = [np.linspace(0, 1, n) for n in nodes], np.eye(field.size).reshape(-1, *nodes)
    w = torch.from_numpy(np.stack([interpn(axes, one, where.numpy()) for one in unit], 1))
    torch.testing.assert_close(field.basis(where), w, rtol=0, atol=1e-12)
    torch.testing.assert_close(field.variance(where), w.square().sum(1), rtol=0, atol=1e-12)
    like = torch.empty(20_000, 4, dtype=torch.float64)
    drawn = fokker.Correlated(field, where).sample(like, Key(2, Rows.grid(1, len(like))))
    assert moment_z(drawn, torch.zeros(4), w @ w.T).abs().max() < limit(14)
    assert moment_z(drawn, torch.zeros(4), torch.eye(4, dtype=torch.float64)).abs().max() > limit(14)


def test_variance_of_interpolated_noise_is_one_at_nodes_and_least_between_them():
    field = fokker.InterpolatedField((5, 3))
    nodes = torch.cartesian_prod(torch.linspace(0, 1, 5), torch.linspace(0, 1, 3)).double()
    torch.testing.assert_close(field.basis(nodes), torch.eye(15, dtype=torch.float64), rtol=0, atol=1e-12)
    middle, fine = torch.tensor([[0.375, 0.75]]), fokker.Grid((400, 400)).points
    assert float(field.variance(middle)) == pytest.approx(0.25)
    assert float(field.variance(fine).mean()) == pytest.approx(4 / 9, rel=1e-4)  # (2/3)^d


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: fokker.InterpolatedField((5, 1)), "nodes: got"),
        (lambda: fokker.InterpolatedField((2, 2, 2, 2)), "nodes: got"),
        (lambda: fokker.InterpolatedField((4, 4)).basis(torch.tensor([[0.5, 0.5], [0.5, 1.2]])), r"\(0.5, 1.2\)"),
        (lambda: fokker.InterpolatedField((4, 4)).basis(torch.tensor([[0.5]])), "dimension 2"),
    ],
)
def test_bad_grids_and_points_outside_are_told_in_a_line(wrong, told):
    with pytest.raises(InputError, match=told) as raised:
        wrong()
    assert "\n" not in str(raised.value)


# --- Fields


@pytest.mark.parametrize("field", [LINE, PLANE])
def test_basis_is_orthogonal_with_the_eigenvalues_of_the_laplacian(field):
    """On a midpoint grid cosines are orthogonal in the discrete inner product, exactly."""
    axis = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    grid = torch.cartesian_prod(*[axis] * field.dimension).reshape(-1, field.dimension)
    gram = field.basis(grid).T @ field.basis(grid) / len(grid)
    k = torch.cartesian_prod(*[torch.arange(field.modes).double()] * field.dimension).reshape(-1, field.dimension)
    values = field.amplitude**2 * (math.pi**2 * (k**2).sum(1) + field.tau**2) ** -field.alpha
    torch.testing.assert_close(gram, torch.diag(values), rtol=0, atol=1e-12)
    assert field.size == len(k)


def test_trace_class_noise_converges_as_the_grid_refines():
    """The norm of one draw settles at 32, 64 and 128 points; that of white noise is another function each time."""
    noise, key = fokker.Correlated(LINE), Key(0, Rows.grid(1, 1))
    value = []
    for count in (32, 64, 128):
        at = (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) / count
        value.append(float(noise.sample(torch.empty(1, count, dtype=torch.float64), key, at).square().mean()))
    assert value == pytest.approx([value[0]] * 3, rel=1e-9)  # 24 modes: the midpoint rule is exact


def test_squared_exponential():
    x = np.array([[0.0], [1.0], [3.0]])
    c = squared_exponential(x, length=2.0, variance=3.0)
    assert c[0, 2] == pytest.approx(3 * math.exp(-9 / 8)) and c[1, 1] == 3.0
    np.testing.assert_array_equal(c, c.T)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dimension": 0},
        {"modes": 0},
        {"alpha": 0.5},
        {"alpha": math.nan},
        {"tau": 0.0},
        {"amplitude": -1.0},
        {"dimension": 2, "alpha": 1.0},
    ],
)
def test_bad_fields_are_refused(wrong):
    with pytest.raises(InputError):
        fokker.CosineField(**wrong)


@pytest.mark.parametrize(("length", "variance"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0)])
def test_bad_kernels_are_refused(length, variance):
    with pytest.raises(InputError):
        squared_exponential(np.zeros((2, 1)), length, variance)
