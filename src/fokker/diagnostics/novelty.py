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
    """p-values of new measurements against known ones (M, D), valid for new ones that are exchangeable with these.

    Half of the known measurements, chosen by the seed, make two scores: the mean distance to the five nearest among
    them, entry by entry in standard deviations (sees a common offset), and along their principal directions, each in
    units of its own deviation, what lies outside these directions in a thousandth of the largest (sees what breaks
    their correlations). The other half rank both:

        p = min(1, 2 min over the two scores of (1 + #{known scores >= score}) / (1 + number of them)),

    so that a measurement like the others has p <= a with a probability of at most a (conformal tests, Bonferroni). The
    `smallest` p is about 4 / M.

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
        self.trees = [cKDTree(places) for places in self._places(made)]
        self.scores = [np.sort(score) for score in self._scores(ranked)]

    @property
    def smallest(self) -> float:
        """The smallest p-value there is."""
        return 2 / (1 + len(self.scores[0]))

    def p_value(self, y: ArrayLike) -> NDArray:
        """(K,) of measurements (K, D)."""
        found = []
        for known, score in zip(self.scores, self._scores(np.asarray(y, dtype=np.float64))):
            above = len(known) - np.searchsorted(known, score, side="left")
            found.append((1 + above) / (1 + len(known)))
        return np.minimum(1.0, 2 * np.minimum(*found))

    def _places(self, y: NDArray) -> tuple[NDArray, NDArray]:
        """y in standard deviations, and along the principal directions with what is left of it."""
        scaled = (y - self.mean) / self.std
        along = scaled @ self.directions.T
        left = np.linalg.norm(scaled - along @ self.directions, axis=1, keepdims=True)
        return scaled, np.concatenate([along / self.scale, left / (BEYOND * self.scale.max(initial=1e-300))], 1)

    def _scores(self, y: NDArray) -> list[NDArray]:
        return [tree.query(places, NEAREST)[0].mean(1) for tree, places in zip(self.trees, self._places(y))]
