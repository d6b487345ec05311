"""Measurements from files, and samples for them into a Zarr store."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fokker.check_rows import in_shape
from fokker.errors import InputError, NotFinite
from fokker.from_files import Data
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.samples import check_target, save_parts
from fokker.simulation.formats import arrays_in, names_in
from fokker.simulation.tables import by_entries, select

AT_ONCE = 2**24  # numbers that are sampled before they are written


def measurements(path: Path, posterior: ConditionalPosterior, data: Data | None) -> tuple[np.ndarray, dict[str, Any]]:
    """y and further conditions from a file: by the names of the fit where they are there, or its only array as y.

    The names of the fit are those that were asked for, or those of the entries, as a store of simulations gave them.
    """
    arrays = arrays_in([path])
    asked = {"y": "y", **{name: name for name in posterior.extra}} if data is None else dict(data.asked)
    asked.pop("x", None)
    if len(arrays) == 1 and not posterior.extra:
        values = next(iter(arrays.values()))()
        if values.dtype.kind not in "fiub":
            raise InputError(f"{path}: holds {values.dtype} values, real numbers are accepted")
        values = values.astype(np.float64)
        if posterior.y_shape == (1,) and values.ndim == 1:
            values = values[:, None]
        return _some(path, in_shape(values, posterior.y_shape)), {}
    called = names_in([path])
    try:
        asked = by_entries(arrays, asked, {} if data is None else data.entries)
        found = {role: select(str(path), arrays, role, text, called).whole() for role, text in asked.items()}
    except InputError as error:
        raise InputError(f"{error}; measurements have the names of the fit, or are the file's only array") from error
    for role, shape in {"y": posterior.y_shape, **posterior.extra}.items():
        found[role] = in_shape(found[role], shape)
        if found[role].shape != shape and found[role].shape[1:] != shape:
            got, wanted = (" x ".join(map(str, one)) or "one" for one in (found[role].shape[1:], shape))
            told = f"{path}: {asked[role]!r} has {got} numbers in a row, {wanted} as in the fit are accepted"
            raise InputError(f"{told}; is a column missing?")
        if found[role].shape == shape:  # one measurement, without an axis of its own
            found[role] = found[role][None]
    rows = {role: len(values) for role, values in found.items()}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{role} has {count}" for role, count in rows.items())
        raise InputError(f"{path}: rows differ: {told}; as many of each are accepted")
    return _some(path, found.pop("y")), found


def _some(path: Path, y: np.ndarray) -> np.ndarray:
    if not y.size:
        raise InputError(f"{path}: holds no measurement, at least one is accepted")
    return y


def sample_file(
    posterior: ConditionalPosterior,
    data: Data | None,
    y: np.ndarray,
    cond: dict[str, Any],
    n: int,
    out: Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """n samples for each measurement, written to a Zarr store in ArviZ's layout; returns their means and deviations.

    Many measurements are sampled and written a group at a time: memory does not grow with them, and the samples are
    those of one call. Measurements without finite samples get NaN; NotFinite, and no store, where that is all of them.
    """
    check_target(out)
    names = {} if data is None else {"x": data.entries["x"], "y": data.entries["y"]}
    if y.ndim == len(posterior.y_shape):
        found = posterior.sample(y, n, seed, cond=cond or None)
        found.save(out, names)
        return found.mean()[None], found.std()[None]
    group = max(1, AT_ONCE // max(1, n * math.prod(posterior.x_shape)))
    means, stds = [], []

    def parts() -> Any:
        for start in range(0, len(y), group):
            part = slice(start, start + group)
            local = {name: value[part] if len(value) == len(y) else value for name, value in cond.items()}
            found = posterior.sample(y[part], n, seed, cond=local or None, first=start, keep_going=True)
            means.append(found.mean())
            stds.append(found.std())
            if progress is not None:
                progress(min(start + group, len(y)), len(y))
            yield found
        if all(bool(mean.isnan().flatten(1).any(1).all()) for mean in means):
            raise NotFinite(
                f"y: the samples for none of {len(y)} measurements are finite, measurements like those of the training "
                "data are accepted"
            )

    save_parts(parts(), out, names)
    return torch.cat(means), torch.cat(stds)
