"""Several workers make the same bytes as one process, whatever is killed meanwhile."""

import asyncio
import errno
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import fokker.simulation
from fokker.errors import InputError
from fokker.problems.boundary_flux import FluxSimulator
from fokker.simulation import cluster
from fokker.simulation.store import simulate

# Children are forked from one process that has done the imports and has no threads.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["distributed", "fokker.simulation.cluster", "fokker.simulation.store", "pytest"])
ROWS, CHUNK = 390, 10


@dataclass
class Tube:
    """x (3,), y (2,); rows with a large first entry fail. Says in the file `log` who has set it up."""

    log: str = ""
    pause: float = 0.0
    wrong: str = ""  # what happens in chunk 19: raise, die
    settings: dict[str, Any] = field(default_factory=lambda: {"length": 8.5})

    @cached_property
    def factors(self) -> Any:
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()}\n")
        return np.arange(6.0).reshape(3, 2), threading.Lock()  # a lock cannot be pickled, nor can most factorisations

    def prior(self, rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.normal(size=(n, 3))

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        matrix, _ = self.factors
        time.sleep(self.pause)
        if self.wrong and x[0, 0] > 1.9:
            if self.wrong == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("no licence\nfor the solver")
        y = x @ matrix + rng.normal(size=(len(x), 2))
        y[x[:, 0] > 1.5] = np.nan
        return y


def tree(path: Path) -> dict[str, bytes]:
    """Every file of a store with its bytes, and the folders."""
    return {str(p.relative_to(path)): b"" if p.is_dir() else p.read_bytes() for p in sorted(path.rglob("*"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store as one process makes it without interruption."""
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    assert simulate(Tube(), ROWS, path, seed=3, chunk=CHUNK).failed > 5
    return tree(path)


def serve(there: Connection) -> None:
    """A scheduler, in a child process."""
    from distributed import Scheduler

    async def run() -> None:
        async with Scheduler(port=0, dashboard=False, dashboard_address=":0", host="127.0.0.1") as scheduler:
            there.send(scheduler.address)
            await scheduler.finished()

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    asyncio.run(run())


def work(address: str, there: Connection) -> None:
    """A worker of one thread, in a child process."""
    from distributed import Worker

    async def run() -> None:
        async with Worker(address, nthreads=1, local_directory=tempfile.gettempdir()) as worker:
            there.send(worker.address)
            await worker.finished()

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    asyncio.run(run())


class Cluster:
    """A scheduler and workers without nannies, each a process that can be killed."""

    def __init__(self, workers: int = 2) -> None:
        self.scheduler, self.address = self._start(serve)
        self.workers = [self._start(work, self.address)[0] for _ in range(workers)]

    def _start(self, function: Any, *arguments: Any) -> tuple[Any, Any]:
        here, there = CHILDREN.Pipe()
        child = CHILDREN.Process(target=function, args=(*arguments, there), daemon=True)
        child.start()
        there.close()
        return child, here.recv()

    def replace(self, index: int) -> None:
        """Kill -9 one worker, and start another."""
        self.workers[index].kill()
        self.workers[index], _ = self._start(work, self.address)

    def end(self) -> None:
        for child in (*self.workers, self.scheduler):
            child.kill()
            child.join()


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    """One cluster of two workers for the tests that leave it whole."""
    made = Cluster()
    yield made
    made.end()


def on(address: str, path: Path, simulator: Tube | None = None, **more: Any) -> Any:
    return simulate(simulator or Tube(), ROWS, path, seed=3, chunk=CHUNK, scheduler=address, **more)


def test_two_workers_make_the_same_bytes(running: Cluster, tmp_path: Path, whole: dict[str, bytes]) -> None:
    seen: list[tuple[int, int]] = []
    tube = Tube(log=str(tmp_path / "log"), pause=0.005)
    assert tube.factors  # used before: what cannot be pickled stays behind
    store = on(running.address, tmp_path / "a.zarr", tube, progress=lambda *p: seen.append(p))
    assert tree(tmp_path / "a.zarr") == whole
    assert seen == [(rows, ROWS) for rows in range(0, ROWS + 1, CHUNK)]
    makers = (tmp_path / "log").read_text().split()[1:]
    assert sorted(makers) == sorted(str(child.pid) for child in running.workers)  # set up once in each
    assert store.failed == len(store.failed_inputs()) > 5
    assert (store.failed_inputs()[:, 0] > 1.5).all()
    assert on(running.address, tmp_path / "a.zarr").reused == ROWS // CHUNK


def test_a_factorised_channel_is_made_by_each_worker(running: Cluster, tmp_path: Path) -> None:
    flux = FluxSimulator(2.0, mesh=(16, 4), order=1)
    for name, more in (("here", {}), ("there", {"scheduler": running.address})):
        assert simulate(flux, 60, tmp_path / name, seed=1, chunk=20, **more).failed == 0
    assert tree(tmp_path / "here") == tree(tmp_path / "there")


def test_workers_killed_at_random_moments(tmp_path: Path, whole: dict[str, bytes], capfd: Any) -> None:
    moments, made = random.Random(5), Cluster()
    kills = sorted(moments.sample(range(1, 30), 4))

    def progress(done: int, total: int) -> None:
        if kills and done // CHUNK >= kills[0]:
            kills.pop(0)
            time.sleep(0.02 * moments.random())
            made.replace(moments.randrange(2))

    try:
        store = on(made.address, tmp_path / "a.zarr", Tube(pause=0.01), progress=progress)
    finally:
        made.end()
    assert not kills
    assert store.reused == 0
    assert tree(tmp_path / "a.zarr") == whole
    assert capfd.readouterr() == ("", "")


def test_scheduler_killed_at_random_moments(tmp_path: Path, whole: dict[str, bytes], capfd: Any) -> None:
    moments, path, done = random.Random(6), tmp_path / "a.zarr", 0
    for last in (False, False, True):
        made = Cluster()
        kill_at = done + CHUNK * moments.randrange(1, 12)

        def progress(now: int, total: int, made: Cluster = made, kill_at: int = kill_at, last: bool = last) -> None:
            nonlocal done
            done = now
            if now >= kill_at and not last:
                made.scheduler.kill()

        try:
            if last:
                assert 0 < on(made.address, path).reused == done // CHUNK < ROWS // CHUNK
                continue
            started = time.monotonic()
            with pytest.raises(ConnectionError, match=r"scheduler tcp.* was lost; finished chunks are kept") as caught:
                on(made.address, path, Tube(pause=0.01), progress=progress)
            assert time.monotonic() - started < 30
            assert "\n" not in str(caught.value)
        finally:
            made.end()
    assert tree(path) == whole
    assert capfd.readouterr() == ("", "")


def test_a_chunk_whose_workers_always_die_is_told(tmp_path: Path, whole: dict[str, bytes], capfd: Any) -> None:
    made = Cluster(workers=6)
    try:
        with pytest.raises(ChildProcessError, match=r"chunk \d+: 4 worker processes died with it in hand") as caught:
            on(made.address, tmp_path / "a.zarr", Tube(wrong="die", pause=0.01))
        assert "\n" not in str(caught.value)
        on(made.address, tmp_path / "a.zarr")
    finally:
        made.end()
    assert tree(tmp_path / "a.zarr") == whole
    assert capfd.readouterr() == ("", "")


def test_a_raising_simulator_is_one_line(running: Cluster, tmp_path: Path, whole: dict[str, bytes], capfd: Any) -> None:
    said = r"chunk 19 \(10 simulations .*: Tube.simulate raised RuntimeError: no licence for the solver \(.*; rows"
    with pytest.raises(InputError, match=said) as caught:
        on(running.address, tmp_path / "a.zarr", Tube(wrong="raise"))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=said):
        simulate(Tube(wrong="raise"), ROWS, tmp_path / "a.zarr", seed=3, chunk=CHUNK)
    assert on(running.address, tmp_path / "a.zarr").reused > 0
    assert tree(tmp_path / "a.zarr") == whole
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_is_one_line_and_nothing_is_lost(
    running: Cluster, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    path, replace = tmp_path / "a.zarr", os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("y/c/20/0"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left") as caught:
            on(running.address, path)
    assert str(path) in str(caught.value)
    assert on(running.address, path).reused > 5
    assert tree(path) == whole
    assert capfd.readouterr() == ("", "")


def test_no_workers_and_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(cluster, "NO_WORKERS", 1.0)
    monkeypatch.setattr(cluster, "CONNECT", 2.0)
    made = Cluster(workers=0)
    try:
        with pytest.raises(OSError, match=r"scheduler tcp.* has had no workers for 1 s; finished"):
            on(made.address, tmp_path / "a.zarr")
    finally:
        made.end()
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"^scheduler {made.address} does not answer within 2 s$"):
        on(made.address, tmp_path / "a.zarr")
    assert time.monotonic() - started < 10
    with pytest.raises(ConnectionError, match=r"no-such-host\.invalid:8786 does not answer"):
        on("no-such-host.invalid:8786", tmp_path / "a.zarr")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"workers": 0}, "workers: got 0, an integer of at least 1 is accepted"),
        ({"workers": "two"}, "workers: got 'two', an integer"),
        ({"workers": 2.5}, "workers: got 2.5, an integer"),
        ({"workers": 2, "scheduler": "tcp://a:1"}, "scheduler: got 'tcp://a:1' with workers = 2, one of the two"),
        *[
            ({"scheduler": text}, f"scheduler: got {re.escape(repr(text))}, an address like tcp://HOST:8786")
            for text in ("", "here", "tcp://here", "here:0", "here:70000", "http://here:1", "tcp://:8786", 8786)
        ],
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        simulate(Tube(), 10, tmp_path / "a.zarr", seed=0, **arguments)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_sent_is_told(tmp_path: Path) -> None:
    tube = Tube()
    tube.settings = {"a": 1}
    tube.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"Tube cannot be sent to worker processes \(TypeError: .*cached_property"):
        simulate(tube, ROWS, tmp_path / "a.zarr", seed=3, chunk=CHUNK, workers=2)


def test_what_workers_cannot_load_is_told(running: Cluster, tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("class Part:\n    pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        from only_here import Part  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    tube = Tube()
    tube.part = Part()  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match=r"workers cannot load the simulator \(ModuleNotFoundError: No module.*only"):
        on(running.address, tmp_path / "a.zarr", tube)


def test_a_chunk_changed_on_its_way_is_refused() -> None:
    x, y, mark = cluster._make(cluster.packed(Tube()), 3, 0, CHUNK)  # type: ignore[misc]
    assert cluster._checked(0, (x, y, mark))[0] is x
    y[0, 0] += 1e-9
    with pytest.raises(ConnectionError, match="chunk 0 was changed"):
        cluster._checked(0, (x, y, mark))


def test_a_script_run_again_by_its_workers_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SystemExit):
        simulate(Tube(), 10, tmp_path / "a.zarr", seed=0, workers=2)


def test_one_process_needs_no_dask(tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fokker.simulation.cluster")
    monkeypatch.delattr(fokker.simulation, "cluster")
    for name in ("dask", "distributed", "cloudpickle"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"several workers need dask distributed: pip install 'fokker\[cluster\]'"):
        simulate(Tube(), ROWS, tmp_path / "a.zarr", seed=3, chunk=CHUNK, workers=2)
    simulate(Tube(), ROWS, tmp_path / "a.zarr", seed=3, chunk=CHUNK)
    assert tree(tmp_path / "a.zarr") == whole


def main_process(path: Path, errors: Path, answer: Connection, **more: Any) -> None:
    """In a child process with a group of its own: simulate, tell the progress, leave with the status of a program."""
    os.setsid()
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        simulate(Tube(pause=0.01), ROWS, path, seed=3, chunk=CHUNK, progress=lambda done, _: answer.send(done), **more)
    except KeyboardInterrupt:
        sys.exit(130)


def start_main(path: Path, errors: Path, **more: Any) -> tuple[Any, Connection]:
    here, there = CHILDREN.Pipe()
    child = CHILDREN.Process(target=main_process, args=(path, errors, there), kwargs=more)
    child.start()
    there.close()
    return child, here


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # in a container it may be that nobody buries the dead
    except psutil.NoSuchProcess:
        return False


def test_main_killed_at_random_moments_beside_a_cluster(
    running: Cluster, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    moments, path, kills = random.Random(7), tmp_path / "a.zarr", 0
    for _ in range(5):
        child, answer = start_main(path, tmp_path / "errors", scheduler=running.address)
        for _ in range(moments.randrange(1, 9)):
            answer.recv()
        time.sleep(0.02 * moments.random())
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
    assert kills >= 4
    assert on(running.address, path).reused > 0
    assert tree(path) == whole
    assert (tmp_path / "errors").read_text() == ""


def test_workers_of_this_machine(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """The main process is killed and interrupted, then finishes although a worker is killed; nobody stays behind."""
    moments, path, errors = random.Random(8), tmp_path / "a.zarr", tmp_path / "errors"
    for ending in (signal.SIGKILL, signal.SIGINT, None):
        child, answer = start_main(path, errors, workers=2)
        answer.recv()
        for _ in range(moments.randrange(1, 6)):
            answer.recv()
        family = psutil.Process(child.pid).children(recursive=True)
        workers = [process for process in family if "spawn_main" in " ".join(process.cmdline())]
        assert len(workers) == 2
        if ending is None:
            assert {process.environ()["OMP_NUM_THREADS"] for process in workers} == {"1"}
            moments.choice(workers).kill()
        elif ending == signal.SIGINT:
            os.killpg(child.pid, ending)  # as a terminal does
        else:
            child.kill()
        child.join()
        assert child.exitcode == {signal.SIGKILL: -9, signal.SIGINT: 130, None: 0}[ending]
        until = time.monotonic() + 20
        while any(alive(process) for process in family):
            assert time.monotonic() < until
            time.sleep(0.05)
    assert tree(path) == whole
    assert errors.read_text() == ""
