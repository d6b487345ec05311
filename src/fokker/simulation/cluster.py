"""Chunks drawn by worker processes over dask distributed, on this machine or on a cluster.

Nothing but numbers comes back, and only this process writes. What dask would say in its logs is told in one line by
the error raised here.
"""

import asyncio
import concurrent.futures
import contextlib
import copy
import itertools
import logging
import multiprocessing.resource_tracker
import os
import queue
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import cloudpickle
import dask
import numpy as np
from distributed import Client, Future, KilledWorker, LocalCluster

from fokker.errors import InputError
from fokker.simulation.chunks import Simulator, digest, draw, one_line

CONNECT = 5.0  # seconds for a scheduler to answer
NO_WORKERS = 60.0  # seconds without any worker until we give up
START = 120.0  # seconds for local workers to start; Ctrl-C waits until then
FAREWELL = 1.0  # seconds for a worker to end by itself
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LEFT_BY_DASK = ("PYTHONHASHSEED",)
# Dask lets workers give every freed array back to the system at once, which halves the speed of sparse solves.
_KEEP_MEMORY = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), "1000000000")
_QUIET = logging.CRITICAL + 1
_CONTINUES = "finished chunks are kept, and the same command continues"
_mine = threading.local()


def packed(simulator: Simulator) -> bytes:
    """The simulator as bytes, without the values of its cached properties: each worker makes its own.

    Raises `InputError` when pickle cannot write it.
    """
    bare = copy.copy(simulator)
    values = getattr(bare, "__dict__", {})
    for name in list(values):
        if isinstance(getattr(type(bare), name, None), cached_property):
            del values[name]
    try:
        return cloudpickle.dumps(bare)
    except Exception as error:  # pickling runs the user's code: anything can come out
        raise InputError(
            f"{type(simulator).__name__} cannot be sent to worker processes ({type(error).__name__}: "
            f"{one_line(error)}); what pickle can write is accepted: make the rest in a functools.cached_property"
        ) from error


@contextlib.contextmanager
def local(workers: int) -> Iterator[str]:
    """Worker processes of one thread each on this machine; yields the address of their scheduler.

    A worker that dies is started again; all of them end with this process, however it ends. Raises `OSError`
    when they cannot be started.
    """
    settings = {
        "distributed.worker.profile.enabled": False,
        "distributed.scheduler.worker-ttl": None,  # a simulation may hold the interpreter for as long as it wants
    }
    with _silent(), _environment(), dask.config.set(settings):
        cluster = None
        try:
            with _interrupts_later():  # and workers do not hear Ctrl-C at all: this process ends them
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    memory_limit=None,
                    dashboard_address=None,
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # without one it asks for port 8787 still
                    silence_logs=_QUIET,
                    death_timeout=START,
                )
            yield cluster.scheduler_address
        except RuntimeError as error:
            if cluster is not None:
                raise
            raise ChildProcessError(
                f"{workers} worker processes could not be started ({one_line(error)}); a script that asks for "
                'workers must do so below `if __name__ == "__main__":`'
            ) from error
        finally:
            if cluster is not None:
                cluster.sync(_end, list(cluster.workers.values()))
                cluster.close()


async def _end(nannies: list[Any]) -> None:
    """Workers in the midst of a simulation are killed soon: nothing in them is worth waiting for."""
    await asyncio.gather(*(nanny.close(timeout=FAREWELL) for nanny in nannies), return_exceptions=True)


