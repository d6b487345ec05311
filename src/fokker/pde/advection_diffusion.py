"""Advection and diffusion in a channel fed through its walls: the linear forward model."""

import numpy as np
from numpy.typing import ArrayLike

from fokker.pde.channel import Array, Channel, ChannelModel, channel_basis, wall_loads
from fokker.pde.solvers import Factorisation

__all__ = ["AdvectionDiffusion", "Channel", "channel_basis", "wall_loads"]

_BLOCK = 64  # fluxes per solve, so that the loads of many are never held all at once


class AdvectionDiffusion(ChannelModel):
    """a . grad c - kappa Lap c = 0 in the channel, solved for many wall fluxes with one factorisation.

    c = 0 at the inlet x = 0; kappa dc/dn = q_k on wall segment k (positive feeds the channel), 0 on the rest
    of the walls; diffusive flux 0 at the outlet. The weak form is A c = L q on the nodes off the inlet, with
    A = `transport_matrix`, L = `wall_loads`. Order of q: bottom wall inlet to outlet, then top wall.

    The default mesh (quadratic elements, 128 x 30) gives the sensor values to 2e-5, the largest relative
    error in benchmarks/results/channel_convergence.json. c has the unit of flux * length / diffusivity.
    Raises `InputError` for a mesh that `channel_basis` refuses. Source: arXiv 2504.07437, section 6.
    """

    def __init__(self, channel: Channel, nx: int = 128, ny: int = 30, order: int = 2) -> None:
        super().__init__(channel, nx, ny, order)
        self._factors = Factorisation(self.matrix[self.free][:, self.free])

    def solve(self, flux: ArrayLike) -> Array:
        """Nodal concentrations (..., N) for wall fluxes (..., n_fluxes).

        Raises `InputError` for a wrong last dimension or a flux that is not finite.
        """
        q = self._checked_flux(flux)
        rows = q.reshape(-1, q.shape[-1])
        c = np.empty((rows.shape[0], self.n_nodes))
        for start in range(0, rows.shape[0], _BLOCK):
            block = slice(start, start + _BLOCK)
            c[block] = self.solve_load(rows[block] @ self.loads.T)
        return c.reshape(*q.shape[:-1], self.n_nodes)

    def solve_load(self, load: Array, adjoint: bool = False) -> Array:
        """Nodal values c (n, N), 0 on the inlet, with A c = load (n, N) off the inlet; A^T with `adjoint`."""
        c = np.zeros_like(load)
        c[:, self.free] = self._factors.solve(load[:, self.free].T, adjoint).T
        return c

    def sensor_matrix(self, points: ArrayLike) -> Array:
        """B (n_sensors, n_fluxes) with c(points) = B q, for points (n_sensors, 2).

        B = P A^-1 L with P the interpolation to the points: one solve per flux, or one adjoint solve per
        sensor, whichever are fewer. Raises `InputError` for points outside the channel.
        """
        interpolation = self._interpolation(points)
        if interpolation.shape[0] < self.channel.n_fluxes:
            return self.solve_load(interpolation.toarray(), adjoint=True) @ self.loads
        return interpolation @ self.solve_load(self.loads.T).T

    def residual(self, flux: ArrayLike, concentration: Array) -> Array:
        """|A c - L q| / |L q| over the nodes off the inlet, shape (...): the algebraic error of a solve.

        For zero flux the norm itself. Raises `InputError` for wrong shapes or a flux that is not finite.
        """
        load = (self._checked_flux(flux) @ self.loads.T)[..., self.free]
        c = self._checked_nodal(concentration)
        rows = (self.matrix @ c.reshape(-1, self.n_nodes).T).T.reshape(c.shape)[..., self.free]
        scale = np.linalg.norm(load, axis=-1)
        return np.linalg.norm(rows - load, axis=-1) / np.where(scale > 0, scale, 1.0)
