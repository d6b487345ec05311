"""Pairs from files of every format, and what is told of those that are damaged."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pyarrow
import pytest
import zarr
from pyarrow import csv, parquet

from fokker.errors import InputError
from fokker.simulation.formats import arrays_in
from fokker.simulation.store import simulate
from fokker.simulation.tables import read_named

RNG = np.random.default_rng(0)
THETA, DATA = RNG.standard_normal((20, 2)), RNG.standard_normal((20, 3))
COLUMNS = {**{f"theta_{i}": THETA[:, i] for i in range(2)}, **{f"d[{i}]": DATA[:, i] for i in (2, 0, 1)}}


def as_npz(folder: Path) -> list[Path]:
    np.savez(folder / "a.npz", theta=THETA, d=DATA)
    return [folder / "a.npz"]


def as_npy(folder: Path) -> list[Path]:
    for name, value in (("theta", THETA), ("d", DATA)):
        np.save(folder / f"{name}.npy", value)
    return [folder / "theta.npy", folder / "d.npy"]


def as_csv(folder: Path) -> list[Path]:
    csv.write_csv(pyarrow.table(COLUMNS), folder / "a.csv")
    return [folder / "a.csv"]


def as_parquet(folder: Path) -> list[Path]:
    parquet.write_table(pyarrow.table({"theta": list(THETA), "d": list(DATA)}), folder / "a.parquet")
    return [folder / "a.parquet"]


def as_columns(folder: Path) -> list[Path]:
    parquet.write_table(pyarrow.table(COLUMNS), folder / "a.parquet")
    return [folder / "a.parquet"]


def as_h5(folder: Path) -> list[Path]:
    with h5py.File(folder / "a.h5", "w") as file:
        file["theta"], file["d"] = THETA, DATA
    return [folder / "a.h5"]


def as_zarr(folder: Path) -> list[Path]:
    group = zarr.open_group(folder / "a.zarr", mode="w")
    group.create_array("theta", data=THETA)
    group.create_array("d", data=DATA)
    return [folder / "a.zarr"]


@pytest.mark.parametrize("write", [as_npz, as_npy, as_csv, as_parquet, as_columns, as_h5, as_zarr])
def test_every_format_gives_the_same_numbers(write, tmp_path):
    found = read_named(write(tmp_path), {"x": "theta", "y": "d"})
    assert np.array_equal(found["x"].values, THETA) and np.array_equal(found["y"].values, DATA)
    assert [name.replace("[", "_").rstrip("]") for name in found["x"].names] == ["theta_0", "theta_1"]
    assert [name.replace("[", "_").rstrip("]") for name in found["y"].names] == ["d_0", "d_1", "d_2"]


def test_names_stand_for_columns(tmp_path):
    paths = as_csv(tmp_path)
    for text, columns in (
        ("theta_1", [THETA[:, 1]]),
        ("theta_1,d[0]", [THETA[:, 1], DATA[:, 0]]),
        ("theta_*", [THETA[:, 0], THETA[:, 1]]),
        ("theta, d", [THETA[:, 0], THETA[:, 1], *DATA.T]),
    ):
        found = read_named(paths, {"x": text})["x"]
        assert np.array_equal(found.values, np.stack(columns, 1)) and len(found.names) == len(columns)


def test_images_keep_their_shape_and_groups_are_part_of_the_name(tmp_path):
    images = RNG.standard_normal((20, 4, 5))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["camera/left"], file["theta"] = images, THETA
    found = read_named([tmp_path / "a.h5"], {"x": "theta", "y": "camera/left"})
    assert np.array_equal(found["y"].values, images) and found["y"].names[6] == "camera/left[1,1]"


def test_empty_cells_are_nan_where_they_may_be(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,\n2,3\n4,nan\n5,6\n")
    found = read_named([tmp_path / "a.csv"], {"x": "a", "y": "b"}, incomplete=["y"])["y"]
    assert np.array_equal(found.values[:, 0], [np.nan, 3, np.nan, 6], equal_nan=True)


class Failing:
    settings: ClassVar = {"kind": "sometimes"}

    def prior(self, rng, n):
        return rng.standard_normal((n, 2))

    def simulate(self, x, rng):
        return np.where(x[:, :1] > 1, np.nan, x)


def test_a_store_of_simulations_gives_those_that_did_not_fail(tmp_path):
    store = simulate(Failing(), 500, tmp_path / "sims", seed=0, chunk=100)
    assert store.failed > 20
    found = read_named([tmp_path / "sims"], {"x": "x", "y": "y"})
    x, y = store.load()
    assert np.array_equal(found["x"].values, x) and np.array_equal(found["y"].values, y)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/fokker-was-here"),))


def archive(path: Path, *members: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members:
            file.writestr(name, data)


def npy(folder: Path, value: np.ndarray) -> bytes:
    np.save(folder / "part.npy", value, allow_pickle=True)
    data = (folder / "part.npy").read_bytes()
    (folder / "part.npy").unlink()
    return data


def halved(paths: list[Path]) -> list[Path]:
    data = paths[0].read_bytes()
    paths[0].write_bytes(data[: len(data) // 2])
    return paths


def text(folder: Path, content: str, name: str = "a.csv") -> list[Path]:
    (folder / name).write_text(content)
    return [folder / name]


def saved(folder: Path, **arrays: np.ndarray) -> list[Path]:
    np.savez(folder / "a.npz", **arrays)
    return [folder / "a.npz"]


def twice(folder: Path) -> list[Path]:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(folder / "a.npz", *[("theta.npy", npy(folder, THETA))] * 2)
    return [folder / "a.npz"]


def pickled(folder: Path) -> list[Path]:
    archive(
        folder / "a.npz", ("theta.npy", npy(folder, np.array([Evil()], dtype=object))), ("d.npy", npy(folder, DATA))
    )
    return [folder / "a.npz"]


def raw_pickle(folder: Path) -> list[Path]:
    (folder / "theta.npy").write_bytes(pickle.dumps(Evil()))
    np.save(folder / "d.npy", DATA)
    return [folder / "theta.npy", folder / "d.npy"]


def infinite_parquet(folder: Path) -> list[Path]:
    columns = {"theta": THETA[:, 0], "d": np.where(np.arange(20) == 5, np.inf, DATA[:, 0])}
    parquet.write_table(pyarrow.table(columns), folder / "a.parquet")
    return [folder / "a.parquet"]


def texts_in_h5(folder: Path) -> list[Path]:
    with h5py.File(folder / "a.h5", "w") as file:
        file["theta"], file["d"] = ["a", "b"], DATA
    return [folder / "a.h5"]


def lost_chunk(folder: Path) -> list[Path]:
    path = as_zarr(folder)[0]
    for part in (path / "theta" / "c").rglob("*"):
        if part.is_file():
            part.write_bytes(b"x")
    return [path]


def ragged_lists(folder: Path) -> list[Path]:
    parquet.write_table(pyarrow.table({"theta": [[1.0, 2.0], [3.0]], "d": [1.0, 2.0]}), folder / "a.parquet")
    return [folder / "a.parquet"]


def as_npy_d(folder: Path) -> Path:
    np.save(folder / "d.npy", DATA)
    return folder / "d.npy"


def zarr_of_objects(folder: Path) -> list[Path]:
    """Zarr 2, an array of objects behind a filter that unpickles them."""
    group = folder / "a.zarr"
    for name in ("theta", "d"):
        (group / name).mkdir(parents=True)
        codecs = [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]
        meta = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "|O", "compressor": None, "fill_value": None}
        (group / name / ".zarray").write_text(json.dumps({**meta, "order": "C", "filters": codecs}))
        (group / name / "0").write_bytes(pickle.dumps(Evil()))
    (group / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    return [group]


def touched(folder: Path, name: str) -> list[Path]:
    (folder / name).touch()
    return [folder / name]


NAN, INF = DATA.copy(), DATA.copy()
NAN[3, 1], INF[5, 2] = np.nan, -np.inf
ALL_NAN, STILL = DATA.copy(), DATA.copy()
ALL_NAN[:, 1], STILL[:, 0] = np.nan, 4.0

DAMAGED = [
    ("no such file", lambda f: [f / "a.npz"], "there is no such file"),
    *(
        (f"empty {name}", lambda f, name=name: touched(f, name), "empty")
        for name in ("a.npz", "a.csv", "a.h5", "a.parquet")
    ),
    ("unknown kind", lambda f: text(f, "1 2", "a.dat"), "'.dat'"),
    ("a folder that is no store", lambda f: [f], "damaged or of another kind"),
    ("a zarr that is a file", lambda f: text(f, "1 2", "a.zarr"), "a folder is what"),
    *(
        (f"cut {write.__name__}", lambda f, write=write: halved(write(f)), "damaged")
        for write in (as_npz, as_npy, as_parquet, as_h5)
    ),
    ("text as npz", lambda f: text(f, "hello", "a.npz"), "damaged or of another kind"),
    ("text as h5", lambda f: text(f, "hello", "a.h5"), "damaged or of another kind"),
    ("text as parquet", lambda f: text(f, "hello", "a.parquet"), "damaged or of another kind"),
    ("pickle in npz", pickled, "pickle"),
    ("pickle as npy", raw_pickle, "pickle"),
    ("ragged csv", lambda f: text(f, "theta,d\n1,2\n3\n"), "Expected 2 columns, got 1"),
    ("csv without names", lambda f: text(f, "1.0,2.0\n3,4\n"), "a line with names"),
    ("csv with names only", lambda f: text(f, "theta,d\n"), "at least one row"),
    ("text in a column", lambda f: text(f, "theta,d\n1,2\n3,four\n"), "'d' holds the text 'four' in line 3, only"),
    ("empty lines", lambda f: text(f, "\ntheta,d\n\n1,2\n\n2,-inf\n"), "d is infinite in line 6, finite"),
    (
        "lines in texts",
        lambda f: text(f, 'note,theta,d\n"one\ntwo",1,2\n"three\r\nfour",,3\n'),
        "theta has no number in line 4, x is",
    ),
    ("infinite in parquet", infinite_parquet, "d is infinite in row 5 (counted from 0), finite"),
    ("column twice", lambda f: text(f, "theta,d,d\n1,2,3\n"), "'d' occurs twice"),
    ("array twice", twice, "'theta' occurs twice"),
    ("empty column", lambda f: text(f, "theta,d\n1,\n2,\n"), "d holds no number"),
    ("dates", lambda f: text(f, "theta,d\n1,2020-01-01\n2,2020-01-02\n"), "real numbers are accepted"),
    ("lists of other lengths", ragged_lists, "differ in length"),
    ("texts in h5", texts_in_h5, "objects or texts"),
    ("a damaged chunk", lost_chunk, "damaged"),
    ("semicolons", lambda f: text(f, "theta;d\n1;2\n3;4\n"), "divided by semicolons"),
    (
        "an archive as npy",
        lambda f: [(f / "theta.npy").write_bytes(as_npz(f)[0].read_bytes()) and f / "theta.npy", as_npy_d(f)],
        "arrays of numbers",
    ),
    (
        "no array in npz",
        lambda f: archive(f / "a.npz", ("theta.npy", b"hello"), ("d.npy", npy(f, DATA))) or [f / "a.npz"],
        "arrays of numbers",
    ),
    ("objects in zarr", zarr_of_objects, "real numbers are accepted"),
    ("x in y", lambda f: saved(f, theta=THETA, d=DATA), "is a part of x too", "d,theta"),
    ("missing name", lambda f: saved(f, theta=THETA, other=DATA), "y: there is no 'd' in"),
    ("rows differ", lambda f: saved(f, theta=THETA, d=DATA[:7]), "x has 20, y has 7"),
    ("a number", lambda f: saved(f, theta=THETA, d=np.array(3.0)), "shape ()"),
    ("no rows", lambda f: saved(f, theta=THETA[:0], d=DATA[:0]), "at least one row"),
    ("no columns", lambda f: saved(f, theta=THETA, d=DATA[:, :0]), "at least one row"),
    ("complex", lambda f: saved(f, theta=THETA, d=DATA * 1j), "complex128"),
    ("texts", lambda f: saved(f, theta=THETA, d=np.array(["a"] * 20)), "real numbers are accepted"),
    ("times", lambda f: saved(f, theta=THETA, d=np.zeros(20, "M8[s]")), "real numbers are accepted"),
    ("infinite y", lambda f: saved(f, theta=THETA, d=INF), "d[2] is infinite in row 5 (counted from 0)"),
    ("NaN in x", lambda f: saved(f, theta=NAN, d=DATA), "theta[1] has no number in row 3 (counted from 0)"),
    ("all NaN", lambda f: saved(f, theta=THETA, d=ALL_NAN), "d[1] holds no number"),
    ("a constant column of y", lambda f: saved(f, theta=THETA, d=STILL), "d[0] never varies"),
    ("a constant column of x", lambda f: saved(f, theta=STILL, d=DATA), "theta[0] never varies"),
    ("several files of other kinds", lambda f: [*as_npz(f), *as_h5(f)], "several .npy are accepted"),
    ("two files of one name", lambda f: [f / "a" / "d.npy", f / "b" / "d.npy"], "'d' occurs twice"),
    ("an empty archive", lambda f: archive(f / "a.npz") or [f / "a.npz"], "holds no arrays"),
]


@pytest.mark.parametrize(
    ("make", "word", "y"),
    [(*row[1:3], row[3] if len(row) > 3 else "d") for row in DAMAGED],
    ids=[row[0] for row in DAMAGED],
)
def test_what_is_damaged_is_told_in_one_line(make, word, y, tmp_path):
    paths = make(tmp_path)
    with pytest.raises(InputError) as caught:
        read_named(paths, {"x": "theta", "y": y}, incomplete=["y"])
    message = str(caught.value)
    assert word in message and "\n" not in message and len(message) < 400
    assert not Path("/tmp/fokker-was-here").exists()


def test_the_table_is_long_enough():
    assert len(DAMAGED) >= 40


@pytest.mark.parametrize("wanted", ["", ",", "theta,theta", "theta_0,theta"])
def test_names_once_each(wanted, tmp_path):
    with pytest.raises(InputError, match="x: got"):
        read_named(as_csv(tmp_path), {"x": wanted})


def test_only_what_is_asked_for_is_read(tmp_path):
    archive(tmp_path / "a.npz", ("theta.npy", npy(tmp_path, THETA)), ("bad.npy", b"nothing"))
    assert np.array_equal(arrays_in([tmp_path / "a.npz"])["theta"](), THETA)
    assert np.array_equal(read_named([tmp_path / "a.npz"], {"x": "theta"})["x"].values, THETA)


def test_header_names_are_stripped_and_large_lists_read(tmp_path):
    (tmp_path / "a.csv").write_text("a, b\n1,2\n2,3\n")
    assert read_named([tmp_path / "a.csv"], {"x": "a", "y": "b"})["y"].names == ("b",)
    lists = pyarrow.array(list(THETA), type=pyarrow.large_list(pyarrow.float64()))
    parquet.write_table(pyarrow.table({"theta": lists}), tmp_path / "a.parquet")
    assert np.array_equal(read_named([tmp_path / "a.parquet"], {"x": "theta"})["x"].values, THETA)
