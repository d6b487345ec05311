"""Throughput, memory and disk of the simulation store, the cost of its tasks, and what 1,000 workers would reach.

Each row is measured in a process of its own. The cost of a task is measured with simulators that do nothing, one row
in a chunk, on a scheduler, a worker and a writer in three processes: seconds of processor time of each per task, and
what a written byte adds (chunks of 1 MB). With these, W workers of one core make a chunk of T seconds at the rate

    min( W / (T + worker), 1 / scheduler, 1 / writer )     chunks per second,

the scheduler and the writer having a core each. Writes results/simulation_store.json.

    OMP_NUM_THREADS=1 python benchmarks/simulation_store.py
    OMP_NUM_THREADS=1 python benchmarks/simulation_store.py row linear 2 4000     one row, n simulations, to the screen
    OMP_NUM_THREADS=1 python benchmarks/simulation_store.py tasks 200             the cost of a task, to the screen
"""

from __future__ import annotations

import asyncio
import datetime
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fokker.problems.boundary_flux_reaction import ReactionSimulator
from fokker.problems.channel import FluxSimulator
from fokker.simulation.chunks import Simulator
from fokker.simulation.store import simulate

RESULT = Path(__file__).parent / "results" / "simulation_store.json"
WORKERS = (1, 2)
PROJECTED = (1, 2, 8, 64, 256, 1000)
TASKS = 2000
MEGABYTE = 2**17  # float64 values


@dataclass(frozen=True)
class Row:
    """A simulator with the size of its run."""

    simulator: Callable[[], Simulator]
    n: int
    chunk: int


SIMULATORS = {
    "linear": Row(lambda: FluxSimulator(2.0), 36_000, 1000),
    "reaction": Row(lambda: ReactionSimulator(2.0, (64, 24)), 40_000, 500),
}


@dataclass(frozen=True)
class Nothing:
    """Rows of `width` zeros, at no cost: what is left is the store's own."""

    width: int = 1

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"width": self.width}

    def prior(self, rng: np.random.Generator, n: int) -> np.ndarray:
        return np.zeros((n, 1))

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.ones((len(x), self.width))


