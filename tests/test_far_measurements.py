"""Measurements so far outside the training data that sampling is not finite: named, and no other suffers from them."""

import json
import warnings

import numpy as np
import pytest
import torch
import xarray

import fokker
from check_output import said_of_each
from fokker import cli, file_samples
from fokker.errors import InputError

MODEL = """
import numpy as np


def prior(rng, n):
    return rng.standard_normal((n, 2))


def simulate(x, rng):
    return x @ np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]) + 0.3 * rng.standard_normal((len(x), 3))
"""
FARTHEST = -3.4028234663852886e38
Y = np.array([[0.3, 0.2, -0.1], [FARTHEST, 0.0, 0.0], [1e7, 2e7, 3e7], [0.1, 0.0, 0.2]])
OUTSIDE = "lies outside the training data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The exact Gaussian, after one step; and with a chance of entries to be hidden, all three in some rows."""
    out = tmp_path_factory.mktemp("far")
    (out / "line.py").write_text(MODEL)
    here: dict = {}
    exec(MODEL, here)
    rng = np.random.default_rng(0)
    x = here["prior"](rng, 2000)
    np.savez(out / "pairs.npz", x=x, y=here["simulate"](x, rng))
    words = ["fit", str(out / "pairs.npz"), "--steps", "1", "--quiet", "--held-out", "0.2"]
    assert cli.command([*words, "--out", str(out / "model")]) == 0
    assert cli.command([*words, "--missing", "0.5", "--out", str(out / "gaps")]) == 0
    return out


def sampled(folder, y, out, capsys, status=0, model="model"):
    """Standard output, and the lines of standard error."""
    np.save(out / "y.npy", y)
    capsys.readouterr()
    words = ["sample", str(folder / model), str(out / "y.npy"), "-n", "7", "--quiet", "--out", str(out / "p.zarr")]
    assert cli.command(words) == status
    said = capsys.readouterr()
    return said.out, said.err.splitlines()


def opened(path):
    return xarray.open_datatree(path, engine="zarr", consolidated=False)["posterior/x"].values[0]


@pytest.mark.parametrize("at_once", [file_samples.AT_ONCE, 14])
def test_the_others_of_a_file_are_sampled(at_once, folder, tmp_path, capsys, monkeypatch):
    """In one group, and each in its own: the samples are those of the measurement's place, whatever is beside it."""
    monkeypatch.setattr(file_samples, "AT_ONCE", at_once)
    out, lines = sampled(folder, Y, tmp_path, capsys)
    assert out.startswith("measurement 0 of 4: mean and standard deviation\n")
    assert len(lines) == 3 and lines[-1] == (
        f"fokker: warning: no samples can be drawn for measurement 1: NaN stands in their place in {tmp_path}/p.zarr"
    )
    assert f"measurement 1 {OUTSIDE}" in lines[0] and "y[0] is -3.402823e+38: a placeholder" in lines[0]
    found, y = opened(tmp_path / "p.zarr"), Y.copy()
    y[1] = 0.0
    right = fokker.load(folder / "model").sample(y, 7).samples.movedim(1, 0).numpy()
    assert np.isnan(found[:, 1]).all() and np.allclose(found[:, [0, 2, 3]], right[:, [0, 2, 3]], rtol=1e-5)


def test_the_summary_is_of_one_that_has_samples_and_says_what_they_are_worth(folder, tmp_path, capsys):
    for y, head in (
        (Y[[1, 3]], "measurement 1 of 2: mean"),
        (Y[[2]], f"measurement 0 of 1, which {OUTSIDE}, so that these numbers mean nothing: mean"),
        ([2.0, -2.5, 2.0], f"measurement 0 of 1, which {OUTSIDE}, so that nothing vouches for these numbers: mean"),
    ):
        assert sampled(folder, y, tmp_path, capsys)[0].startswith(head)


