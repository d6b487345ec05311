"""Named arrays in the files that people have: .npy, .npz, .csv, .parquet, .h5, .zarr.

Every reader gives the names with a function that reads the array of that name, so that what is not asked for is not
read. Nothing read here can run code: an array of Python objects is refused.
"""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from csv import reader as records_of
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fokker.errors import InputError
from fokker.simulation.layout import FORMAT
from fokker.simulation.readable import Readable, Slices, told
from fokker.simulation.stored import NONE, Stored

Arrays = dict[str, Readable]


def arrays_in(paths: Sequence[Path]) -> Arrays:
    """The arrays of one file, or those of several .npy files, each named by its file.

    Tables (.csv, .parquet) give an array for every column, NaN where a cell is empty. Groups of .h5 and .zarr are parts
    of the name: "group/name". A store of simulations gives the x and y of those that did not fail.

    Raises InputError for files that are missing, damaged, empty or of another format, and for names that occur twice;
    ImportError where the package that reads the format is missing.
    """
    if len(paths) == 1 and paths[0].suffix != ".npy":
        return _arrays_of(paths[0])
    if not paths:
        raise InputError("data: got no file, one file or several .npy are accepted")
    others = [str(path) for path in paths if path.suffix != ".npy"]
    if others:
        raise InputError(f"data: got {', '.join(others)} among several files, one file or several .npy are accepted")
    _refuse_twice(paths[0].parent, [path.stem for path in paths])
    return {path.stem: _npy(_existing(path)) for path in paths}


def failed_in(paths: Sequence[Path]) -> int:
    """Failed simulations that `arrays_in` leaves out of a store of simulations; 0 for any other file."""
    group = _store(paths)
    if group is None:
        return 0
    rows = int(group.attrs["n"])
    return rows - int(np.count_nonzero(np.asarray(group["finite"][:rows])))


def simulator_in(paths: Sequence[Path]) -> dict[str, Any]:
    """The settings of the simulator that made a store of simulations; none for any other file."""
    group = _store(paths)
    settings = {} if group is None else group.attrs.get("settings")
    return settings if isinstance(settings, dict) else {}


def names_in(paths: Sequence[Path]) -> dict[str, list[str]]:
    """What the numbers in a row of an array are called, by array, where a store of simulations says so.

    InputError where the store's words do not fit its arrays.
    """
    group = _store(paths)
    names = {} if group is None else {p: group.attrs[f"{p}_names"] for p in "xy" if f"{p}_names" in group.attrs}
    for part, given in names.items():
        with told(paths[0] / part):
            count = math.prod(group[part].shape[1:])
        texts = isinstance(given, list) and all(isinstance(name, str) for name in given)
        if not texts or not len(set(given)) == len(given) == count:
            raise InputError(f"{paths[0] / 'zarr.json'} is damaged: {part}_names are not {count} texts that differ")
    return names


def place_of_row(paths: Sequence[Path], row: int) -> str:
    """Where a row, counted from 0, is found: the line that an editor shows for a .csv, the index for any other file."""
    if len(paths) != 1 or paths[0].suffix != ".csv":
        return f"row {row} (counted from 0)"
    with open(paths[0], newline="", errors="replace") as file:
        records, count, before = records_of(file), -1, 0  # the first has the names
        for record in records:
            if record and count == row:
                break
            count, before = count + bool(record), records.line_num  # empty lines are no rows
    return f"line {before + 1}"


def _store(paths: Sequence[Path]) -> Any:
    """The Zarr group of a store of simulations; None for any other file."""
    if len(paths) != 1 or not paths[0].is_dir():
        return None
    import zarr

    group = zarr.open_group(paths[0], mode="r")
    return group if group.attrs.get("format") == FORMAT["format"] else None


def _arrays_of(path: Path) -> Arrays:
    path = _existing(path)
    reader = _READERS.get(path.suffix)
    if reader is None and path.is_dir():
        reader = _zarr
    if reader is None:
        raise InputError(f"{path}: got a file of kind {path.suffix!r}, {', '.join(('.npy', *_READERS))} are accepted")
    try:
        with told(path):
            found = reader(path)
    except ImportError as error:
        raise ImportError(f"{path.suffix} files need {error.name}: pip install 'fokker[files,store]'") from error
    if not found:
        raise InputError(f"{path}: holds no arrays")
    return found


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    if path.is_file() and not path.stat().st_size:
        raise InputError(f"{path}: the file is empty")
    return path


