"""Pairs from files: x, y and further conditions, by the names they have there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

import numpy as np

from fokker.errors import InputError
from fokker.simulation.formats import Arrays, arrays_in, names_in, place_of_row
from fokker.simulation.stored import IN_MEMORY, Columns, Stored


@dataclass(frozen=True)
class Named:
    """Rows (N, *shape) of numbers in float64, with a name for each of their entries, in their flat order; on disk
    still where they do not fit into memory.
    """

    values: np.ndarray | Stored
    names: tuple[str, ...]

    def __len__(self) -> int:
        return self.values.shape[0]

    def whole(self) -> np.ndarray:
        """All rows, in memory."""
        return self.values.whole() if isinstance(self.values, Stored) else self.values

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """The rows, some at a time, each with the number of its first row."""
        yield from self.values.parts() if isinstance(self.values, Stored) else [(0, self.values)]


def read_named(paths: Sequence[Path], wanted: dict[str, str], incomplete: Sequence[str] = ()) -> dict[str, Named]:
    """What is wanted, by role: `{"x": "theta", "y": "sensor_*"}`; as many rows of each.

    What is wanted is the name of an array or a column; the head of several, as theta for theta_0, theta_1, ...; a
    pattern with * and ?; or several of these with commas between. Several are put side by side. In a store of
    simulations the names of entries are names of columns.

    The entries of a store of simulations are called as it says, those of other arrays by array and index.

    incomplete: roles that may hold NaN, where nothing is known. Raises InputError for names that are not there, arrays
    of no numbers, of differing lengths or without rows, infinities, and columns without any number.
    """
    arrays = arrays_in(paths)
    source = ", ".join(map(str, paths))
    called = names_in(paths)
    large = _size(arrays, wanted.values(), called) > IN_MEMORY
    found = {role: select(source, arrays, role, text, called, large) for role, text in wanted.items()}
    owners: dict[str, str] = {}
    for role, named in found.items():
        for entry in named.names:
            if owners.setdefault(entry, role) != role:
                raise InputError(f"{role}: {entry!r} is a part of {owners[entry]} too, names that differ are accepted")
    rows = {role: len(named) for role, named in found.items()}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{role} has {count}" for role, count in rows.items())
        raise InputError(f"{source}: rows differ: {told}; as many of each are accepted")
    for role, named in found.items():
        _check(paths, role, named, role in incomplete)
    return found


def select(
    source: str,
    arrays: Arrays,
    role: str,
    text: str,
    called: Mapping[str, Sequence[str]] | None = None,
    large: bool = False,
) -> Named:
    """What one text of `read_named` stands for; called: names of the entries of some arrays; large: left on disk where
    that is possible.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = called or {}
    entries = {entry: (name, place) for name, given in known.items() for place, entry in enumerate(given)}
    names = [name for word in words for name in matching(arrays, word) or matching(entries, word)]
    if not all(matching(arrays, word) or matching(entries, word) for word in words):
        missing = next(word for word in words if not (matching(arrays, word) or matching(entries, word)))
        there = [*arrays, *entries]
        shown = ", ".join(there[:12]) + (", ..." if len(there) > 12 else "")
        raise InputError(f"{role}: there is no {missing!r} in {source}, of {shown} any are accepted")
    parts, wanted = [], [(name, None) if name in arrays else entries[name] for name in names]
    for (name, whole_array), group in groupby(wanted, lambda pair: (pair[0], pair[1] is None)):
        places = [] if whole_array else [place for _, place in group if place is not None]
        by_slices = arrays[name].by_slices if large and len({name for name, _ in wanted}) == 1 else None
        whole = _numbers(source, name, arrays[name]() if by_slices is None else by_slices(), known.get(name))
        parts.append(_columns_of(whole, places) if places else whole)
    entries_of = [entry for part in parts for entry in part.names]
    if not words or len(set(names)) < len(names) or len(set(entries_of)) < len(entries_of):
        raise InputError(f"{role}: got {text!r}, names that differ are accepted")
    if len(parts) == 1:
        return parts[0]
    lengths = {len(part) for part in parts}
    if len(lengths) > 1:
        raise InputError(f"{source}: {role} has arrays of {sorted(lengths)} rows, as many of each are accepted")
    flat = np.concatenate([part.whole().reshape(len(part), -1) for part in parts], 1)
    return Named(flat, tuple(entries_of))


