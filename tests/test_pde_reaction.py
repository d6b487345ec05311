"""The channel with logistic growth: independent solutions, residuals, derivatives, batches, what cannot be solved."""

import warnings

import numpy as np
import pytest
from scipy.integrate import solve_bvp
from scipy.sparse.linalg import spsolve
from skfem import BilinearForm, FacetBasis, LinearForm, asm
from skfem.helpers import dot, grad

from fokker.errors import InputError
from fokker.pde.advection_diffusion import AdvectionDiffusion, Channel
from fokker.pde.reaction import TOLERANCE, LogisticReaction
from fokker.pde.solvers import accelerated

CHANNEL = Channel(velocity=12.0, diffusivity=4.0)


@pytest.fixture(scope="module")
def model() -> LogisticReaction:
    return LogisticReaction(CHANNEL)


@pytest.fixture(scope="module")
def coarse() -> LogisticReaction:
    return LogisticReaction(CHANNEL, nx=20, ny=8)


def _fluxes(*shape: int, mean: float = 2.0) -> np.ndarray:
    return np.maximum(0.0, mean + np.random.default_rng(0).normal(size=(*shape, 30)))


def _newton(model: LogisticReaction, flux: np.ndarray, *, quadrature: bool) -> np.ndarray:
    """The solution by Newton's method from the capacity, with the reaction assembled anew for every state: from c^2 at
    the quadrature points, or from the interpolant of the squares of the nodal values, as the model has it."""
    channel, basis = model.channel, model.basis
    rate, capacity = model.rate, model.capacity

    @BilinearForm
    def tangent(u, v, w):  # type: ignore[no-untyped-def]
        transport = channel.diffusivity * dot(grad(u), grad(v)) + channel.speed(w.x[1]) * grad(u)[0] * v
        return transport - rate * (1 - 2 * w["c"] / capacity) * u * v

    @LinearForm
    def force(v, w):  # type: ignore[no-untyped-def]
        c = w["c"]
        transport = channel.diffusivity * dot(grad(c), grad(v)) + channel.speed(w.x[1]) * grad(c)[0] * v
        return transport - rate * (c - w["square"] / capacity) * v

    c = np.zeros(model.n_nodes)
    c[model.free] = capacity
    for _ in range(15):
        at = basis.interpolate(c)
        square = at * at if quadrature else basis.interpolate(c * c)
        defect = (force.assemble(basis, c=at, square=square) - model.loads @ flux)[model.free]
        matrix = tangent.assemble(basis, c=at).tocsr()[model.free][:, model.free]
        c[model.free] -= spsolve(matrix.tocsc(), defect)
    assert np.linalg.norm(defect) < 1e-10
    return c


def test_without_a_rate_it_is_the_linear_model() -> None:
    linear = AdvectionDiffusion(CHANNEL, 20, 8)
    model = LogisticReaction(CHANNEL, rate=0.0, nx=20, ny=8, grading=0.0)
    q = _fluxes(5)
    np.testing.assert_allclose(model.solve(q), linear.solve(q), rtol=1e-9, atol=1e-12)
    matrix = linear.sensor_matrix(CHANNEL.sensors)
    np.testing.assert_allclose(model.observe(q).values, q @ matrix.T, rtol=1e-9)
    np.testing.assert_allclose(model.jacobian(model.solve(q))[3], matrix, rtol=1e-9, atol=1e-12)


def test_far_downstream_the_section_obeys_an_ordinary_equation() -> None:
    """-kappa c'' = r c (1 - c / K) between walls with constant fluxes, a boundary-value problem solved by collocation;
    with the order of quadratic elements, 3 at the walls. Without flux the capacity is reached."""
    channel = Channel(length=40.0, wall_length=40.0, segments=1, velocity=12.0, diffusivity=4.0)
    models = [LogisticReaction(channel, nx=nx, ny=ny, grading=0.0) for nx, ny in ((50, 12), (100, 24))]
    points = np.stack([np.full(9, 35.2), np.linspace(0, 2, 9)], axis=1)
    for bottom, top in ((2.0, 2.0), (3.0, 0.5)):
        exact = solve_bvp(
            lambda _, c: np.stack([c[1], -5 / 4 * c[0] * (1 - c[0] / 2)]),
            lambda a, b, q=(bottom, top): np.array([a[1] + q[0] / 4, b[1] - q[1] / 4]),
            np.linspace(0, 2, 41),
            np.stack([np.full(41, 2.0), np.zeros(41)]),
            tol=1e-9,
        )
        rough, fine = (
            np.abs(model.observe([bottom, top], points).values - exact.sol(points[:, 1])[0]).max() for model in models
        )
        assert fine < 2e-5 and fine < rough / 6
    np.testing.assert_allclose(models[0].observe([0.0, 0.0], points).values, models[0].capacity, atol=3e-6)


