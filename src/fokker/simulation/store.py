"""Simulated pairs (x, y) on disk: made chunk by chunk, resumable, the same however often the run was killed.

One process writes. The chunks are drawn in this process, or by worker processes over dask distributed, here or on
a cluster; which of them, and in which order, leaves no trace in the files.
"""

import contextlib
import multiprocessing
import operator
import re
import reprlib
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from fokker.errors import InputError
from fokker.locks import locked
from fokker.simulation.chunks import Simulator, check_names, check_shapes, draw, names_of, settings_of
from fokker.simulation.layout import (
    FORMAT,
    SimulationStore,
    open_arrays,
    open_attributes,
    state_of,
    write_attributes,
    write_chunk,
)
from fokker.storage import AnyPath, ensure_writable

__all__ = ["SimulationStore", "Simulator", "simulate"]


def simulate(
    simulator: Simulator,
    n: int,
    path: AnyPath,
    *,
    seed: int,
    chunk: int = 1000,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SimulationStore:
    """Make `n` pairs x ~ prior, y ~ simulator(x) in the folder `path`, or continue there.

    Chunk c is drawn by Philox with the key (seed, c): no two chunks share a stream, and the data do not
    depend on interruptions, on the order of chunks or on the number of workers. The last chunk is drawn
    whole, `chunk` rows, and cut; so n rows are the first n of any larger store with the same seed and chunk,
    at the price of up to chunk - 1 rows thrown away: take a small `chunk` when one simulation is expensive.

    With `workers` = 1 the chunks are drawn in this process. More workers are processes of one thread on this
    machine, which end with this one however it ends. `scheduler` is the address of a dask cluster that is
    already running, tcp://HOST:PORT; its workers need fokker and the simulator's modules, and no common
    disk. Chunks travel back here with their checksum and are written here, a few per worker at a time. A
    worker that dies loses its chunk to another one.

    Calling again with the same arguments reuses every chunk that verifies; a larger n continues (a cut last
    chunk is made again); a smaller n returns the first rows and leaves the rest. `progress(done, total)` is
    called with numbers of rows, at the start and after each chunk. Failed rows stay in the store and are
    counted; only `load` leaves them out.

    Raises `InputError` when the store on disk has another seed, chunk, settings or names, when `path` holds
    something else or is in use by another process, when the simulator cannot be sent to workers, when its names
    are no texts that differ, one for each number in a row, and when it raises or returns something other than
    real numbers of shape (rows, ...); `ImportError` when dask is missing here or the simulator's modules there;
    `OSError` when the disk fails, when the scheduler cannot be reached or is lost, when there are no workers for
    a minute, and when a chunk's workers die again and again. Chunks finished by then stay.
    """
    started = time.perf_counter()
    n, chunk, seed = _integer("n", n, 1), _integer("chunk", chunk, 1), _integer("seed", seed, 0)
    _check_workers(workers, scheduler)
    root = Path(path)
    names = names_of(simulator)
    settings = {"seed": seed, "chunk": chunk, "settings": settings_of(simulator)}
    wanted: dict[str, Any] = {"x_names": None, "y_names": None, **names, **settings}
    open_attributes(root, wanted)  # refuse a wrong folder before writing anything into it
    ensure_writable(root)
    with locked(root):
        for left in list(root.rglob("*.partial")):  # zarr's temporary files, from a killed run
            left.unlink()
        attributes = open_attributes(root, wanted)
        arrays = open_arrays(root, attributes, n) if attributes else None
        rows = arrays["x"].shape[0] if arrays else n
        parts = [slice(a, min(a + chunk, rows)) for a in range(0, n, chunk)]
        states = [state_of(arrays, c, part) if arrays else "absent" for c, part in enumerate(parts)]
        pending = [c for c, state in enumerate(states) if state != "verified"]
        complete = attributes["n"] if attributes else 0
        repaired = tuple(c for c in pending if states[c] == "damaged" or parts[c].start < complete)
        if attributes and pending and parts[pending[0]].start < complete:
            write_attributes(root, attributes | {"n": parts[pending[0]].start})
        done = n - sum(min(parts[c].stop, n) - parts[c].start for c in pending)
        if progress is not None:
            progress(done, n)
        with contextlib.closing(_drawn(simulator, seed, chunk, pending, workers, scheduler)) as drawn:
            for c, x, y in drawn:
                if attributes is None or arrays is None:  # the first chunk tells the shapes
                    check_names(names, {"x": x.shape[1:], "y": y.shape[1:]})
                    shapes = {"x_shape": list(x.shape[1:]), "y_shape": list(y.shape[1:])}
                    known = {name: value for name, value in wanted.items() if value is not None}
                    attributes = {**FORMAT, **known, **shapes, "n": 0}
                    write_attributes(root, attributes)
                    arrays = open_arrays(root, attributes, n)
                check_shapes(simulator, c, (x, y), (arrays["x"].shape[1:], arrays["y"].shape[1:]))
                write_chunk(root, arrays, c, parts[c], x, y)
                done += min(parts[c].stop, n) - parts[c].start
                if progress is not None:
                    progress(done, n)
        assert attributes is not None and arrays is not None  # n is at least 1: there is a chunk
        if pending or complete < n:
            write_attributes(root, attributes | {"n": max(complete, n)})
        failed = n - int(np.count_nonzero(arrays["finite"][:n]))
    return SimulationStore(
        path=root,
        n=n,
        x_shape=arrays["x"].shape[1:],
        y_shape=arrays["y"].shape[1:],
        failed=failed,
        seconds=time.perf_counter() - started,
        reused=len(parts) - len(pending),
        repaired=repaired,
    )


def _drawn(
    simulator: Simulator, seed: int, chunk: int, pending: list[int], workers: int, scheduler: str | None
) -> Generator[tuple[int, np.ndarray, np.ndarray]]:
    """The pending chunks (c, x, y), in any order."""
    workers = min(workers, len(pending))
    if not pending:
        return
    if workers == 1 and scheduler is None:
        for c in pending:
            yield c, *draw(simulator, seed, c, chunk)
        return
    try:
        from fokker.simulation import cluster
    except ImportError as error:
        raise ImportError("several workers need dask distributed: pip install 'fokker[cluster]'") from error
    payload = cluster.packed(simulator)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(cluster.local(workers)) if scheduler is None else scheduler
        yield from cluster.drawn(address, payload, seed, chunk, pending)


def _check_workers(workers: int, scheduler: str | None) -> None:
    try:
        number = operator.index(workers)
    except TypeError:
        number = 0
    if number > 1 and getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)  # a worker that runs the user's script again as it starts; the first process tells what is wrong
    if number < 1:
        raise InputError(f"workers: got {reprlib.repr(workers)}, an integer of at least 1 is accepted")
    if scheduler is None:
        return
    if number > 1:
        raise InputError(
            f"scheduler: got {scheduler!r} with workers = {number}, one of the two is accepted; "
            "a cluster has workers of its own"
        )
    if not isinstance(scheduler, str) or not _is_address(scheduler):
        raise InputError(f"scheduler: got {reprlib.repr(scheduler)}, an address like tcp://HOST:8786 is accepted")


def _is_address(text: str) -> bool:
    """HOST:PORT, or tcp:// or tls:// before it; an IPv6 host in brackets."""
    match = re.fullmatch(r"(?:(?:tcp|tls)://)?(?:[\w.-]+|\[[0-9a-fA-F:.%\w]+\]):(\d{1,5})", text, re.ASCII)
    return match is not None and 0 < int(match[1]) < 2**16


def _integer(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number < 2**64:
        raise InputError(f"{name} is {reprlib.repr(value)}; expected a whole number from {least} on")
    return number
