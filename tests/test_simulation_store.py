"""A simulation store is the same data however often its making was interrupted."""

import errno
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from fokker.errors import InputError
from fokker.locks import locked
from fokker.simulation.store import SimulationStore, simulate
from fokker.storage import read_json

# Children are forked from one process that has done the imports and has no threads.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["fokker.simulation.store", "pytest"])


@dataclass
class Plane:
    """x of shape (2, 3), y of shape (4,); rows with a large first entry fail; works in place on its input."""

    settings: dict[str, Any] = field(default_factory=lambda: {"slope": 2.0, "mesh": {"cells": [4, 8]}})
    pause: float = 0.0
    calls: int = 0

    def prior(self, rng: np.random.Generator, n: int) -> np.ndarray:
        self.calls += 1
        return rng.normal(size=(n, 2, 3))

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        time.sleep(self.pause)
        y = x.reshape(len(x), 6)[:, :4] + 0.1 * rng.normal(size=(len(x), 4))
        y[x[:, 0, 0] > 1.5] = -np.nan
        y[x[:, 0, 0] < -2] = np.inf
        x[:] = 0
        return y


def contents(path: Path) -> dict[str, Any]:
    """Everything a store holds: attributes, and bytes, type and shape of each array."""
    group = zarr.open_group(path, mode="r")
    arrays = {name: np.asarray(array[...]) for name, array in group.arrays()}
    return {name: (a.tobytes(), a.dtype, a.shape) for name, a in arrays.items()} | {"attrs": dict(group.attrs)}


def made(path: Path, n: int = 250, chunk: int = 100, seed: int = 3) -> SimulationStore:
    return simulate(Plane(), n, path, seed=seed, chunk=chunk)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "whole.zarr"
    made(path)
    return path


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "copy.zarr"))


