"""The prior of the flux through the walls of a channel, and clean sensor values, for the simulation store.

Source: Dasgupta et al. 2025 (arXiv 2504.07437), section 6; constants that our copy of it lost are our choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from fokker.pde.advection_diffusion import AdvectionDiffusion, Channel
from fokker.random_fields import squared_exponential

LENGTH = 2.0  # of the prior's correlation, in the units of the channel
NUGGET = 1e-4  # the RBF matrix alone has eigenvalues down to 4e-15


@dataclass(frozen=True)
class FluxSimulator:
    """q = max(0, mean + g), g ~ N(0, RBF), and B q at the sensors. Matrices are made when first used."""

    mean: float
    mesh: tuple[int, int] = (128, 30)
    order: int = 2
    channel: ClassVar[Channel] = Channel()

    @property
    def settings(self) -> Mapping[str, Any]:
        """What identifies the simulations."""
        return {
            "prior_mean": self.mean,
            "length": LENGTH,
            "nugget": NUGGET,
            "mesh": list(self.mesh),
            "order": self.order,
            "channel": asdict(self.channel),
        }

    @cached_property
    def solver(self) -> AdvectionDiffusion:
        """The channel, assembled and factorised once."""
        return AdvectionDiffusion(self.channel, *self.mesh, order=self.order)

    @cached_property
    def matrix(self) -> np.ndarray:
        """B (30, 30): flux to sensors is linear."""
        return self.solver.sensor_matrix(self.channel.sensors)

    @cached_property
    def covariance(self) -> np.ndarray:
        """Prior covariance (30, 30) of the latent flux: the two walls are independent."""
        edges = self.channel.segment_edges
        middle = (edges[:-1] + edges[1:])[:, None] / 2
        wall = squared_exponential(middle, LENGTH) + NUGGET * np.eye(len(middle))
        return np.kron(np.eye(2), wall)

    @cached_property
    def _root(self) -> np.ndarray:
        return np.linalg.cholesky(self.covariance)

    def prior(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """max(0, mean + g) (n, 30)."""
        return np.maximum(0.0, self.mean + rng.standard_normal((n, len(self._root))) @ self._root.T)

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Concentrations at the sensors, without noise."""
        return x @ self.matrix.T

    def field(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and the concentration of one flux (30,), on a grid for a picture."""
        return self.solver.field(x)
