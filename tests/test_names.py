"""What a simulator calls the numbers of x and y, from its file through the store to a fit and its samples."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import xarray

import fokker
from fokker import cli
from fokker.errors import InputError
from fokker.from_files import Data
from fokker.simulation import tables
from fokker.simulation.formats import names_in
from fokker.simulation.store import simulate
from fokker.simulation.tables import read_named

NAMES = """
x_names = ("depth", "width")
y_names = ["left", "middle", "right"]
"""
MODEL = """
import os
import time
import numpy as np
{names}

def prior(rng, n):
    return rng.uniform(0, 1, (n, 2))


def simulate(x, rng):
    time.sleep(float(os.environ.get("PAUSE", "0")))
    return x @ np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]) + 0.1 * rng.standard_normal((len(x), 3))
"""


class Plane:
    """x of shape (2, 3), y of single numbers without an axis."""

    settings = {}  # noqa: RUF012

    def prior(self, rng, n):
        return rng.normal(size=(n, 2, 3))

    def simulate(self, x, rng):
        return x.sum((1, 2))


def file(folder, names=NAMES, name="model.py"):
    (folder / name).write_text(MODEL.format(names=names))
    return folder / name


def run(*words):
    return cli.command([*map(str, words), "--quiet"])


def one_line(capsys, *parts):
    said = capsys.readouterr().err
    assert said.startswith("fokker: ") and said.count("\n") == 1, said
    for part in parts:
        assert part in said, said


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def attributes(store):
    return json.loads((store / "zarr.json").read_text())["attributes"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("names")
    assert run("simulate", file(out), "-n", 300, "--chunk", 100, "--out", out / "sims") == 0
    return out / "sims"


def test_names_go_from_the_file_to_the_samples_and_their_check(store, tmp_path, capsys):
    limits = ["--bounds", "depth=0:1", "--positive", "width"]
    assert run("fit", store, *limits, "--steps", "5", "--out", tmp_path / "m") == 0
    data = Data.load(tmp_path / "m")
    assert data.entries == {"x": ["depth", "width"], "y": ["left", "middle", "right"]}
    support = fokker.load(tmp_path / "m").support
    assert support.lower.tolist() == [0, 0] and support.upper.tolist() == [1, np.inf]
    (tmp_path / "y.csv").write_text("right,extra,left,middle\n0.5,7,0.1,0.3\n0.2,7,0.2,0.2\n")
    np.save(tmp_path / "y.npy", [[0.1, 0.3, 0.5], [0.2, 0.2, 0.2]])
    capsys.readouterr()
    for name in ("y.csv", "y.npy"):  # by the names of the entries, or as a whole
        out = tmp_path / f"{name}.zarr"
        assert run("sample", tmp_path / "m", tmp_path / name, "-n", 9, "--out", out) == 0
        said = capsys.readouterr().out
        assert "\n  depth  " in said and "\n  width  " in said
    trees = [
        xarray.open_datatree(tmp_path / f"{n}.zarr", engine="zarr", consolidated=False) for n in ("y.csv", "y.npy")
    ]
    for name in ("posterior/x", "observed_data/y"):
        assert trees[0][name].identical(trees[1][name])
    assert trees[0]["posterior/x"]["x_dim_0"].values.tolist() == ["depth", "width"]
    assert trees[0]["observed_data/y"]["y_dim_0"].values.tolist() == ["left", "middle", "right"]
    rng, rows = np.random.default_rng(0), ["depth,width,left,middle,right"]
    rows += [",".join(map(str, rng.uniform(0, 1, 5))) for _ in range(60)]  # nothing of y is told by x: wrong
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    assert run("check", tmp_path / "m", "--data", tmp_path / "pairs.csv", "--out", tmp_path) == 0
    said = capsys.readouterr().out
    assert ("depth" in said or "width" in said) and "x[" not in said, said


@pytest.mark.parametrize("in_memory", [tables.IN_MEMORY, 0])
def test_names_of_entries_are_names_of_columns(store, tmp_path, monkeypatch, in_memory):
    """Of a store, in memory or left on disk and read in parts; by name, by pattern, from both arrays."""
    monkeypatch.setattr(tables, "IN_MEMORY", in_memory)
    monkeypatch.setattr("fokker.simulation.stored.AT_ONCE", 800)
    whole = {name: read_named([store], {"x": name})["x"].whole() for name in "xy"}
    for x, y, places in (
        ("width", "right,left", ([1], [2, 0])),
        ("width,depth", "*t", ([1, 0], [0, 2])),
        ("x", "middle", ([0, 1], [1])),
    ):
        found = read_named([store], {"x": x, "y": y})
        for part, which in zip("xy", places):
            assert np.array_equal(found[part].whole(), whole[part][:, which])
            assert isinstance(found[part].values, np.ndarray) == (in_memory > 0)
            parts = [rows for _, rows in found[part].parts()]
            assert np.array_equal(np.concatenate(parts), whole[part][:, which])
        assert found["x"].names == tuple(["depth", "width"][i] for i in places[0])
    mixed = read_named([store], {"x": "width,left", "y": "middle"})["x"]
    assert mixed.names == ("width", "left") and np.array_equal(mixed.whole()[:, 1], whole["y"][:, 0])
    with pytest.raises(InputError, match=r"there is no 'height' in .*, of x, y, depth, width, left, middle, right any"):
        read_named([store], {"x": "height"})
    for twice in ("width,width", "x,width"):
        with pytest.raises(InputError, match="names that differ are accepted"):
            read_named([store], {"x": twice})
    with pytest.raises(InputError, match="y: 'width' is a part of x too"):
        read_named([store], {"x": "x", "y": "width"})


def test_a_fit_to_some_of_the_entries(store, tmp_path, capsys):
    """One parameter and a further condition by their names; measured, and checked on the same store."""
    words = ["fit", store, "--x", "width", "--y", "left,right", "--condition", "depth", "--bounds", "width=0:1"]
    assert run(*words, "--steps", "1", "--out", tmp_path / "m") == 0
    assert Data.load(tmp_path / "m").entries == {"x": ["width"], "y": ["left", "right"], "depth": ["depth"]}
    (tmp_path / "y.csv").write_text("right,left,depth\n0.5,0.1,0.3\n")
    assert run("sample", tmp_path / "m", tmp_path / "y.csv", "-n", 9, "--out", tmp_path / "p.zarr") == 0
    assert "\n  width  " in capsys.readouterr().out
    assert run("sample", tmp_path / "m", store, "-n", 2, "--out", tmp_path / "p.zarr") == 0
    assert run("check", tmp_path / "m", "--data", store, "--y", tmp_path / "y.csv") == 0
    assert run("fit", store, "--x", "width", "--steps", "1", "--out", tmp_path / "w") == 0
    np.save(tmp_path / "y.npy", [0.1, 0.3, 0.5])
    capsys.readouterr()
    words = ["check", tmp_path / "w", "--y", tmp_path / "y.npy", "--simulator", store.parent / "model.py"]
    assert run(*words) == 2
    one_line(capsys, "x is depth, width in model.py and width in the fit; a model fitted to all x")


def test_the_store_is_the_same_but_for_the_names(store, tmp_path):
    """Without names nothing of a store changes; with them, two attributes that are there from the start."""
    assert run("simulate", file(tmp_path, ""), "-n", 300, "--chunk", 100, "--out", tmp_path / "plain") == 0
    named, plain = contents(store), contents(tmp_path / "plain")
    assert set(named) == set(plain) and [n for n in named if named[n] != plain[n]] == ["zarr.json"]
    a, b = attributes(store), attributes(tmp_path / "plain")
    assert (a.pop("x_names"), a.pop("y_names")) == (["depth", "width"], ["left", "middle", "right"])
    assert set(b) == {"format", "version", "seed", "chunk", "settings", "x_shape", "y_shape", "n"}
    assert a["settings"].pop("sha256") != b["settings"].pop("sha256") and a == b
    assert names_in([tmp_path / "plain"]) == {} and names_in([store])["x"] == ["depth", "width"]
    assert read_named([tmp_path / "plain"], {"x": "x"})["x"].names == ("x[0]", "x[1]")


def test_workers_growth_and_a_kill_leave_the_same_bytes(store, tmp_path):
    words = ["simulate", file(tmp_path), "--chunk", 100]
    assert run(*words, "-n", 300, "--workers", 2, "--out", tmp_path / "two") == 0
    assert (
        run(*words, "-n", 120, "--out", tmp_path / "grown") == run(*words, "-n", 300, "--out", tmp_path / "grown") == 0
    )
    code = "import sys; from fokker.cli import main; main()"
    killed = [str(word) for word in (*words, "-n", 300, "--out", tmp_path / "killed", "--quiet")]
    child = subprocess.Popen([sys.executable, "-c", code, *killed], env=os.environ | {"PAUSE": "0.5"})
    while not (tmp_path / "killed" / "zarr.json").exists() and child.poll() is None:
        pass
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert attributes(tmp_path / "killed")["x_names"] == ["depth", "width"]
    assert attributes(tmp_path / "killed")["n"] < 300
    assert cli.command(killed) == 0
    for name in ("two", "grown", "killed"):
        assert contents(tmp_path / name) == contents(store)


def test_a_store_with_other_names_is_left_alone(store, tmp_path, capsys):
    before = contents(store)
    for names, part in (
        (NAMES.replace("width", "height"), "x_names = ['depth', 'width'], now it is ['depth', 'height']"),
        ("", "x_names = ['depth', 'width'], now it is None"),
        ("x_names = 'depth', 'width'", "y_names = "),
    ):
        assert run("simulate", file(tmp_path, names), "-n", 300, "--chunk", 100, "--out", store) == 2
        one_line(capsys, part)
    assert run("simulate", file(tmp_path, ""), "-n", 30, "--chunk", 10, "--out", tmp_path / "plain") == 0
    capsys.readouterr()
    assert run("simulate", file(tmp_path), "-n", 30, "--chunk", 10, "--out", tmp_path / "plain") == 2
    one_line(capsys, "x_names = None, now it is ['depth', 'width']")
    assert contents(store) == before


def test_names_of_arrays_of_any_shape(tmp_path):
    """In flat order; a row that is one number has one name."""
    plane = Plane()
    plane.x_names, plane.y_names = np.array(list("abcdef")), ("total",)
    simulate(plane, 25, tmp_path / "s", seed=0, chunk=10)
    pairs = read_named([tmp_path / "s"], {"x": "x", "y": "y"})
    assert pairs["x"].names == tuple("abcdef") and pairs["x"].values.shape == (25, 2, 3)
    assert pairs["y"].names == ("total",) and np.allclose(pairs["y"].values[:, 0], pairs["x"].values.sum((1, 2)))


def test_an_external_program_has_the_names_of_its_file(tmp_path):
    model = file(tmp_path, "x_names = ('depth', 'width')")
    words = ["--program", "cp {x.csv} {y.csv}", "--rows", 5]
    assert run("simulate", model, *words, "-n", 10, "--chunk", 10, "--out", tmp_path / "s") == 0
    pairs = read_named([tmp_path / "s"], {"x": "x", "y": "y"})
    assert pairs["x"].names == ("depth", "width") and pairs["y"].names == ("y[0]", "y[1]")


WRONG = [
    ("x_names = 'depth', 'width', 'height'", "x_names: got 3 names, 2 are accepted"),
    ("y_names = ('left',)", "y_names: got 1 names, 3 are accepted"),
    ("x_names = 'depth'", "x_names: got 'depth', a tuple of texts"),
    ("x_names = 3", "x_names: got 3, a tuple of texts"),
    ("x_names = ()", "x_names: got (), a tuple of texts"),
    ("x_names = ('depth', 3)", "x_names: got ('depth', 3), a tuple of texts"),
    ("x_names = ('depth', '')", "a tuple of texts"),
    ("x_names = ('depth', ' width')", "a tuple of texts"),
    ("x_names = ('depth', 'wid\\nth')", "a tuple of texts"),
    ("x_names = ('depth,', 'width')", "without commas and equals signs"),
    ("x_names = ('depth=', 'width')", "without commas and equals signs"),
    ("x_names = ('depth', 'depth')", "x_names: got 'depth' twice"),
    ("x_names = ('a', 'b'); y_names = ('b', 'c', 'd')", "x_names and y_names: got 'b' twice"),
]


@pytest.mark.parametrize(("names", "part"), WRONG, ids=[row[0] for row in WRONG])
def test_wrong_names(names, part, tmp_path, capsys):
    assert run("simulate", file(tmp_path, names), "-n", 20, "--chunk", 10, "--out", tmp_path / "s") == 2
    one_line(capsys, part)
    assert not [path for path in (tmp_path / "s").rglob("*") if path.is_file() and not path.name.startswith(".")]


@pytest.mark.parametrize("names", [["depth"], ["depth", "depth"], ["depth", 3], "depth", None])
def test_names_that_were_changed_in_a_store(names, tmp_path):
    assert run("simulate", file(tmp_path), "-n", 20, "--chunk", 10, "--out", tmp_path / "s") == 0
    document = json.loads((tmp_path / "s" / "zarr.json").read_text())
    document["attributes"]["x_names"] = names
    (tmp_path / "s" / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"zarr.json is damaged: x_names are not 2 texts that differ"):
        read_named([tmp_path / "s"], {"x": "x", "y": "y"})
