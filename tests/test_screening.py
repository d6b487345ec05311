"""What `fokker sample` says of strange measurements, and `fokker fit` of placeholders in a table."""

import json
import shutil
import time

import numpy as np
import pytest

from check_output import said_of_each
from fokker import cli
from fokker.diagnostics.novelty import Novelty
from fokker.screening import AT_ONCE, FIRST, PATTERNS, p_values, repeated, strange
from fokker.simulation.tables import Named

NAMES = ("left", "middle", "right")
NAN = np.nan


def drawn(count, seed=0):
    """Three sensors of two numbers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 2))
    return x, x @ np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]) + 0.3 * rng.standard_normal((count, 3))


KNOWN = drawn(1000)[1]


def write_csv(path, columns):
    """NaN as empty cells."""
    rows = (",".join("" if np.isnan(v) else f"{v:.17g}" for v in row) for row in zip(*columns.values()))
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")


def test_p_values_are_those_of_the_judge_for_the_same_entries(monkeypatch):
    y = drawn(300, 1)[1]
    y[100:250, 1], y[200:, 2] = NAN, NAN
    y[7] = NAN
    for at_once in (AT_ONCE, 30):
        monkeypatch.setattr("fokker.screening.AT_ONCE", at_once)
        p, level, left = p_values(KNOWN, y)
        for rows, here in ((slice(100, 200), [0, 2]), (slice(200, 250), [0]), (slice(250, 300), [0, 1])):
            assert np.array_equal(p[rows], Novelty(KNOWN[:, here]).p_value(y[rows][:, here]))
        assert left == 0 and np.isnan(p[7]) and np.isnan(level[7]) and set(level[8:]) == {0.01}
    few = KNOWN.copy()
    few[39:, 2] = NAN  # 39 rows have the third entry
    p, level, left = p_values(few, y)
    assert np.isnan(p[:200]).all() and np.isnan(level[:200]).all() and np.isfinite(p[200:]).all() and left == 0
    assert set(p_values(KNOWN[:50], y[:7])[1]) == {2 / 26}  # the least that 25 rows allow


def test_rare_gaps_are_counted():
    """Of 100 patterns in seven entries the 20 most common are judged."""
    rng = np.random.default_rng(3)
    known, y = rng.standard_normal((2, 200, 7))
    gaps = (np.arange(200)[:, None] % 100 + 1 >> np.arange(7)) % 2 == 1
    gaps[150:] = False
    y[gaps] = NAN
    p, _, left = p_values(known, y)
    assert np.isfinite(p[150:]).all() and np.isfinite(p).sum() + left == 200
    assert len(np.unique(~np.isnan(y)[np.isfinite(p)], axis=0)) == PATTERNS
    lines = strange(known, y, [f"y[{i}]" for i in range(7)], True)
    assert lines[0] == f"{left} of 200 measurements, with rare gaps, were not compared with the training data"


def test_a_line_for_each_strange_measurement():
    like = drawn(3, 5)[1]
    assert strange(KNOWN, like, NAMES, True) == []
    y = np.concatenate([like, like])
    y[1] += 9.0
    y[3, 2] = -999.0
    y[4, :2] = -9999.0, np.float32(1e20)
    p = "p = 0.004, told from 0.01 down"
    gap = "a placeholder for missing? NaN is what a gap is"
    assert strange(KNOWN, y, NAMES, True) == [
        f"measurement 1 lies outside the training data ({p})",
        f"measurement 3 lies outside the training data ({p}): right is -999: {gap}",
        f"measurement 4 lies outside the training data ({p}): left is -9999, middle is 1e+20: {gap}",
    ]
    assert strange(KNOWN, y[3:4], NAMES, False)[0].endswith("fitted with gaps or with --missing")
    assert (
        "(p = 0.077, told from 0.077 down, the least that so few rows allow)" in strange(KNOWN[:50], y, NAMES, True)[0]
    )
    assert strange(KNOWN[:39], y, NAMES, True) == []
    few = KNOWN.copy()
    few[20:, 1] = NAN  # no judge for three entries, but ranges
    assert strange(few, y, NAMES, True)[0] == f"measurement 3: right is -999: {gap}"


@pytest.mark.parametrize(
    ("low", "high", "value", "told"),
    [
        (-30, 40, -999, True),
        (-30, 40, -999.25, True),
        (-30, 40, 9.969209968386869e36, True),
        (-30, 40, -998, False),  # no placeholder
        (-700, 40, -999, False),  # near what is known: further from it than its own width is far
        (-999, 40, -999, False),  # known
        (-2000, 2000, 999, False),
    ],
)
def test_a_placeholder_is_told_of_far_from_what_is_known(low, high, value, told):
    known = np.linspace(low, high, 200)[:, None] + np.zeros((1, 2))
    known[:, 1] = NAN
    lines = strange(known, np.array([[value, NAN]]), ["a", "b"], True)
    assert any(f"a is {value:.7g}: a placeholder" in line for line in lines) == told
    alone = strange(known[:, 1:], np.array([[value]]), ["b"], True)  # nothing is known of b
    assert alone == []


def test_ten_thousand_measurements_take_one_line_and_little_time():
    """About one in a hundred of those like the others; the conditional rate of 500 ranked rows varies by a third."""
    y = drawn(10_000, 7)[1]
    started = time.process_time()
    (line,) = strange(KNOWN, y, NAMES, True)
    assert time.process_time() - started < 5
    first, second = line.split(" of 10000 measurements lie outside the training data, where about 100 of as many")
    assert 10 <= int(first) <= 250 and f"and {int(first) - FIRST} more" in second
    y[:30] += 9
    y[40:60, 1] = -999
    (line,) = strange(KNOWN, y, NAMES, True)
    assert ": 0, 1, 2, 3, 4 and " in line
    assert "; 20 of 10000 measurements hold placeholders for missing? middle is -999 in measurement 40; NaN" in line


def column(values):
    return {"y": Named(np.asarray(values, dtype=float)[:, None], ("level",))}


def test_placeholders_that_are_repeated_in_a_column():
    values = np.linspace(-5, 5, 50)
    assert repeated(column([*values, -999, -999])) == [
        "y: -999 stands 2 times in level, outside of all other values there: a placeholder for missing? an empty cell "
        "or NaN is what a gap is"
    ]
    assert "1e+20 stands 3 times" in repeated(column([*values, *[np.float32(1e20)] * 3, NAN]))[0]
    both = repeated(column([*values, -999, -999, -9999, -9999]))
    assert [text.split(" stands")[0] for text in both] == ["y: -9999", "y: -999"]
    for quiet in (
        [*values, -999],  # once
        [*values, -998, -998],
        [*values, -1000, -999, -999],  # among the others
        [-999, -999, NAN],  # nothing else: a column that never varies is refused elsewhere
    ):
        assert repeated(column(quiet)) == []
    images = np.random.default_rng(0).standard_normal((40, 3, 4))
    images[:5, :2] = 9999
    (line,) = repeated({"x": Named(images, tuple(f"x[{i}]" for i in range(12)))})
    assert line.startswith("x: 9999 stands 5 times in x[0], 5 times in x[1]") and " and 3 more columns, " in line
    assert line.endswith("rows without a value are to be left out")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The exact Gaussian, after one step, with two conditions in no order of their names; and one without any."""
    out = tmp_path_factory.mktemp("screening")
    x, y = drawn(2000, 1)
    rng = np.random.default_rng(2)
    table = dict(zip(("a", "b", *NAMES), [*x.T, *y.T])) | {
        "wet": rng.uniform(5, 9, 2000),
        "cold": rng.uniform(0, 1, 2000),
    }
    write_csv(out / "pairs.csv", table)
    words = ["fit", str(out / "pairs.csv"), "--x", "a,b", "--y", "left,middle,right", "--steps", "1", "--quiet"]
    assert cli.command([*words, "--held-out", "0.2", "--out", str(out / "model")]) == 0
    more = ["--condition", "wet", "--condition", "cold", "--out", str(out / "conditions")]
    assert cli.command([*words, *more]) == 0
    assert cli.command([*words, "--held-out", "0", "--out", str(out / "none")]) == 0
    return out


