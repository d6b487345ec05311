"""Gaussian random fields on triangle meshes: by eigenfunctions of finite elements, and by a sparse precision.

Both are N(0, amplitude^2 (-Lap + tau^2)^-alpha) with no slope at the boundary, for piecewise linear functions. With G
the gradients of the hat functions weighted by the roots of the areas, stiffness K = G^T G; M is the mass matrix and C
the lumped one.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csc_array, csr_array, diags_array, vstack
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree
from torch import Tensor

from fokker.errors import InputError
from fokker.field_points import EDGE, check_size, checked_points, refuse_point
from fokker.pde.solvers import Factorisation
from fokker.random_fields import Field
from fokker.rng import stream

Array = NDArray[np.float64]

_NEAREST = 12  # triangles by their centres that a point is looked for in first
_PAIRS = 2**20  # of points and triangles compared at a time
_SPARE = 8  # eigenfunctions beyond those wanted, so that no eigenspace is cut where its directions are chosen
_SAME = 1e-8  # relative difference up to which eigenvalues count as one


class TriangleMesh:
    """A triangle mesh: its nodes (N, 2), triangles (E, 3), areas, sparse matrices and linear interpolation.

    mesh: any object with arrays p (2, N), the coordinates of nodes, and t (3, E), the numbers of the corners of
    triangles, as a `skfem.MeshTri` has. InputError for other shapes, corners that are no nodes, a triangle without area
    and a node that belongs to no triangle.
    """

    def __init__(self, mesh: Any) -> None:
        nodes, triangles = (np.asarray(getattr(mesh, name, ())) for name in ("p", "t"))
        if nodes.ndim != 2 or triangles.ndim != 2 or len(nodes) != 2 or len(triangles) != 3:
            raise InputError(
                f"mesh: got p {nodes.shape} and t {triangles.shape}, a mesh with p (2, N) and t (3, E) is accepted"
            )
        self.nodes, self.triangles = np.ascontiguousarray(nodes.T, float), np.ascontiguousarray(triangles.T)
        if self.triangles.dtype.kind not in "iu" or not np.isin(self.triangles, np.arange(len(self.nodes))).all():
            raise InputError(f"mesh: t is not all whole numbers from 0 to {len(self.nodes) - 1}, which are accepted")
        alone = np.setdiff1d(np.arange(len(self.nodes)), self.triangles)
        if alone.size:
            raise InputError(f"mesh: node {alone[0]} belongs to no triangle, nodes of triangles are accepted")
        corners = self.nodes[self.triangles]
        self._origin = corners[:, 0]
        edges = (corners[:, 1:] - corners[:, :1]).swapaxes(1, 2)  # x = origin + edges @ barycentric coordinates 1, 2
        double_area = np.abs(np.linalg.det(edges))
        if not (double_area > 0).all():
            raise InputError(f"mesh: triangle {int(np.argmin(double_area))} has no area, other triangles are accepted")
        self._inverse = np.linalg.inv(edges)
        self.area = double_area / 2
        self._tree = cKDTree(corners.mean(1))

    @property
    def gradient(self) -> csr_array:
        """G (2 E, N), sparse: both components of the gradient in each triangle times the root of its area."""
        slopes = np.concatenate([-self._inverse.sum(1, keepdims=True), self._inverse], 1)  # (E, 3, 2)
        values = np.sqrt(self.area)[:, None, None] * slopes
        rows = np.broadcast_to(np.arange(2 * len(self.area)).reshape(-1, 1, 2), values.shape)
        columns = np.broadcast_to(self.triangles[:, :, None], values.shape)
        return csr_array((values.ravel(), (rows.ravel(), columns.ravel())), (2 * len(self.area), len(self.nodes)))

    @property
    def mass(self) -> csr_array:
        """M (N, N), sparse."""
        values = self.area[:, None, None] / 12 * (1 + np.eye(3))
        rows, columns = np.broadcast_arrays(self.triangles[:, :, None], self.triangles[:, None])
        return csr_array((values.ravel(), (rows.ravel(), columns.ravel())), (len(self.nodes),) * 2)

    def locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes (..., P, 3) of the triangle around each point (..., P, 2) and their weights, on the CPU.

        InputError naming the first point outside the mesh.
        """
        where = checked_points(points, 2).detach().cpu()
        flat = where.reshape(-1, 2).numpy()
        count = min(_NEAREST, len(self.area))
        near = self._tree.query(flat, count)[1].reshape(-1, count)
        cell, weights = self._best(flat, near)
        lost = np.flatnonzero(weights.min(1) < -EDGE)
        every, step = np.arange(len(self.area))[None], max(1, _PAIRS // len(self.area))
        for first in range(0, len(lost), step):  # near long triangles, or outside
            at = lost[first : first + step]
            cell[at], weights[at] = self._best(flat[at], every)
        inside = torch.from_numpy(weights.min(1) >= -EDGE).reshape(where.shape[:-1])
        if not bool(inside.all()):
            refuse_point(where, inside, "on the mesh")
        shape = (*where.shape[:-1], 3)
        nodes = torch.from_numpy(self.triangles[cell].astype(np.int64))
        return nodes.reshape(shape), torch.from_numpy(weights).reshape(shape)

    def _best(self, points: Array, cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
        """Of the candidates (P or 1, c) the triangle whose smallest barycentric coordinate at the point is largest."""
        inner = np.einsum("pcij,pcj->pci", self._inverse[cells], points[:, None] - self._origin[cells])
        weights = np.concatenate([1 - inner.sum(-1, keepdims=True), inner], -1)
        best = weights.min(-1).argmax(1)
        rows = np.arange(len(points))
        return np.broadcast_to(cells, weights.shape[:2])[rows, best], weights[rows, best]


class NodalField(Field):
    """A field that is linear in each triangle of `mesh`, so that its values at the nodes are all of it."""

    dimension = 2
    mesh: TriangleMesh

    @abstractmethod
    def nodal(self, coefficients: Tensor) -> Tensor:
        """Values (B, N) at the nodes of the mesh for coefficients (B, size), in float64."""

    def _product(self, columns: Tensor, points: Tensor) -> Tensor:
        """Interpolation of the nodal values, whatever the number of coefficients."""
        size, _, channels = columns.shape
        nodes, weights = (t.to(columns.device) for t in self.mesh.locate(points))
        values = self.nodal(columns.mT.flatten(0, 1)).reshape(size, channels, -1).mT  # (B, N, C)
        if points.ndim == 2:
            return (values[:, nodes] * weights[..., None]).sum(-2)
        rows = torch.arange(size, device=values.device)[:, None, None]
        return (values[rows, nodes] * weights[..., None]).sum(-2)

    def _entries(self, columns: Tensor, points: Tensor) -> int:
        return 1  # all points together


class MeshField(NodalField):
    """The field from the `modes` lowest eigenfunctions K phi = mu M phi of a triangle mesh.

    g = amplitude sum_k (mu_k + tau^2)^(-alpha/2) xi_k phi_k with phi_k^T M phi_k = 1, linear in each triangle; mu_0 = 0
    belongs to the constant. The relative error of mu_k grows as mu_k h^2 with the mesh size h: take modes whose waves
    are longer than a few triangles. A key fixes the function on one mesh (signs, and directions among equal
    eigenvalues, are those of fixed numbers at its nodes), not across meshes.

    mesh: a `TriangleMesh`, or what it is made of: a `skfem.MeshTri`, or any object with arrays p (2, N) and t (3, E).
    InputError for another mesh, more modes than nodes, alpha <= 1, tau or amplitude <= 0.
    Source: Lord, Powell, Shardlow 2014, chapter 7.
    """

    def __init__(self, mesh: Any, modes: int = 256, alpha: float = 2.0, tau: float = 1.0, amplitude: float = 1.0):
        _check(alpha, tau, amplitude)
        self.mesh = mesh if isinstance(mesh, TriangleMesh) else TriangleMesh(mesh)
        if not 1 <= modes <= len(self.mesh.nodes):
            raise InputError(f"modes: got {modes}, 1 to the number of nodes {len(self.mesh.nodes)} are accepted")
        mu, phi = _eigenfunctions(self.mesh, modes, tau)
        self.eigenvalues = torch.from_numpy(amplitude**2 * (mu + tau**2) ** -alpha)
        self._nodal = torch.from_numpy(phi) * self.eigenvalues.sqrt()

    @property
    def size(self) -> int:
        """Number of coefficients, the modes."""
        return len(self.eigenvalues)

    def nodal(self, coefficients: Tensor) -> Tensor:
        """Values (B, N) at the nodes of the mesh for coefficients (B, size), in float64."""
        check_size(coefficients, self.size, "(B, {})", coefficients.shape[1:])
        return coefficients.double() @ self._nodal.T.to(coefficients.device)

    def basis(self, points: Tensor) -> Tensor:
        """sqrt(lambda_k) phi_k at points (..., P, 2) -> (..., P, size), in float64.

        InputError for points of another dimension, and naming the first outside the mesh.
        """
        nodes, weights = self.mesh.locate(points)
        value = weights[..., 0, None] * self._nodal[nodes[..., 0]]
        for j in (1, 2):
            value += weights[..., j, None] * self._nodal[nodes[..., j]]
        return value.to(points.device)


class SparseMeshField(NodalField):
    """The field on a triangle mesh with a sparse precision: no modes are cut, for whole numbers alpha.

    With L = K + tau^2 C the nodal values have covariance amplitude^2 (L^-1 C)^(alpha - 1) L^-1. They are drawn by
    sparse solves: u = amplitude (L^-1 C)^(alpha/2) C^(-1/2) xi with a coefficient for each node where alpha is even;
    u = amplitude (L^-1 C)^((alpha - 1)/2) L^-1 B^T xi for odd alpha, where B^T B = L with a row for each node and two
    for each triangle. Covariances converge with the square of the mesh size.

    mesh: a `TriangleMesh`, or what it is made of: a `skfem.MeshTri`, or any object with arrays p (2, N) and t (3, E).
    InputError for another mesh, alpha not 2, 3, ..., tau or amplitude <= 0.
    Source: Lindgren, Rue, Lindstrom 2011.
    """

    def __init__(self, mesh: Any, alpha: int = 2, tau: float = 1.0, amplitude: float = 1.0):
        _check(alpha, tau, amplitude)
        if alpha != int(alpha):
            raise InputError(f"alpha: got {alpha}, a whole number is accepted (MeshField takes any)")
        self.mesh = mesh if isinstance(mesh, TriangleMesh) else TriangleMesh(mesh)
        self.alpha, self.amplitude = int(alpha), amplitude
        gradient, self._lumped = self.mesh.gradient, self.mesh.mass.sum(1)
        self._operator = csc_array(gradient.T @ gradient + tau**2 * diags_array(self._lumped))
        self._factors = Factorisation(self._operator)
        self._root = csr_array(diags_array(np.sqrt(self._lumped)))  # B^T, or C^(1/2)
        if self.alpha % 2:
            self._root = csr_array(vstack([gradient, tau * self._root])).T.tocsr()

    @property
    def size(self) -> int:
        """Number of coefficients: N nodes for even alpha, N + 2 E with E triangles for odd alpha."""
        return int(self._root.shape[1])

    @property
    def precision(self) -> csr_array:
        """The inverse covariance of the nodal values (N, N), sparse: amplitude^-2 L (C^-1 L)^(alpha - 1)."""
        out = self._operator
        for _ in range(1, self.alpha):
            out = out @ diags_array(1 / self._lumped) @ self._operator
        return csr_array(out / self.amplitude**2)

    def nodal(self, coefficients: Tensor) -> Tensor:
        """Values (B, N) at the nodes of the mesh for coefficients (B, size), in float64, by sparse solves."""
        check_size(coefficients, self.size, "(B, {})", coefficients.shape[1:])
        right = self._root @ coefficients.detach().cpu().double().numpy().T
        values = self._factors.solve(right)
        for _ in range((self.alpha - 1) // 2):
            values = self._factors.solve(self._lumped[:, None] * values)
        return torch.from_numpy(self.amplitude * values.T).to(coefficients.device)

    def basis(self, points: Tensor) -> Tensor:
        """The values at points (..., P, 2) of the functions of unit coefficients -> (..., P, size), in float64.

        A few sparse solves for each point. InputError for points of another dimension, and naming the first outside
        the mesh.
        """
        nodes, weights = (t.reshape(-1, 3).numpy() for t in self.mesh.locate(points))
        rows = np.repeat(np.arange(len(nodes)), 3)
        unit = csr_array((weights.ravel(), (rows, nodes.ravel())), (len(nodes), len(self.mesh.nodes)))
        values = self._factors.solve(unit.T.toarray())
        for _ in range((self.alpha - 1) // 2):
            values = self._factors.solve(self._lumped[:, None] * values)
        basis = torch.from_numpy(self.amplitude * (self._root.T @ values).T)
        return basis.reshape(*points.shape[:-1], self.size).to(points.device)


def _check(alpha: float, tau: float, amplitude: float) -> None:
    if not 1 < alpha < math.inf:
        raise InputError(f"alpha: got {alpha}, more than dimension / 2 = 1 is accepted")
    if not (tau > 0 and amplitude > 0):
        raise InputError(f"tau and amplitude: got {tau}, {amplitude}; both must be > 0")


def _eigenfunctions(mesh: TriangleMesh, modes: int, tau: float) -> tuple[Array, Array]:
    """mu (modes,) ascending and nodal phi (N, modes) with phi^T M phi = I."""
    gradient, mass = mesh.gradient, mesh.mass
    stiffness = csc_array(gradient.T @ gradient)
    fixed = stream(0, "mesh field").standard_normal((len(mesh.nodes), 1))
    wanted = min(modes + _SPARE, len(mesh.nodes))
    if wanted > len(mesh.nodes) // 2:
        mu, phi = eigh(stiffness.toarray(), mass.toarray(), subset_by_index=(0, wanted - 1))
    else:
        shift = -max(tau**2, 1 / mesh.area.sum())
        mu, phi = eigsh(stiffness, wanted, csc_array(mass), sigma=shift, which="LM", v0=fixed[:, 0])
        order = np.argsort(mu)
        mu, phi = mu[order], phi[:, order]
    return np.maximum(mu[:modes], 0.0), _canonical(mu, phi, mass)[:, :modes]


def _canonical(mu: Array, phi: Array, mass: csr_array) -> Array:
    """The eigenfunctions with their free signs and rotations (among equal eigenvalues) fixed by fixed functions.

    In each eigenspace, the orthogonalised projections of as many functions with random nodal values.
    """
    scale = mu[1:] + 1 / mass.sum()  # that of a domain of this area, where mu is zero
    starts = np.flatnonzero(np.r_[True, np.diff(mu) > _SAME * scale])
    ends = np.r_[starts[1:], len(mu)]
    probes = stream(0, "mesh field probes").standard_normal((int((ends - starts).max()), len(phi))).T
    overlap = phi.T @ (mass @ probes)
    out = np.empty_like(phi)
    for a, b in zip(starts, ends, strict=True):
        q, r = np.linalg.qr(overlap[a:b, : b - a])
        out[:, a:b] = phi[:, a:b] @ (q * np.sign(np.diagonal(r)))
    return out
