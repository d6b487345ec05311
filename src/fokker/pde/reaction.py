"""Advection, diffusion and logistic growth in a channel fed through its walls: the nonlinear forward model."""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, diags_array, sparray

from fokker.errors import InputError
from fokker.pde.channel import Array, Channel, ChannelModel, mass_matrix
from fokker.pde.solvers import Factorisation, accelerated

TOLERANCE = 1e-8  # on the relative residual of every solution
_ADJOINT_TOLERANCE = 1e-10  # on the relative residual of an adjoint solution, a linear system
_BLOCK = 32  # systems iterated together: their states stay in the cache beside the factors
_ITERATIONS = 40
_NEWTON_STEPS = 25
_WORSE = 10.0  # growth of the residual at which Newton's method is given up
_LITTLE_FLUX = 0.01  # of kappa K / height: where residuals stop being relative to the flux


@dataclass(frozen=True)
class Solved:
    """Solutions for many fluxes, and how they were found. A flux without a solution has NaN values.

    `values` (..., n): nodal or at points. Of shape (...): `residual`, the relative residual of each solution
    (at most `TOLERANCE`; of the last attempt where there is none); `iterations`, accelerated and Newton's
    together; `newton`, whether Newton's method was needed.
    """

    values: Array
    residual: Array
    iterations: NDArray[np.int64]
    newton: NDArray[np.bool_]

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which fluxes have no solution, shape (...)."""
        return ~(self.residual <= TOLERANCE)


class LogisticReaction(ChannelModel):
    """a . grad c - kappa Lap c = r c (1 - c / K) in the channel, for many wall fluxes with one factorisation.

    r = `rate`, K = `capacity`; boundary conditions and order of the fluxes as in `AdvectionDiffusion`. The weak
    form is, on the nodes off the inlet,

        F(c) = A c - r M (c - c c / K) - L q = 0,

    with A = `transport_matrix`, M the mass matrix, L = `wall_loads` and c c the square node by node: the
    product approximation of Christie et al. 1981, which keeps the order of the elements. A solution is a c with
    |F(c)| / max(|L q|, 0.01 |L q1|) <= 1e-8 (Euclidean norms), q1 = kappa K / height on every segment.

    The equation is linearised once, at the solution for `mean_flux`: a number for all segments, or (n_fluxes,);
    the closer to the fluxes asked for, the fewer iterations. Every flux starts from the linearised solution and
    is corrected with the one factorisation, with Anderson's acceleration, many fluxes at once (`accelerated`).
    What has not converged then is finished by Newton's method, one flux at a time, from the linearised
    solution. The equation being convex, that start lies above the solution and Newton's iterates descend to the
    largest one, without damping (Ortega and Rheinboldt 1970, section 13.3; for q >= 0 it is the only
    non-negative one); starting from c = 0 diverges. A flux that neither method solves gets NaN. Fluxes that
    draw from the channel near the inlet soon have no solution: growth makes a negative c ever more negative.

    The benchmark is Channel(velocity=12, diffusivity=4) with the defaults here. The default mesh (quadratic
    elements, 64 x 24, the cells along the channel growing from the inlet) gives the sensor values to 2e-5, the
    largest relative error in benchmarks/results/reaction_convergence.json. Across the channel the cells are
    equal and have nodes at the sensors' heights: quadratic elements are more accurate there.
    Raises `InputError` for a negative rate, a capacity that is not positive, a mean flux that is negative or
    zero everywhere or cannot be solved, and a mesh that `channel_basis` refuses.
    """

    def __init__(
        self,
        channel: Channel,
        rate: float = 5.0,
        capacity: float = 2.0,
        mean_flux: float | ArrayLike = 2.0,
        nx: int = 64,
        ny: int = 24,
        order: int = 2,
        grading: float = 4.0,
    ) -> None:
        _check_number("rate", rate, zero=True)
        _check_number("capacity", capacity)
        super().__init__(channel, nx, ny, order, grading)
        self.rate, self.capacity = float(rate), float(capacity)
        self.mean_flux = _checked_mean(mean_flux, channel.n_fluxes)
        self.mass = mass_matrix(self.basis)
        self._mass = _restricted(self.mass, self.free)
        self._linear = _restricted(self.matrix - self.rate * self.mass, self.free)  # the derivative of F at c = 0
        self._transposed = csr_array(self._linear.T)
        self._loads = self.loads[self.free]
        unit = channel.diffusivity * self.capacity / channel.height
        self._least_scale = _LITTLE_FLUX * unit * float(np.linalg.norm(self._loads.sum(axis=1)))
        with np.errstate(all="ignore"):
            load = self._loads @ self.mean_flux
            full = np.full(self.free.size, self.capacity)
            above = full - Factorisation(self._tangent(full)).solve(self._force(full, load)[:, None])[:, 0]
            self._mean, relative, _ = self._newton(above, load, self._scale(load[:, None])[0])
        if not relative <= TOLERANCE:
            raise InputError(
                f"mean_flux: the state for it at rate {rate!r} has residual {relative:.1g} after Newton's method, "
                f"at most {TOLERANCE:g} is accepted: take a smaller flux or rate, or a finer mesh"
            )
        self._factors = Factorisation(self._tangent(self._mean))
        self._response = self._factors.solve(self._loads)

    def solve(self, flux: ArrayLike) -> Array:
        """Nodal concentrations (..., N) for wall fluxes (..., n_fluxes), NaN where there is no solution.

        Raises `InputError` for a wrong last dimension or a flux that is not finite.
        """
        return self._solve(self._checked_flux(flux), None).values

    def observe(self, flux: ArrayLike, points: ArrayLike | None = None) -> Solved:
        """Concentrations (..., n) at points (n, 2), the channel's sensors by default, and how they were found.

        Holds the fields of few fluxes at a time. Raises `InputError` as `solve`, and for points outside the channel.
        """
        return self._solve(self._checked_flux(flux), self._observation(points))

    def residual(self, flux: ArrayLike, concentration: Array) -> Array:
        """|F(c)| / max(|L q|, 0.01 |L q1|) over the nodes off the inlet, shape (...): the algebraic error,
        with q1 = kappa K / height on every segment. NaN where the concentration is.

        Raises `InputError` for wrong shapes or a flux that is not finite.
        """
        q, c = self._checked_flux(flux), self._checked_nodal(concentration)
        if q.shape[:-1] != c.shape[:-1]:
            raise InputError(f"concentration: shape is {c.shape}; it must be {(*q.shape[:-1], self.n_nodes)}")
        load = self._loads @ q.reshape(-1, self.channel.n_fluxes).T
        force = self._force(c.reshape(-1, self.n_nodes)[:, self.free].T, load)
        return (_norms(force) / self._scale(load)).reshape(c.shape[:-1])

    def jacobian(self, concentration: Array, points: ArrayLike | None = None) -> Array:
        """dc(points)/dq (..., n, n_fluxes) at solutions (..., N): P J(c)^-1 L with J the derivative of F.

        Exact for the discrete equations, with a factorisation for each solution; `vjp` needs none. Points are
        the channel's sensors by default. NaN where the concentration is. Raises `InputError` for a wrong shape,
        or points outside the channel.
        """
        c = self._checked_nodal(concentration)
        observation = self._observation(points)
        rows = c.reshape(-1, self.n_nodes)[:, self.free]
        out = np.full((rows.shape[0], observation.shape[0], self.channel.n_fluxes), np.nan)
        for i in np.flatnonzero(np.isfinite(rows).all(axis=1)):
            factors = Factorisation(self._tangent(rows[i]))
            if observation.shape[0] < self.channel.n_fluxes:
                out[i] = factors.solve(observation.T.toarray(), adjoint=True).T @ self._loads
            else:
                out[i] = observation @ factors.solve(self._loads)
        return out.reshape(*c.shape[:-1], *out.shape[1:])

    def vjp(self, concentration: Array, cotangent: ArrayLike, points: ArrayLike | None = None) -> Array:
        """Gradient (..., n_fluxes) in q of sum_i cotangent_i c(point_i) at solutions (..., N), by the discrete adjoint.

        L^T lambda with J(c)^T lambda = P^T cotangent, for cotangents (..., n); the adjoint systems are iterated
        together like the solutions, to a relative residual of 1e-10. Points are the channel's sensors by default.
        NaN where the concentration or the cotangent is. Raises `InputError` for wrong shapes, or points outside
        the channel.
        """
        c = self._checked_nodal(concentration)
        observation = self._observation(points)
        g = np.asarray(cotangent, dtype=np.float64)
        if g.shape != (*c.shape[:-1], observation.shape[0]):
            raise InputError(
                f"cotangent: shape is {g.shape}; it must be {(*c.shape[:-1], observation.shape[0])}, a number per point"
            )
        states, sources = c.reshape(-1, self.n_nodes)[:, self.free], g.reshape(-1, observation.shape[0])
        out = np.full((states.shape[0], self.channel.n_fluxes), np.nan)
        possible = np.flatnonzero(np.isfinite(states).all(axis=1) & np.isfinite(sources).all(axis=1))
        for first in range(0, possible.size, _BLOCK):
            rows = possible[first : first + _BLOCK]
            out[rows] = (self._loads.T @ self._adjoint(states[rows].T, observation.T @ sources[rows].T)).T
        return out.reshape(*c.shape[:-1], self.channel.n_fluxes)

    def _solve(self, flux: Array, observation: csr_array | None) -> Solved:
        """Solutions at the observed points, or at all nodes."""
        q = flux.reshape(-1, self.channel.n_fluxes)
        m = q.shape[0]
        values = np.zeros((m, self.n_nodes if observation is None else observation.shape[0]))
        residual, iterations = np.empty(m), np.empty(m, dtype=np.int64)
        newton = np.zeros(m, dtype=np.bool_)
        for first in range(0, m, _BLOCK):
            block = slice(first, first + _BLOCK)
            c, residual[block], iterations[block], newton[block] = self._solve_block(q[block].T)
            if observation is None:
                values[block, self.free] = c.T
            else:
                values[block] = (observation @ c).T
        values[~(residual <= TOLERANCE)] = np.nan
        shape = flux.shape[:-1]
        return Solved(
            values.reshape(*shape, values.shape[1]),
            residual.reshape(shape),
            iterations.reshape(shape),
            newton.reshape(shape),
        )

    def _solve_block(self, q: Array) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]:
        """c (n, m) for fluxes (n_fluxes, m), relative residuals, iterations, whether by Newton's method."""
        with np.errstate(all="ignore"):  # what diverges is found by its residual
            load = self._loads @ q
            scale = self._scale(load)
            start = self._mean[:, None] + self._response @ (q - self.mean_flux[:, None])

            def residual(c: Array, columns: NDArray[np.int64]) -> tuple[Array, Array]:
                force = self._force(c, load[:, columns])
                return force, _norms(force) / scale[columns]

            found = accelerated(residual, self._factors.solve, start, TOLERANCE, _ITERATIONS)
            newton = ~(found.residual <= TOLERANCE)
            for j in np.flatnonzero(newton):
                found.x[:, j], found.residual[j], steps = self._newton(start[:, j], load[:, j], scale[j])
                found.iterations[j] += steps
        return found.x, found.residual, found.iterations, newton

    def _newton(self, c: Array, load: Array, scale: float) -> tuple[Array, float, int]:
        """c (n,), its relative residual and the number of steps; given up once the residual has grown."""
        force = self._force(c, load)
        relative = first = float(np.linalg.norm(force) / scale)
        steps = 0
        while TOLERANCE < relative <= _WORSE * first and steps < _NEWTON_STEPS:
            try:
                c = c - Factorisation(self._tangent(c)).solve(force[:, None])[:, 0]
            except RuntimeError:  # exactly singular
                break
            force = self._force(c, load)
            relative = float(np.linalg.norm(force) / scale)
            steps += 1
        return c, relative, steps

    def _adjoint(self, c: Array, source: Array) -> Array:
        """lambda (n, m) with J(c_j)^T lambda_j = source_j for every column j."""
        scale = _norms(source)
        scale[scale == 0] = 1.0
        slope = (2 * self.rate / self.capacity) * c

        def residual(x: Array, columns: NDArray[np.int64]) -> tuple[Array, Array]:
            force = self._transposed @ x + slope[:, columns] * (self._mass @ x) - source[:, columns]
            return force, _norms(force) / scale[columns]

        def correct(force: Array) -> Array:
            return self._factors.solve(force, adjoint=True)

        with np.errstate(all="ignore"):
            found = accelerated(residual, correct, correct(source), _ADJOINT_TOLERANCE, _ITERATIONS)
        for j in np.flatnonzero(~(found.residual <= _ADJOINT_TOLERANCE)):
            found.x[:, j] = Factorisation(self._tangent(c[:, j])).solve(source[:, [j]], adjoint=True)[:, 0]
        return found.x

    def _force(self, c: Array, load: Array) -> Array:
        """F at the nodes off the inlet, of the shape of c: (n,) or (n, m)."""
        return self._linear @ c + (self.rate / self.capacity) * (self._mass @ (c * c)) - load

    def _tangent(self, c: Array) -> sparray:
        """J(c) = dF/dc (n, n) for c (n,)."""
        return self._linear + (2 * self.rate / self.capacity) * (self._mass @ diags_array(c))

    def _scale(self, load: Array) -> Array:
        return np.maximum(_norms(load), self._least_scale)

    def _observation(self, points: ArrayLike | None) -> csr_array:
        """The interpolation to points from the nodes off the inlet."""
        return _columns(self._interpolation(self.channel.sensors if points is None else points), self.free)