def sampled(model, y, out, capsys, status=0):
    """The lines on standard error."""
    capsys.readouterr()
    words = ["sample", str(model), str(y), "-n", "5", "--quiet", "--out", str(out / "p.zarr")]
    assert cli.command(words) == status
    return capsys.readouterr().err.splitlines()


def test_sample_warns_and_names_the_check(folder, tmp_path, capsys):
    y = drawn(3, 5)[1]
    np.save(tmp_path / "my y.npy", y)
    assert sampled(folder / "model", tmp_path / "my y.npy", tmp_path, capsys) == []
    y[1, 0] = 9999.0
    np.save(tmp_path / "my y.npy", y)
    (line,) = sampled(folder / "model", tmp_path / "my y.npy", tmp_path, capsys)
    assert line.startswith(
        "fokker: warning: measurement 1 lies outside the training data (p = 0.01, told from 0.01 down)"
    )
    assert "left is 9999: a placeholder" in line
    assert line.endswith(f"; fokker check {folder / 'model'} --y '{tmp_path / 'my y.npy'}' says more")
    assert cli.command(["check", str(folder / "model"), "--y", str(tmp_path / "my y.npy"), "--out", str(tmp_path)]) == 0
    p = [one["p_like_training"] for one in json.loads((tmp_path / "check.json").read_text())["measurements"]]
    assert p[1] <= 0.01 < min(p[0], p[2])  # the same verdict
    np.save(tmp_path / "one.npy", y[1])
    (line,) = sampled(folder / "model", tmp_path / "one.npy", tmp_path, capsys)
    assert "measurement 0 lies outside" in line
    assert sampled(folder / "none", tmp_path / "one.npy", tmp_path, capsys) == []  # no rows were held out


