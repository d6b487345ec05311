"""The user's simulator as a check calls it: shapes and errors are told in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fokker.errors import InputError
from fokker.simulation.chunks import called
from fokker.simulation.programs import ModelFile

Prior = Callable[[np.random.Generator, int], np.ndarray]


class Simulates(Protocol):
    """What a check needs of a simulator; with `prior(rng, n)` beside it, it can simulate near a measurement."""

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


def prior_of(simulator: Simulates) -> Prior | None:
    """The simulator's prior(rng, n), None where it has none."""
    found = getattr(simulator.module if isinstance(simulator, ModelFile) else simulator, "prior", None)
    return found if callable(found) else None


def simulated(simulator: Simulates, x: NDArray, y_shape: tuple[int, ...], rng: np.random.Generator) -> NDArray:
    """y (n, *y_shape) of the simulator at x (n, *x_shape); InputError where it raises or returns another shape."""
    prior = prior_of(simulator)
    if x.shape[1:] == (1,) and prior is not None and np.ndim(prior(np.random.default_rng(0), 2)) == 1:
        x = x[:, 0]  # one number a row, without an axis of its own
    name = f"{type(simulator).__name__}.simulate"
    y = called(name, len(x), lambda: simulator.simulate(x.copy(), rng))
    if y.shape != (len(x), *y_shape) and not (y.ndim == 1 and y_shape == (1,)):
        raise InputError(f"{name} returned an array of shape {y.shape}; expected {(len(x), *y_shape)}")
    return y.reshape(len(x), *y_shape)


def drawn_from_prior(
    simulator: Simulates, prior: Prior, n: int, x_shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray:
    """x (n, *x_shape) of the simulator's prior; InputError where it raises, returns another shape, or NaN."""
    name = f"{type(simulator).__name__}.prior"
    x = called(name, n, lambda: prior(rng, n), finite=True)
    if x.shape != (n, *x_shape) and not (x.ndim == 1 and x_shape == (1,)):
        raise InputError(f"{name} returned an array of shape {x.shape}; expected {(n, *x_shape)}")
    return x.reshape(n, *x_shape)