def test_rows_are_those_of_the_simulator(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = tmp_path / "deep" / "a.zarr"
    store = simulate(Plane(), 250, path, seed=3, chunk=100, progress=lambda *p: seen.append(p))
    assert (store.n, store.x_shape, store.y_shape, store.reused, store.repaired) == (250, (2, 3), (4,), 0, ())
    assert seen == [(0, 250), (100, 250), (200, 250), (250, 250)]
    x, y = store.load()
    assert x.dtype == y.dtype == np.float64
    assert 0 < store.failed == 250 - len(x) == len(store.failed_inputs())
    assert np.abs(y - x.reshape(-1, 6)[:, :4]).max() < 1  # each y beside its own x, though x was overwritten
    first = store.failed_inputs()[:, 0, 0]
    assert ((first > 1.5) | (first < -2)).all()
    pieces = [store.load(start, start + 50) for start in range(0, 250, 50)]
    assert np.array_equal(np.concatenate([p[0] for p in pieces]), x)
    assert np.array_equal(np.concatenate([p[1] for p in pieces]), y)
    assert len(store.load(7, 7)[0]) == 0
    assert np.unique(x).size == x.size  # no two chunks share random numbers
    assert read_json(path / "zarr.json")["attributes"]["settings"] == Plane().settings
    assert sorted(os.listdir(path)) == ["finite", "sha256", "x", "y", "zarr.json"]


def test_again_reuses_everything(copy: Path, reference: Path) -> None:
    simulator = Plane()
    store = simulate(simulator, 250, copy, seed=3, chunk=100)
    assert (store.reused, store.repaired, simulator.calls) == (3, (), 0)
    assert contents(copy) == contents(reference)


def test_growing_continues_and_prefixes_agree(copy: Path, tmp_path: Path) -> None:
    store = made(copy, n=430)
    assert (store.reused, store.repaired) == (2, ())
    made(tmp_path / "at once.zarr", n=430)
    assert contents(copy) == contents(tmp_path / "at once.zarr")
    before = contents(copy)
    short = made(copy, n=120)
    assert (short.n, short.reused) == (120, 2)
    assert contents(copy) == before
    made(tmp_path / "short.zarr", n=120)
    for name in ("x", "y", "finite"):
        whole = zarr.open_array(copy / name, mode="r")[:120]
        assert np.array_equal(whole, zarr.open_array(tmp_path / "short.zarr" / name, mode="r")[...], equal_nan=True)
    assert np.array_equal(short.failed_inputs(), made(copy, n=430).failed_inputs()[: short.failed])


def test_another_seed_gives_other_data(reference: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other.zarr", seed=4).load()[0]
    assert not np.isin(other, made(reference).load()[0]).any()


@pytest.mark.parametrize("name", ["x", "y", "finite", "sha256"])
@pytest.mark.parametrize("how", ["cut", "emptied", "flipped", "removed", "array.json cut", "array.json removed"])
def test_damage_is_repaired_and_reported(copy: Path, reference: Path, name: str, how: str) -> None:
    document = how.startswith("array.json")
    chunk = {"x": "c/1/0/0", "y": "c/1/0", "finite": "c/1", "sha256": "c/1/0"}[name]
    file = copy / name / ("zarr.json" if document else chunk)
    if how.endswith("cut"):
        os.truncate(file, file.stat().st_size // 2)
    elif how == "emptied":
        os.truncate(file, 0)
    elif how.endswith("removed"):
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[5] ^= 1
        file.write_bytes(content)
    store = made(copy)
    # A lost description of an array is written anew; the data beside it still verify.
    assert (store.reused, store.repaired) == ((3, ()) if document else (2, (1,)))
    assert contents(copy) == contents(reference)


def test_a_lost_marker_of_the_last_chunk(copy: Path, reference: Path) -> None:
    (copy / "sha256" / "c" / "2" / "0").unlink()
    assert made(copy).repaired == (2,)
    assert contents(copy) == contents(reference)


def test_until_repaired_the_store_says_so(copy: Path) -> None:
    class Broken(Plane):
        def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            raise RuntimeError("no licence\nfor the solver")

    os.truncate(copy / "y" / "c" / "1" / "0", 10)
    with pytest.raises(InputError, match=r"Broken\.simulate raised RuntimeError: no licence for the solver"):
        simulate(Broken(), 250, copy, seed=3, chunk=100)
    assert zarr.open_group(copy, mode="r").attrs["n"] == 100


def test_damage_after_opening_is_noticed(copy: Path) -> None:
    store = made(copy)
    os.truncate(copy / "y" / "c" / "1" / "0", 10)
    with pytest.raises(InputError, match="simulate again"):
        store.load()
    (copy / "y" / "c" / "1" / "0").unlink()
    with pytest.raises(InputError, match="simulate again"):
        store.load()
    assert len(store.load(0, 100)[0]) > 0


@pytest.mark.parametrize("rows", [(-1, 5), (5, 4), (0, 251)])
def test_rows_out_of_range(reference: Path, rows: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="0 to 250"):
        made(reference).load(*rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 4}, "seed = 3, now it is 4"),
        ({"chunk": 50}, "chunk = 100, now it is 50"),
        (
            {"simulator": Plane({"slope": 2.5, "mesh": {"cells": [4, 8]}})},
            r"settings\.slope = 2\.0, now it is 2\.5",
        ),
        (
            {"simulator": Plane({"slope": 2.0, "mesh": {"cells": [4, 9]}})},
            r"settings\.mesh\.cells = \[4, 8\]",
        ),
        ({"simulator": Plane({"slope": 2.0})}, r"settings\.mesh = .*None"),
    ],
)
def test_other_settings_are_refused(copy: Path, reference: Path, change: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {
        "simulator": Plane(),
        "n": 400,
        "path": copy,
        "seed": 3,
        "chunk": 100,
    } | change
    with pytest.raises(InputError, match=said) as caught:
        simulate(**arguments)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(copy) == contents(reference)


@pytest.mark.parametrize("content", [b"", b'{"zarr_format": 3, "att', b"[]", b"{}", b"\x00\xff"])
def test_a_damaged_group_is_refused_and_kept(copy: Path, reference: Path, content: bytes) -> None:
    whole = (copy / "zarr.json").read_bytes()
    (copy / "zarr.json").write_bytes(content)
    with pytest.raises(InputError, match=str(copy)):
        made(copy)
    (copy / "zarr.json").write_bytes(whole)
    assert contents(copy) == contents(reference)


def test_foreign_folders_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("work")
    with pytest.raises(InputError, match="other files"):
        made(tmp_path)
    zarr.create_group(tmp_path / "theirs.zarr", attributes={"by": "someone"})
    with pytest.raises(InputError, match="another kind"):
        made(tmp_path / "theirs.zarr")
    with pytest.raises(InputError, match="got a file"):
        made(tmp_path / "thesis.tex")
    assert sorted(os.listdir(tmp_path)) == ["theirs.zarr", "thesis.tex"]
    assert os.listdir(tmp_path / "theirs.zarr") == ["zarr.json"]
    with pytest.raises(OSError, match="/proc"):
        made(Path("/proc/no.zarr"))


def test_a_store_in_use_is_refused(copy: Path) -> None:
    with locked(copy), pytest.raises(InputError, match="another run"):
        made(copy)


def test_a_full_disk_is_one_line_and_nothing_is_lost(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "a.zarr", os.replace

    def full_at_y(source: Any, target: Any) -> None:
        if str(target).endswith("y/c/1/0"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_at_y)
        with pytest.raises(OSError, match="No space left") as caught:
            made(path)
    assert str(path) in str(caught.value)
    store = made(path)
    assert (store.reused, store.repaired) == (1, ())
    assert contents(path) == contents(reference)


def returns(value: Any) -> Any:
    return lambda *_: value


@pytest.mark.parametrize(
    ("part", "function", "said"),
    [
        (
            "prior",
            returns(np.zeros((3, 2))),
            r"Plane\.prior returned an array of shape \(3, 2\); expected \(100, ",
        ),
        ("prior", returns(1.0), r"Plane\.prior .*shape \(\)"),
        ("prior", returns(np.zeros((100, 0))), r"Plane\.prior .*\(100, 0\)"),
        ("prior", returns([[1.0], [1.0, 2.0]] * 50), r"Plane\.prior raised ValueError"),
        ("prior", returns(np.full((100, 2, 3), np.nan)), r"Plane\.prior returned NaN or infinity in 100 of 100 rows"),
        ("simulate", returns(np.zeros((4, 100))), r"Plane\.simulate .*\(4, 100\); expected \(100, "),
        ("simulate", returns(np.full((100, 4), None)), r"Plane\.simulate returned object values"),
        ("simulate", returns(np.zeros((100, 4), complex)), r"Plane\.simulate returned complex128"),
        ("simulate", returns(None), r"Plane\.simulate returned object"),
        ("simulate", lambda x, rng: 1 / 0, r"Plane\.simulate raised ZeroDivisionError: division by zero"),
        ("simulate", lambda x: x, r"Plane\.simulate raised TypeError"),
        ("settings", {"mesh": object()}, r"Plane\.settings cannot be written as JSON"),
        ("settings", {"nu": float("nan")}, r"Plane\.settings cannot be written as JSON"),
        ("settings", [1], r"Plane\.settings is \[1\]; expected a dict"),
    ],
)
def test_bad_simulators(tmp_path: Path, part: str, function: Any, said: str) -> None:
    simulator = Plane()
    setattr(simulator, part, function)
    with pytest.raises(InputError, match=said) as caught:
        simulate(simulator, 150, tmp_path / "a.zarr", seed=0, chunk=100)
    assert "\n" not in str(caught.value)


def test_no_simulator(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has no settings"):
        simulate(np.sin, 10, tmp_path / "a.zarr", seed=0)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [{"n": 0}, {"n": 2.5}, {"chunk": 0}, {"chunk": "1000"}, {"seed": -1}, {"seed": 2**64}, {"seed": None}],
)
def test_bad_numbers(tmp_path: Path, change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"n": 10, "seed": 0, "chunk": 5} | change
    with pytest.raises(InputError, match=f"{next(iter(change))} is .*; expected a whole number"):
        simulate(Plane(), path=tmp_path / "a.zarr", **arguments)
    assert os.listdir(tmp_path) == []


def test_a_shape_that_changes_later_is_refused(tmp_path: Path) -> None:
    class Growing(Plane):
        def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return np.ones((len(x), self.calls))

    with pytest.raises(InputError, match=r"Growing\.simulate .*\(5, 2\); expected \(5, 1\)"):
        simulate(Growing(), 20, tmp_path / "a.zarr", seed=0, chunk=5)
    assert simulate(Growing(), 5, tmp_path / "a.zarr", seed=0, chunk=5).reused == 1


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float64])
def test_other_real_types_and_scalar_rows(tmp_path: Path, dtype: type) -> None:
    class Counts(Plane):
        def prior(self, rng: np.random.Generator, n: int) -> np.ndarray:
            return rng.integers(0, 9, size=n).astype(dtype)

        def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return (2 * x).astype(dtype)

    store = simulate(Counts(), 25, tmp_path / "a.zarr", seed=2**64 - 1, chunk=10)
    x, y = store.load()
    assert (store.x_shape, store.y_shape, store.failed) == ((), (), 0)
    assert x.dtype == y.dtype == np.float64
    assert np.array_equal(y, 2 * x)