def test_residual_agrees_with_forms_assembled_independently() -> None:
    """The whole equation as one form, fluxes on boundary facets; one segment along the whole of each wall."""
    channel = Channel(wall_length=8.5, segments=1, velocity=12.0, diffusivity=4.0)
    model = LogisticReaction(channel, nx=20, ny=8)
    walls = [
        FacetBasis(model.basis.mesh, model.basis.elem, facets=model.basis.mesh.facets_satisfying(side))
        for side in (lambda x: x[1] == 0.0, lambda x: x[1] == 2.0)
    ]
    flux = np.array([1.3, 2.6])

    @LinearForm
    def inside(v, w):  # type: ignore[no-untyped-def]
        c = w["c"]
        flow = channel.speed(w.x[1]) * grad(c)[0] - 5 * (c - w["square"] / 2)
        return 4 * dot(grad(c), grad(v)) + flow * v

    load = sum(q * asm(LinearForm(lambda v, w: 1.0 * v), wall) for q, wall in zip(flux, walls, strict=True))
    rough = np.zeros(model.n_nodes)
    rough[model.free] = np.random.default_rng(0).normal(size=model.free.size)
    solution = model.solve(flux)
    for c in (rough, solution):
        at = {"c": model.basis.interpolate(c), "square": model.basis.interpolate(c * c)}
        defect = np.linalg.norm((inside.assemble(model.basis, **at) - load)[model.free]) / np.linalg.norm(
            load[model.free]
        )
        assert model.residual(flux, c) == pytest.approx(defect, rel=1e-6, abs=1e-12)
    assert defect <= TOLERANCE
    # With next to no flux the residual is relative to a hundredth of kappa K / height = 4.
    little = np.array([1e-9, 0.0])
    defect = np.linalg.norm((model.loads @ (flux - little))[model.free])
    least = 0.01 * np.linalg.norm((model.loads @ [4.0, 4.0])[model.free])
    assert model.residual(little, solution) == pytest.approx(defect / least, rel=1e-6)


@pytest.mark.parametrize("mean", [2.0, 0.3, -1.0])
def test_newton_and_the_accelerated_iteration_agree(coarse: LogisticReaction, mean: float) -> None:
    """Mean 0.3 leaves 38 % of the fluxes at zero, -1 leaves 84 %: far from the state of the factorisation."""
    q = _fluxes(4, mean=mean)
    q[3] = 0.0 if mean < 0 else q[3]
    found = coarse.observe(q)
    assert not found.newton.any()
    expected = np.stack([_newton(coarse, row, quadrature=False) for row in q])
    np.testing.assert_allclose(coarse.solve(q), expected, atol=1e-7)


def test_every_residual_is_verified(coarse: LogisticReaction) -> None:
    q = np.concatenate([_fluxes(40), _fluxes(40, mean=0.3), np.full((1, 30), 100.0)])
    found = coarse.observe(q)
    np.testing.assert_allclose(coarse.residual(q, coarse.solve(q)), found.residual, rtol=1e-3, atol=1e-12)
    assert (found.residual <= TOLERANCE).all() and not found.failed.any()
    assert np.median(found.iterations[:40]) <= 6
    # 100 is 50 times the mean flux: the accelerated iteration diverges, Newton's method does not.
    assert found.newton.tolist() == [False] * 80 + [True]
    np.testing.assert_allclose(coarse.solve(q[80]), _newton(coarse, q[80], quadrature=False), rtol=1e-7, atol=1e-7)


