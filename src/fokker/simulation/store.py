"""Simulated pairs (x, y) on disk: made chunk by chunk, resumable, the same however often the run was killed.

The store is a Zarr (version 3) group of uncompressed arrays, one file per simulation chunk:

    x       (n, *x_shape)  float64   inputs drawn from the prior        NaN where not simulated yet
    y       (n, *y_shape)  float64   outputs of the simulator           NaN where not simulated yet
    finite  (n,)           bool      all of the row's x and y are finite
    sha256  (chunks, 32)   uint8     SHA-256 of the chunk's x, y, finite; zeros where not simulated yet

with the attributes format, version, seed, chunk, settings, x_shape, y_shape and n, the number of leading rows
known to be complete (after an interruption the arrays may be longer). A chunk's checksum is written after its
data: a chunk counts only if its data verify.
"""

import hashlib
import json
import operator
import reprlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr

from fokker.errors import InputError
from fokker.storage import AnyPath, ensure_writable, errors_named, locked, read_json, write_json

_FORMAT = {"format": "fokker simulations", "version": 1}
_DATA = ("x", "y", "finite")
_STREAM = 0x73696D  # keeps these draws apart from other uses of Philox with the same key


class Simulator(Protocol):
    """A prior and a forward model, with random numbers from the given generator only.

    `settings` is a dict that JSON can hold and that identifies the simulator: a store made with others is
    refused. `prior(rng, n)` returns x of shape (n, *x_shape); `simulate(x, rng)` returns y of shape
    (n, *y_shape), row by row. Rows with NaN or infinities are failed simulations.
    """

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def prior(self, rng: np.random.Generator, n: int) -> np.ndarray: ...

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


