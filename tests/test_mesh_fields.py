"""Random fields on triangle meshes, against scikit-fem's matrices and the closed form on the unit square."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skfem import Basis, BilinearForm, ElementTriP1, MeshTri
from skfem.helpers import dot, grad

import fokker
from fokker import TriangleMesh
from fokker.errors import InputError
from fokker.pde.mesh_fields import _canonical
from fokker.rng import Key, Rows

F64 = torch.float64


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def square(n):
    """n x n squares, halved, with the nodes off their places: no symmetry."""
    side = np.linspace(0, 1, n + 1)
    return MeshTri.init_tensor(side + 0.1 * np.sin(np.pi * side) ** 2, side - 0.05 * np.sin(2 * np.pi * side))


def covariance(field, points):
    basis = field.basis(points)
    return basis @ basis.T


@BilinearForm
def stiffness(u, v, w):
    return dot(grad(u), grad(v))


@BilinearForm
def mass(u, v, w):
    return u * v


def test_matrices_are_those_of_scikit_fem():
    mesh = MeshTri.init_lshaped().refined(2)
    ours, basis = TriangleMesh(mesh), Basis(mesh, ElementTriP1())
    gradient = ours.gradient
    np.testing.assert_allclose((gradient.T @ gradient).toarray(), stiffness.assemble(basis).toarray(), atol=1e-13)
    np.testing.assert_allclose(ours.mass.toarray(), mass.assemble(basis).toarray(), atol=1e-15)


@pytest.mark.parametrize("mesh", [MeshTri.init_lshaped().refined(2), MeshTri.init_circle(3)])
def test_interpolation_is_exact_for_linear_functions_everywhere(mesh):
    """At nodes, on edges, inside; a mesh stretched a hundredfold, where the nearest centres are other triangles'."""
    corners = mesh.p[:, mesh.t]
    weights = np.random.default_rng(0).dirichlet([1, 1, 1], (5, mesh.t.shape[1]))
    inside = np.einsum("kec,dce->dke", weights, corners).reshape(2, -1)
    points = np.concatenate([mesh.p, corners.mean(1), corners[:, :2].mean(1), inside], 1)
    for stretch in (1.0, 100.0):
        scale = np.array([[stretch], [1.0]])
        ours = TriangleMesh(SimpleNamespace(p=scale * mesh.p, t=mesh.t))
        where = torch.from_numpy((scale * points).T)
        nodes, weight = ours.locate(where)
        torch.testing.assert_close((torch.from_numpy(ours.nodes)[nodes] * weight[..., None]).sum(-2), where)
        assert float(weight.min()) > -1e-9


def test_eigenvalues_and_covariances_converge_to_those_of_the_square():
    """At second order: halving the mesh size divides the error by about four."""
    exact = fokker.CosineField(2, 40, 2.5, 2.0, 1.5)
    largest = exact.eigenvalues.sort(descending=True)[0][:12]
    points, errors = uniform(15, 2), []
    truth = covariance(exact, points)
    for n in (12, 24, 48):
        field = fokker.MeshField(square(n), 80, 2.5, 2.0, 1.5)
        relative = (field.eigenvalues[:12] / largest - 1).abs().max()
        errors.append([float(relative), float((covariance(field, points) - truth).square().mean().sqrt())])
    rate = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (rate > 1.6).all() and (rate < 2.6).all(), (errors, rate)
    assert errors[-1][0] < 0.02 and errors[-1][1] < 0.01 * float(truth.max())


@pytest.mark.parametrize("alpha", [2, 3, 4])
def test_sparse_fields_converge_to_those_of_the_square(alpha):
    exact = fokker.CosineField(2, 60, alpha, 2.0, 1.5)
    points, errors = uniform(15, 2), []
    truth = covariance(exact, points)
    for n in (10, 20, 40):
        found = covariance(fokker.SparseMeshField(square(n), alpha, 2.0, 1.5), points)
        errors.append(float((found - truth).square().mean().sqrt()))
    rate = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (rate > 1.5).all() and (rate < 2.7).all(), (errors, rate)
    assert errors[-1] < 0.01 * float(truth.max())