def _restricted(matrix: sparray, nodes: NDArray[Any]) -> csr_array:
    return csr_array(csr_array(matrix)[nodes][:, nodes])


def _columns(matrix: csr_array, nodes: NDArray[Any]) -> csr_array:
    return csr_array(matrix[:, nodes])


def _norms(columns: Array) -> Array:
    """Euclidean norm of each column."""
    return np.asarray(np.sqrt(np.einsum("nj,nj->j", columns, columns)))


def _checked_mean(value: float | ArrayLike, n: int) -> Array:
    q = np.asarray(value, dtype=np.float64)
    if q.shape not in ((), (n,)):
        raise InputError(f"mean_flux: got shape {q.shape}, a number or shape ({n},) is accepted")
    wrong = q[~((q >= 0) & (q < np.inf))]
    if wrong.size or not q.any():
        value = wrong[0] if wrong.size else 0.0
        raise InputError(f"mean_flux: got {value}, finite numbers are accepted, none negative, not all zero")
    return np.broadcast_to(q, (n,)).copy()


def _check_number(name: str, value: float, zero: bool = False) -> None:
    if not (isinstance(value, Real) and 0 <= float(value) < float("inf") and (zero or float(value) > 0)):
        raise InputError(f"{name}: got {value!r}, a {'non-negative' if zero else 'positive'} finite number is accepted")