@pytest.mark.parametrize("y", [Y[1], Y[[1]], Y[[1, 1, 1]]])
def test_without_any_samples_nothing_is_written(y, folder, tmp_path, capsys):
    out, lines = sampled(folder, y, tmp_path, capsys, 2)
    assert out == "" and lines[-1].startswith("fokker: y: the samples for ")
    assert not (tmp_path / "p.zarr").exists()


def test_in_python_the_measurement_is_named():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 2))
    posterior = fokker.fit(x, x + 0.5 * rng.standard_normal(x.shape), steps=1)
    y = np.array([[0.0, 0.0], [FARTHEST, 0.0], [1.0, 1.0]])
    for sampler in (None, fokker.RK45(), fokker.Transition(alpha=1.0)):
        with pytest.raises(InputError, match=r"y: the samples for measurement 6 are not finite, one like those"):
            posterior.sample(y, 5, first=5, sampler=sampler)
        found = posterior.sample(y, 5, sampler=sampler, keep_going=True).samples
        assert found[1].isnan().all() and torch.allclose(found[0], posterior.sample(y[0], 5, sampler=sampler).samples)
    bounded = fokker.fit(np.exp(x), x, steps=1, bounds=(0, None))
    clipped = fokker.fit(x.clip(0), x, steps=1, clip=(0, None))
    for one in (bounded, clipped):  # no infinity ends as the largest number there is, or at a bound
        assert one.sample(y, 5, keep_going=True).samples.isnan().flatten(1).any(1).tolist() == [False, True, False]
    with pytest.raises(FloatingPointError, match="measurement 0 are not finite"):
        bounded.sample([400.0, 0.0], 5)


def test_check_says_so_and_judges_the_others(folder, tmp_path, capsys):
    np.save(tmp_path / "y.npy", Y)
    words = ["check", str(folder / "model"), "--y", str(tmp_path / "y.npy"), "--simulator", str(folder / "line.py")]
    assert cli.command([*words, "--near", "50", "--quiet", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    usual, lost, far, other = (said_of_each(said.out)[k] for k in range(4))
    assert said.err == ""
    for one in (usual, other):
        assert any("does not contradict it (p" in text for text in one) and not any("mean nothing" in t for t in one)
    assert f"{OUTSIDE}, so far that no samples can be drawn (p" in said.out
    assert any("y[0] is -3.402823e+38: a placeholder for missing? NaN is" in text for text in lost)
    for one in (lost, far):
        assert any("not possible: simulations from its posterior or near it" in text for text in one)
    json.loads((tmp_path / "check.json").read_text())


def test_a_p_value_that_is_cut_is_not_told_as_one(folder, tmp_path, capsys):
    """Twice the smaller of two p-values, cut at 1: usual measurements often have it."""
    here: dict = {}
    exec(MODEL, here)
    rng = np.random.default_rng(1)
    np.save(tmp_path / "y.npy", here["simulate"](0.3 * here["prior"](rng, 4), rng))
    words = ["check", str(folder / "model"), "--y", str(tmp_path / "y.npy"), "--quiet", "--out", str(tmp_path)]
    assert cli.command(words) == 0
    said = capsys.readouterr().out
    assert "p >= 0.99" in said and "p = 1," not in said


def test_rows_that_are_hidden_whole_are_no_warning(folder, tmp_path, capsys):
    """An eighth of the held-out rows has nothing observed, and so has the measurement."""
    np.save(tmp_path / "y.npy", np.full((1, 3), np.nan))
    words = ["check", str(folder / "gaps"), "--y", str(tmp_path / "y.npy"), "--quiet", "--out", str(tmp_path)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cli.command(words) == 0
    said = capsys.readouterr()
    assert said.err == "" and "nothing of it is observed, and the answer is the prior" in said.out
    _, lines = sampled(folder, np.full((1, 3), np.nan), tmp_path, capsys, model="gaps")
    (line,) = lines
    assert line.startswith("fokker: warning: nothing is observed in measurement 0: the answer there is the prior")
