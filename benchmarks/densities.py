"""fokker beside sbi, azula and BayesFlow on three conditional densities: accuracy against seconds on one core.

    python benchmarks/densities.py run [--methods sbi-fmpe ...] [--tasks spiral ...] [--seeds 0 ...]
    python benchmarks/densities.py collect

Every package has its own virtual environment (benchmarks/peers/requirements-*.txt) and runs to its own end, as one
process on one core with one thread. `run` goes through the runs in the order of ORDER, seed by seed, and leaves out
those that are there: it can be stopped at any time and started again, and takes hours. `collect` scores whatever is
there and writes benchmarks/results/densities.json, docs/densities_peers.md and its figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from peers.collect import collect, score
from peers.tasks import DRAWS, TASKS, Exact, pairs

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
SEEDS = (0, 1, 2)
FOKKER_STEPS = (125, 250, 500, 1000, 2000, 4000)
# The most telling first: fokker's curve, then the peers from the shortest (two minutes a run) to the longest (seven).
ORDER = (
    *(f"fokker-{steps}" for steps in FOKKER_STEPS),
    "sbi-fmpe",
    "azula",
    "sbi-npe",
    "sbi-npse",
    "bayesflow-diffusion",
    "bayesflow-fm",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "collect"))
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench", help="environments, data, samples and records")
    parser.add_argument("--methods", nargs="+", choices=ORDER, default=ORDER)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=tuple(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--limit", type=float, help="CPU seconds of training after which a peer is cut short")
    parser.add_argument(
        "--core", type=int, default=max(os.sched_getaffinity(0)), help="the core that everything runs on"
    )
    given = parser.parse_args()
    cache = given.cache.resolve()
    if given.command == "collect":
        print(
            collect(
                cache / "runs",
                ROOT / "benchmarks" / "results" / "densities.json",
                ROOT / "docs" / "densities_peers.png",
                ROOT / "docs" / "densities_peers.md",
            )
        )
        return
    for seed in given.seeds:
        for method in given.methods:
            for task in given.tasks:
                run(cache, method, task, seed, given.limit, given.core)


def run(cache: Path, method: str, task: str, seed: int, limit: float | None, core: int) -> None:
    """One run, unless it is there; one that was cut is made again when it may take longer now."""
    out = cache / "runs" / f"{method}.{task}.seed{seed}.json"
    if out.exists():
        found = json.loads(out.read_text())
        longer = limit is None or (found["limit"] is not None and limit > found["limit"])
        if not (found["training"]["cut"] and longer):
            return
    package = method.partition("-")[0]
    command = [environment(cache, package), PEERS / f"run_{package}.py", "--method", method, "--out", out]
    command += ["--data", data(cache, task, seed), "--seed", seed, "--draws", DRAWS]
    command += ["--curve"] if seed == SEEDS[0] else []
    command += [] if limit is None else ["--limit", limit]
    out.parent.mkdir(parents=True, exist_ok=True)
    variables = os.environ | {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    if package != "fokker":
        variables.pop("PYTHONPATH", None)
    started = time.perf_counter()
    with open(out.with_suffix(".log"), "w") as log:
        status = subprocess.run(
            list(map(str, command)),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=cache,  # some peers leave logs where they run
            env=variables,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        ).returncode
    seconds = time.perf_counter() - started
    if status:
        last = out.with_suffix(".log").read_text().strip().splitlines()[-1:]
        print(f"{out.stem}: failed after {seconds:.0f} s, {out.with_suffix('.log')}: {' '.join(last)}", flush=True)
        return
    record = score(out, Exact(TASKS[task]))
    training = record["training"]
    for name, found in record["sampling"].items():
        print(
            f"{out.stem} {name}: W1 {np.mean(found['w1']):.4f} KS {np.mean(found['ks']):.4f}, CPU s: training "
            f"{training['cpu']:.1f}{' (cut)' if training['cut'] else ''}, sampling {found['cpu']:.2f}; "
            f"{seconds:.0f} s in all",
            flush=True,
        )


def data(cache: Path, task: str, seed: int) -> Path:
    """The file with the pairs and the four y, the same for every method."""
    path = cache / "data" / f"{task}.seed{seed}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        x, y = pairs(TASKS[task], seed)
        part = path.with_suffix(".part.npz")
        np.savez(part, x=x, y=y, at=np.array(TASKS[task].at, dtype=np.float32)[:, None])
        part.rename(path)
    return path


def environment(cache: Path, package: str) -> Path:
    """The Python of a package, its virtual environment made when it is missing or its requirements have changed."""
    if package == "fokker":
        return Path(sys.executable)
    requirements, folder = PEERS / f"requirements-{package}.txt", cache / "venv" / package
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print(f"installing {package} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", requirements], check=True)
        stamp.write_text(requirements.read_text())
    return python


if __name__ == "__main__":
    main()
