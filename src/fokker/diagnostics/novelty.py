"""Whether a measurement is like those a model was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from fokker.errors import InputError
from fokker.rng import stream

NEAREST = 5
FEWEST = 40  # known measurements
BEYOND = 1e-3  # unit of what lies outside all directions, in the deviation of the largest


class Novelty:
    """p-values of new measurements against known ones (M, D), exact for new ones that are exchangeable with these.

    Half of the known measurements, chosen by the seed, make the score: the mean distance to its five nearest among
    them, in their principal directions, each in units of its standard deviation, what lies outside these directions
    in a thousandth of the largest. The other half rank it:

        p = (1 + #{known scores >= score}) / (1 + number of them),

    uniform but for ties, so that a measurement like the others has p <= a with probability a at most (a conformal
    test). The smallest p is about 2 / M.

    Raises `InputError` for fewer than 40 known measurements, NaN and infinities. Source: Vovk, Gammerman and Shafer,
    Algorithmic Learning in a Random World, 2005; Laxhammar and Falkman 2011 (nearest neighbours).
    """

    def __init__(self, known: ArrayLike, seed: int = 0):
        rows = np.asarray(known, dtype=np.float64)
        if rows.ndim != 2 or len(rows) < FEWEST or not np.isfinite(rows).all():
            raise InputError(f"known: got shape {rows.shape}, (M, D) of at least {FEWEST} finite rows is accepted")
        order = stream(seed, "diagnostics/novelty").permutation(len(rows))
        made, ranked = rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]
        self.mean = made.mean(0)
        std = made.std(0)
        self.std = np.where(std > 0, std, 1.0)
        _, values, directions = np.linalg.svd((made - self.mean) / self.std, full_matrices=False)
        scale = values / np.sqrt(len(made))
        kept = scale > 1e-6 * scale.max(initial=1e-300)
        self.directions, self.scale = directions[kept], scale[kept]
        self.tree = cKDTree(self._white(made))
        self.scores = np.sort(self._score(ranked))

    def p_value(self, y: ArrayLike) -> NDArray:
        """(K,) of measurements (K, D)."""
        score = self._score(np.asarray(y, dtype=np.float64))
        above = len(self.scores) - np.searchsorted(self.scores, score, side="left")
        return (1 + above) / (1 + len(self.scores))

    def _white(self, y: NDArray) -> NDArray:
        """Principal directions in units of their deviations, and what is left of y, magnified."""
        scaled = (y - self.mean) / self.std
        along = scaled @ self.directions.T
        left = np.linalg.norm(scaled - along @ self.directions, axis=1, keepdims=True)
        return np.concatenate([along / self.scale, left / (BEYOND * self.scale.max(initial=1e-300))], 1)

    def _score(self, y: NDArray) -> NDArray:
        distance, _ = self.tree.query(self._white(y), NEAREST)
        return distance.mean(1)

    def nearest(self, y: ArrayLike, known: ArrayLike, count: int) -> NDArray:
        """The rows (count,) of known measurements that are nearest to one measurement (D,)."""
        rows = self._white(np.asarray(known, dtype=np.float64))
        here = self._white(np.asarray(y, dtype=np.float64)[None])[0]
        return np.linalg.norm(rows - here, axis=1).argsort(kind="stable")[:count]
