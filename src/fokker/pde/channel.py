"""A channel fed through its walls: geometry, mesh, assembly, and what every model of it shares.

Assembly (`transport_matrix`, `mass_matrix`, `wall_loads`) and evaluation (`ChannelModel`) are kept apart from solving
(`AdvectionDiffusion`, `LogisticReaction`).
Problem: Dasgupta et al. 2025, arXiv 2504.07437, section 6; the published copy lost kappa and the sign of the
flux, so the values and the convention here (kappa dc/dn = q, positive q feeds the channel) are ours.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csc_array, csr_array
from skfem import Basis, BilinearForm, ElementTriP1, ElementTriP2, MeshTri
from skfem.helpers import dot, grad

from fokker.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Channel:
    """The channel [0, length] x [0, height] with parabolic flow along x, in any consistent units.

    a(y) = (4 v y (height - y) / height^2, 0) with v = `velocity`, the maximum, on the centre line;
    kappa = `diffusivity`. The flux enters through [0, wall_length] of both walls, `segments` equal segments
    on each, constant on each segment. The defaults are the benchmark's (arXiv 2504.07437, section 6).

    Raises `InputError` unless all are positive and finite, `segments` is a whole number and
    wall_length <= length.
    """

    length: float = 8.5
    height: float = 2.0
    wall_length: float = 7.0
    segments: int = 15
    velocity: float = 0.1
    diffusivity: float = 1 / 30

    def __post_init__(self) -> None:
        for name in ("length", "height", "wall_length", "velocity", "diffusivity"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 < float(value) < float("inf")):
                raise InputError(f"Channel: {name} is {value!r}; it must be a positive finite number")
        check_count("Channel: segments", self.segments, 1)
        if self.wall_length > self.length:
            raise InputError(
                f"Channel: wall_length is {self.wall_length!r}; it must be at most the length {self.length!r}"
            )

    @property
    def n_fluxes(self) -> int:
        """Number of fluxes, 2 * segments: bottom wall first, then top wall, each from inlet to outlet."""
        return 2 * self.segments

    @property
    def segment_edges(self) -> Array:
        """x of the segment edges, shape (segments + 1,); the same on both walls."""
        return np.linspace(0.0, self.wall_length, self.segments + 1)

    @property
    def sensors(self) -> Array:
        """The default sensors (2 * segments, 2): above each bottom segment's midpoint at y = height/4, then
        below each top segment's midpoint at y = 3 height/4, in the order of the fluxes."""
        x = (self.segment_edges[:-1] + self.segment_edges[1:]) / 2
        bottom = np.stack([x, np.full_like(x, self.height / 4)], axis=1)
        top = np.stack([x, np.full_like(x, 3 * self.height / 4)], axis=1)
        return np.concatenate([bottom, top])

    def speed(self, y: Array) -> Array:
        """The x component of the velocity at y: 4 v y (height - y) / height^2, same shape as y."""
        return 4 * self.velocity * y * (self.height - y) / self.height**2


def channel_basis(channel: Channel, nx: int, ny: int, order: int, grading: float = 0.0) -> Basis:
    """Continuous elements of degree `order` (1 or 2) on nx x ny rectangles, each cut into two triangles.

    The rectangles are equal across the channel; along it their edges are length * s (1 + g s) / (1 + g) for
    nx equal steps of s from 0 to 1, g = `grading`: the last is about 1 + 2 g times as long as the first.
    Raises `InputError` for another order, a negative grading, or fewer than 2 rectangles in a direction.
    """
    check_count("mesh: nx", nx, 2)
    check_count("mesh: ny", ny, 2)
    if order not in (1, 2):
        raise InputError(f"mesh: order is {order!r}; it must be 1 or 2")
    if not (isinstance(grading, Real) and 0 <= float(grading) < float("inf")):
        raise InputError(f"mesh: grading is {grading!r}; it must be a finite number, at least 0")
    s = np.linspace(0.0, 1.0, nx + 1)
    x = channel.length * s * ((1 + grading * s) / (1 + grading))
    mesh = MeshTri.init_tensor(x, np.linspace(0.0, channel.height, ny + 1))
    # Degree 5 is exact for the parabolic speed times a quadratic times the gradient of one.
    return Basis(mesh, ElementTriP1() if order == 1 else ElementTriP2(), intorder=5)


