"""The densities as tasks: pairs for the methods, and how far their samples are from the exact conditional."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fokker.diagnostics.optimal_transport import kolmogorov_smirnov, wasserstein_1d
from fokker.problems import densities
from fokker.problems.densities import Density

PAIRS = 10_000
DRAWS = 10_000  # for each y


@dataclass(frozen=True)
class Task:
    """`at`: the y at which p(x given y) is judged. `targets`: W1 and KS that fokker is to reach."""

    name: str
    targets: tuple[float, float]

    @property
    def law(self) -> Density:
        return densities.get(self.name)

    @property
    def at(self) -> tuple[float, ...]:
        return self.law.y_values


TASKS = {
    task.name: task
    for task in (Task("tanh", (0.020, 0.035)), Task("bimodal", (0.025, 0.025)), Task("spiral", (0.017, 0.022)))
}


def pairs(task: Task, seed: int, count: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
    """x (count, 1) and y (count, 1), float32."""
    x, y = task.law.sample(count, np.random.default_rng([seed, list(TASKS).index(task.name)]))
    return x.astype(np.float32), y.astype(np.float32)


class Exact:
    """The exact conditionals of a task: W1 and KS of samples against them."""

    def __init__(self, task: Task):
        self.task = task

    def distances(self, index: int, samples: np.ndarray) -> tuple[float, float]:
        """W1 = int |F_n - F| dx and KS = max |F_n - F| of samples (n,) at the index-th y."""
        law, y = self.task.law, self.task.at[index]
        x = np.asarray(samples, dtype=np.float64)
        return wasserstein_1d(x, lambda v: law.cdf(v, y), law.support(y)), kolmogorov_smirnov(
            x, lambda v: law.cdf(v, y)
        )

    def floor(self, repeats: int = 20) -> tuple[float, float]:
        """Mean W1 and KS of exact samples, as many as the methods draw: what a perfect method has."""
        rng = np.random.default_rng(0)
        found = [
            self.distances(index, self.task.law.conditional(np.full(DRAWS, y), rng))
            for index, y in enumerate(self.task.at)
            for _ in range(repeats)
        ]
        w1, ks = np.mean(found, axis=0)
        return float(w1), float(ks)