@pytest.mark.parametrize("alpha", [2, 3, 4, 5])
def test_sparse_fields_have_the_inverse_of_their_precision(alpha):
    field = fokker.SparseMeshField(MeshTri.init_lshaped().refined(1), alpha, 1.5, 2.0)
    nodes = torch.from_numpy(field.mesh.nodes)
    np.testing.assert_allclose(
        covariance(field, nodes).numpy(), np.linalg.inv(field.precision.toarray()), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("alpha", [2, 3, 4, None])
def test_fields_draw_what_their_basis_says(alpha):
    field = fokker.SparseMeshField(square(6), alpha) if alpha else fokker.MeshField(square(6), 12)
    xi = torch.randn(3, field.size, generator=torch.Generator().manual_seed(0), dtype=F64)
    shared, own = uniform(7, 2), uniform(3, 7, 2, seed=1)
    torch.testing.assert_close(field.at(xi, shared), xi @ field.basis(shared).T)
    torch.testing.assert_close(field.at(xi, own), (field.basis(own) @ xi[..., None])[..., 0])
    both = field.at(torch.stack([xi, xi.flip(0)], -1), own)
    torch.testing.assert_close(both, torch.stack([field.at(xi, own), field.at(xi.flip(0), own)], -1))
    with pytest.raises(InputError, match="coefficients"):
        field.nodal(xi[:, 1:])
    torch.testing.assert_close(field.nodal(xi), field.at(xi, torch.from_numpy(field.mesh.nodes)))


def test_all_modes_of_a_mesh_are_the_field_of_its_matrices():
    """(K + tau^2 M)^-1 M (K + tau^2 M)^-1 on the nodes, for alpha = 2; both solvers of the eigenproblem agree."""
    mesh = MeshTri.init_lshaped().refined(2)
    ours = TriangleMesh(mesh)
    whole = fokker.MeshField(mesh, len(ours.nodes), 2.0, 1.5)
    operator = np.linalg.inv((ours.gradient.T @ ours.gradient + 1.5**2 * ours.mass).toarray())
    exact = operator @ ours.mass.toarray() @ operator
    nodes = torch.from_numpy(ours.nodes)
    np.testing.assert_allclose(covariance(whole, nodes).numpy(), exact, atol=1e-12)
    few, points = fokker.MeshField(mesh, 10, 2.0, 1.5), -torch.from_numpy(missing_quarter(mesh)) * uniform(9, 2)
    torch.testing.assert_close(few.basis(points), whole.basis(points)[:, :10], rtol=1e-8, atol=1e-8)


def test_free_signs_and_rotations_are_fixed():
    """Eigenfunctions of a symmetric mesh come rotated and reflected at random: always the same ones are taken."""
    rng, count = np.random.default_rng(0), 6
    mesh = TriangleMesh(MeshTri().refined(2))
    phi = np.linalg.qr(rng.normal(size=(len(mesh.nodes), count)))[0]
    mu = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 3.0 + 1e-12])
    turned = phi.copy()
    for a, b in ((0, 1), (1, 3), (3, 4), (4, 6)):
        turned[:, a:b] = phi[:, a:b] @ np.linalg.qr(rng.normal(size=(b - a, b - a)))[0] * rng.choice([-1, 1])
    assert np.abs(turned - phi).max() > 0.1
    np.testing.assert_allclose(_canonical(mu, turned, mesh.mass), _canonical(mu, phi, mesh.mass), atol=1e-12)
    result = _canonical(mu, phi, mesh.mass)
    np.testing.assert_allclose(result @ result.T, phi @ phi.T, atol=1e-12)


def missing_quarter(mesh):
    """The signs (x, y) of the quarter of [-1, 1]^2 that an L-shape lacks."""
    centre = mesh.p[:, mesh.t].mean(1).T
    (quarter,) = [q for q in itertools.product((1, -1), repeat=2) if not (np.sign(centre) == q).all(1).any()]
    return np.array(quarter)