def _refuse_twice(path: Path, names: Sequence[str]) -> None:
    twice = [repr(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: the name {', '.join(twice)} occurs twice, names that differ are accepted")


def _npy(path: Path) -> Readable:
    def read(mode: Literal["r"] | None = None) -> np.ndarray:
        with told(path):
            return _array(path, np.load(path, mmap_mode=mode, allow_pickle=False))

    return Readable(read, lambda: Stored(read("r")))


def _npz(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    _refuse_twice(path, names)

    def read(name: str) -> np.ndarray:
        with told(path), np.load(path, allow_pickle=False) as arrays:
            return _array(path, arrays[name])

    return {name: Readable(partial(read, name)) for name in names}


def _array(path: Path, found: Any) -> np.ndarray:
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path}: holds {type(found).__name__}, arrays of numbers are accepted")
    return found


def _csv(path: Path) -> Arrays:
    from pyarrow import csv

    table = csv.read_csv(path)
    table = table.rename_columns([name.strip() for name in table.schema.names])
    if len(table.schema.names) == 1 and ";" in table.schema.names[0]:
        raise InputError(f"{path}: its columns are divided by semicolons, commas are accepted")
    if all(_is_number(name) for name in table.schema.names):
        shown = ", ".join(table.schema.names[:3])
        raise InputError(f"{path}: its first line is {shown}: numbers; a line with names of columns is accepted")
    return _columns(path, table)


def _parquet(path: Path) -> Arrays:
    from pyarrow import parquet

    return _columns(path, parquet.read_table(path))


def _columns(path: Path, table: Any) -> Arrays:
    _refuse_twice(path, table.schema.names)
    return {name: Readable(partial(_column, path, table, name)) for name in table.schema.names}


def _column(path: Path, table: Any, name: str) -> np.ndarray:
    """A column of numbers (N,), or of lists of equal length (N, length); NaN where there is none."""
    import pyarrow

    column = table.column(name)
    if pyarrow.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        texts = column.to_pylist()
        row = next((i for i, text in enumerate(texts) if text is not None and not _is_number(text)), 0)
        where = place_of_row([path], row)
        raise InputError(f"{path}: {name!r} holds the text {texts[row]!r} in {where}, only numbers are accepted")
    lists = (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list)
    if any(kind(column.type) for kind in lists):
        rows = column.to_pylist()
        if any(row is None for row in rows) or len({len(row) for row in rows}) != 1:
            raise InputError(f"{path}: the lists of column {name!r} differ in length, lists of one length are accepted")
        with told(path):
            return np.array(rows, dtype=np.float64)
    with told(path):
        return column.to_numpy()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _hdf5(path: Path) -> Arrays:
    import h5py

    names: list[str] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)

    def read(name: str, key: Any = ...) -> np.ndarray:
        with told(path), h5py.File(path, "r") as file:
            if file[name].dtype.kind == "O":
                raise InputError(f"{path}: {name!r} holds objects or texts, only numbers are accepted")
            return _array(path, file[name][key])

    def by_slices(name: str) -> Stored:
        with told(path), h5py.File(path, "r") as file:
            found = file[name]
            return Stored(Slices(path, found.shape, found.dtype, found.chunks, partial(read, name)))

    return {name: Readable(partial(read, name), partial(by_slices, name)) for name in names}


def _zarr(path: Path) -> Arrays:
    import zarr

    if not path.is_dir():
        raise InputError(f"{path}: is a file, a folder is what .zarr is")
    group = zarr.open_group(path, mode="r")
    arrays = {name: item for name, item in group.members(max_depth=None) if hasattr(item, "shape")}

    def checked(name: str) -> Any:
        with told(path / name):
            array = arrays[name]
            filters = str([array.metadata.filters if hasattr(array.metadata, "filters") else (), array.compressors])
            if array.dtype.kind not in "fiub" or "pickle" in filters.lower():  # filters of objects can run code
                raise InputError(f"{path / name}: holds {array.dtype} values, real numbers are accepted")
            return array

    def read(name: str) -> np.ndarray:
        array = checked(name)
        with told(path / name):
            return np.asarray(array[...])

    def by_slices(name: str, rows: int | None = None, without: np.ndarray = NONE) -> Stored:
        array = checked(name)
        shape = (min(rows or array.shape[0], array.shape[0]), *array.shape[1:])
        return Stored(Slices(path / name, shape, array.dtype, array.chunks, array.__getitem__), without)

    if group.attrs.get("format") != FORMAT["format"]:
        return {name: Readable(partial(read, name), partial(by_slices, name)) for name in arrays}
    rows = int(group.attrs["n"])  # those beyond are of a run that is not done

    def finite(name: str) -> np.ndarray:
        return read(name)[:rows][read("finite")[:rows]]

    def finite_slices(name: str) -> Stored:
        return by_slices(name, rows, np.flatnonzero(~read("finite")[:rows]))

    return {name: Readable(partial(finite, name), partial(finite_slices, name)) for name in ("x", "y")}


_READERS: dict[str, Callable[[Path], Arrays]] = {
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".zarr": _zarr,
}