def test_all_failed_is_counted(tmp_path: Path) -> None:
    simulator = Plane()
    simulator.simulate = lambda *_: np.full((10, 2, 3), np.nan)  # type: ignore[method-assign]
    for reused in (0, 3):
        store = simulate(simulator, 25, tmp_path / "a.zarr", seed=0, chunk=10)
        assert (store.failed, len(store.load()[0]), len(store.failed_inputs())) == (25, 0, 25)
        assert (store.reused, store.repaired) == (reused, ())


def run(path: Path, n: int, pause: float, answer: Connection, die_at: int | None = None) -> None:
    """In a child process: simulate, and if asked die before the rename number `die_at`."""
    replace, renames = os.replace, itertools.count()

    def dying(source: Any, target: Any) -> None:
        if next(renames) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = dying  # type: ignore[assignment]
    simulate(Plane(pause=pause), n, path, seed=3, chunk=10, progress=lambda *done: answer.send(done))


def child_of(path: Path, n: int, pause: float = 0.0, die_at: int | None = None) -> tuple[Any, Connection]:
    here, there = CHILDREN.Pipe()
    child = CHILDREN.Process(target=run, args=(path, n, pause, there, die_at))
    child.start()
    there.close()
    return child, here


def check_claims(path: Path, whole: Path) -> None:
    """After a kill: the rows said to be complete are, and no row is marked finite that is not the right one."""
    if not (path / "zarr.json").exists():
        return
    complete = read_json(path / "zarr.json")["attributes"]["n"]
    for name in ("x", "y"):
        if complete or (path / name / "zarr.json").exists():
            rows, right = (zarr.open_array(p / name, mode="r")[...] for p in (path, whole))
            known = np.isfinite(rows)
            assert np.array_equal(rows[:complete], right[:complete], equal_nan=True)
            assert np.array_equal(rows[known], right[: len(rows)][known])


