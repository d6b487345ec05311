"""Three 2-D densities: pairs, exact conditional cdf, and how far samples are from it.

Source: Ray et al. 2023 (the densities); the four y are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

PAIRS = 10_000
DRAWS = 10_000  # for each y


@dataclass(frozen=True)
class Task:
    """`at`: the y at which p(x given y) is judged. `targets`: W1 and KS that fokker is to reach."""

    name: str
    at: tuple[float, ...]
    targets: tuple[float, float]


TASKS = {
    task.name: task
    for task in (
        Task("tanh", (-1.2, -0.5, 0.5, 1.2), (0.020, 0.035)),
        Task("bimodal", (-1.0, -0.3, 0.3, 1.0), (0.025, 0.025)),
        Task("spiral", (-0.8, -0.3, 0.3, 0.8), (0.017, 0.022)),
    )
}


def pairs(task: Task, seed: int, count: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
    """x (count, 1) and y (count, 1), float32.

    tanh: y ~ U(-2, 2), x = tanh y + Gamma(1, scale 0.3). bimodal: y, w ~ N(0, 1), x = cbrt(y + w). spiral: angle
    t = (3 pi / 2)(1 + 2 h), h ~ U(0, 1), (x, y) = 0.1 (t sin t + w, t cos t + v), v, w ~ N(0, 1).
    """
    rng = np.random.default_rng([seed, list(TASKS).index(task.name)])
    if task.name == "tanh":
        y = rng.uniform(-2, 2, count)
        x = np.tanh(y) + rng.gamma(1.0, 0.3, count)
    elif task.name == "bimodal":
        y = rng.normal(size=count)
        x = np.cbrt(y + rng.normal(size=count))
    else:
        t = 1.5 * np.pi * (1 + 2 * rng.uniform(size=count))
        x = 0.1 * (t * np.sin(t) + rng.normal(size=count))
        y = 0.1 * (t * np.cos(t) + rng.normal(size=count))
    return x[:, None].astype(np.float32), y[:, None].astype(np.float32)


def cdf(task: Task, x: np.ndarray, y: float) -> np.ndarray:
    """P(X <= x given y), the shape of x. The spiral's angle by the midpoint rule."""
    if task.name == "tanh":
        return -np.expm1(-np.maximum(x - np.tanh(y), 0.0) / 0.3)
    if task.name == "bimodal":
        return ndtr(x**3 - y)
    t = 1.5 * np.pi * (1 + 2 * (np.arange(1000) + 0.5) / 1000)
    weight = np.exp(-0.5 * ((y - 0.1 * t * np.cos(t)) / 0.1) ** 2)
    weight, t = weight[weight > 1e-12], t[weight > 1e-12]
    out = np.zeros_like(x)
    for w, centre in zip(weight / weight.sum(), 0.1 * t * np.sin(t)):
        out += w * ndtr((x - centre) / 0.1)
    return out


class Exact:
    """The exact conditionals of a task on a fine grid of x, made once: W1 and KS of samples against them."""

    def __init__(self, task: Task):
        # Beyond the grid every mass is below 1e-8; tanh y is where the cdf of `tanh` has its kink.
        self.task, self.x = task, np.union1d(np.linspace(-5.0, 10.0, 30_001), np.tanh(task.at))
        self.cdf = np.stack([cdf(task, self.x, y) for y in task.at])

    def distances(self, index: int, samples: np.ndarray) -> tuple[float, float]:
        """W1 = int |F_n - F| dx and KS = max |F_n - F| of samples (n,) at the index-th y."""
        ordered = np.sort(np.asarray(samples, dtype=np.float64))
        count = len(ordered)
        exact = np.interp(ordered, self.x, self.cdf[index], left=0.0, right=1.0)
        steps = np.arange(count + 1) / count
        ks = max(np.abs(exact - steps[:-1]).max(), np.abs(exact - steps[1:]).max())
        knots = np.sort(np.concatenate([self.x, ordered]))
        between = np.searchsorted(ordered, knots[:-1], side="right") / count  # F_n is constant between knots
        middle = np.interp(0.5 * (knots[:-1] + knots[1:]), self.x, self.cdf[index], left=0.0, right=1.0)
        return float((np.abs(between - middle) * np.diff(knots)).sum()), float(ks)

    def inverse(self, index: int, u: np.ndarray) -> np.ndarray:
        """Exact samples from uniform numbers u."""
        rises = np.diff(self.cdf[index]) > 0
        keep = np.concatenate([rises, [False]]) | np.concatenate([[False], rises])
        return np.interp(u, self.cdf[index][keep], self.x[keep])

    def floor(self, repeats: int = 20) -> tuple[float, float]:
        """Mean W1 and KS of exact samples, as many as the methods draw: what a perfect method has."""
        rng = np.random.default_rng(0)
        found = [
            self.distances(index, self.inverse(index, rng.uniform(size=DRAWS)))
            for index in range(len(self.task.at))
            for _ in range(repeats)
        ]
        w1, ks = np.mean(found, axis=0)
        return float(w1), float(ks)