def test_accelerated_iteration_finds_many_linear_systems_at_once() -> None:
    """Ten systems with eigenvalues from 1 to 1.9 and P = I: differences of three steps reach 1e-12 where the
    plain iteration, contracting by 0.9, is at 1e-2; and the tenth, which diverges, is left alone."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(1, 1.9, size=(10, 4))
    scale[9] = 1e12
    right = rng.normal(size=(4, 10))

    def residual(x: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        force = scale[columns].T * x - right[:, columns] + (columns == 9) * x**2 * 1e30
        return force, np.linalg.norm(force, axis=0)

    found = accelerated(residual, lambda force: force, np.ones((4, 10)), 1e-12, 40)
    np.testing.assert_allclose(found.x[:, :9], right[:, :9] / scale[:9].T, atol=1e-12)
    assert found.iterations[:9].max() <= 20 and found.iterations[9] == 0
    assert (found.residual[:9] <= 1e-12).all() and found.residual[9] > 1


def test_a_solution_does_not_depend_on_its_batch(coarse: LogisticReaction) -> None:
    """Easy and hard fluxes, one that Newton's method solves and one that cannot be solved, in any company."""
    q = np.concatenate([_fluxes(36), _fluxes(36, mean=0.3), np.full((1, 30), 100.0), np.full((1, 30), -1e3)])
    together = coarse.observe(q)
    backwards = coarse.observe(q[::-1])
    for i in (0, 35, 36, 71, 72, 73):
        alone = coarse.observe(q[i])
        np.testing.assert_allclose(together.values[i], alone.values, rtol=1e-10)
        np.testing.assert_allclose(backwards.values[::-1][i], alone.values, rtol=1e-10)
        assert together.iterations[i] == backwards.iterations[::-1][i] == alone.iterations
    shaped = coarse.observe(q[:6].reshape(2, 3, 30))
    assert shaped.values.shape == (2, 3, 30) and shaped.failed.shape == (2, 3)
    np.testing.assert_allclose(shaped.values.reshape(6, 30), together.values[:6], rtol=1e-10)
    assert coarse.solve(q[:0]).shape == (0, coarse.n_nodes)


def test_fluxes_that_cannot_be_solved_are_nan_and_counted(coarse: LogisticReaction) -> None:
    q = _fluxes(6)
    q[1], q[3], q[4] = -1e3, 1e200, -0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, c = coarse.observe(q), coarse.solve(q)
        gradient, jacobian = coarse.vjp(c, np.ones((6, 30))), coarse.jacobian(c)
    failed = np.array([False, True, False, True, True, False])
    assert (found.failed == failed).all() and (found.newton == failed).all()
    for values in (found.values, c, gradient, jacobian):
        rows = values.reshape(6, -1)
        assert np.isnan(rows[failed]).all() and np.isfinite(rows[~failed]).all()
    assert np.isnan(coarse.residual(q[failed], c[failed])).all()
    np.testing.assert_allclose(found.values[~failed], coarse.observe(q[~failed]).values, rtol=1e-10)


def test_observation_is_the_field_at_the_sensors(coarse: LogisticReaction) -> None:
    q, points = _fluxes(3), np.array([[1.0, 0.3], [8.5, 2.0], [0.0, 1.0]])
    c = coarse.solve(q)
    np.testing.assert_allclose(coarse.observe(q).values, coarse.evaluate(c, CHANNEL.sensors), rtol=1e-12)
    np.testing.assert_allclose(coarse.observe(q, points).values, coarse.evaluate(c, points), rtol=1e-12)
    x, y, field = coarse.field(q, 5, 3)
    assert field.shape == (3, 3, 5) and (x[-1], y[-1]) == (8.5, 2.0) and (field[..., 0] == 0).all()
    assert (c > -1e-3).all()
    search = coarse.basis.probes(CHANNEL.sensors.T)  # the general search, on this graded mesh
    np.testing.assert_allclose(coarse.evaluate(c, CHANNEL.sensors), (search @ c.T).T, rtol=1e-12)


def test_jacobian_by_finite_differences(coarse: LogisticReaction) -> None:
    """Central differences with steps h and 2h, extrapolated to order 4; the residuals (1e-8) over h are left."""
    q, h = _fluxes(2), 0.02
    moves = h * np.eye(30)

    def central(k: int) -> np.ndarray:
        up, down = (coarse.observe(q[:, None] + sign * k * moves).values for sign in (1, -1))
        return np.swapaxes(up - down, 1, 2) / (2 * k * h)

    expected = (4 * central(1) - central(2)) / 3
    jacobian = coarse.jacobian(coarse.solve(q))
    assert jacobian.shape == (2, 30, 30)
    np.testing.assert_allclose(jacobian, expected, atol=2e-6 * np.abs(expected).max())
    assert np.abs(jacobian[0] - jacobian[1]).max() > 0.01 * np.abs(jacobian).max()  # it is not linear