def test_held_out_rows_that_are_lost_or_changed(folder, tmp_path, capsys):
    shutil.copytree(folder / "model", tmp_path / "model")
    np.save(tmp_path / "y.npy", np.full((1, 3), 9.0))
    path = tmp_path / "model" / "held_out.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    (line,) = sampled(tmp_path / "model", tmp_path / "y.npy", tmp_path, capsys)
    assert "look like the training data is not told: " in line and "is not what was held out" in line
    path.unlink()
    assert sampled(tmp_path / "model", tmp_path / "y.npy", tmp_path, capsys) == []


def test_a_number_that_no_network_survives_is_named_before_the_error(folder, tmp_path, capsys):
    np.save(tmp_path / "y.npy", np.array([[0.0, -3.4028234663852886e38, 0.0]]))
    warning, error = sampled(folder / "model", tmp_path / "y.npy", tmp_path, capsys, 2)
    assert "middle is -3.402823e+38: a placeholder" in warning and "for none of 1 measurements are finite" in error
    assert not (tmp_path / "p.zarr").exists()


def test_conditions_are_compared_with_their_own(folder, tmp_path, capsys):
    """Kept in the order of their names, asked for in another: like the others, and not when they are swapped."""
    rng = np.random.default_rng(8)
    table = dict(zip(NAMES, drawn(2, 5)[1].T)) | {"wet": rng.uniform(6, 8, 2), "cold": rng.uniform(0.2, 0.8, 2)}
    write_csv(tmp_path / "y.csv", table)
    assert sampled(folder / "conditions", tmp_path / "y.csv", tmp_path, capsys) == []
    words = ["check", str(folder / "conditions"), "--y", str(tmp_path / "y.csv"), "--out", str(tmp_path), "--quiet"]
    assert cli.command(words) == 0
    told = said_of_each(capsys.readouterr().out)
    assert [any("looks like the training data" in text for text in told[k]) for k in (0, 1)] == [True, True]
    write_csv(tmp_path / "y.csv", table | {"wet": table["cold"], "cold": table["wet"]})
    assert len(sampled(folder / "conditions", tmp_path / "y.csv", tmp_path, capsys)) == 2


def test_fit_warns_of_placeholders(tmp_path, capsys):
    x, y = drawn(60)
    x[:4, 1], y[3:9, 2] = -999, 9999
    write_csv(tmp_path / "p.csv", dict(zip(("a", "b", *NAMES), [*x.T, *y.T])))
    words = ["fit", str(tmp_path / "p.csv"), "--x", "a,b", "--y", "left,middle,right", "--steps", "1", "--quiet"]
    assert cli.command([*words, "--out", str(tmp_path / "m")]) == 0
    said = capsys.readouterr()
    first, second = said.err.splitlines()
    assert first.startswith("fokker: warning: x: -999 stands 4 times in b, outside of all other values there")
    assert second.startswith("fokker: warning: y: 9999 stands 6 times in right, ") and "warning" not in said.out
