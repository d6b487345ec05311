"""The channel: loads, exact solutions, balance of mass, orders of convergence, sensor matrix, refusals."""

from functools import cache

import numpy as np
import pytest
from skfem import LinearForm

from fokker.errors import InputError
from fokker.pde.advection_diffusion import AdvectionDiffusion, Channel, channel_basis, wall_loads

# Segments of length 1: their edges and the sensors are nodes of every mesh of 17 * 2^k by 4 * 2^k rectangles.
ALIGNED = Channel(segments=7)
MESHES = ((17, 4), (34, 8), (68, 16))


@pytest.fixture(scope="module")
def model() -> AdvectionDiffusion:
    return AdvectionDiffusion(Channel())


@pytest.fixture(scope="module")
def coarse() -> AdvectionDiffusion:
    return AdvectionDiffusion(Channel(), 40, 10)


@pytest.fixture(scope="module")
def matrix(model: AdvectionDiffusion) -> np.ndarray:
    return model.sensor_matrix(model.channel.sensors)


def _fluxes(*shape: int) -> np.ndarray:
    return np.maximum(0.0, 2 + np.random.default_rng(0).normal(size=(*shape, 30)))


def _gauss(height: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights on [0, height] exact to degree 9 on each of n equal intervals."""
    node, weight = np.polynomial.legendre.leggauss(5)
    points = (np.arange(n)[:, None] + (node + 1) / 2) * height / n
    return points.ravel(), np.tile(weight, n) * height / (2 * n)


@cache
def _sensor_matrix(channel: Channel, nx: int, ny: int, order: int) -> np.ndarray:
    return AdvectionDiffusion(channel, nx, ny, order).sensor_matrix(channel.sensors)


def _order(errors: list[float]) -> float:
    """Fitted slope of log error against log mesh width, for a width halved from mesh to mesh."""
    return -float(np.polyfit(np.arange(len(errors)), np.log2(errors), 1)[0])


def test_default_sensors_stand_at_the_segment_midpoints() -> None:
    channel = Channel()
    x = (np.arange(15) + 0.5) * 7 / 15
    assert channel.n_fluxes == 30
    np.testing.assert_allclose(channel.sensors[:15], np.stack([x, np.full(15, 0.5)], axis=1))
    np.testing.assert_allclose(channel.sensors[15:], np.stack([x, np.full(15, 1.5)], axis=1))


@pytest.mark.parametrize("grading", [0.0, 4.0])
@pytest.mark.parametrize("order", [1, 2])
def test_loads_integrate_polynomials_exactly_over_each_segment(order: int, grading: float) -> None:
    """On a mesh whose nodes miss the segment edges, for x^p y with p up to the degree of the element."""
    channel = Channel()
    basis = channel_basis(channel, 17, 6, order, grading)
    loads = wall_loads(basis, channel)
    edges = channel.segment_edges
    x, y = basis.doflocs
    for p in range(order + 1):
        integral = np.diff(edges ** (p + 1)) / (p + 1)
        np.testing.assert_allclose(x**p @ loads, np.tile(integral, 2), rtol=1e-12)
        top = np.where(y == channel.height, x**p, 0.0)
        np.testing.assert_allclose(top @ loads, np.concatenate([np.zeros(15), integral]), rtol=1e-12)


def test_grading_stretches_the_cells_along_the_channel() -> None:
    x, y = (np.unique(values) for values in channel_basis(Channel(), 40, 6, 1, grading=3.0).mesh.p)
    widths = np.diff(x)
    assert (x[0], x[-1]) == (0.0, 8.5) and (np.diff(widths) > 0).all()
    assert widths[-1] / widths[0] == pytest.approx(7.0, rel=0.1)
    np.testing.assert_allclose(np.diff(y), 1 / 3, rtol=1e-12)


def test_evaluation_agrees_with_the_general_search_and_reaches_the_boundary() -> None:
    model = AdvectionDiffusion(Channel(), 9, 5)
    rng = np.random.default_rng(0)
    c, points = rng.normal(size=(3, model.n_nodes)), rng.uniform(size=(50, 2)) * [8.5, 2.0]
    np.testing.assert_allclose(model.evaluate(c, points), (model.basis.probes(points.T) @ c.T).T, atol=1e-12)
    np.testing.assert_allclose(model.evaluate(c, model.basis.doflocs.T), c, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("bottom", "top"), [(2.0, 2.0), (3.0, 1.0)])
def test_fully_developed_flow_with_constant_fluxes(order: int, bottom: float, top: float) -> None:
    """Far from inlet and outlet c = alpha x + f(s) + const, s = y - 1, with the closed form

    alpha = 3 (q_b + q_t) / (4 v),  f = (alpha v / kappa) (s^2/2 - s^4/12) - (q_b - q_t) s / (2 kappa).
    """
    channel = Channel(length=34.0, wall_length=34.0, segments=1)
    model = AdvectionDiffusion(channel, 128, 40, order)
    s = np.linspace(-1, 1, 9)
    middle = np.stack([np.full(9, 24.0), 1 + s], axis=1)
    c = model.evaluate(model.solve([bottom, top]), np.concatenate([middle, middle + np.array([1.0, 0.0])]))
    alpha = 3 * (bottom + top) / (4 * channel.velocity)
    f = alpha * channel.velocity / channel.diffusivity * (s**2 / 2 - s**4 / 12)
    f -= (bottom - top) * s / (2 * channel.diffusivity)
    # The transients have decayed below 1e-8 here; what is left is the error of the mesh, O(h^(order + 1)).
    tolerance = 1e-3 if order == 1 else 1e-5
    np.testing.assert_allclose((c[9:] - c[:9]) / alpha, 1.0, atol=tolerance)
    np.testing.assert_allclose(c[:9] - c[4], f - f[4], atol=tolerance * np.abs(f).max())


def test_balance_of_mass() -> None:
    """Inflow through the walls = outflow by advection at the outlet + diffusion out through the inlet.

    Advection is integrated here from point values. Diffusion through the inlet is the force that holds c = 0
    there, which balances to rounding, or the slope of c, whose logarithm at the corners leaves order 1.
    """
    q, channel = _fluxes(), Channel()
    inflow = 7 / 15 * q.sum()
    defects = []
    for nx, ny in MESHES:
        model = AdvectionDiffusion(channel, nx, ny)
        y, weight = _gauss(channel.height, ny)
        c = model.solve(q)
        advected = weight @ (channel.speed(y) * model.evaluate(c, np.stack([0 * y + channel.length, y], axis=1)))
        force = (model.loads @ q - model.matrix @ c)[model.basis.doflocs[0] == 0].sum()
        assert advected + force == pytest.approx(inflow, rel=1e-10)
        slope = model.evaluate(c, np.stack([0 * y + 1e-6, y], axis=1)) / 1e-6
        defects.append(abs(advected + channel.diffusivity * weight @ slope - inflow) / inflow)
    assert defects[-1] < 2e-3
    assert _order(defects) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("order", [1, 2])
def test_advection_does_no_work_inside(order: int) -> None:
    """int (a . grad c) c = 1/2 int_outlet a c^2 for every nodal c that vanishes at the inlet, to rounding;
    the advective part is what the matrix extrapolates to at diffusivity 0."""
    models = [AdvectionDiffusion(Channel(diffusivity=kappa), 12, 5, order) for kappa in (0.1, 0.2)]
    model = models[0]
    advection = 2 * models[0].matrix - models[1].matrix
    c = np.zeros(model.n_nodes)
    c[model.free] = np.random.default_rng(0).normal(size=model.free.size)
    y, weight = _gauss(model.channel.height, 5)
    outlet = model.evaluate(c, np.stack([0 * y + model.channel.length, y], axis=1))
    expected = weight @ (model.channel.speed(y) * outlet**2) / 2
    assert c @ (advection @ c) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("order", "expected"), [(1, 2.0), (2, 3.0)])
def test_order_of_convergence_for_a_smooth_solution(order: int, expected: float) -> None:
    """c = sin(pi x / 2L) (2 + cos(pi y / H)) meets every boundary condition with zero wall flux; its source
    is assembled here. Norm L2, order degree + 1."""
    channel = Channel()
    k, m = np.pi / (2 * channel.length), np.pi / channel.height
    errors = []
    for nx, ny in MESHES:
        model = AdvectionDiffusion(channel, nx, ny, order)

        @LinearForm
        def source(v, w):  # type: ignore[no-untyped-def]
            x, y = w.x
            advection = channel.speed(y) * k * np.cos(k * x) * (2 + np.cos(m * y))
            laplacian = -np.sin(k * x) * (2 * k**2 + (k**2 + m**2) * np.cos(m * y))
            return (advection - channel.diffusivity * laplacian) * v

        c = model.solve_load(source.assemble(model.basis)[None])[0]
        x, y = np.asarray(model.basis.global_coordinates())
        exact = np.sin(k * x) * (2 + np.cos(m * y))
        difference = np.asarray(model.basis.interpolate(c)) - exact
        errors.append(float(np.sqrt((difference**2 * model.basis.dx).sum())))
    assert _order(errors) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize(
    ("channel", "order", "low", "high"),
    [
        # Segment edges and sensors on nodes. Where the flux jumps and at the inlet's corners c behaves like
        # r log r, but the adjoint solution of a sensor is smooth there, so away from them nodal values keep
        # the order 2 * degree of smooth solutions on a regular mesh.
        (ALIGNED, 1, 1.9, 2.1),
        (ALIGNED, 2, 3.8, 4.2),
        # Edges and sensors anywhere in a cell: only the order of interpolation, degree + 1, can be promised.
        (Channel(), 1, 1.8, 2.2),
        (Channel(), 2, 3.0, 4.2),
    ],
)
def test_order_of_convergence_at_the_sensors(channel: Channel, order: int, low: float, high: float) -> None:
    reference = _sensor_matrix(channel, 204, 48, 2)
    errors = [float(np.linalg.norm(_sensor_matrix(channel, *mesh, order) - reference)) for mesh in MESHES]
    assert low <= _order(errors) <= high


def test_default_mesh_error_and_level_of_the_sensors(matrix: np.ndarray) -> None:
    """2e-5 is the documented error; the level at flux 2 (mean 104, from 6 to 191) fixes the units."""
    fine = _sensor_matrix(Channel(), 204, 48, 2)
    q = _fluxes(200)
    assert np.abs(q @ matrix.T / (q @ fine.T) - 1).max() < 3e-5
    values = matrix @ np.full(30, 2.0)
    assert values.mean() == pytest.approx(104, abs=1)
    assert values[[0, 15]] == pytest.approx(6, abs=0.5)
    assert values[[14, 29]] == pytest.approx(191, abs=1)


def test_linear_and_quadratic_elements_agree(matrix: np.ndarray) -> None:
    """Within the error of the linear ones, 1.4e-3 of the largest entry for 136 x 32 rectangles."""
    linear = _sensor_matrix(Channel(), 136, 32, 1)
    assert np.abs(linear - matrix).max() < 2e-3 * np.abs(matrix).max()


def test_the_walls_are_each_others_mirror_image(matrix: np.ndarray) -> None:
    """Swapping walls and sensors leaves B unchanged, up to the mesh (its diagonals all rise)."""
    swap = np.roll(np.arange(30), 15)
    assert np.abs(matrix[swap][:, swap] - matrix).max() < 2e-4 * np.abs(matrix).max()


def test_upstream_influence_decays_as_in_one_dimension(matrix: np.ndarray) -> None:
    """Upstream of a source the section's mean is exp(a x / kappa) with the mean speed a = 2 v / 3, so each
    further segment (7/15 long) counts exp(-a / kappa 7/15) = 0.393 times as much; the profile of the speed
    changes the rate by a few percent."""
    channel = Channel()
    factor = np.exp(-2 * channel.velocity / 3 / channel.diffusivity * 7 / 15)
    for sensor in range(8):
        upstream = matrix[sensor, sensor + 3 : 13]
        np.testing.assert_allclose(upstream[1:] / upstream[:-1], factor, rtol=0.1)
    assert (matrix > 0).all()


def test_solve_is_linear_and_independent_of_the_batch(coarse: AdvectionDiffusion) -> None:
    q = _fluxes(3, 11)
    c = coarse.solve(q)
    assert c.shape == (3, 11, coarse.n_nodes)
    np.testing.assert_allclose(c[2, 7], coarse.solve(q[2, 7]), rtol=1e-11, atol=1e-9)
    combined = coarse.solve(2 * q[0] - 3 * q[1])
    np.testing.assert_allclose(combined, 2 * c[0] - 3 * c[1], rtol=1e-11, atol=1e-9)
    assert (coarse.residual(q, c) < 1e-12).all()


def test_residual_sees_what_is_not_a_solution(coarse: AdvectionDiffusion) -> None:
    q = _fluxes(2)
    c = coarse.solve(q)
    np.testing.assert_allclose(coarse.residual(q, 1.01 * c), 0.01, rtol=1e-6)
    assert coarse.residual(q[0], np.zeros(coarse.n_nodes)) == pytest.approx(1.0)
    assert coarse.residual(np.zeros(30), coarse.solve(np.zeros(30))) == 0.0


def test_sensor_matrix_by_both_routes(coarse: AdvectionDiffusion) -> None:
    """30 sensors use one solve per flux, 4 sensors use adjoint solves; both are evaluation after solving."""
    points, q = coarse.channel.sensors, _fluxes(5)
    full, few = coarse.sensor_matrix(points), coarse.sensor_matrix(points[[0, 9, 14, 20]])
    np.testing.assert_allclose(few, full[[0, 9, 14, 20]], rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(q @ full.T, coarse.evaluate(coarse.solve(q), points), rtol=1e-11)


def test_adjoint_solve(coarse: AdvectionDiffusion) -> None:
    load, weight = np.random.default_rng(1).normal(size=(2, 1, coarse.n_nodes))
    forward = (coarse.solve_load(load) * weight).sum()
    backward = (load * coarse.solve_load(weight, adjoint=True)).sum()
    assert forward == pytest.approx(backward, rel=1e-10)


def test_field_on_a_grid(coarse: AdvectionDiffusion) -> None:
    q = _fluxes(2)
    x, y, c = coarse.field(q, nx=18, ny=5)
    assert (x.shape, y.shape, c.shape) == ((18,), (5,), (2, 5, 18))
    np.testing.assert_allclose(c[..., 0], 0.0)
    one = coarse.evaluate(coarse.solve(q[1]), [[x[7], y[3]]])
    assert c[1, 3, 7] == pytest.approx(float(one[0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"diffusivity": -0.1}, "diffusivity is -0.1; it must be a positive"),
        ({"velocity": float("nan")}, "velocity is nan"),
        ({"length": float("inf")}, "length is inf"),
        ({"height": "2"}, "height is '2'"),
        ({"segments": 0}, "segments is 0"),
        ({"segments": 2.5}, "segments is 2.5"),
        ({"wall_length": 9.0}, "wall_length is 9.0; it must be at most the length 8.5"),
    ],
)
def test_refused_channels(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Channel(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"nx": 1}, "nx is 1"), ({"ny": 3.5}, "ny is 3.5"), ({"order": 3}, "order is 3; it must be 1 or 2")],
)
def test_refused_meshes(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AdvectionDiffusion(Channel(), **settings)


def test_refused_fluxes_and_points(coarse: AdvectionDiffusion) -> None:
    with pytest.raises(InputError, match=r"flux: shape is \(2, 29\); the last dimension must be 30"):
        coarse.solve(np.ones((2, 29)))
    with pytest.raises(InputError, match=r"flux: shape is \(\)"):
        coarse.solve(2.0)
    flux = np.ones((2, 30))
    flux[1, 4] = np.nan
    with pytest.raises(InputError, match=r"flux: entry \(1, 4\) is nan"):
        coarse.solve(flux)
    with pytest.raises(InputError, match="concentration: shape is"):
        coarse.residual(np.ones(30), np.ones(7))
    with pytest.raises(InputError, match=r"point 1 is \(8.6, 1\); it must lie in \[0, 8.5\] x \[0, 2\]"):
        coarse.sensor_matrix([[1.0, 1.0], [8.6, 1.0]])
    with pytest.raises(InputError, match=r"point 0 is \(nan, 1\)"):
        coarse.sensor_matrix([[np.nan, 1.0]])
    with pytest.raises(InputError, match=r"points: shape is \(2,\)"):
        coarse.sensor_matrix([1.0, 1.0])
    with pytest.raises(InputError, match="field: nx is 1"):
        coarse.field(np.ones(30), nx=1)