def transport_matrix(basis: Basis, channel: Channel) -> csc_array:
    """A_ij = int kappa grad phi_j . grad phi_i + (a . grad phi_j) phi_i, shape (N, N), before the inlet's
    c = 0 is imposed. No stabilisation: meant for cells with v h / (2 kappa) below 1."""

    @BilinearForm
    def transport(u, v, w):  # type: ignore[no-untyped-def]
        return channel.diffusivity * dot(grad(u), grad(v)) + channel.speed(w.x[1]) * grad(u)[0] * v

    return csc_array(transport.assemble(basis))


def mass_matrix(basis: Basis) -> csr_array:
    """M_ij = int phi_j phi_i, shape (N, N)."""

    @BilinearForm
    def product(u, v, w):  # type: ignore[no-untyped-def]
        return u * v

    return csr_array(product.assemble(basis))


def wall_loads(basis: Basis, channel: Channel) -> Array:
    """L_ik = int over wall segment k of phi_i, shape (N, n_fluxes), exact for degrees 1 and 2.

    Segment edges need not be mesh nodes: the integral runs over each overlap of a facet with a segment, where
    the trace is one polynomial and two Gauss points are exact (degree 3). For a matrix of flux values
    (n, n_fluxes) the loads are flux @ L.T.
    """
    nodes = np.unique(basis.mesh.p[0])
    edges = channel.segment_edges
    breaks = np.unique(np.concatenate([nodes[nodes < channel.wall_length], edges]))
    middle, half = (breaks[:-1] + breaks[1:]) / 2, np.diff(breaks) / 2
    segment = np.tile(np.searchsorted(edges, middle) - 1, 2)
    x = np.concatenate([middle - half / np.sqrt(3), middle + half / np.sqrt(3)])
    weight = np.tile(half, 2)

    weights = csr_array((weight, (np.arange(x.size), segment)), shape=(x.size, channel.segments))
    columns = []
    for y in (0.0, channel.height):
        traces = _interpolation(basis, np.stack([x, np.full_like(x, y)], axis=1))
        columns.append((traces.T @ weights).toarray())
    return np.concatenate(columns, axis=1)


