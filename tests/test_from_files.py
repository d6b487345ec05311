"""`fokker fit` and `fokker sample` on files: from pairs to a store of samples, and what is refused on the way."""

import shutil
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import xarray

import fokker
from fokker import cli, file_samples
from fokker.errors import InputError
from fokker.from_files import Data, held_out, load_fit

STEPS = ["--steps", "20", "--quiet"]


def write_csv(path, columns):
    lines = [",".join(columns), *(",".join(f"{v:.17g}" for v in row) for row in zip(*columns.values()))]
    path.write_text("\n".join(lines) + "\n")


def columns(rows=400, seed=0):
    """Growth and decay between 0 and 1, two sensors, and the temperature at which they were read."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 1, (2, rows))
    temperature = rng.uniform(1, 2, rows)
    s = temperature * (np.stack([a + b, a * b]) + 0.05 * rng.standard_normal((2, rows)))
    return {"a": a, "b": b, "s_0": s[0], "s_1": s[1], "temperature": temperature}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("files")
    write_csv(out / "pairs.csv", columns())
    write_csv(out / "y.csv", {k: v for k, v in columns(7, 1).items() if k not in "ab"})
    words = ["fit", str(out / "pairs.csv"), "--x", "a,b", "--y", "s", "--condition", "temperature"]
    limits = ["--bounds", "a=0:1", "--bounds", "b=0:1"]
    assert cli.command([*words, *limits, *STEPS, "--out", str(out / "model")]) == 0
    return out


def one_line(capsys, *parts):
    said = capsys.readouterr().err
    assert said.startswith("fokker: ") and said.count("\n") == 1, said
    for part in parts:
        assert part in said, said


def opened(path):
    return xarray.open_datatree(path, engine="zarr", consolidated=False)


def test_from_pairs_to_samples(folder, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a store that other programs may not read
        words = ["sample", str(folder / "model"), str(folder / "y.csv"), "-n", "50", "--quiet"]
        assert cli.command([*words, "--out", str(tmp_path / "p.zarr")]) == 0
    said = capsys.readouterr().out
    assert "measurement 0 of 7" in said and "\n  a  " in said and "\n  b  " in said
    tree = opened(tmp_path / "p.zarr")
    x = tree["posterior/x"]
    assert x.dims == ("chain", "draw", "measurement", "x_dim_0") and x.shape == (1, 50, 7, 2)
    assert list(x["x_dim_0"].values) == ["a", "b"] and list(tree["observed_data/y"]["y_dim_0"].values) == ["s_0", "s_1"]
    assert bool(((x > 0) & (x < 1)).all())
    model, given = fokker.load(folder / "model"), columns(7, 1)
    y, cond = np.stack([given["s_0"], given["s_1"]], 1), {"temperature": given["temperature"][:, None]}
    same = model.sample(y, 50, cond=cond).samples
    assert np.array_equal(x.values[0], same.movedim(1, 0).numpy())
    assert np.array_equal(tree["observed_data/y"].values, y)


def test_many_measurements_in_groups_are_the_samples_of_one_call(folder, tmp_path, monkeypatch):
    words = ["sample", str(folder / "model"), str(folder / "y.csv"), "-n", "50", "--quiet", "--out"]
    assert cli.command([*words, str(tmp_path / "one.zarr")]) == 0
    monkeypatch.setattr(file_samples, "AT_ONCE", 300)
    assert cli.command([*words, str(tmp_path / "groups.zarr")]) == 0
    one, groups = opened(tmp_path / "one.zarr"), opened(tmp_path / "groups.zarr")
    assert list(groups["posterior/measurement"].values) == list(range(7))
    for name in ("posterior/x", "observed_data/y", "sample_stats/nfe"):
        assert np.allclose(one[name].values, groups[name].values, atol=1e-5)


def test_a_single_measurement_from_an_array(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", theta=rng.standard_normal((100, 2)), d=rng.standard_normal((100, 3)))
    words = ["fit", str(tmp_path / "a.npz"), "--x", "theta", "--y", "d", *STEPS, "--out", str(tmp_path / "m")]
    assert cli.command([*words, "--missing", "0.3"]) == 0
    np.save(tmp_path / "y.npy", np.array([0.0, np.nan, 1.0]))
    words = ["sample", str(tmp_path / "m"), str(tmp_path / "y.npy"), "-n", "9", "--quiet"]
    assert cli.command([*words, "--out", str(tmp_path / "p.zarr")]) == 0
    assert opened(tmp_path / "p.zarr")["posterior/x"].dims == ("chain", "draw", "x_dim_0")


def test_rows_are_held_out_and_verified(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    _, data = load_fit(tmp_path / "model")
    assert data.rows == 400 and data.asked == {"x": "a,b", "y": "s", "temperature": "temperature"}
    kept = held_out(tmp_path / "model", data)
    assert {name: tuple(value.shape) for name, value in kept.items()} == {
        "x": (50, 2),
        "y": (50, 2),
        "temperature": (50, 1),
    }
    given = columns()
    rows = [int(np.flatnonzero(given["a"] == a)[0]) for a in kept["x"][:, 0].tolist()]
    assert sorted(rows) == rows and torch.equal(kept["y"][:, 1], torch.from_numpy(given["s_1"][rows]))
    path = tmp_path / "model" / "held_out.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="not what was held out"):
        held_out(tmp_path / "model", data)


def test_a_fit_that_is_killed_continues_to_the_same_weights(folder, tmp_path):
    words = ["fit", str(folder / "pairs.csv"), "--x", "a,b", "--y", "s", "--steps", "400", "--quiet", "--out"]
    assert cli.command([*words, str(tmp_path / "whole")]) == 0
    code = "import sys; from fokker.cli import main; main()"
    child = subprocess.Popen([sys.executable, "-c", code, *words, str(tmp_path / "m")])
    while not (tmp_path / "m" / "train_state.safetensors").exists() and child.poll() is None:
        pass
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "m" / "data.json").exists()
    assert cli.command([*words, str(tmp_path / "m")]) == 0
    for name in ("weights.safetensors", "held_out.safetensors", "data.json", "model.json"):
        assert (tmp_path / "m" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert Data.load(tmp_path / "m") == Data.load(tmp_path / "whole")


FIT = [
    ([], "data: got no file"),
    (["{pairs}", "--x", "nope"], "x: there is no 'nope'"),
    (["{pairs}", "--x", "a", "--y", "s", "--condition", "y"], "condition"),
    (["{pairs}", "--x", "a", "--y", "s", "--held-out", "1"], "--held-out: got 1.0"),
    (["{pairs}", "--x", "a", "--y", "s", "--missing", "-0.1"], "missing: got -0.1"),
    (["{pairs}", "--x", "a", "--y", "s", "--bounds", "b=0:1"], "there is no 'b' in x"),
    (["{pairs}", "--x", "a", "--y", "s", "--bounds", "a"], "NAME=LOW:HIGH"),
    (["{pairs}", "--x", "a", "--y", "s", "--bounds", "a=zero:1"], "NAME=LOW:HIGH"),
    (["{pairs}", "--x", "a", "--y", "s", "--bounds", "a=1:0"], "bounds: got 1 to 0 for a, lower < upper is accepted"),
    (["{pairs}", "--x", "a,b", "--y", "s", "--positive", "b", "--bounds", "b=:-1"], "bounds: got 0 to -1 for b, lower"),
    (
        ["{pairs}", "--x", "a", "--y", "s", "--bounds", "a=0.5:"],
        "for a in line 3, numbers between its bounds 0.5 and inf, without",
    ),
    (["{pairs}", "--x", "a", "--y", "s", "--recipe", "best"], "recipe: got 'best'"),
    (["{pairs}", "--x", "a", "--y", "s", "--steps", "0"], "steps: got 0"),
    (["{pairs}", "--x", "a", "--y", "s", "--seed", "-1"], "seed: got -1"),
    (["{pairs}", "--x", "a", "--y", "s", "--device", "abacus"], "device: got"),
    (["{three}", "--x", "a", "--y", "s"], "holds 3 rows, at least 20"),
    (["{pairs}", "--x", "a", "--y", "s", "--steps", "many"], "steps"),
]


@pytest.mark.parametrize(("words", "part"), FIT, ids=[" ".join(words) for words, _ in FIT])
def test_wrong_words_to_fit(words, part, folder, tmp_path, capsys):
    write_csv(tmp_path / "three.csv", columns(3))
    places = {"pairs": folder / "pairs.csv", "three": tmp_path / "three.csv"}
    out = tmp_path / "out"
    assert cli.command(["fit", *(w.format(**places) for w in words), "--out", str(out), "--quiet"]) == 2
    one_line(capsys, part)
    assert not out.exists() or not [path for path in out.rglob("*") if path.is_file()]


SAMPLE = [
    (["{model}", "{none}"], 2, "there is no such file"),
    (["{none}", "{y}"], 2, "there is no such file"),
    (["{model}", "{y}", "-n", "0"], 2, "n: got 0"),
    (["{model}", "{y}", "--out", "p.nc"], 2, "a name ending in .zarr"),
    (["{model}", "{npy}"], 2, "y: there is no 's' in"),
    (["{model}", "{few}"], 2, "there is no 'temperature'"),
    (["{model}", "{gaps}"], 2, "missing entries"),
    (["{model}", "{y}", "--device", "abacus"], 2, "device: got"),
    (["{changed}", "{y}"], 2, "damaged"),
    (["{cut}", "{y}"], 2, "damaged"),
    (["{lost}", "{y}"], 2, "there is no such file"),
    (["{model}", "{y}", "--out", "/proc/p.zarr"], 1, "/proc/p.zarr"),
]


@pytest.mark.parametrize(("words", "status", "part"), SAMPLE, ids=[" ".join(row[0]) for row in SAMPLE])
def test_wrong_words_to_sample(words, status, part, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {k: v for k, v in columns(7, 1).items() if k not in "ab"}
    write_csv(tmp_path / "few.csv", {"s_0": given["s_0"], "s_1": given["s_1"]})
    write_csv(tmp_path / "gaps.csv", given | {"s_0": np.where(np.arange(7) == 2, np.nan, given["s_0"])})
    np.save(tmp_path / "y.npy", np.zeros(2))
    for how in ("changed", "cut", "lost"):
        shutil.copytree(folder / "model", tmp_path / how)
        path = tmp_path / how / "weights.safetensors"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if how == "changed" else content[:100])
    (tmp_path / "lost" / "weights.safetensors").unlink()
    places = {name: tmp_path / name for name in ("changed", "cut", "lost", "none")} | {
        "model": folder / "model",
        "y": folder / "y.csv",
        "npy": tmp_path / "y.npy",
        "few": tmp_path / "few.csv",
        "gaps": tmp_path / "gaps.csv",
    }
    before = set(tmp_path.rglob("*"))
    assert cli.command(["sample", *(word.format(**places) for word in words), "--quiet"]) == status
    one_line(capsys, part)
    assert set(tmp_path.rglob("*")) == before


def test_a_folder_of_something_else_and_a_fit_of_other_data_are_left_alone(folder, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    words = ["fit", str(folder / "pairs.csv"), "--x", "a", "--y", "s", *STEPS, "--out"]
    assert cli.command([*words, str(tmp_path)]) == 2
    one_line(capsys, "holds other files and no fit")
    assert cli.command([*words, str(folder / "model")]) == 2
    one_line(capsys, "holds a fit of other data, bounds or gaps")


def test_nothing_of_others_is_replaced(folder, tmp_path, capsys):
    """A store of samples is made anew; any other folder or file stays."""
    words = ["sample", str(folder / "model"), str(folder / "y.csv"), "-n", "9", "--quiet", "--out"]
    for _ in range(2):
        assert cli.command([*words, str(tmp_path / "ours.zarr")]) == 0
    capsys.readouterr()
    (tmp_path / "notes.zarr").mkdir()
    (tmp_path / "notes.zarr" / "notes.txt").write_text("mine")
    (tmp_path / "file.zarr").write_text("mine")
    for name in ("notes.zarr", "file.zarr"):
        assert cli.command([*words, str(tmp_path / name)]) == 2
        one_line(capsys, "is not replaced")
    assert (tmp_path / "notes.zarr" / "notes.txt").read_text() == (tmp_path / "file.zarr").read_text() == "mine"


def test_bounds_go_where_they_are_meant(tmp_path):
    rng = np.random.default_rng(0)
    names = {"k": rng.uniform(1, 2, 60), "k_sign": rng.standard_normal(60), "theta0": rng.uniform(0, 1, 60)}
    write_csv(tmp_path / "p.csv", names | {"y": rng.standard_normal(60)})
    words = ["fit", str(tmp_path / "p.csv"), "--x", "k,k_sign,theta", "--y", "y", "--steps", "1", "--quiet"]
    limits = ["--bounds", "k=:50", "--positive", "k, theta", "--bounds", "theta=0:1"]
    assert cli.command([*words, *limits, "--out", str(tmp_path / "m")]) == 0
    support = fokker.load(tmp_path / "m").support
    assert support.lower.tolist() == [0, -np.inf, 0] and support.upper.tolist() == [50, np.inf, 1]


def test_single_numbers_as_measurements(tmp_path, capsys):
    rng = np.random.default_rng(0)
    write_csv(tmp_path / "p.csv", {"x": rng.standard_normal(60), "y": rng.standard_normal(60)})
    assert cli.command(["fit", str(tmp_path / "p.csv"), "--steps", "1", "--quiet", "--out", str(tmp_path / "m")]) == 0
    np.save(tmp_path / "y.npy", np.zeros(5))
    write_csv(tmp_path / "y.csv", {"y": np.zeros(5)})
    np.savez(tmp_path / "none.npz", y=np.zeros((0, 1)))
    for name, status in (("y.npy", 0), ("y.csv", 0), ("none.npz", 2)):
        words = ["sample", str(tmp_path / "m"), str(tmp_path / name), "-n", "3", "--quiet"]
        assert cli.command([*words, "--out", str(tmp_path / "p.zarr")]) == status
    one_line(capsys, "holds no measurement")
    assert opened(tmp_path / "p.zarr")["posterior/x"].shape == (1, 3, 5, 1)


def test_one_measurement_beside_its_conditions(folder, tmp_path, capsys):
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((100, 2)), rng.standard_normal((100, 3))
    np.savez(tmp_path / "p.npz", x=x, y=x + c[:, :2], c=c)
    words = [
        "fit",
        str(tmp_path / "p.npz"),
        "--condition",
        "c",
        "--steps",
        "1",
        "--quiet",
        "--out",
        str(tmp_path / "m"),
    ]
    assert cli.command(words) == 0
    np.savez(tmp_path / "one.npz", y=np.zeros(2), c=np.zeros(3))
    np.savez(tmp_path / "odd.npz", y=np.zeros((5, 2)), c=np.zeros((2, 3)))
    words = ["sample", str(tmp_path / "m"), "-n", "3", "--quiet", "--out", str(tmp_path / "p.zarr")]
    assert cli.command([*words, str(tmp_path / "one.npz")]) == 0
    assert cli.command([*words, str(tmp_path / "odd.npz")]) == 2
    one_line(capsys, "rows differ: y has 5, c has 2")


def test_axes_of_length_one_in_measurements_and_rows(tmp_path, capsys):
    """A signal that was fitted as (1, 12), given as (12,), (12, 1), (3, 12) and by name, with a condition too."""
    rng = np.random.default_rng(0)
    x, y, c = rng.standard_normal((200, 2)), rng.standard_normal((200, 1, 12)), rng.standard_normal((200, 1))
    np.savez(tmp_path / "p.npz", x=x, y=y, c=c)
    np.savez(tmp_path / "q.npz", x=x[:60, None], y=y[:60, 0], c=c[:60])
    steps = ["--steps", "1", "--quiet", "--out"]
    assert cli.command(["fit", str(tmp_path / "p.npz"), *steps, str(tmp_path / "m")]) == 0
    assert cli.command(["fit", str(tmp_path / "p.npz"), "--condition", "c", *steps, str(tmp_path / "mc")]) == 0
    right = fokker.load(tmp_path / "m").sample(y[:3], 4).samples.numpy()
    lead = {(1, 12): (), (12,): (), (12, 1): (), (1, 1, 12): (1,), (3, 12): (3,), (3, 1, 12): (3,), (3, 12, 1): (3,)}
    for shape, count in lead.items():
        np.save(tmp_path / "y.npy", y[:3].ravel()[: np.prod(shape)].reshape(shape))
        out = tmp_path / "p.zarr"
        assert (
            cli.command(["sample", str(tmp_path / "m"), str(tmp_path / "y.npy"), "-n", "4", *steps[2:], str(out)]) == 0
        )
        found = opened(out)["posterior/x"].values[0]
        found = found.swapaxes(0, 1) if count else found[None]
        assert np.allclose(found, right[: len(found)], atol=1e-5) and found.shape[:1] == (count or (1,))
    for name, arrays in (("one", {"y": y[0, 0], "c": c[0]}), ("two", {"y": y[:2, 0], "c": c[:2]})):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        words = ["sample", str(tmp_path / "mc"), str(tmp_path / f"{name}.npz"), "-n", "4", *steps[2:], str(out)]
        assert cli.command(words) == 0
    assert cli.command(["check", str(tmp_path / "m"), "--data", str(tmp_path / "q.npz"), "--quiet"]) == 0
    capsys.readouterr()
    for shape in ((11,), (3, 11), (2, 6)):
        np.save(tmp_path / "y.npy", np.zeros(shape))
        assert cli.command(["sample", str(tmp_path / "m"), str(tmp_path / "y.npy"), "--quiet"]) == 2
        one_line(capsys, f"of shape {shape}, (1, 12) or (M, 1, 12) is accepted")


def test_a_missing_column_of_a_measurement_is_told(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 1))
    rows = np.hstack([x, x + rng.standard_normal((60, 3))])
    pairs, lack, model = (str(tmp_path / name) for name in ("pairs.csv", "lack.csv", "model"))
    np.savetxt(pairs, rows, delimiter=",", header="a,s_0,s_1,s_2", comments="")
    np.savetxt(lack, rows[:2, 1:3], delimiter=",", header="s_0,s_1", comments="")
    assert cli.command(["fit", pairs, "--x", "a", "--y", "s", "--steps", "1", "--out", model, "--quiet"]) == 0
    capsys.readouterr()
    assert cli.command(["sample", model, lack, "--out", str(tmp_path / "out.zarr"), "--quiet"]) == 2
    said = capsys.readouterr().err.strip()
    assert "'s' has 2 numbers in a row, 3 as in the fit are accepted; is a column missing?" in said and "\n" not in said