def check_same(path: Path, whole: Path, n: int) -> None:
    assert contents(path) == contents(whole)
    assert simulate(Plane(), n, path, seed=3, chunk=10).reused == -(-n // 10)
    assert not [left for left in path.rglob("*") if left.name.startswith(".") or left.suffix == ".partial"]


def test_killed_at_random_moments_and_continued_is_the_same(tmp_path: Path) -> None:
    path, whole = tmp_path / "killed.zarr", tmp_path / "whole.zarr"
    simulate(Plane(), 600, whole, seed=3, chunk=10)
    moments, kills = random.Random(1), 0
    for n in (235, 235, 600, 600, 600, 600, 600):
        child, progress = child_of(path, n, pause=0.005)
        for _ in range(moments.randrange(1, 6)):  # many chunks before the end
            progress.recv()
        time.sleep(0.012 * moments.random())
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        check_claims(path, whole)
    assert kills >= 3
    simulate(Plane(), 600, path, seed=3, chunk=10)
    check_same(path, whole, 600)


def test_killed_at_each_rename_and_continued_is_the_same(tmp_path: Path) -> None:
    """The disk changes at renames only; 25 rows are interrupted again and again, then their growth to 48."""
    path, whole = tmp_path / "killed.zarr", tmp_path / "whole.zarr"
    simulate(Plane(), 48, whole, seed=3, chunk=10)
    for n in (25, 48):
        for k in range(60):  # each child comes further than the one before
            child, _ = child_of(path, n, die_at=k)
            child.join()
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL
            check_claims(path, whole)
        assert 5 < k < 59
    check_same(path, whole, 48)
