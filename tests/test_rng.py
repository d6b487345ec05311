"""Keyed noise: the same numbers however a batch is cut, independent numbers for everything a key names.

Statistical limits: all z of one test together raise a false alarm with a probability of 1e-4 (`exact.limit`).
"""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from exact import limit
from fokker.errors import InputError
from fokker.rng import BLOCK, Key, Rows, part_code, stream, torch_generator

WHOLE = Rows.grid(3, 700)


def draw(rows, step=2, part="x", seed=11, shape=(2, 3)):
    return Key(seed, rows, step, part).normal(shape)


def test_rows_of_a_grid():
    rows = Rows.grid(2, 3)
    assert rows.measurement.tolist() == [0, 0, 0, 1, 1, 1]
    assert rows.sample.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(rows) == 6 and rows[2:4].measurement.tolist() == [0, 1]


@pytest.mark.parametrize("size", [1, 7, 255, 256, 257, 1000])
def test_any_chunking_gives_the_same_numbers(size):
    pieces = [draw(WHOLE[a : a + size]) for a in range(0, len(WHOLE), size)]
    assert torch.equal(torch.cat(pieces), draw(WHOLE))


def test_any_order_and_any_subset_give_the_same_numbers():
    whole = draw(WHOLE)
    rng = np.random.default_rng(0)
    for which in (rng.permutation(len(WHOLE)), rng.integers(0, len(WHOLE), 500), np.array([2099]), np.arange(0)):
        rows = Rows(WHOLE.measurement[which], WHOLE.sample[which])
        assert torch.equal(draw(rows), whole[torch.from_numpy(which)])


@pytest.mark.parametrize("count", [1, 100, BLOCK, BLOCK + 1, 600])
def test_more_samples_or_measurements_leave_the_others_alone(count):
    assert torch.equal(draw(Rows.grid(1, count)), draw(WHOLE)[:count])


def test_shape_and_type():
    assert draw(WHOLE).shape == (2100, 2, 3) and draw(WHOLE).dtype == torch.float32
    assert Key(0, Rows.grid(1, 4)).normal(()).shape == (4,)


def test_everything_a_key_names_gives_independent_numbers():
    """Correlations of streams that differ in one thing each, 10,000 numbers per stream."""
    rows, size = Rows.grid(1, 1), (10_000,)
    keys = {
        "base": Key(1, rows, 1, "a"),
        "seed": Key(2, rows, 1, "a"),
        "step": Key(1, rows, 2, "a"),
        "part": Key(1, rows, 1, "b"),
        "measurement": Key(1, Rows(np.array([1]), np.array([0])), 1, "a"),
        "block": Key(1, Rows(np.array([0]), np.array([BLOCK])), 1, "a"),
        "sample": Key(1, Rows(np.array([0]), np.array([1])), 1, "a"),
        "joined": Key(1, rows, 1).at(part="a"),
    }
    values = np.stack([key.normal(size)[0].double().numpy() for key in keys.values()])
    z = (values @ values.T / size[0] ** 0.5)[np.triu_indices(len(keys), 1)]
    assert np.abs(z).max() < limit(len(z))
    assert np.abs(values.mean(1) * size[0] ** 0.5).max() < limit(len(keys))


def test_control_the_same_stream_twice_is_flagged():
    value = Key(1, Rows.grid(1, 1), 1, "a").normal((10_000,))[0].double()
    assert float(value @ value) / 100 > limit(28)


def test_numbers_are_normal():
    assert kstest(draw(WHOLE).flatten().numpy(), "norm").pvalue > 1e-4


def test_at_moves_only_what_it_is_given():
    key = Key(1, WHOLE, 3, "x")
    assert (key.at(step=5).step, key.at(step=5).part) == (5, "x")
    assert (key.at(part="k").step, key.at(part="k").part) == (3, "x/k")
    assert key.at(step=0).step == 0


def test_part_names_have_codes_of_their_own():
    names = ["", "x", "/x", "x/", "noise", "/noise", "data", *(f"step{i}" for i in range(50))]
    assert len({part_code(name) for name in names}) == len(names)
    assert all(0 <= part_code(name) < 2**64 for name in names)


def test_named_streams_and_generators():
    assert stream(3, "a", 1).random() == stream(3, "a", 1).random()
    values = {stream(s, n, i).random() for s in (0, 1) for n in ("a", "b") for i in (0, 1)}
    assert len(values) == 8
    assert torch.equal(
        torch.rand(3, generator=torch_generator(1, "a")), torch.rand(3, generator=torch_generator(1, "a"))
    )
    assert torch_generator(1, "a", 0).initial_seed() != torch_generator(1, "a", 1).initial_seed()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", None, True, float("nan")])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(InputError, match="seed"):
        Key(seed, WHOLE)
    with pytest.raises(InputError, match="seed"):
        stream(seed, "a")


@pytest.mark.parametrize("seed", [0, 2**64 - 1, np.int64(5)])
def test_good_seeds_are_taken(seed):
    assert Key(seed, Rows.grid(1, 2)).normal((1,)).isfinite().all()