@dataclass(frozen=True)
class SimulationStore:
    """The first `n` rows of a simulation store, complete and verified.

    Attributes: `path` of the Zarr group; `n` rows; `x_shape` and `y_shape` of one row; `failed`, how many
    rows are not finite; `seconds` spent in the call that returned this; `reused`, how many chunks were on
    disk already; `repaired`, the indices of chunks found damaged or lost and made again.
    """

    path: Path
    n: int
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    failed: int
    seconds: float
    reused: int
    repaired: tuple[int, ...]

    def load(self, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The finite ones of the rows start, ..., stop - 1: x (m, *x_shape) and y (m, *y_shape), float64.

        m = stop - start less the failed rows among them. `stop` is `n` when left out. Raises `InputError`
        for a range outside 0 <= start <= stop <= n, and when files were damaged or lost meanwhile.
        """
        stop = self.n if stop is None else stop
        if not 0 <= start <= stop <= self.n:
            raise InputError(f"rows {start} to {stop} asked for; the store {self.path} has rows 0 to {self.n}")
        finite = self._read("finite", start, stop)
        x, y = self._read("x", start, stop)[finite], self._read("y", start, stop)[finite]
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InputError(f"{self.path}: files were lost; simulate again to restore them")
        return x, y

    def failed_inputs(self) -> np.ndarray:
        """The x (failed, *x_shape) whose simulation was not finite. Raises `InputError` for damaged files."""
        return self._read("x", 0, self.n)[~self._read("finite", 0, self.n)]

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(zarr.open_array(store=self.path / name, mode="r")[start:stop])
        except Exception as error:  # zarr has no common class for damaged files
            raise InputError(
                f"{self.path / name} cannot be read ({_one_line(error)}); simulate again to restore it"
            ) from error


def simulate(
    simulator: Simulator,
    n: int,
    path: AnyPath,
    *,
    seed: int,
    chunk: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> SimulationStore:
    """Make `n` pairs x ~ prior, y ~ simulator(x) in the folder `path`, or continue there.

    Chunk c is drawn by Philox with the key (seed, c): no two chunks share a stream, and the data do not
    depend on interruptions or on the order of chunks. The last chunk is drawn whole, `chunk` rows, and cut;
    so n rows are the first n of any larger store with the same seed and chunk, at the price of up to
    chunk - 1 rows thrown away: take a small `chunk` when one simulation is expensive.

    Calling again with the same arguments reuses every chunk that verifies; a larger n continues (a cut last
    chunk is made again); a smaller n returns the first rows and leaves the rest. `progress(done, total)` is
    called with numbers of rows, at the start and after each chunk. Failed rows stay in the store and are
    counted; only `load` leaves them out.

    Raises `InputError` when the store on disk has another seed, chunk or settings, when `path` holds
    something else or is in use by another process, and when the simulator raises or returns something other
    than real numbers of shape (rows, ...); chunks finished by then stay. Raises `OSError` when the disk
    fails.
    """
    started = time.perf_counter()
    n, chunk, seed = _integer("n", n, 1), _integer("chunk", chunk, 1), _integer("seed", seed, 0)
    root = Path(path)
    wanted = {"seed": seed, "chunk": chunk, "settings": _settings(simulator)}
    _open_attributes(root, wanted)  # refuse a wrong folder before writing anything into it
    ensure_writable(root)
    with locked(root):
        for left in list(root.rglob("*.partial")):  # zarr's temporary files, from a killed run
            left.unlink()
        attributes = _open_attributes(root, wanted)
        first = None
        if attributes is None:  # the first chunk tells the shapes
            first = _draw(simulator, seed, 0, chunk)
            shapes = {"x_shape": list(first[0].shape[1:]), "y_shape": list(first[1].shape[1:])}
            attributes = {**_FORMAT, **wanted, **shapes, "n": 0}
            _write_attributes(root, attributes)
        shape_of = tuple(attributes["x_shape"]), tuple(attributes["y_shape"])
        arrays = _arrays(root, attributes, n)
        parts = [slice(a, min(a + chunk, arrays["x"].shape[0])) for a in range(0, n, chunk)]
        states = [_state(arrays, c, part) for c, part in enumerate(parts)]
        pending = [c for c, state in enumerate(states) if state != "verified"]
        complete = attributes["n"]
        repaired = tuple(c for c in pending if states[c] == "damaged" or parts[c].start < complete)
        if pending and parts[pending[0]].start < complete:
            _write_attributes(root, attributes | {"n": parts[pending[0]].start})
        done = n - sum(min(parts[c].stop, n) - parts[c].start for c in pending)
        if progress is not None:
            progress(done, n)
        for c in pending:
            x, y = first if first is not None and c == 0 else _draw(simulator, seed, c, chunk, shape_of)
            _write(root, arrays, c, parts[c], x, y)
            done += min(parts[c].stop, n) - parts[c].start
            if progress is not None:
                progress(done, n)
        if pending or complete < n:
            _write_attributes(root, attributes | {"n": max(complete, n)})
        failed = n - int(np.count_nonzero(arrays["finite"][:n]))
    return SimulationStore(
        path=root,
        n=n,
        x_shape=shape_of[0],
        y_shape=shape_of[1],
        failed=failed,
        seconds=time.perf_counter() - started,
        reused=len(parts) - len(pending),
        repaired=repaired,
    )


def _draw(
    simulator: Simulator,
    seed: int,
    c: int,
    chunk: int,
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None),
) -> tuple[np.ndarray, np.ndarray]:
    """The whole chunk c: x (chunk, *x_shape) and y (chunk, *y_shape), float64."""
    bits = np.random.Philox(key=np.array([seed, c], dtype=np.uint64), counter=[0, 0, 0, _STREAM])
    rng = np.random.Generator(bits)
    name = type(simulator).__name__
    x = _called(f"{name}.prior", chunk, shapes[0], lambda: simulator.prior(rng, chunk))
    # A copy, so that a simulator working in place does not change the inputs that are stored.
    y = _called(f"{name}.simulate", chunk, shapes[1], lambda: simulator.simulate(x.copy(), rng))
    return x, y


def _called(name: str, rows: int, shape: tuple[int, ...] | None, function: Callable[[], np.ndarray]) -> np.ndarray:
    """What the user's function returns, checked and copied to float64."""
    try:
        array = np.asarray(function())
    except Exception as error:
        raise InputError(f"{name} raised {type(error).__name__}: {_one_line(error)}") from error
    expected = f"({', '.join(map(str, (rows, *shape)))})" if shape is not None else f"({rows}, ...)"
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} returned {array.dtype} values; expected real numbers of shape {expected}")
    wrong = array.ndim == 0 or array.shape[0] != rows or (shape is not None and array.shape[1:] != shape)
    if wrong or array.size == 0:
        raise InputError(f"{name} returned an array of shape {array.shape}; expected {expected}")
    array = array.astype("<f8")
    array[np.isnan(array)] = np.nan  # one kind of NaN: the disk does not keep others, checksums would differ
    return array


def _settings(simulator: Simulator) -> dict[str, Any]:
    """The simulator's settings as JSON reads them back."""
    name = type(simulator).__name__
    for part in ("settings", "prior", "simulate"):
        if not hasattr(simulator, part):
            raise InputError(f"{name} is no simulator: it has no {part}; expected settings, prior and simulate")
    if not isinstance(simulator.settings, Mapping):
        raise InputError(f"{name}.settings is {reprlib.repr(simulator.settings)}; expected a dict")
    try:
        return json.loads(json.dumps(dict(simulator.settings), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}.settings cannot be written as JSON ({_one_line(error)}); "
            "expected numbers, texts, lists and dicts of them"
        ) from error


