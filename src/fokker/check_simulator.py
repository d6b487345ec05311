"""The user's simulator as a check calls it, for the x and y of the fit: what does not fit is told in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fokker.errors import InputError
from fokker.screening import first
from fokker.simulation.chunks import called, names_of
from fokker.simulation.programs import ModelFile

Prior = Callable[[np.random.Generator, int], np.ndarray]


class Simulates(Protocol):
    """What a check needs of a simulator; with `prior(rng, n)` beside it, it can simulate near a measurement."""

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


class Arranged:
    """A simulator with the entries of x and y in the order of a fit, and only those of y that the fit has.

    x: where each entry of the simulator's x stands in that of the fit; y: where each of the fit's y stands in that of
    the simulator; None: as it is.
    """

    def __init__(self, simulator: Simulates, x: list[int] | None, y: list[int] | None):
        self.simulator, self._x, self._y = simulator, x, y
        prior = prior_of(simulator)
        self.prior = None if prior is None else self._drawn

    def _drawn(self, rng: np.random.Generator, n: int) -> np.ndarray:
        prior = prior_of(self.simulator)
        assert prior is not None
        x = prior(rng, n)
        return x if self._x is None else np.asarray(x)[:, np.argsort(self._x)]

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """y (n, k) of the fit's for x (n, d) in the fit's order."""
        y = self.simulator.simulate(x if self._x is None else x[:, self._x], rng)
        return y if self._y is None else np.asarray(y).reshape(len(x), -1)[:, self._y]


def arranged(simulator: Simulates, names: Mapping[str, Sequence[str]]) -> Simulates:
    """The simulator for a fit whose entries of x and y have these names, as far as both tell them.

    Raises InputError where it needs an x that the fit does not have, or has another number of them, and so for y.
    """
    own, places, name = names_of(simulator), dict[str, list[int] | None](), _file_of(simulator)
    for part in ("x", "y"):
        mine, fit = own.get(f"{part}_names", []), list(names.get(part, []))
        needed, there = (fit, mine) if part == "y" else (mine, fit)
        places[part] = None
        if mine and fit and mine != fit:
            if set(needed) <= set(there) and (part == "y" or len(mine) == len(fit)):
                places[part] = [there.index(entry) for entry in needed]
            elif len(mine) != len(fit):
                raise InputError(
                    f"simulator: {part} is {first(mine)} in {name} and {first(fit)} in the fit; a model fitted to all "
                    f"{part} of the simulator is accepted"
                )
    return simulator if places == {"x": None, "y": None} else Arranged(simulator, places["x"], places["y"])


def renamed(simulator: Simulates, names: Mapping[str, Sequence[str]]) -> str:
    """What a simulator calls otherwise than a fit with these names, in words; empty where it is nothing."""
    own, texts = names_of(simulator), []
    for part in ("x", "y"):
        mine, fit = own.get(f"{part}_names", []), names.get(part, [])
        if mine and fit and not set(fit) <= set(mine):
            new, old = ([n for n in a if n not in b] for a, b in ((mine, fit), (fit, mine)))
            texts.append(f"its {part} has {first(new)} where the fit has {first(old)}")
    return ", ".join(texts)


def prior_of(simulator: Simulates) -> Prior | None:
    """The simulator's prior(rng, n), None where it has none."""
    found = getattr(simulator.module if isinstance(simulator, ModelFile) else simulator, "prior", None)
    return found if callable(found) else None


def simulated(simulator: Simulates, x: NDArray, y_shape: tuple[int, ...], rng: np.random.Generator) -> NDArray:
    """y (n, *y_shape) of the simulator at x (n, *x_shape); InputError where it raises or returns another shape."""
    prior = prior_of(simulator)
    if x.shape[1:] == (1,) and prior is not None and np.ndim(prior(np.random.default_rng(0), 2)) == 1:
        x = x[:, 0]  # one number a row, without an axis of its own
    name = _named(simulator, "simulate")
    y = called(name, len(x), lambda: simulator.simulate(x.copy(), rng))
    if y.shape != (len(x), *y_shape) and not (y.ndim == 1 and y_shape == (1,)):
        raise InputError(f"{name} returned an array of shape {y.shape}; expected {(len(x), *y_shape)} as in the fit")
    return y.reshape(len(x), *y_shape)


def drawn_from_prior(
    simulator: Simulates, prior: Prior, n: int, x_shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray:
    """x (n, *x_shape) of the simulator's prior; InputError where it raises, returns another shape, or NaN."""
    name = _named(simulator, "prior")
    x = called(name, n, lambda: prior(rng, n), finite=True)
    if x.shape != (n, *x_shape) and not (x.ndim == 1 and x_shape == (1,)):
        raise InputError(f"{name} returned an array of shape {x.shape}; expected {(n, *x_shape)} as in the fit")
    return x.reshape(n, *x_shape)


def _file_of(simulator: Simulates) -> str:
    """The file's name, or that of the class."""
    return simulator.name if isinstance(simulator, ModelFile) else type(simulator).__name__


def _named(simulator: Simulates, function: str) -> str:
    """A function of the simulator, by the name of its file or of its class."""
    own = simulator.simulator if isinstance(simulator, Arranged) else simulator
    return f"{function} of {own.name}" if isinstance(own, ModelFile) else f"{type(own).__name__}.{function}"