class ChannelModel(ABC):
    """Mesh, matrices and evaluation of a model in the channel; how it is solved is the subclass's.

    Nodal values include the inlet's, which are 0; `free` are the nodes off the inlet. Raises `InputError` for
    a mesh that `channel_basis` refuses.
    """

    def __init__(self, channel: Channel, nx: int, ny: int, order: int, grading: float = 0.0) -> None:
        self.channel = channel
        self.basis = channel_basis(channel, nx, ny, order, grading)
        self.matrix = transport_matrix(self.basis, channel)
        self.loads = wall_loads(self.basis, channel)
        self.free = self.basis.complement_dofs(self.basis.get_dofs(lambda x: x[0] == 0.0))

    @property
    def n_nodes(self) -> int:
        """Number of nodal values N, inlet included."""
        return int(self.basis.N)

    @abstractmethod
    def solve(self, flux: ArrayLike) -> Array:
        """Nodal concentrations (..., N) for wall fluxes (..., n_fluxes)."""

    def evaluate(self, concentration: Array, points: ArrayLike) -> Array:
        """Values (..., n) of nodal concentrations (..., N) at points (n, 2) of the channel.

        Raises `InputError` for points outside the channel or a wrong number of nodal values.
        """
        interpolation = self._interpolation(points)
        c = self._checked_nodal(concentration)
        values = interpolation @ c.reshape(-1, self.n_nodes).T
        return values.T.reshape(*c.shape[:-1], interpolation.shape[0])

    def field(self, flux: ArrayLike, nx: int = 171, ny: int = 41) -> tuple[Array, Array, Array]:
        """The solution on a regular grid, for plotting: x (nx,), y (ny,), c (..., ny, nx).

        Raises `InputError` as `solve` does, or for a grid of fewer than 2 points in a direction.
        """
        check_count("field: nx", nx, 2)
        check_count("field: ny", ny, 2)
        x, y = np.linspace(0.0, self.channel.length, nx), np.linspace(0.0, self.channel.height, ny)
        points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        c = self.evaluate(self.solve(flux), points)
        return x, y, c.reshape(*c.shape[:-1], ny, nx)

    def _checked_flux(self, flux: ArrayLike) -> Array:
        q = np.asarray(flux, dtype=np.float64)
        n = self.channel.n_fluxes
        if q.ndim == 0 or q.shape[-1] != n:
            raise InputError(f"flux: shape is {q.shape}; the last dimension must be {n}")
        if not np.isfinite(q).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(q))[0])
            raise InputError(f"flux: entry {where} is {q[where]}; every flux must be finite")
        return q

    def _checked_nodal(self, concentration: Array) -> Array:
        c = np.asarray(concentration, dtype=np.float64)
        if c.ndim == 0 or c.shape[-1] != self.n_nodes:
            raise InputError(f"concentration: shape is {c.shape}; the last dimension must be {self.n_nodes}")
        return c

    def _interpolation(self, points: ArrayLike) -> csr_array:
        p = np.asarray(points, dtype=np.float64)
        if p.ndim != 2 or p.shape[1] != 2 or p.shape[0] == 0:
            raise InputError(f"points: shape is {p.shape}; it must be (n, 2), n at least 1")
        upper = np.array([self.channel.length, self.channel.height])
        inside = ((p >= 0) & (p <= upper)).all(axis=1)  # False for NaN too
        if not inside.all():
            i = int(np.argmin(inside))
            raise InputError(
                f"points: point {i} is ({p[i, 0]:g}, {p[i, 1]:g}); it must lie in [0, {upper[0]:g}] x [0, {upper[1]:g}]"
            )
        return _interpolation(self.basis, p)


def _interpolation(basis: Basis, points: Array) -> csr_array:
    """P (n, N) with P c the values of the nodal field c at points (n, 2) of the rectangle.

    Finds the triangle by its rectangle and its side of the rising diagonal, so the cost is one look-up per
    point (a general search compares every point with many triangles, and can miss points on the boundary).
    """
    xs, ys = np.unique(basis.mesh.p[0]), np.unique(basis.mesh.p[1])
    i = np.clip(np.searchsorted(xs, points[:, 0], side="right") - 1, 0, xs.size - 2)
    j = np.clip(np.searchsorted(ys, points[:, 1], side="right") - 1, 0, ys.size - 2)
    along = (points[:, 0] - xs[i]) / (xs[i + 1] - xs[i])
    up = (points[:, 1] - ys[j]) / (ys[j + 1] - ys[j])
    # The tensor mesh lists all triangles above their diagonal, column by column, then all those below.
    rectangles = (xs.size - 1) * (ys.size - 1)
    cells = i * (ys.size - 1) + j + np.where(up > along, 0, rectangles)

    local = basis.mapping.invF(points.T[:, :, None], tind=cells)
    n_local = basis.Nbfun
    values = [basis.elem.gbasis(basis.mapping, local, k, tind=cells)[0].ravel() for k in range(n_local)]
    rows = np.tile(np.arange(points.shape[0]), n_local)
    columns = basis.element_dofs[:, cells].ravel()
    return csr_array((np.concatenate(values), (rows, columns)), shape=(points.shape[0], basis.N))


def check_count(what: str, value: int, least: int) -> None:
    if not isinstance(value, Integral) or value < least:
        raise InputError(f"{what} is {value!r}; it must be a whole number, at least {least}")
