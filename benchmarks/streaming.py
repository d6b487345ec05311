"""A fit to pairs that do not fit into memory: its speed beside that in memory, and its peak memory.

    python benchmarks/streaming.py [--cache DIR] [--gigabytes 10] [--steps 1500]

Writes a Zarr store of pairs (x of 16 numbers, y of 240, float32, compressed as Zarr does by default), then fits in
turns, each time in a process of its own, to the store and to as many of its rows as are read whole. Speeds are of the
training steps; what comes before them is told beside. Writes benchmarks/results/streaming.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import zarr

import fokker
from fokker.simulation.stored import IN_MEMORY

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "streaming.json"
X, Y, CHUNK = 16, 240, 4096
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench" / "streaming")
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--measure", choices=("stored", "memory"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    store = given.cache / "pairs.zarr"
    if given.measure:
        print(json.dumps(measured(store, given.measure, given.steps)))
        return
    rows = int(given.gigabytes * 1e9 / (4 * (X + Y))) // CHUNK * CHUNK
    if not store.exists() or zarr.open_group(store, mode="r")["x"].shape[0] != rows:
        written(store, rows)
    found: dict[str, list[dict[str, float]]] = {"stored": [], "memory": []}
    for _ in range(REPEATS):
        for kind, results in found.items():
            program = [sys.executable, __file__, "--cache", str(given.cache), "--steps", str(given.steps)]
            done = subprocess.run([*program, "--measure", kind], check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout))
            print(kind, results[-1], flush=True)
    ratios = [a["steps_per_second"] / b["steps_per_second"] for a, b in zip(found["stored"], found["memory"])]
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "zarr": zarr.__version__},
        "rows": rows,
        "gigabytes_of_numbers": rows * 4 * (X + Y) / 1e9,
        "gigabytes_on_disk": sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) / 1e9,
        "rows_in_memory": found["memory"][0]["rows"],
        "steps": given.steps,
        "speed_over_in_memory": ratios,
        "median_speed_over_in_memory": statistics.median(ratios),
        "peak_gib": max(run["peak_gib"] for run in found["stored"]),
        **found,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"speed over that in memory: {statistics.median(ratios):.3f} (target 0.8)")
    print(f"peak memory: {result['peak_gib']:.2f} GiB (target 3)")


def written(store: Path, rows: int) -> None:
    """y = tanh(A x) + noise, a chunk at a time."""
    group = zarr.open_group(store, mode="w")
    operator = np.random.default_rng(0).standard_normal((X, Y)) / np.sqrt(X)
    arrays = {n: group.create_array(n, shape=(rows, d), chunks=(CHUNK, d), dtype="f4") for n, d in (("x", X), ("y", Y))}
    for start in range(0, rows, CHUNK):
        rng = np.random.default_rng([1, start])
        x = rng.standard_normal((CHUNK, X), dtype=np.float32)
        noise = 0.1 * rng.standard_normal((CHUNK, Y), dtype=np.float32)
        arrays["x"][start : start + CHUNK] = x
        arrays["y"][start : start + CHUNK] = np.tanh(x @ operator.astype(np.float32)) + noise


def measured(store: Path, kind: str, steps: int) -> dict[str, float]:
    """One fit in this process, on one thread."""
    torch.set_num_threads(1)
    group = zarr.open_group(store, mode="r")
    x, y = group["x"], group["y"]
    if kind == "memory":
        rows = IN_MEMORY // (8 * (X + Y))
        x, y = x[:rows], y[:rows]
    started, records = time.perf_counter(), []
    fokker.fit(x, y, steps=steps, progress=records.append)
    seconds = records[-1].seconds
    return {
        "rows": x.shape[0],
        "steps_per_second": records[-1].step / seconds,
        "seconds_before_training": time.perf_counter() - started - seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    main()
