"""`fokker simulate` with a Python file or an external program, and on to a fit."""

import sys

import numpy as np
import pytest

from fokker import cli
from fokker.errors import InputError
from fokker.simulation.programs import ModelFile, Program
from fokker.simulation.store import simulate
from fokker.simulation.tables import read_named

MODEL = """
import numpy as np
from beside import SCALE


def prior(rng, n):
    return rng.uniform(0, 1, (n, 2))


def simulate(x, rng):
    y = SCALE * x.sum(1, keepdims=True) + 0.1 * rng.standard_normal((len(x), 1))
    return np.where(x[:, :1] > 0.9, np.nan, y)
"""
PROGRAM = """
import sys
import numpy as np

x = np.loadtxt(sys.argv[1], delimiter=",", ndmin=2)
if (x[:, 0] > 0.9).any():
    sys.exit("no convergence")
np.savetxt(sys.argv[2], 3 * x.sum(1, keepdims=True) + int(sys.argv[3]) % 2, delimiter=",")
"""


@pytest.fixture
def model(tmp_path):
    (tmp_path / "beside.py").write_text("SCALE = 3.0\n")
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "model.py"


def run(*words):
    return cli.command(["simulate", *map(str, words), "--quiet"])


def one_line(capsys, *parts):
    said = capsys.readouterr().err
    assert said.startswith("fokker: ") and said.count("\n") == 1, said
    for part in parts:
        assert part in said, said


@pytest.mark.parametrize("workers", [1, 2])
def test_a_python_file_fills_a_store_that_fit_reads(model, tmp_path, capsys, workers):
    out = tmp_path / "sims"
    assert run(model, "-n", 400, "--chunk", 100, "--workers", workers, "--out", out) == 0
    said = capsys.readouterr().out
    assert "400 simulations: x (2,), y (1,); " in said and "failed, kept apart" in said
    pairs = read_named([out], {"x": "x", "y": "y"})
    assert len(pairs["x"].values) < 400 and bool((pairs["x"].values[:, 0] <= 0.9).all())
    assert abs(pairs["y"].values - 3 * pairs["x"].values.sum(1, keepdims=True)).max() < 0.6
    assert cli.command(["fit", str(out), "--steps", "5", "--quiet", "--out", str(tmp_path / "m")]) == 0
    assert "failed simulations left out" in capsys.readouterr().out
    model.write_text(MODEL.replace("0.1", "0.2"))
    capsys.readouterr()
    assert run(model, "-n", 400, "--chunk", 100, "--out", out) == 2
    one_line(capsys, "sha256")


def test_a_program_that_is_called_with_files(model, tmp_path):
    command = f"{sys.executable} {tmp_path / 'program.py'} {{x.csv}} {{y.csv}} {{seed}}"
    store = simulate(Program(ModelFile.read(model, ("prior",)), command), 12, tmp_path / "one", seed=3, chunk=6)
    x, y = store.load()
    rest = y[:, 0] - 3 * x.sum(1)
    assert (
        store.failed == 12 - len(x) and bool((store.failed_inputs()[:, 0] > 0.9).all()) and bool((x[:, 0] <= 0.9).all())
    )
    assert np.allclose(rest, rest.round(), atol=1e-12) and set(rest.round()) == {0.0, 1.0}
    again = simulate(Program(ModelFile.read(model, ("prior",)), command), 12, tmp_path / "two", seed=3, chunk=6).load()
    assert np.array_equal(again[0], x) and np.array_equal(again[1], y)


def test_a_call_that_fails_takes_its_rows_along(model, tmp_path):
    command = f"{sys.executable} {tmp_path / 'program.py'} {{x.csv}} {{y.csv}} 0"
    program = Program(ModelFile.read(model, ("prior",)), command, rows=2)
    x = np.array([[0.1, 0.2], [0.95, 0.2], [0.3, 0.3], [0.4, 0.4], [0.2, 0.1]])
    y = program.simulate(x, np.random.default_rng(0))
    assert np.isnan(y[:2]).all() and np.allclose(y[2:, 0], 3 * x[2:].sum(1), rtol=1e-14)
    assert np.isnan(program.simulate(x[:2], np.random.default_rng(0))).all()  # the shape is known by now
    fresh = Program(ModelFile.read(model, ("prior",)), command, rows=2)
    with pytest.raises(InputError, match=r"failed every time \(exit status 1: no convergence\)"):
        fresh.simulate(x[:2], np.random.default_rng(0))