def test_adjoint_is_the_transposed_jacobian(coarse: LogisticReaction) -> None:
    q, rng = np.concatenate([_fluxes(35), _fluxes(5, mean=0.3)]), np.random.default_rng(1)
    c, g = coarse.solve(q), rng.normal(size=(40, 30))
    g[7] = 0.0
    gradient, jacobian = coarse.vjp(c, g), coarse.jacobian(c)
    np.testing.assert_allclose(gradient, np.einsum("mi,mik->mk", g, jacobian), atol=1e-8)
    assert (gradient[7] == 0).all()
    np.testing.assert_allclose(coarse.vjp(c[3], g[3]), gradient[3], atol=1e-10)
    # Fewer points than fluxes: the Jacobian by adjoint solves.
    points = CHANNEL.sensors[[2, 20]]
    np.testing.assert_allclose(coarse.jacobian(c[:3], points), jacobian[:3, [2, 20]], atol=1e-10)
    np.testing.assert_allclose(
        coarse.vjp(c[:3], g[:3, :2], points), np.einsum("mi,mik->mk", g[:3, :2], jacobian[:3, [2, 20]]), atol=1e-8
    )


def test_the_mean_flux_changes_the_work_and_not_the_solution(coarse: LogisticReaction) -> None:
    q = _fluxes(mean=0.5) + 0.05 * np.random.default_rng(1).normal(size=(8, 30)).clip(0)
    near = LogisticReaction(CHANNEL, mean_flux=q[0], nx=20, ny=8)
    assert near.observe(q[0]).iterations == 0
    np.testing.assert_allclose(near.solve(q), coarse.solve(q), atol=1e-6)
    assert near.observe(q).iterations.max() < coarse.observe(q).iterations.min()


def test_default_mesh_error_at_the_sensors(model: LogisticReaction) -> None:
    """2e-5 is the documented error; the reference is a mesh of half the width. Squaring node by node instead of at
    the quadrature points is part of it."""
    q = _fluxes(6)
    q[3:] = _fluxes(3, mean=0.3)
    fine = LogisticReaction(CHANNEL, nx=128, ny=48)
    values = model.observe(q).values
    np.testing.assert_allclose(values, fine.observe(q).values, rtol=3e-5)
    exact_squares = model.evaluate(_newton(model, q[0], quadrature=True), CHANNEL.sensors)
    np.testing.assert_allclose(values[0], exact_squares, rtol=3e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": -1.0}, "^rate: got -1.0, a non-negative finite number is accepted$"),
        ({"rate": float("nan")}, "^rate: got nan"),
        ({"capacity": 0.0}, "^capacity: got 0.0, a positive finite number is accepted$"),
        ({"mean_flux": 0.0}, "^mean_flux: got 0.0, finite numbers are accepted, none negative, not all zero$"),
        ({"mean_flux": [1.0, 2.0]}, r"^mean_flux: got shape \(2,\), a number or shape \(30,\) is accepted$"),
        ({"mean_flux": -np.ones(30)}, "^mean_flux: got -1.0, finite"),
        ({"mean_flux": float("nan")}, "^mean_flux: got nan, finite"),
        ({"mean_flux": 1e200, "nx": 4, "ny": 2}, "^mean_flux: the state for it at rate 5.0 has residual nan"),
        ({"grading": -1.0}, "grading is -1.0"),
        ({"nx": 1}, "nx is 1"),
    ],
)
def test_refused_settings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LogisticReaction(CHANNEL, **settings)


def test_refused_arguments(coarse: LogisticReaction) -> None:
    with pytest.raises(InputError, match="diffusivity is -1"):
        Channel(diffusivity=-1.0)
    flux = np.ones((2, 30))
    flux[1, 4] = np.nan
    with pytest.raises(InputError, match=r"flux: entry \(1, 4\) is nan"):
        coarse.observe(flux)
    with pytest.raises(InputError, match=r"flux: shape is \(2, 29\)"):
        coarse.solve(np.ones((2, 29)))
    with pytest.raises(InputError, match=r"points: point 1 is \(9, 1\)"):
        coarse.observe(np.ones(30), [[1.0, 1.0], [9.0, 1.0]])
    c = coarse.solve(np.ones((2, 30)))
    with pytest.raises(InputError, match=r"concentration: shape is \(2, \d+\); it must be \(3, \d+\)"):
        coarse.residual(np.ones((3, 30)), c)
    with pytest.raises(InputError, match=r"cotangent: shape is \(30,\); it must be \(2, 30\)"):
        coarse.vjp(c, np.ones(30))
    with pytest.raises(InputError, match="concentration: shape is"):
        coarse.jacobian(np.ones(7))
    with pytest.raises(InputError, match=r"points: point 0 is \(-1, 1\)"):
        coarse.vjp(c, np.ones((2, 1)), [[-1.0, 1.0]])
