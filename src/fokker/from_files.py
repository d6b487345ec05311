"""Fit and sample on the user's own files: what a model was fitted to stays beside it.

A folder of a fit holds the model (see `posterior.folder`), data.json (where the pairs came from and what their entries
are called) and held_out.safetensors, rows that played no part in the fit, for checks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fokker.api import fit, load
from fokker.check_advice import Fitted
from fokker.check_rows import MOST_ROWS, Rows, in_shape
from fokker.diagnostics.calibration import FEWEST as FEWEST_CASES
from fokker.errors import InputError
from fokker.locks import locked
from fokker.operators.layouts import RandomLayouts
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.recipes import Recipe
from fokker.rng import stream
from fokker.screening import repeated
from fokker.simulation.formats import arrays_in, place_of_row, simulator_in
from fokker.simulation.stored import Stored
from fokker.simulation.tables import Named, by_entries, matching, read_named
from fokker.storage import ensure_writable, file_hash, read_sealed, read_tensors, write_sealed, write_tensors
from fokker.training import TrainRecord, TrainSettings

MOST_HELD_OUT = 1000
FEWEST = 20  # rows
LATE = 3  # validations without a better one after which a training has no longer gained


@dataclass(frozen=True)
class Data:
    """What a model was fitted to: names as asked for, and the names of the entries by role, in flat order."""

    source: list[str]
    asked: dict[str, str]
    entries: dict[str, list[str]]
    rows: int
    held_out: str
    """SHA-256 of held_out.safetensors."""
    missing: float = 0.0
    """Chance of every entry of y to be hidden in training."""
    simulator: dict[str, Any] = field(default_factory=dict)
    """Settings of the simulator that made the pairs, where they came from a store of simulations."""

    def save(self, folder: Path) -> None:
        """As data.json."""
        write_sealed(folder / "data.json", asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Data:
        """InputError where data.json is missing or damaged."""
        try:
            return cls(**read_sealed(folder / "data.json"))
        except TypeError as error:
            raise InputError(f"{folder / 'data.json'}: is of another version") from error


def fit_files(
    paths: Sequence[Path],
    x: str,
    y: str,
    out: Path,
    *,
    conditions: Sequence[str] = (),
    bounds: Sequence[str] = (),
    positive: Sequence[str] = (),
    missing: float = 0.0,
    held_out: float = 0.1,
    recipe: str | Recipe = "default",
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[TrainRecord], None] | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> ConditionalPosterior:
    """`fokker.fit` to pairs in files, into the folder `out`, where an interrupted fit continues.

    x, y and conditions: names of arrays or columns, see `simulation.tables`. bounds: texts NAME=LOW:HIGH, either end
    may be left out; positive: names with the lower bound 0. missing: chance of every entry of y to be hidden in
    training, so that the model serves measurements with gaps. held_out: part of the rows (at most 1,000 of them) kept
    for checks. warn: is told of placeholders such as -999 that stand again and again beside the other values.

    Raises InputError for damaged files, wrong names and numbers, fewer than 20 rows, a folder that holds something
    else or the fit of other data; OSError where the disk fails.
    """
    for name, value in (("missing", missing), ("held_out", held_out)):
        if not 0 <= value < 1:
            raise InputError(f"{name}: got {value}, numbers from 0 to below 1 are accepted")
    asked = {"x": x, "y": y, **{name: name for name in conditions}}
    if len(asked) != 2 + len(conditions):
        raise InputError(f"condition: got {', '.join(conditions)}, names that differ, other than x and y, are accepted")
    named = read_named(paths, asked, incomplete=["y"])
    count = len(named["x"])
    if count < FEWEST:
        raise InputError(f"{', '.join(map(str, paths))}: holds {count} rows, at least {FEWEST} are accepted")
    limits = _limits(paths, named["x"], bounds, positive)
    if missing and any(np.isnan(part).any() for _, part in named["y"].parts()):
        raise InputError("missing: y has gaps of its own, 0 is accepted with them")
    kept = stream(seed, "held out").permutation(count)
    aside = min(MOST_HELD_OUT, max(round(held_out * count), min(FEWEST_CASES, count // 5)) if held_out else 0)
    _check_folder(out)
    for text in repeated(named):
        warn(text)
    ensure_writable(out)
    with locked(out):
        test, train = _split(named, np.sort(kept[:aside]))
        posterior = fit(
            train["x"],
            train["y"],
            cond={name: train[name] for name in conditions} or None,
            omega=RandomLayouts(1 - missing) if missing else None,
            bounds=limits,
            recipe=recipe,
            steps=steps,
            seed=seed,
            out=out,
            device=device,
            progress=progress,
        )
        write_tensors(out / "held_out.safetensors", {k: torch.from_numpy(v) for k, v in test.items()})
        Data(
            source=[os.fsencode(path).decode(errors="replace") for path in paths],
            asked=asked,
            entries={role: list(value.names) for role, value in named.items()},
            rows=count,
            held_out=file_hash(out / "held_out.safetensors"),
            missing=missing,
            simulator=simulator_in(paths),
        ).save(out)
    return posterior


def _split(named: dict[str, Named], rows: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """These rows of every array, and the arrays without them: on disk still if one of them is."""
    stored = {role: value.values for role, value in named.items() if isinstance(value.values, Stored)}
    if stored:  # what is in memory counts its rows as what is on disk does
        pairs = {role: stored.get(role, Stored(value.values)).but(rows) for role, value in named.items()}
        return {role: pair[0] for role, pair in pairs.items()}, {role: pair[1] for role, pair in pairs.items()}
    values = {role: value.whole() for role, value in named.items()}
    return {r: value[rows] for r, value in values.items()}, {r: np.delete(v, rows, 0) for r, v in values.items()}


def load_fit(folder: Path, device: str = "cpu") -> tuple[ConditionalPosterior, Data | None]:
    """The posterior in a folder, and what it was fitted to where that is known."""
    posterior = load(folder, device)
    if not isinstance(posterior, ConditionalPosterior):
        raise InputError(f"{folder}: holds a prior, the model of a posterior is accepted")
    return posterior, Data.load(folder) if (folder / "data.json").exists() else None


def fitted(folder: Path, data: Data | None) -> Fitted:
    """How the fit in a folder went, as far as that is recorded."""
    simulator, names = {} if data is None else data.simulator, dict[str, list[str]]()
    if data is not None and simulator:  # others' names are those of a file
        given = {part: data.entries[part] for part in "xy"}
        names = {part: called for part, called in given.items() if called[0].partition("[")[0] != part}
    try:
        found = read_sealed(folder / "training.json")
        records = [TrainRecord(**record) for record in found["records"]]
        training = TrainSettings(**found["settings"]["recipe"]["training"])
    except (InputError, KeyError, TypeError):
        return Fitted(simulator=simulator, names=names)
    last = records[-1]
    short = last.step < training.patience * training.validate_every
    begun = last.best_step > 0 or not short  # few steps that brought nothing say nothing of more
    still = last.step - last.best_step < LATE * training.validate_every or not begun
    return Fitted(last.step == last.steps and still, short, simulator, names)


def held_out(folder: Path, data: Data) -> dict[str, Tensor]:
    """The rows kept for checks, by role; InputError where they are missing or not those that were kept."""
    path = folder / "held_out.safetensors"
    if file_hash(path) != data.held_out:
        raise InputError(f"{path}: is not what was held out of the fit; give data of your own")
    return read_tensors(path)[0]


def check_rows(folder: Path, posterior: ConditionalPosterior, data: Data | None, path: Path | None) -> Rows:
    """Pairs to check a model on: those held out of its fit, or those of a file by the names of the fit."""
    if path is not None:
        asked = {"x": "x", "y": "y", **{n: n for n in posterior.extra}} if data is None else data.asked
        asked = by_entries(arrays_in([path]), asked, {} if data is None else data.entries)
        named = read_named([path], asked, incomplete=["y"])
        rows = np.arange(min(MOST_ROWS, len(named["x"])))  # as many as a check judges
        found = _split(named, rows)[0]
    elif data is None:
        raise InputError(f"{folder}: no rows were held out of this fit; --data FILE with pairs of your own is accepted")
    else:
        found = {role: value.numpy() for role, value in held_out(folder, data).items()}
    shapes = {"x": posterior.x_shape, "y": posterior.y_shape}
    if len(found["x"]) < FEWEST_CASES:
        raise InputError(
            f"{path or folder}: {len(found['x'])} rows to check with, at least {FEWEST_CASES} are accepted: "
            "--data FILE with others, or a fit with a larger --held-out"
        )
    for role, shape in shapes.items():
        found[role] = in_shape(found[role], shape)
        if found[role].shape[1:] != shape:
            raise InputError(f"{path}: {role} has rows of shape {found[role].shape[1:]}, {shape} is accepted")
    y, origin = found.pop("y"), "rows that the fit has not seen" if path is None else f"rows of {path}"
    hidden = None
    if data is not None and data.missing:  # as in the training
        hidden = np.where(stream(0, "check/missing").random(y.shape) < data.missing, np.nan, y)
    return Rows(found.pop("x"), y if hidden is None else hidden, found, origin, None if hidden is None else y)


def _limits(paths: Sequence[Path], x: Named, bounds: Sequence[str], positive: Sequence[str]) -> tuple[Any, Any] | None:
    """Lower and upper bounds for every entry of x; None where there are none."""
    lower, upper = np.full(len(x.names), -np.inf), np.full(len(x.names), np.inf)
    for text in [*bounds, *(f"{name}=0:" for name in positive)]:
        name, _, ends = text.rpartition("=")
        low, colon, high = ends.partition(":")
        if not name or not colon:
            raise InputError(f"bounds: got {text!r}, NAME=LOW:HIGH, as theta=0:1 or theta=0:, is accepted")
        words = [entry for part in name.split(",") for entry in _entries(x.names, part.strip())]
        which = [x.names.index(word) for word in words]
        if not which:
            raise InputError(f"bounds: there is no {name!r} in x, of {', '.join(x.names[:12])} any are accepted")
        try:
            for end, value in ((lower, low), (upper, high)):
                if value:
                    end[which] = float(value)
            if np.isnan([lower, upper]).any():
                raise ValueError
        except ValueError:
            raise InputError(f"bounds: got {text!r}, NAME=LOW:HIGH, as theta=0:1 or theta=0:, is accepted") from None
    if not np.isfinite([lower, upper]).any():
        return None
    _check_limits(paths, x, lower, upper)
    shape = x.values.shape[1:]
    return lower.reshape(shape), upper.reshape(shape)


def _check_limits(paths: Sequence[Path], x: Named, lower: np.ndarray, upper: np.ndarray) -> None:
    """InputError, by name, for bounds that leave nothing between them and for x that is not strictly there."""
    for name, low, high in zip(x.names, lower, upper):
        if not low < high or low == np.inf or high == -np.inf:
            raise InputError(f"bounds: got {low:g} to {high:g} for {name}, lower < upper is accepted")
    for first, part in x.parts():
        flat = part.reshape(len(part), -1)
        beyond = (flat <= lower) | (flat >= upper)
        if beyond.any():
            row, j = np.argwhere(beyond)[0]
            where = place_of_row(paths, first + row)
            raise InputError(
                f"x: got {flat[row, j]:g} for {x.names[j]} in {where}, numbers between its bounds {lower[j]:g} and "
                f"{upper[j]:g}, without these, are accepted"
            )


def _entries(names: Sequence[str], word: str) -> list[str]:
    return matching(names, word) or [entry for entry in names if entry.startswith(f"{word}[")]


def _check_folder(out: Path) -> None:
    """InputError where `out` holds other things than a fit."""
    if not out.is_dir():
        return
    inside = {entry.name for entry in out.iterdir() if not entry.name.startswith(".")}
    if inside and not inside & {"train_state.safetensors", "model.json", "training.json"}:
        raise InputError(f"{out}: holds other files and no fit, a new or an empty folder is accepted")
