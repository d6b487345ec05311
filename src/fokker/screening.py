"""Numbers that are not what they seem: measurements unlike the training data, placeholders in place of gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fokker.diagnostics import novelty
from fokker.diagnostics.novelty import Novelty
from fokker.simulation.tables import Named

NEW = 0.01  # p-value from which down a measurement is called unlike the others
FIRST = 5  # measurements or columns that are named one by one
PATTERNS = 20  # of gaps, each with a judge of its own
AT_ONCE = 2**22  # numbers that are judged at a time
CODES = np.array(
    [
        *(sign * value for value in (999, 9999, 99999, 999999, 1e20, 1e30, 1e36) for sign in (1, -1)),
        *(999.9, -999.9, 9999.9, -9999.9, -999.25),  # weather tables, well logs
        *(-32768, -2147483648),  # the least whole numbers of 16 and 32 bits
        *(9.969209968386869e36, -3.4028234663852886e38, 3.4028234663852886e38),  # NetCDF, maps
    ]
)
PLACEHOLDERS = np.unique([CODES, CODES.astype(np.float32).astype(np.float64)])  # also as single precision keeps them


def judge_of(known: NDArray, here: NDArray, seed: int) -> tuple[NDArray, Novelty | None]:
    """Which of the known rows (M, D) have all the entries `here` (D,), and who judges by them; None if too few do."""
    whole = ~np.isnan(known[:, here]).any(1)
    enough = whole.sum() >= novelty.FEWEST and here.any()
    return whole, Novelty(known[whole][:, here], seed) if enough else None


def p_values(known: NDArray, y: NDArray, seed: int = 0) -> tuple[NDArray, NDArray, int]:
    """p-value of each measurement (K, D) among known ones (M, D), NaN in both for gaps; from where down it is told.

    Both (K,), NaN where too few known ones have the same entries. Measurements are judged by their common patterns of
    gaps; the number of those with rarer ones, which are not judged, comes third.
    """
    patterns, which, counts = np.unique(~np.isnan(y), axis=0, return_inverse=True, return_counts=True)
    p, level = np.full((2, len(y)), np.nan)
    order = np.argsort(-counts, kind="stable")
    for i in order[:PATTERNS]:
        here, rows = patterns[i], np.flatnonzero(which.reshape(-1) == i)
        _, judge = judge_of(known, here, seed)
        if judge is None:
            continue
        level[rows] = max(NEW, judge.smallest)
        for part in np.array_split(rows, 1 + len(rows) * len(here) // AT_ONCE):
            p[part] = judge.p_value(y[part][:, here])
    return p, level, int(counts[order[PATTERNS:]].sum())


def strange(known: NDArray, y: NDArray, names: Sequence[str], gaps: bool) -> list[str]:
    """What is to be told of measurements (K, D) beside known ones (M, D): a line each, or one for all if many.

    names: of the first entries of a row, those of y; placeholders among them are told of where they lie further from
    the known values than these from each other. gaps: whether NaN is accepted. Nothing is told from fewer than 40
    known ones.
    """
    if len(known) < novelty.FEWEST:
        return []
    p, level, left = p_values(known, y)
    outside = p <= level
    codes = _far_codes(known[:, : len(names)], y[:, : len(names)])
    lines, many = [], f"of {len(y)} measurements"
    if left:
        lines.append(f"{left} {many}, with rare gaps, were not compared with the training data")
    odd = np.flatnonzero(outside | codes.any(1))
    if len(odd) <= FIRST:
        for k in odd:
            told = f"measurement {k}"
            if outside[k]:
                least = ", the least that so few rows allow" if level[k] > NEW else ""
                told += f" lies outside the training data (p = {p[k]:.2g}, told from {level[k]:.2g} down{least})"
            if codes[k].any():
                told += f": {_asked_of(y[k], codes[k], names, gaps)}"
            lines.append(told)
        return lines
    parts = []
    if outside.any():
        chance = max(1, round(np.nansum(level)))
        parts.append(
            f"{outside.sum()} {many} lie outside the training data, where about {chance} of as many like it would: "
            f"{first(np.flatnonzero(outside))}"
        )
    if codes.any():
        rows = np.flatnonzero(codes.any(1))
        example = f"{_codes(y[rows[0]], codes[rows[0]], names)} in measurement {rows[0]}"
        parts.append(f"{len(rows)} {many} hold placeholders for missing? {example}; {_gap(gaps)}")
    return [*lines, "; ".join(parts)]


def placeholders(known: NDArray, y: NDArray, names: Sequence[str], gaps: bool) -> list[str]:
    """What `strange` tells of the placeholders in each measurement, empty where there are none."""
    codes = _far_codes(known[:, : len(names)], y[:, : len(names)])
    return [_asked_of(row, found, names, gaps) if found.any() else "" for row, found in zip(y, codes)]


def repeated(named: Mapping[str, Named]) -> list[str]:
    """What is to be told of pairs by role, x, y, ...: a line for every placeholder that stands more than once in a
    column, outside of all other values there. Of data on disk the first part is looked at.
    """
    lines = []
    for role, part in named.items():
        remedy = "an empty cell or NaN is what a gap is" if role == "y" else "rows without a value are to be left out"
        values = next(part.parts())[1]
        for value, places in _repeated(values.reshape(len(values), -1), part.names).items():
            where = f"{value:.7g} stands {first(places, 'columns')}, outside of all other values there"
            lines.append(f"{role}: {where}: a placeholder for missing? {remedy}")
    return lines


def _repeated(values: NDArray, names: Sequence[str]) -> dict[float, list[str]]:
    """By placeholder, where it stands, in words."""
    ends = np.fmin.reduce(values, 0), np.fmax.reduce(values, 0)
    found: dict[float, list[str]] = {}
    for j in np.flatnonzero(np.isin(ends, PLACEHOLDERS).any(0)).tolist():
        column = values[:, j]
        code = np.isin(column, PLACEHOLDERS)
        rest = column[~code & ~np.isnan(column)]
        if not len(rest):
            continue
        beyond = column[code & ((column < rest.min()) | (column > rest.max()))]
        for value, count in zip(*np.unique(beyond, return_counts=True)):
            if count > 1:
                found.setdefault(float(value), []).append(f"{count} times in {names[j]}")
    return found


def _far_codes(known: NDArray, y: NDArray) -> NDArray:
    low, high = np.fmin.reduce(known, 0), np.fmax.reduce(known, 0)
    far = (y < low - (high - low)) | (y > high + (high - low))  # False for NaN
    far[far] = np.isin(y[far], PLACEHOLDERS)
    return far


def _asked_of(y: NDArray, codes: NDArray, names: Sequence[str], gaps: bool) -> str:
    return f"{_codes(y, codes, names)}: a placeholder for missing? {_gap(gaps)}"


def _gap(gaps: bool) -> str:
    return "NaN is what a gap is" + ("" if gaps else ", in a model that was fitted with gaps or with --missing")


def _codes(y: NDArray, codes: NDArray, names: Sequence[str]) -> str:
    return first([f"{names[j]} is {y[j]:.7g}" for j in np.flatnonzero(codes).tolist()], "entries")


def first(found: Sequence[Any] | NDArray, what: str = "") -> str:
    """The first of them, with the number of the others, in words."""
    more = f" and {len(found) - FIRST} more {what}".rstrip() if len(found) > FIRST else ""
    return ", ".join(map(str, found[:FIRST])) + more
