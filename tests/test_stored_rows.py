"""Training data on disk: the same rows, checks and posterior as in memory, in windows."""

import math
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
import zarr

import fokker
from exact import limit
from fokker.errors import InputError
from fokker.from_files import Data, fit_files, held_out
from fokker.posterior import rows as data_rows
from fokker.posterior import stored_rows
from fokker.posterior.recipes import DEFAULT
from fokker.posterior.stored_rows import StoredRows, source_of
from fokker.posterior.training_data import Draws, Pairs
from fokker.simulation import formats, stored, tables
from fokker.simulation.stored import Stored

COUNT, CHUNK = 3000, 64
OPERATOR = np.array([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
NOISE = 0.5


@pytest.fixture
def small(monkeypatch):
    """Limits under which 3,000 rows are many: windows of about 500 rows of two chunks each."""
    for module, name, value in (
        (stored_rows, "IN_MEMORY", 1000), (tables, "IN_MEMORY", 1000), (stored_rows, "BLOCK", 2 * CHUNK * 40),
        (stored_rows, "WINDOW", 8 * CHUNK * 40), (data_rows, "SHOWN", 2000 * 40), (stored, "AT_ONCE", 5 * CHUNK * 40),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def pairs(count=COUNT):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 2))
    return x, x @ OPERATOR.T + NOISE * rng.standard_normal((count, 3))


def on_disk(folder, **arrays):
    """A Zarr group in chunks of 64 rows."""
    group = zarr.open_group(folder / "pairs.zarr", mode="w")
    for name, value in arrays.items():
        group.create_array(name, data=value, chunks=(CHUNK, *value.shape[1:]))
    return group


def drawn(source, steps, size):
    return [source.rows(step, size) for step in range(steps)]


def test_an_epoch_visits_every_training_row_once_and_the_values_are_those_of_the_array(tmp_path, small):
    x, y = pairs()
    group = on_disk(tmp_path, x=x, y=y)
    source = source_of({"x": group["x"], "y": group["y"]}, 0, 0.05)
    assert isinstance(source, StoredRows) and not source.in_memory and len(source) == COUNT
    seen = set(source.held.tolist())
    assert len(seen) == 150
    step, counts = 0, {}
    while len(source._starts) < 3:  # two epochs, and the first step of the third
        for row in (rows := source.rows(step, 50)).tolist():
            counts.setdefault(len(source._starts), []).append(row)
        found = source.take(rows)
        assert torch.equal(found["x"], torch.from_numpy(x)[rows]) and found["y"].dtype == torch.float64
        assert torch.equal(found["y"], torch.from_numpy(y)[rows])
        step += 1
    first = counts[2]
    assert len(set(first)) == len(first) and not seen & set(first)
    assert len(first) >= 0.9 * (COUNT - 150)  # without incomplete batches at the end of each of six windows
    assert torch.equal(source.take(source.held)["x"], torch.from_numpy(x)[source.held])
    assert torch.equal(source.take(source.shown)["y"], torch.from_numpy(y)[source.shown])


def test_the_order_is_fixed_by_the_seed_and_any_step_can_be_the_first(tmp_path, small):
    x, y = pairs()
    group = on_disk(tmp_path, x=x, y=y)
    arrays = {"x": group["x"], "y": group["y"]}
    whole = drawn(source_of(arrays, 1, 0.05), 150, 50)
    late = source_of(arrays, 1, 0.05)
    assert all(torch.equal(late.rows(step, 50), whole[step]) for step in (77, 78, 149, 3))
    other = drawn(source_of(arrays, 2, 0.05), 3, 50)
    assert not any(torch.equal(a, b) for a, b in zip(whole, other))


def test_batches_mix_the_blocks_of_a_window(tmp_path, small):
    """Row numbers within a batch lie in many blocks: a batch of neighbours would be of one block."""
    x, _ = pairs()
    source = source_of({"x": on_disk(tmp_path, x=x)["x"]}, 0, 0.05)
    blocks = [len(set((rows // CHUNK).tolist())) for rows in drawn(source, 20, 50)]
    assert min(blocks) >= 4


def test_rows_that_play_no_part_are_never_seen(tmp_path, small):
    x, _ = pairs()
    group = on_disk(tmp_path, x=x)
    without = np.array([0, 1, 63, 64, 1500, COUNT - 1])
    source = source_of({"x": Stored(group["x"], without)}, 0, 0.05)
    assert len(source) == COUNT - 6
    rows = torch.cat([source.held, source.shown, *drawn(source, 60, 50)])
    assert not set(rows.tolist()) & set(without.tolist())
    together = torch.cat([arrays["x"] for _, arrays in source.parts()])
    assert torch.equal(together, torch.from_numpy(np.delete(x, without, 0)))
    rows, rest = Stored(group["x"], without).but(np.array([0, 61, COUNT - 7]))
    assert np.array_equal(rows, np.delete(x, without, 0)[[0, 61, COUNT - 7]])
    assert np.array_equal(rest.whole(), np.delete(np.delete(x, without, 0), [0, 61, COUNT - 7], 0))


@pytest.mark.parametrize("kind", ["float32", "float16", "int16", ">f8"])
def test_numbers_are_kept_as_stored_and_given_as_float64(tmp_path, small, kind):
    x = (np.random.default_rng(0).standard_normal((COUNT, 2)) * 100).astype(kind)
    source = source_of({"x": on_disk(tmp_path, x=x)["x"]}, 0, 0.05)
    rows = source.rows(0, 40)
    assert torch.equal(source.take(rows)["x"], torch.from_numpy(x.astype(float))[rows])


@pytest.mark.parametrize("kind", ["zarr", "h5", "npy"])
def test_files_are_fitted_in_windows_to_the_exact_posterior(tmp_path, small, kind, monkeypatch):
    """The samples' means and deviations against the closed form: z-scores at a false-alarm rate of 1e-4, over what
    3,000 pairs leave open of the regression (the coordinates come from 1,800 of them).
    """
    x, y = pairs()
    if kind == "zarr":
        on_disk(tmp_path, x=x, y=y)
        paths = [tmp_path / "pairs.zarr"]
    elif kind == "h5":
        with h5py.File(tmp_path / "pairs.h5", "w") as file:
            file.create_dataset("x", data=x, chunks=(CHUNK, 2))
            file.create_dataset("y", data=y)
        paths = [tmp_path / "pairs.h5"]
    else:
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "y.npy", y)
        paths = [tmp_path / "x.npy", tmp_path / "y.npy"]
    used = []
    monkeypatch.setattr(StoredRows, "_load", spied(StoredRows._load, used))
    model = fit_files(paths, "x", "y", tmp_path / "fit", steps=30)
    assert used
    mean, covariance = exact(y[7])
    found = model.sample(y[7], 4000).samples.double()
    std = covariance.diagonal() ** 0.5
    error = std * math.sqrt(1 / 4000 + 5 / 1500)  # of the mean of the samples, and of a regression on 5 numbers
    assert np.all(np.abs(found.mean(0).numpy() - mean) < limit(2) * error)
    kept = held_out(tmp_path / "fit", Data.load(tmp_path / "fit"))
    rows = {tuple(row) for row in kept["x"].tolist()}
    assert len(rows) == 300 and rows <= {tuple(row) for row in x.tolist()}


def exact(y):
    precision = np.eye(2) + OPERATOR.T @ OPERATOR / NOISE**2
    covariance = np.linalg.inv(precision)
    return covariance @ OPERATOR.T @ y / NOISE**2, covariance


def spied(function, calls):
    def called(*args):
        calls.append(args[1:])
        return function(*args)

    return called


def test_an_interrupted_fit_on_disk_continues_to_the_same_weights(tmp_path, small):
    x, y = pairs()
    group = on_disk(tmp_path, x=x, y=y)

    class Stop(Exception):
        pass

    def stop(record):
        if record.step == 40:
            raise Stop

    short = replace(DEFAULT, training=replace(DEFAULT.training, steps=80, validate_every=20, batch_size=32))
    whole = fokker.fit(group["x"], group["y"], recipe=short, out=tmp_path / "whole")
    with pytest.raises(Stop):
        fokker.fit(group["x"], group["y"], recipe=short, out=tmp_path / "cut", progress=stop)
    again = fokker.fit(group["x"], group["y"], recipe=short, out=tmp_path / "cut")
    pairs_of_weights = zip(whole.model.network.state_dict().values(), again.model.network.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs_of_weights)


def test_gaps_conditions_and_bounds_are_found_on_disk(tmp_path, small):
    x, y = pairs()
    y[5, 1] = np.nan
    group = on_disk(tmp_path, x=x, y=y, c=x[:, 0])
    data = Pairs(group["x"], group["y"], None, None, None, 0, 0.05, {"c": group["c"]})
    rows = data.rows(0, 2000)
    _, cond = data.noisy(rows, "train")
    assert data.masked and cond["y"].shape == (len(rows), 4) and cond["omega"].shape == (len(rows), 4)
    there = y[rows.numpy()]
    assert np.array_equal(cond["omega"][:, :3].numpy(), ~np.isnan(there))
    assert np.array_equal(cond["y"][:, 3].numpy(), x[rows.numpy(), 0])
    with pytest.raises(InputError, match=r"x: got -.* between its bounds"):
        fokker.fit(group["x"], group["y"], bounds=(0, None))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, y: x.__setitem__((2000, 1), np.nan), "x: got NaN in row 2000"),
        (lambda x, y: x.__setitem__((2999, 1), np.inf), "x: got an infinite entry in row 2999"),
        (lambda x, y: y.__setitem__((1, 0), -np.inf), "y: got an infinite entry in row 1"),
    ],
)
def test_bad_numbers_far_into_the_store_are_named_by_their_row(tmp_path, small, change, reason):
    x, y = pairs()
    change(x, y)
    group = on_disk(tmp_path, x=x, y=y)
    with pytest.raises(InputError, match=reason):
        fokker.fit(group["x"], group["y"])


def test_arrays_that_differ_in_rows_or_hold_no_numbers_are_refused(tmp_path, small):
    x, y = pairs()
    group = on_disk(tmp_path, x=x, y=y[:-1])
    with pytest.raises(InputError, match="y: got 2999 rows for 3000 rows of x"):
        fokker.fit(group["x"], group["y"])
    with pytest.raises(InputError, match="x: got complex128"):
        fokker.fit(on_disk(tmp_path, x=x.astype(complex))["x"], y)
    with pytest.raises(InputError, match="chunks have 3000 rows"):
        one = SimpleNamespace(shape=x.shape, dtype=x.dtype, chunks=x.shape, __len__=x.__len__)
        StoredRows({"x": Stored(one)}, 0, 0.05)


def test_a_chunk_that_is_damaged_is_one_line(tmp_path, small):
    x, y = pairs()
    on_disk(tmp_path, x=x, y=y)
    chunk = tmp_path / "pairs.zarr" / "y" / "c" / "20" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(InputError, match="y is damaged"):
        fit_files([tmp_path / "pairs.zarr"], "x", "y", tmp_path / "fit")
    assert not (tmp_path / "fit" / "model.json").exists()


def test_few_numbers_are_read_into_memory(tmp_path):
    x, y = pairs(200)
    group = on_disk(tmp_path, x=x, y=y)
    assert Draws(group["x"], 0, 0.05).source.in_memory
    assert isinstance(tables.read_named([tmp_path / "pairs.zarr"], {"x": "x"})["x"].values, np.ndarray)
    assert formats.arrays_in([tmp_path / "pairs.zarr"])["x"].by_slices is not None