def _open_attributes(root: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The attributes of the store in `root`, compared with the `wanted` ones; None where nothing is yet."""
    if not root.is_dir():
        return None
    document = root / "zarr.json"
    if not document.exists():
        if any(not entry.name.startswith(".") for entry in root.iterdir()):
            raise InputError(f"{root} holds other files and no simulation store; give a new or an empty folder")
        return None
    content = read_json(document)
    attributes = content.get("attributes") if isinstance(content, dict) else None
    if not isinstance(attributes, dict) or attributes.get("format") != _FORMAT["format"]:
        raise InputError(f"{root} is another kind of Zarr group, not a simulation store; give another folder")
    shapes = [attributes.get("x_shape"), attributes.get("y_shape"), [attributes.get("n")]]
    if not all(isinstance(s, list) and all(type(v) is int and v >= 0 for v in s) for s in shapes):
        raise InputError(f"{document} is damaged: x_shape, y_shape or n are not whole numbers")
    for name, value in {**_FORMAT, **wanted}.items():
        _compare(root, name, attributes.get(name), value)
    return attributes


def _compare(root: Path, name: str, stored: Any, wanted: Any) -> None:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in {**stored, **wanted}:
            _compare(root, f"{name}.{key}", stored.get(key), wanted.get(key))
    elif stored != wanted:
        raise InputError(
            f"{root} was made with {name} = {reprlib.repr(stored)}, now it is {reprlib.repr(wanted)}; "
            "use the same, or give another folder"
        )


def _write_attributes(root: Path, attributes: dict[str, Any]) -> None:
    """A Zarr group is this one document; written by us because zarr does not sync it to the disk."""
    write_json(root / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def _arrays(root: Path, attributes: dict[str, Any], n: int) -> dict[str, Any]:
    """The four arrays, made or grown to at least n rows; lowers `attributes["n"]` by a cut last chunk."""
    chunk = attributes["chunk"]
    layout: dict[str, tuple[tuple[int, ...], int, str, Any]] = {
        "x": (tuple(attributes["x_shape"]), chunk, "<f8", np.nan),
        "y": (tuple(attributes["y_shape"]), chunk, "<f8", np.nan),
        "finite": ((), chunk, "bool", False),
        "sha256": ((32,), 1, "uint8", 0),
    }
    arrays = {name: _open_array(root / name, *spec[:3]) for name, spec in layout.items()}
    lengths = [arrays[name].shape[0] for name in _DATA if arrays[name] is not None]
    rows = max([n, *lengths])
    cut = [length // chunk for length in lengths if length < rows and length % chunk]
    if cut:  # before growing, so that no checksum is left that covers fewer rows than its chunk
        if attributes["n"] > min(cut) * chunk:
            attributes["n"] = min(cut) * chunk
            _write_attributes(root, attributes)
        if arrays["sha256"] is not None:
            with errors_named(root):
                arrays["sha256"][min(cut)] = 0
    for name, (row, per_file, dtype, fill) in layout.items():
        shape = (-(-rows // chunk) if name == "sha256" else rows, *row)
        with errors_named(root):
            if arrays[name] is None:
                # Missing, or its description is damaged: write that again, the data beside it still verify.
                (root / name / "zarr.json").unlink(missing_ok=True)
                arrays[name] = zarr.create_array(
                    store=root / name,
                    shape=shape,
                    chunks=(per_file, *row),
                    dtype=dtype,
                    fill_value=fill,
                    compressors=None,  # draws of floats do not compress
                    dimension_names=[
                        "chunk" if name == "sha256" else "row",
                        *(f"{name}_{i}" for i in range(len(row))),
                    ],
                )
            elif arrays[name].shape != shape:
                arrays[name].resize(shape)
    return arrays


def _open_array(path: Path, row: tuple[int, ...], per_file: int, dtype: str) -> Any:
    """The array in `path`, or None where there is none as expected."""
    try:
        array = zarr.open_array(store=path, mode="r+")
    except Exception:  # zarr has no common class for missing and damaged arrays; the cure is the same
        return None
    fits = array.shape[1:] == row and array.chunks == (per_file, *row) and array.dtype == np.dtype(dtype)
    return array if fits else None


def _state(arrays: dict[str, Any], c: int, part: slice) -> str:
    """What the disk has of chunk c: verified, absent or damaged."""
    try:
        mark = arrays["sha256"][c].tobytes()
        if mark == bytes(32):
            return "absent"
        intact = mark == _digest(*(arrays[name][part] for name in _DATA))
    except Exception:  # zarr has no common class for damaged files; the cure is the same
        return "damaged"
    return "verified" if intact else "damaged"


def _write(root: Path, arrays: dict[str, Any], c: int, part: slice, x: np.ndarray, y: np.ndarray) -> None:
    """Store the first rows of a chunk, then its checksum."""
    x, y = x[: part.stop - part.start], y[: part.stop - part.start]
    finite = np.isfinite(x.reshape(len(x), -1)).all(1) & np.isfinite(y.reshape(len(y), -1)).all(1)
    with errors_named(root):
        for name, value in zip(_DATA, (x, y, finite)):
            arrays[name][part] = value
        arrays["sha256"][c] = np.frombuffer(_digest(x, y, finite), dtype=np.uint8)


def _digest(*values: np.ndarray) -> bytes:
    total = hashlib.sha256()
    for value in values:
        total.update(np.ascontiguousarray(value).data)
    return total.digest()


def _integer(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number < 2**64:
        raise InputError(f"{name} is {reprlib.repr(value)}; expected a whole number from {least} on")
    return number


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
