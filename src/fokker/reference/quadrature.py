"""Posteriors of two unknowns by quadrature, for any density."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from fokker.errors import InputError
from fokker.reference.gaussian import stream

Density = Callable[[NDArray], NDArray]


class Grid:
    """A law on the plane from its log density on a grid: the midpoint rule on `cells` x `cells` squares.

    log_density: (N, 2) -> (N,), not normalised; box: ((low, high), (low, high)), which has to hold all of the law but a
    negligible part, and cells have to be small against its details: the sum then converges faster than any power of
    their size. Within a cell samples are uniform.

    Raises `InputError` for a density that is nowhere positive, and where a cell at the edge holds more than 1e-6 of the
    largest: the box is too small.
    """

    def __init__(
        self, log_density: Density, box: tuple[tuple[float, float], tuple[float, float]], cells: int = 600
    ) -> None:
        self._size = np.array([(high - low) / cells for low, high in box])
        axes = [low + size * (np.arange(cells) + 0.5) for (low, _), size in zip(box, self._size)]
        self._points = np.stack(np.meshgrid(*axes, indexing="ij"), 2).reshape(-1, 2)
        log = log_density(self._points)
        total = logsumexp(log)
        if not np.isfinite(total):
            raise InputError("log_density: is nowhere positive or not a number, a density is accepted")
        self._weights = np.exp(log - total)
        square = self._weights.reshape(cells, cells)
        edge = max(square[0].max(), square[-1].max(), square[:, 0].max(), square[:, -1].max())
        if edge > 1e-6 * square.max():
            raise InputError(f"box: {edge / square.max():.1g} of the largest density is at its edge, use a larger box")
        self.log_total = float(total + np.log(self._size).sum())
        """log of the integral of the density."""
        self.mean: NDArray = self._weights @ self._points
        """(2,)."""
        self.std: NDArray = np.sqrt(self._weights @ (self._points - self.mean) ** 2)
        """(2,)."""

    def sample(self, n: int, seed: int = 0, case: int = 0) -> NDArray:
        """n independent samples (n, 2) by the random stream (seed, case)."""
        rng = stream(seed, case)
        which = rng.choice(len(self._weights), n, p=self._weights)
        return self._points[which] + self._size * rng.uniform(-0.5, 0.5, (n, 2))