def drawn(
    address: str, payload: bytes, seed: int, chunk: int, pending: list[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The pending chunks (c, x, y) of the packed simulator, as they come from the workers of a scheduler.

    At most two chunks per thread of the cluster are under way, so memory does not grow with their number.
    Raises what `simulate` says.
    """
    with _silent(), dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        client = _connected(address)
        try:
            yield from _collected(client, address, payload, seed, chunk, pending)
        finally:
            client.close(timeout=CONNECT)


def _connected(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConnectionError(f"scheduler {address} does not answer within {CONNECT:g} s") from error


def _collected(
    client: Client, address: str, payload: bytes, seed: int, chunk: int, pending: list[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    run = f"simulate-{uuid.uuid4().hex}"  # a scheduler may still know the chunks of a killed run
    waiting, under_way, done = iter(pending), dict[Future, int](), queue.SimpleQueue[Future]()
    threads, asked, seen = 0, -1.0, time.monotonic()
    while True:
        if client.status != "running":
            raise _lost(address)
        now = time.monotonic()
        if now > asked + 1:
            threads, asked = client.scheduler_info(n_workers=0)["total_threads"], now
        seen = now if threads else seen
        if now > seen + NO_WORKERS:
            raise OSError(f"scheduler {address} has had no workers for {NO_WORKERS:g} s; {_CONTINUES}")
        for c in itertools.islice(waiting, max(0, max(2 * threads, 1) - len(under_way))):
            future = client.submit(_make, payload, seed, c, chunk, key=(run, c), pure=False)
            under_way[future] = c
            future.add_done_callback(done.put)
        if not under_way:
            return
        finished = _taken(done)
        for c, result in _results(client, address, {future: under_way.pop(future) for future in finished}):
            yield c, *_checked(c, result)


def _taken(done: queue.SimpleQueue[Future]) -> list[Future]:
    """All futures that are done by now; waits half a second for the first."""
    taken = []
    with contextlib.suppress(queue.Empty):
        taken.append(done.get(timeout=0.5))
        while True:
            taken.append(done.get_nowait())
    return taken


def _results(client: Client, address: str, finished: dict[Future, int]) -> list[tuple[int, Any]]:
    """What the chunks came to, with their numbers."""
    for future, c in finished.items():
        if future.status == "cancelled":
            raise _lost(address)
        if future.status == "error":
            raise _failure(c, future.exception())
    try:
        return list(zip(finished.values(), client.gather(list(finished))))
    except KilledWorker as error:  # a finished chunk died with its worker, and so did those that made it again
        raise _failure(error.task[1], error) from error
    except (OSError, asyncio.CancelledError, concurrent.futures.CancelledError, TimeoutError) as error:
        raise _lost(address) from error


def _checked(c: int, result: Any) -> tuple[np.ndarray, np.ndarray]:
    """A chunk as its worker sent it. What went wrong there is raised here."""
    if isinstance(result, Exception):
        raise result
    x, y, mark = result
    if digest(x, y) != mark:
        raise ConnectionError(f"chunk {c} was changed on its way here; {_CONTINUES}")
    return x, y


def _make(payload: bytes, seed: int, c: int, chunk: int) -> tuple[np.ndarray, np.ndarray, bytes] | Exception:
    """In a worker: the chunk and its checksum, or what to tell the user.

    The simulator of the last chunk is kept, one for each thread, with all that it has set up.
    """
    if getattr(_mine, "payload", None) != payload:
        try:
            _mine.simulator = cloudpickle.loads(payload)
        except Exception as error:  # unpickling runs the user's code: anything can come out
            return _unknown(error)
        _mine.payload = payload
    try:
        x, y = draw(_mine.simulator, seed, c, chunk)
    except InputError as error:
        return error
    return x, y, digest(x, y)


def _failure(c: int, error: BaseException | None) -> Exception:
    if isinstance(error, KilledWorker):
        return ChildProcessError(
            f"chunk {c}: {error.allowed_failures + 1} worker processes died with it in hand (memory? a crash in the "
            f"simulator?); {_CONTINUES}"
        )
    return _unknown(error)


def _unknown(error: BaseException | None) -> ImportError:
    what = f"{type(error).__name__}: {one_line(error)}" if error is not None else "no reason given"
    return ImportError(f"the workers cannot load the simulator ({what}); they need the same packages as this machine")


def _lost(address: str) -> ConnectionError:
    return ConnectionError(f"the connection to scheduler {address} was lost; {_CONTINUES}")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No lines of dask's on the terminal: what they tell of is repaired, or raised as an error."""
    with contextlib.ExitStack() as stack:
        for name, logger in list(logging.root.manager.loggerDict.items()):
            if name.partition(".")[0] in ("distributed", "tornado") and isinstance(logger, logging.Logger):
                for handler in logger.handlers:
                    stack.callback(handler.setLevel, handler.level)
                    handler.setLevel(_QUIET)
        yield


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Processes started here compute with one thread and are quiet; what dask sets beside that is taken away."""
    before = {name: os.environ.get(name) for name in (*_ONE_THREAD, *_KEEP_MEMORY, *_LEFT_BY_DASK, "PYTHONWARNINGS")}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1") | _KEEP_MEMORY)
    # When this process is killed, Python cleans up after it, and would complain of having to.
    warnings = [before["PYTHONWARNINGS"], "ignore:resource_tracker"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, warnings))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C waits until the end of the block; threads and processes started within never hear it."""
    multiprocessing.resource_tracker.ensure_running()  # it would let the signal through when started within
    heard: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda *_: heard.append(1)) if main else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if main:  # the only thread that may set handlers, and that runs them
            signal.signal(signal.SIGINT, handler)
        if heard:
            signal.raise_signal(signal.SIGINT)
