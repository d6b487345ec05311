"""Rows of training data in memory, with a part held out: the order of every epoch is fixed by the seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.rng import torch_generator

FEWEST = 10  # rows
MOST_HELD = 2000  # rows kept for validation
SHOWN = 2**27  # bytes in float64 of the rows that coordinates are estimated from
Arrays = dict[str, Tensor]


class RowSource(Protocol):
    """What a fit needs of its data, wherever they are: named arrays of as many rows."""

    seed: int
    held: Tensor
    """Rows kept for validation, (H,) integers."""
    shown: Tensor
    """Training rows to estimate coordinates from: all of them, up to 128 MiB."""
    in_memory: bool

    def __len__(self) -> int: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one row."""
        ...

    def rows(self, step: int, size: int) -> Tensor:
        """The training rows of a step."""
        ...

    def take(self, rows: Tensor) -> Arrays:
        """These rows of every array, in float64: those of the last step asked for, held ones or shown ones."""
        ...

    def parts(self) -> Iterator[tuple[int, Arrays]]:
        """All rows in order, a part at a time: its first row, and the arrays as they are stored."""
        ...


class MemoryRows:
    """Arrays (N, *shape) in memory, as float64.

    Raises InputError for fewer than 10 rows and arrays that differ in theirs.
    """

    in_memory = True

    def __init__(self, arrays: Arrays, seed: int, held_out: float):
        self.arrays, self.seed = arrays, seed
        count = check_rows({name: len(value) for name, value in arrays.items()})
        check_not_empty(self.shape("x"))
        order = torch.randperm(count, generator=torch_generator(seed, "split"))
        kept = held_rows(held_out, count)
        self.held, self._train = order[:kept], order[kept:]
        self.shown = self._train[: shown_rows(self, arrays)]
        self._epoch: tuple[int, Tensor] = (-1, order)

    def __len__(self) -> int:
        return len(self.arrays["x"])

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.arrays[name].shape[1:])

    def rows(self, step: int, size: int) -> Tensor:
        """The rows of a step: every epoch goes through all of them in an order of its own."""
        size = min(size, len(self._train))
        epoch, position = divmod(step, len(self._train) // size)
        if self._epoch[0] != epoch:
            order = torch.randperm(len(self._train), generator=torch_generator(self.seed, "epoch", epoch))
            self._epoch = (epoch, self._train[order])
        return self._epoch[1][position * size : (position + 1) * size]

    def take(self, rows: Tensor) -> Arrays:
        """These rows of every array."""
        return {name: value[rows] for name, value in self.arrays.items()}

    def parts(self) -> Iterator[tuple[int, Arrays]]:
        """All of it."""
        yield 0, self.arrays


def held_rows(held_out: float, count: int) -> int:
    """How many of `count` rows are kept for validation."""
    return max(1, min(MOST_HELD, round(held_out * count)))


def shown_rows(source: RowSource, names: Iterable[str]) -> int:
    """Of how many rows coordinates are estimated, at most."""
    return SHOWN // (8 * sum(math.prod(source.shape(name)) for name in names))


def check_rows(counts: Mapping[str, int]) -> int:
    """The number of rows; InputError for fewer than 10 of x, and arrays that differ from it."""
    count = counts["x"]
    if count < FEWEST:
        raise InputError(f"x: got {count} rows, at least {FEWEST} are accepted")
    for name, rows in counts.items():
        if rows != count:
            raise InputError(f"{name}: got {rows} rows for {count} rows of x, as many are accepted")
    return count


def check_not_empty(shape: tuple[int, ...]) -> None:
    """InputError for rows of x without a number."""
    if not math.prod(shape):
        raise InputError(f"x: got rows of shape {shape}, rows of at least one number are accepted")


def numbers_of(name: str, value: Any) -> Tensor:
    """Real numbers (N, ...) as float64 on the CPU, (N,) as (N, 1); InputError for anything else and infinities."""
    if isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any()):
        raise InputError(f"{name}: got an array with masked entries, an array without a mask is accepted")
    try:
        value = torch.as_tensor(np.asarray(value) if hasattr(value, "to_numpy") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: got {type(value).__name__}, an array of numbers is accepted") from error
    if value.is_complex() or value.ndim < 1:
        raise InputError(f"{name}: got {value.dtype} of shape {tuple(value.shape)}, real numbers (N, ...) are accepted")
    value = value.detach().cpu().to(torch.float64)
    value = value[:, None] if value.ndim == 1 else value
    check_finite(name, value, 0)
    return value


def check_finite(name: str, value: Tensor, first: int) -> None:
    """InputError for infinities; first: the number of the first row."""
    if bool(value.isinf().any()):
        row = first + int(value.isinf().flatten(1).any(1).nonzero()[0])
        raise InputError(f"{name}: got an infinite entry in row {row}, finite numbers are accepted")


def check_whole(name: str, value: Tensor, first: int) -> None:
    """InputError for NaN; first: the number of the first row."""
    if bool(value.isnan().any()):
        row = first + int(value.isnan().flatten(1).any(1).nonzero()[0])
        raise InputError(f"{name}: got NaN in row {row}, none is accepted")