def _columns_of(named: Named, places: Sequence[int]) -> Named:
    """Some of the entries, a column each."""
    names = tuple(named.names[place] for place in places)
    if isinstance(named.values, Stored):
        return Named(Stored(Columns(named.values.array, tuple(places)), named.values.without), names)
    return Named(named.values.reshape(len(named), -1)[:, places], names)


def matching(arrays: Iterable[str], word: str) -> list[str]:
    """The names a word stands for: itself, those that begin with it and end in a number, or those of its pattern."""
    arrays = list(arrays)
    if word in arrays:
        return [word]
    numbered = [(name, re.fullmatch(re.escape(word) + r"[_.\[]?(\d+)\]?", name)) for name in arrays]
    found = sorted((int(match[1]), name) for name, match in numbered if match)
    return [name for _, name in found] or [name for name in arrays if fnmatchcase(name, word)]


def by_entries(arrays: Iterable[str], asked: Mapping[str, str], entries: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What was asked for, by role; where a file has nothing of that, and a column for every entry, these."""
    out, arrays = dict(asked), list(arrays)
    for role, text in asked.items():
        names = entries.get(role, ())
        there = any(matching(arrays, word.strip()) for word in text.split(","))
        if names and not there and all(name in arrays and "," not in name for name in names):
            out[role] = ",".join(names)
    return out


def _size(arrays: Arrays, texts: Iterable[str], called: Mapping[str, Sequence[str]]) -> int:
    """Bytes in float64 of all arrays that are read, as far as a file tells without reading it."""
    words = [word.strip() for text in texts for word in text.split(",")]
    names = {name for word in words for name in matching(arrays, word)}
    names |= {name for name, given in called.items() if any(matching(given, word) for word in words)}
    slices = [arrays[name].by_slices for name in names]
    return sum(8 * math.prod(found().shape) for found in slices if found is not None)


def _numbers(source: str, name: str, values: np.ndarray | Stored, called: Sequence[str] | None) -> Named:
    array = values.array if isinstance(values, Stored) else values
    if array.dtype.kind not in "fiub":
        raise InputError(f"{source}: {name!r} holds {array.dtype} values, real numbers are accepted")
    if len(array.shape) == 0 or not math.prod(array.shape):
        raise InputError(f"{source}: {name!r} has shape {array.shape}, at least one row of numbers is accepted")
    if isinstance(values, np.ndarray):
        values = values.astype(np.float64)
        values = values[:, None] if values.ndim == 1 else values
    if len(array.shape) == 1:
        return Named(values, tuple(called or (name,)))
    entries = called or (f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*array.shape[1:]))
    return Named(values, tuple(entries))


def _check(paths: Sequence[Path], role: str, named: Named, incomplete: bool) -> None:
    source = ", ".join(map(str, paths))
    low, high, gap = np.full(len(named.names), np.inf), np.full(len(named.names), -np.inf), None
    for first, part in named.parts():
        flat = part.reshape(len(part), -1)
        infinite, missing = np.isinf(flat), np.isnan(flat)
        if infinite.any():
            row, column = np.argwhere(infinite)[0]
            where = place_of_row(paths, first + row)
            raise InputError(f"{source}: {named.names[column]} is infinite in {where}, finite numbers are accepted")
        if gap is None and missing.any():
            row, column = np.argwhere(missing)[0]
            where = place_of_row(paths, first + row)
            gap = f"{source}: {named.names[column]} has no number in {where}, {role} is accepted whole only"
        low, high = np.fmin(low, np.fmin.reduce(flat, 0)), np.fmax(high, np.fmax.reduce(flat, 0))
    nothing = (low > high).nonzero()[0]
    if len(nothing):
        raise InputError(f"{source}: {named.names[nothing[0]]} holds no number, columns with numbers are accepted")
    if gap is not None and not incomplete:
        raise InputError(gap)
    still = (high == low).nonzero()[0]
    if len(still) and len(named) > 1 and len(named.values.shape) == 2:  # pixels may rest
        raise InputError(
            f"{source}: {named.names[still[0]]} never varies, leave it out: columns that vary are accepted"
        )