def peak(pid: int) -> float:
    """The most memory that a process has held so far, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def size(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def row(name: str, workers: int, n: int | None = None) -> dict[str, Any]:
    """One simulator with so many workers, from nothing to the whole store."""
    case = SIMULATORS[name]
    total = n or case.n
    times: list[float] = []
    peaks: list[float] = []

    def progress(done: int, of: int) -> None:
        times.append(time.perf_counter())
        if done == of:
            family = psutil.Process().children(recursive=True)
            peaks.extend(peak(pid) for pid in (os.getpid(), *(process.pid for process in family)))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zarr"
        store = simulate(
            case.simulator(), total, path, seed=0, chunk=min(case.chunk, total), workers=workers, progress=progress
        )
        stored = size(path)
    after_first = len(times) > 2
    return {
        "simulator": name,
        "workers": workers,
        "simulations": total,
        "chunk": min(case.chunk, total),
        "failed": store.failed,
        "seconds": store.seconds,
        "seconds_to_the_first_chunk": times[1] - times[0],
        "per_second": total / store.seconds,
        "per_second_after_the_first_chunk": (total - case.chunk) / (times[-1] - times[1]) if after_first else None,
        "largest_process_MB": max(peaks),
        "store_MB": stored / 1e6,
        "store_over_numbers": stored / (8 * total * (np.prod(store.x_shape) + np.prod(store.y_shape))),
    }


def serve(there: Connection) -> None:
    """A scheduler in a process of its own."""
    from distributed import Scheduler

    async def run() -> None:
        async with Scheduler(port=0, dashboard=False, dashboard_address=":0", host="127.0.0.1") as scheduler:
            there.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(run())


def work(address: str, there: Connection) -> None:
    """A worker of one thread in a process of its own."""
    from distributed import Worker

    async def run() -> None:
        async with Worker(address, nthreads=1) as worker:
            there.send(worker.address)
            await worker.finished()

    asyncio.run(run())


def tasks(count: int = TASKS) -> dict[str, float]:
    """Seconds of processor time of scheduler, worker and writer for one task and for one MB, and of the clock."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    scheduler = context.Process(target=serve, args=(there,))
    scheduler.start()
    address = here.recv()
    worker = context.Process(target=work, args=(address, there))
    worker.start()
    here.recv()
    try:
        parts = {"scheduler": psutil.Process(scheduler.pid), "worker": psutil.Process(worker.pid)}
        with tempfile.TemporaryDirectory() as folder:

            def cost(simulator: Nothing, number: int) -> dict[str, float]:
                path = Path(folder) / f"{simulator.width}-{number}.zarr"
                before = {name: sum(process.cpu_times()[:2]) for name, process in parts.items()}
                here_before, started = time.process_time(), time.perf_counter()
                simulate(simulator, number, path, seed=0, chunk=1, scheduler=address)
                used = {name: sum(process.cpu_times()[:2]) - before[name] for name, process in parts.items()}
                used |= {"writer": time.process_time() - here_before, "clock": time.perf_counter() - started}
                return {name: seconds / number for name, seconds in used.items()}

            cost(Nothing(), 20)  # imports, connections
            small = cost(Nothing(), count)
            large = cost(Nothing(MEGABYTE), max(count // 20, 10))
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.join()
    seconds = {f"{name}_seconds_per_task": value for name, value in small.items()}
    return seconds | {f"{name}_seconds_per_MB": max(0.0, large[name] - small[name]) for name in small}


def projection(measured: dict[str, Any], costs: dict[str, float]) -> dict[str, Any]:
    """Simulations per second on more workers, from a row with one process and the cost of tasks."""
    chunk = measured["chunk"]
    rate = measured["per_second_after_the_first_chunk"] or measured["per_second"]
    megabytes = measured["store_MB"] * chunk / measured["simulations"]
    part = {
        name: costs[f"{name}_seconds_per_task"] + megabytes * costs[f"{name}_seconds_per_MB"]
        for name in ("scheduler", "worker", "writer")
    }
    # A process alone draws and writes; a worker does not write.
    alone = max(chunk / rate - part["writer"], 0.0)
    serial = max(part["scheduler"], part["writer"])
    table = {}
    for workers in PROJECTED:
        limits = {
            "workers": workers / (alone + part["worker"]),
            "scheduler": 1 / part["scheduler"],
            "writer": 1 / part["writer"],
        }
        least = min(limits, key=lambda name: limits[name])
        table[str(workers)] = {"per_second": chunk * limits[least], "limited_by": least}
    return {
        "seconds_per_chunk": alone,
        "seconds_per_chunk_of_each_part": part,
        "per_second": table,
        "workers_kept_busy": (alone + part["worker"]) / serial,
        "seconds_per_chunk_that_keep_1000_workers_busy": 1000 * serial - part["worker"],
    }


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def alone(*words: str) -> Any:
    """What this script prints with these words, in a new process."""
    result = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def main() -> None:
    """Everything, into one file; or one part, to the screen."""
    match sys.argv[1:]:
        case ["row", name, workers, *n]:
            print(json.dumps(row(name, int(workers), *map(int, n)), indent=1))
        case ["tasks", *count]:
            print(json.dumps(tasks(*map(int, count)), indent=1))
        case []:
            rows = [alone("row", name, str(workers)) for name in SIMULATORS for workers in WORKERS]
            costs = alone("tasks")
            result = {
                "date": datetime.date.today().isoformat(),
                "machine": {"cpu": cpu(), "cores": os.cpu_count()},
                "versions": {"python": platform.python_version()}
                | {name: version(name) for name in ("fokker", "numpy", "zarr", "dask", "distributed")},
                "rows": rows,
                "cost_of_a_task": costs,
                "projection": {r["simulator"]: projection(r, costs) for r in rows if r["workers"] == 1},
            }
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
            print(RESULT.read_text())
        case words:
            sys.exit(f"got {' '.join(words)!r}; nothing, row NAME WORKERS [N], or tasks [N] is accepted")


if __name__ == "__main__":
    main()
