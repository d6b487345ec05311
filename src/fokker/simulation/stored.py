"""Arrays on disk that need not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

IN_MEMORY = 2**30  # bytes in float64 up to which arrays on disk are read whole
AT_ONCE = 2**26  # bytes in float64 of a part
NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Stored:
    """An array that need not fit into memory, such as one of Zarr or HDF5: shape, dtype, and slices of rows.

    without: rows, ascending, that play no part. chunks: its chunks, where it has any.
    """

    array: Any
    without: np.ndarray = field(default_factory=lambda: NONE)

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the rows that play no part; (N,) as (N, 1)."""
        count, *rest = self.array.shape
        return (count - len(self.without), *(rest or (1,)))

    @property
    def row_bytes(self) -> int:
        """Of one row, as stored."""
        return math.prod(self.shape[1:]) * np.dtype(self.array.dtype).itemsize

    @property
    def chunk_rows(self) -> int:
        """Rows that are read together, whatever is asked for."""
        return int((getattr(self.array, "chunks", None) or (1,))[0])

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start, ..., stop - 1 of the array, those that play no part too."""
        found = np.asarray(self.array[start:stop])
        return found[:, None] if found.ndim == 1 else found

    def whole(self) -> np.ndarray:
        """All rows that play a part."""
        return np.delete(self.read(), self.without, 0) if len(self.without) else self.read()

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """The rows that play a part, some at a time: the number of the first in the array, and the rows."""
        size = max(1, AT_ONCE // (8 * math.prod(self.shape[1:])) // self.chunk_rows) * self.chunk_rows
        for start in range(0, self.array.shape[0], size):
            stop = min(start + size, self.array.shape[0])
            gone = self.without[np.searchsorted(self.without, start) : np.searchsorted(self.without, stop)]
            yield start, np.delete(self.read(start, stop), gone - start, 0)

    def but(self, rows: np.ndarray) -> tuple[np.ndarray, Stored]:
        """These rows, ascending and numbered without those that play no part, and the array without them."""
        out = rows + np.searchsorted(self.without - np.arange(len(self.without)), rows, side="right")
        rest, found, seen = np.sort(np.concatenate([self.without, out])), [], 0
        for _, part in self.parts():
            inside = rows[np.searchsorted(rows, seen) : np.searchsorted(rows, seen + len(part))]
            found.append(part[inside - seen].astype(np.float64))
            seen += len(part)
        return np.concatenate(found), Stored(self.array, rest)


@dataclass(frozen=True)
class Columns:
    """Some of the numbers in a row of an array on disk, by their places in the flat order: (N, ...) as (N, len(which)).

    Rows are read whole, a part at a time.
    """

    array: Any
    which: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, len(which))."""
        return (self.array.shape[0], len(self.which))

    @property
    def dtype(self) -> np.dtype:
        """That of the array."""
        return np.dtype(self.array.dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Of the array, but for the numbers in a row."""
        return ((getattr(self.array, "chunks", None) or (1,))[0], len(self.which))

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, _ = key.indices(self.shape[0])
        size = max(1, AT_ONCE // (8 * math.prod(self.array.shape[1:])))
        found = [np.empty((0, len(self.which)), self.dtype)]
        for first in range(start, stop, size):
            rows = np.asarray(self.array[first : min(first + size, stop)])
            found.append(rows.reshape(len(rows), -1)[:, self.which])
        return np.concatenate(found)
