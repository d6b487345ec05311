"""Rows of training data on disk: a window of blocks in memory, the next one read while this one is used.

Every epoch visits all blocks in an order of its own and shuffles the rows of each window, so that a batch is mixed
from all blocks of a window. The order follows from the seed, the layout of the store and the step alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.posterior.rows import (
    Arrays,
    MemoryRows,
    RowSource,
    check_not_empty,
    check_rows,
    held_rows,
    numbers_of,
    shown_rows,
)
from fokker.rng import stream
from fokker.simulation.stored import IN_MEMORY, NONE, Stored

WINDOW = 2**28  # bytes of a window, as stored; two are in memory
BLOCK = 2**20  # bytes that are read at once, or more where chunks are larger


def source_of(arrays: dict[str, Any], seed: int, held_out: float) -> RowSource:
    """Named arrays (N, *shape) of numbers as training data: in memory, or where they are if memory would not do.

    Raises InputError for what is no array of numbers, and for arrays that differ in their rows.
    """
    stored = {name: found for name, value in arrays.items() if (found := as_stored(name, value)) is not None}
    size = sum(8 * math.prod(value.shape) for value in stored.values())
    if not stored or size <= IN_MEMORY:
        read = {name: stored[name].whole() if name in stored else value for name, value in arrays.items()}
        return MemoryRows({name: numbers_of(name, value) for name, value in read.items()}, seed, held_out)
    without = next(iter(stored.values())).without
    rest = {name: Stored(np.asarray(value), without) for name, value in arrays.items() if name not in stored}
    return StoredRows({name: stored.get(name) or rest[name] for name in arrays}, seed, held_out)


def as_stored(name: str, value: Any) -> Stored | None:
    """An array that is read by slices; None for what is in memory already. InputError for one without numbers."""
    if isinstance(value, Stored):
        return value
    lazy = isinstance(value, np.memmap) or not isinstance(value, np.ndarray | Tensor)
    if not lazy or not all(hasattr(value, what) for what in ("shape", "dtype", "__getitem__")):
        return None
    if not len(value.shape) or np.dtype(value.dtype).kind not in "fiub":
        raise InputError(f"{name}: got {value.dtype} of shape {value.shape}, real numbers (N, ...) are accepted")
    return Stored(value)


class StoredRows:
    """Arrays (N, *shape) that are read in blocks, in the dtype they are stored in.

    Raises InputError for fewer than 10 rows, arrays that differ in theirs, and chunks of more than half a gigabyte.
    """

    in_memory = False

    def __init__(self, arrays: dict[str, Stored], seed: int, held_out: float):
        self._arrays, self.seed = arrays, seed
        count = check_rows({name: value.shape[0] for name, value in arrays.items()})
        check_not_empty(self.shape("x"))
        row_bytes = sum(value.row_bytes for value in arrays.values())
        chunk = max(value.chunk_rows for value in arrays.values())
        if chunk * row_bytes > 2 * WINDOW:
            raise InputError(
                f"data: its chunks have {chunk} rows, {chunk * row_bytes / 2**20:.0f} MiB; up to "
                f"{2 * WINDOW / 2**20:.0f} MiB are accepted for data that do not fit into memory"
            )
        self._count = count
        self._block = chunk * math.ceil(BLOCK / (chunk * row_bytes))
        self._at_once = max(1, WINDOW // (self._block * row_bytes))
        self._without = next(iter(arrays.values())).without
        kept = held_rows(held_out, count)
        shown = min(count - kept, shown_rows(self, arrays))
        chosen = stream(seed, "split").choice(count, kept + shown, replace=False)
        chosen += np.searchsorted(self._without - np.arange(len(self._without)), chosen, side="right")
        self.held, self.shown = torch.from_numpy(chosen[:kept]), torch.from_numpy(chosen[kept:])
        self._not_drawn = np.sort(np.concatenate([chosen[:kept], self._without]))
        self._stored_rows = count + len(self._without)
        self._kept: tuple[np.ndarray, Arrays] | None = None
        self._window: tuple[np.ndarray, Arrays] = (NONE, {})
        self._order = NONE  # of the rows of the window
        self._key, self._next = (-1, -1), (-1, -1)
        self._starts = [0]  # first step of every epoch so far
        self._steps_in: dict[tuple[int, int], list[int]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._ahead: Future[tuple[np.ndarray, Arrays]] | None = None

    def __len__(self) -> int:
        return self._count

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one row."""
        return self._arrays[name].shape[1:]

    def rows(self, step: int, size: int) -> Tensor:
        """The rows of a step: every epoch goes through all blocks, a window of them at a time, but for incomplete
        batches at the end of a window.
        """
        while self._starts[-1] <= step:
            self._starts.append(self._starts[-1] + sum(self._steps_of(len(self._starts) - 1, size)))
        epoch = int(np.searchsorted(self._starts, step, side="right")) - 1
        left, steps = step - self._starts[epoch], self._steps_of(epoch, size)
        window = int(np.searchsorted(np.cumsum(steps), left, side="right"))
        position = left - sum(steps[:window])
        self._open(epoch, window, len(steps))
        return torch.from_numpy(self._window[0][self._order[position * size : (position + 1) * size]])

    def take(self, rows: Tensor) -> Arrays:
        """These rows, in float64: of the window of the last step, or held or shown ones."""
        wanted = rows.numpy()
        for ids, arrays in (self._window, self._kept_rows()):
            at = torch.from_numpy(np.searchsorted(ids, wanted).clip(max=len(ids) - 1)) if len(ids) else None
            if at is not None and np.array_equal(ids[at], wanted):
                return {name: value[at].double() for name, value in arrays.items()}
        raise IndexError("rows that are neither in the window nor kept")

    def parts(self) -> Iterator[tuple[int, Arrays]]:
        """All rows in order, some blocks at a time; on the way it keeps the held and the shown ones."""
        chosen = np.sort(torch.cat([self.held, self.shown]).numpy())
        found: dict[str, list[Tensor]] = {name: [] for name in self._arrays}
        length = self._block * max(1, self._at_once // 4)
        for start in range(0, self._stored_rows, length):
            ids, arrays = self._read([(start, min(start + length, self._stored_rows))], self._without)
            inside = torch.from_numpy(np.isin(ids, chosen, assume_unique=True))
            for name, value in arrays.items():
                found[name].append(value[inside])
            yield start, arrays
        self._kept = chosen, {name: torch.cat(value) for name, value in found.items()}

    def _kept_rows(self) -> tuple[np.ndarray, Arrays]:
        if self._kept is None:
            for _ in self.parts():
                pass
        assert self._kept is not None
        return self._kept

    def _windows(self, epoch: int) -> list[np.ndarray]:
        """The blocks of each window of an epoch."""
        count = math.ceil(self._stored_rows / self._block)
        order = stream(self.seed, "epoch", epoch).permutation(count)
        return np.array_split(order, math.ceil(count / self._at_once))

    def _steps_of(self, epoch: int, size: int) -> list[int]:
        """Batches in each window of an epoch: at least one, as a window smaller than a batch is one batch."""
        if (epoch, size) in self._steps_in:
            return self._steps_in[epoch, size]
        out = []
        for blocks in self._windows(epoch):
            starts = blocks * self._block
            stops = np.minimum(starts + self._block, self._stored_rows)
            gone = np.searchsorted(self._not_drawn, stops) - np.searchsorted(self._not_drawn, starts)
            out.append(max(1, int((stops - starts - gone).sum()) // size))
        self._steps_in = {(epoch, size): out}
        return out

    def _open(self, epoch: int, window: int, count: int) -> None:
        """Have a window in memory, and begin to read the one after it."""
        if self._key == (epoch, window):
            return
        self._window = NONE, {}  # two windows at a time, never three
        if self._ahead is not None and self._next == (epoch, window):
            self._window = self._ahead.result()
        else:
            self._window = self._load(epoch, window)
        self._order = stream(self.seed, f"window/{epoch}", window).permutation(len(self._window[0]))
        self._key = (epoch, window)
        self._next = (epoch, window + 1) if window + 1 < count else (epoch + 1, 0)
        self._ahead = self._reader.submit(self._load, *self._next)

    def _load(self, epoch: int, window: int) -> tuple[np.ndarray, Arrays]:
        starts = np.sort(self._windows(epoch)[window]) * self._block
        spans = [(int(start), min(int(start) + self._block, self._stored_rows)) for start in starts]
        return self._read(spans, self._not_drawn)

    def _read(self, spans: list[tuple[int, int]], without: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """Ids and rows of ascending spans, but for some."""
        ids = np.concatenate([np.arange(start, stop) for start, stop in spans])
        gone = np.isin(ids, without, assume_unique=True)
        arrays = {}
        for name, stored in self._arrays.items():
            kind = _kept_as(np.dtype(stored.array.dtype))
            out = torch.from_numpy(np.empty((len(ids) - int(gone.sum()), *stored.shape[1:]), kind))
            at = seen = 0
            for start, stop in spans:
                kept = stored.read(start, stop)[~gone[seen : seen + stop - start]]
                out[at : at + len(kept)] = torch.from_numpy(kept.astype(kind, copy=False))
                at, seen = at + len(kept), seen + stop - start
            arrays[name] = out
        return ids[~gone], arrays


def _kept_as(dtype: np.dtype) -> np.dtype:
    """The floating-point numbers of this machine that hold those of an array."""
    return dtype.newbyteorder("=") if dtype.kind == "f" and dtype.itemsize <= 8 else np.dtype(np.float64)