@pytest.mark.parametrize("suffix", ["npy", "csv"])
def test_files_of_both_kinds(suffix, model, tmp_path):
    read = "np.load(sys.argv[1])" if suffix == "npy" else "np.loadtxt(sys.argv[1], delimiter=',', ndmin=2)"
    write = "np.save(sys.argv[2], 2 * x)" if suffix == "npy" else "np.savetxt(sys.argv[2], 2 * x, delimiter=',')"
    (tmp_path / "double.py").write_text(f"import sys\nimport numpy as np\nx = {read}\n{write}\n")
    command = f"{sys.executable} {tmp_path / 'double.py'} {{x.{suffix}}} {{y.{suffix}}}"
    x = np.random.default_rng(0).standard_normal((7, 2))
    found = Program(ModelFile.read(model, ("prior",)), command, rows=3).simulate(x, np.random.default_rng(0))
    assert np.allclose(found, 2 * x, rtol=1e-15)


WRONG = [
    ("no such file", "nowhere.py", None, "there is no such file, a Python file with the functions prior and simulate"),
    ("not Python", "model.txt", "x = 1", "is no Python file, a Python file"),
    ("does not run", "model.py", "x = (", "SyntaxError: '(' was never closed (model.py, line 1)"),
    ("raises", "model.py", "\nraise ValueError('no licence')", "ValueError: no licence (model.py, line 2)"),
    ("no simulate", "model.py", "def prior(rng, n): return rng.normal(size=(n, 1))", "has no function simulate"),
    ("no functions", "model.py", "prior = 3", "has no function prior and no function simulate"),
    (
        "raises later",
        "model.py",
        "def prior(rng, n):\n    return half(1)\n\ndef half(x):\n    return x / two\n\nsimulate = prior",
        "ModelFile.prior raised NameError: name 'two' is not defined (model.py, line 5)\n",
    ),
    (
        "raises within numpy",
        "model.py",
        "import numpy as np\ndef prior(rng, n): return rng.normal(size=(n, 1))\n"
        "def simulate(x, rng):\n    return np.linalg.inv(x)",
        "(model.py, line 4); rows of NaN are accepted where a simulation fails",
    ),
    (
        "a prior with NaN",
        "model.py",
        "def prior(rng, n): return [[float('nan')], *rng.normal(size=(n - 1, 1))]\ndef simulate(x, rng): return x",
        "(1000 simulations are drawn at a time): ModelFile.prior returned NaN or infinity in 1 of 1000 rows",
    ),
    (
        "wrong rows",
        "model.py",
        "def prior(rng, n): return rng.normal(size=(3, 1))\nsimulate = prior",
        "expected (1000, ...)",
    ),
]


@pytest.mark.parametrize(("name", "text", "part"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_files(name, text, part, tmp_path, capsys):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert run(tmp_path / name, "--out", tmp_path / "sims") == 2
    one_line(capsys, part)
    assert not [path for path in (tmp_path / "sims").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--program", "solver"], "{x.csv} and {y.csv}"),
        (["--program", "solver {x.csv}"], "{x.csv} and {y.csv}"),
        (["--program", "/nowhere/solver {x.csv} {y.csv}"], "cannot be run"),
        (["--program", "true {x.csv} {y.csv}", "--rows", "500"], "its output cannot be read"),
        (["--program", "cp {x.csv} {y.csv}", "--rows", "0"], "rows: got 0"),
        (["-n", "0"], "n is 0"),
        (["--chunk", "0"], "chunk is 0"),
        (["--workers", "0"], "workers: got 0"),
        (["--scheduler", "nowhere"], "scheduler: got 'nowhere'"),
    ],
)
def test_wrong_words(words, part, model, tmp_path, capsys):
    assert run(model, *words, "--out", tmp_path / "sims") == 2
    one_line(capsys, part)