def test_an_l_shape():
    """Around the corner two points are far apart: their correlation is below that at the same distance elsewhere."""
    mesh = MeshTri.init_lshaped().refined(4)
    sign = torch.from_numpy(missing_quarter(mesh))
    around = sign * torch.tensor([[-0.05, 0.6], [0.6, -0.05]], dtype=F64)
    straight = sign * torch.tensor([[-0.05, 0.6], [-0.7, -0.05]], dtype=F64)
    field = fokker.MeshField(mesh, 200, 2.0, 3.0)

    def correlation(points):
        c = covariance(field, points)
        return float(c[0, 1] / (c[0, 0] * c[1, 1]).sqrt())

    assert 0 < correlation(around) < 0.8 * correlation(straight) < 0.8
    sparse = covariance(fokker.SparseMeshField(mesh, 2, 3.0), around)
    torch.testing.assert_close(sparse, covariance(field, around), rtol=0.05, atol=0)
    assert float(field.eigenvalues[0]) == pytest.approx(3.0**-4, rel=1e-9)  # the constant


def test_a_key_is_one_function_on_the_mesh():
    field, key = fokker.MeshField(square(8), 30), Key(1, Rows.grid(1, 3))
    a, b = uniform(6, 2), uniform(9, 2, seed=1)
    noise = fokker.Correlated(field)
    alone = noise.sample(torch.empty(3, 6, dtype=F64), key, a)
    together = noise.sample(torch.empty(3, 15, dtype=F64), key, torch.cat([b, a]))
    torch.testing.assert_close(together[:, 9:], alone)
    again = fokker.Correlated(fokker.MeshField(square(8), 30)).sample(torch.empty(3, 6, dtype=F64), key, a)
    torch.testing.assert_close(again, alone)


@pytest.mark.parametrize("kind", [fokker.MeshField, fokker.SparseMeshField])
def test_fields_share_a_mesh(kind):
    mesh, where = TriangleMesh(square(4)), uniform(7, 2)
    options = {"modes": 5} if kind is fokker.MeshField else {}
    assert kind(mesh, **options).mesh is mesh
    assert torch.equal(kind(mesh, **options).basis(where), kind(square(4), **options).basis(where))


@pytest.mark.parametrize("kind", [fokker.MeshField, fokker.SparseMeshField])
def test_points_outside_the_mesh_are_refused_by_name(kind):
    mesh = MeshTri.init_lshaped().refined(1)
    field = kind(mesh, 5) if kind is fokker.MeshField else kind(mesh)
    points = torch.stack([torch.zeros(2), 0.5 * torch.from_numpy(missing_quarter(mesh)), torch.full((2,), 9.0)])
    with pytest.raises(InputError, match=r"points: got \(-?0.5, -?0.5\) as point 1, points on the mesh"):
        field.basis(points)
    with pytest.raises(InputError, match="dimension 2"):
        field.basis(torch.zeros(3, 3))
    with pytest.raises(InputError, match="finite"):
        field.basis(torch.full((1, 2), math.nan))


@pytest.mark.parametrize(
    "wrong", [{"modes": 0}, {"modes": 10}, {"alpha": 1.0}, {"alpha": math.nan}, {"tau": 0.0}, {"amplitude": 0.0}]
)
def test_bad_mesh_fields_are_refused(wrong):
    with pytest.raises(InputError):
        fokker.MeshField(MeshTri().refined(1), **{"modes": 5, **wrong})


@pytest.mark.parametrize("wrong", [{"alpha": 1}, {"alpha": 2.5}, {"alpha": math.inf}, {"tau": 0.0}, {"amplitude": 0.0}])
def test_bad_sparse_fields_are_refused(wrong):
    with pytest.raises(InputError):
        fokker.SparseMeshField(MeshTri().refined(1), **wrong)


@pytest.mark.parametrize(
    ("p", "t", "match"),
    [
        (np.zeros((3, 4)), np.zeros((3, 1), int), "mesh: got p"),
        (np.eye(2, 4), np.array([[0], [1], [2]]), "node 3"),
        (np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]), np.array([[0], [1], [2]]), "no area"),
        (np.eye(2, 3), np.array([[0], [1], [3]]), "whole numbers from 0 to 2"),
        (np.eye(2, 3), np.array([[0.0], [1.0], [2.0]]), "whole numbers from 0 to 2"),
    ],
)
def test_bad_meshes_are_refused(p, t, match):
    with pytest.raises(InputError, match=match):
        fokker.MeshField(SimpleNamespace(p=p, t=t), 2)
    with pytest.raises(InputError, match="mesh: got p"):
        fokker.MeshField("square.msh")
