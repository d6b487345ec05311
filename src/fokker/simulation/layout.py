"""The files of a simulation store, and reading them.

The store is a Zarr (version 3) group of uncompressed arrays, one file per simulation chunk:

    x       (n, *x_shape)  float64   inputs drawn from the prior        NaN where not simulated yet
    y       (n, *y_shape)  float64   outputs of the simulator           NaN where not simulated yet
    finite  (n,)           bool      all of the row's x and y are finite
    sha256  (chunks, 32)   uint8     SHA-256 of the chunk's x, y, finite; zeros where not simulated yet

with the attributes format, version, seed, chunk, settings, x_shape, y_shape and n, the number of leading rows
known to be complete (after an interruption the arrays may be longer), and x_names and y_names where the simulator
has them. A chunk's checksum is written after its data: a chunk counts only if its data verify.
"""

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from fokker.errors import InputError
from fokker.simulation.chunks import digest, one_line
from fokker.storage import errors_named, read_json, write_json

FORMAT = {"format": "fokker simulations", "version": 1}
DATA = ("x", "y", "finite")


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
                f"{self.path / name} cannot be read ({one_line(error)}); simulate again to restore it"
            ) from error


def open_attributes(root: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
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
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT["format"]:
        raise InputError(f"{root} is another kind of Zarr group, not a simulation store; give another folder")
    shapes = [attributes.get("x_shape"), attributes.get("y_shape"), [attributes.get("n")]]
    if not all(isinstance(s, list) and all(type(v) is int and v >= 0 for v in s) for s in shapes):
        raise InputError(f"{document} is damaged: x_shape, y_shape or n are not whole numbers")
    for name, value in {**FORMAT, **wanted}.items():
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


def write_attributes(root: Path, attributes: dict[str, Any]) -> None:
    """A Zarr group is this one document; written by us because zarr does not sync it to the disk."""
    write_json(root / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def open_arrays(root: Path, attributes: dict[str, Any], n: int) -> dict[str, Any]:
    """The four arrays, made or grown to at least n rows; lowers `attributes["n"]` by a cut last chunk."""
    chunk = attributes["chunk"]
    layout: dict[str, tuple[tuple[int, ...], int, str, Any]] = {
        "x": (tuple(attributes["x_shape"]), chunk, "<f8", np.nan),
        "y": (tuple(attributes["y_shape"]), chunk, "<f8", np.nan),
        "finite": ((), chunk, "bool", False),
        "sha256": ((32,), 1, "uint8", 0),
    }
    arrays = {name: _open_array(root / name, *spec[:3]) for name, spec in layout.items()}
    lengths = [arrays[name].shape[0] for name in DATA if arrays[name] is not None]
    rows = max([n, *lengths])
    cut = [length // chunk for length in lengths if length < rows and length % chunk]
    if cut:  # before growing, so that no checksum is left that covers fewer rows than its chunk
        if attributes["n"] > min(cut) * chunk:
            attributes["n"] = min(cut) * chunk
            write_attributes(root, attributes)
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


def state_of(arrays: dict[str, Any], c: int, part: slice) -> str:
    """What the disk has of chunk c: verified, absent or damaged."""
    try:
        mark = arrays["sha256"][c].tobytes()
        if mark == bytes(32):
            return "absent"
        intact = mark == digest(*(arrays[name][part] for name in DATA))
    except Exception:  # zarr has no common class for damaged files; the cure is the same
        return "damaged"
    return "verified" if intact else "damaged"


def write_chunk(root: Path, arrays: dict[str, Any], c: int, part: slice, x: np.ndarray, y: np.ndarray) -> None:
    """Store the first rows of a chunk, then its checksum."""
    x, y = x[: part.stop - part.start], y[: part.stop - part.start]
    finite = np.isfinite(x.reshape(len(x), -1)).all(1) & np.isfinite(y.reshape(len(y), -1)).all(1)
    with errors_named(root):
        for name, value in zip(DATA, (x, y, finite)):
            arrays[name][part] = value
        arrays["sha256"][c] = np.frombuffer(digest(x, y, finite), dtype=np.uint8)
