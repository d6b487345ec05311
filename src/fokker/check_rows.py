"""Rows to check a posterior with, and samples at them, a group at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fokker.errors import InputError
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.gaussian_conditional import GaussianConditional

MOST_ROWS = 2000  # that are judged
DRAWS = 199  # samples for each row
AT_ONCE = 2**24  # numbers that are sampled at a time


@dataclass(frozen=True)
class Rows:
    """Pairs to check with: x (M, *x_shape), y (M, *y_shape), further conditions by name.

    origin: what they are, in words. whole: y where entries were hidden from it as in the training, else None.
    """

    x: NDArray
    y: NDArray
    cond: dict[str, NDArray] = field(default_factory=dict)
    origin: str = "rows that the fit has not seen"
    whole: NDArray | None = None

    def part(self, which: Any) -> Rows:
        """Some of the rows."""
        cond = {name: value[which] for name, value in self.cond.items()}
        return Rows(self.x[which], self.y[which], cond, self.origin, None if self.whole is None else self.whole[which])

    @property
    def complete(self) -> Rows:
        """With nothing hidden."""
        return Rows(self.x, self.y if self.whole is None else self.whole, self.cond, self.origin)

    @property
    def seen(self) -> NDArray:
        """y and the conditions, in the order of their names, as one vector (M, D), NaN where y is missing."""
        parts = [self.y, *(self.cond[name] for name in sorted(self.cond))]
        return np.concatenate([part.reshape(len(self.x), -1) for part in parts], 1)


def as_rows(y: NDArray, cond: dict[str, Any], y_shape: tuple[int, ...]) -> tuple[NDArray, dict[str, Any]]:
    """Measurements, or a single one, and their conditions as rows (K, ...)."""
    if y.ndim > len(y_shape):
        return y, cond
    return y[None], {name: value[None] if value.ndim == 1 else value for name, value in cond.items()}


def in_shape(values: NDArray, shape: tuple[int, ...]) -> NDArray:
    """As (*shape) or (M, *shape) where only axes of length 1 are too few or too many; anything else as it is."""

    def long(sizes: tuple[int, ...]) -> list[int]:
        return [size for size in sizes if size != 1]

    if shape in (values.shape, values.shape[1:]):
        return values
    if long(values.shape) == long(shape):
        return values.reshape(shape)
    return values.reshape(len(values), *shape) if long(values.shape[1:]) == long(shape) else values


def drawn_at(
    posterior: Any, rows: Rows, seed: int, kept: NDArray, progress: Callable[[int, int], None] | None = None
) -> NDArray:
    """Samples (M, DRAWS, d) of the kept entries, a group of rows at a time, so that memory stays bounded."""
    group, parts = max(1, AT_ONCE // (DRAWS * int(np.prod(posterior.x_shape)))), []
    for start in range(0, len(rows.x), group):
        part = rows.part(slice(start, start + group))
        with gaps_are_known():
            found = posterior.sample(part.y, DRAWS, seed, cond=part.cond or None, first=start).samples
        parts.append(found.flatten(2)[:, :, kept].double().numpy())
        if progress is not None:
            progress(min(start + group, len(rows.x)), len(rows.x))
    return np.concatenate(parts)


@contextmanager
def gaps_are_known() -> Iterator[None]:
    """No warning of measurements in which nothing is observed, as for rows that a training hides whole."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "nothing is observed")
        yield


def baseline_of(posterior: ConditionalPosterior) -> GaussianConditional | None:
    """The Gaussian without a network, where its coordinates have one."""
    try:
        return posterior.no_network()
    except InputError:
        return None
