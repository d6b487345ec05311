"""fokker beside deepinv where the operator is known: accuracy, calibration, time per step, memory.

    python benchmarks/guidance.py run [--cache DIR] [--quick]
    python benchmarks/guidance.py collect [--cache DIR]

Both packages run in one process of an environment made for it (benchmarks/peers/requirements-deepinv.txt), with the
same denoiser object, operators, data and steps, on one thread; their times are taken in turns. A second environment
has the last deepinv that evaluates the denoiser twice in a step of DPS. `run` leaves out what is there, takes about
twenty minutes, and with --quick (in a folder of its own) about two. `collect` writes benchmarks/results/guidance.json
and docs/guidance_peers.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from densities import environment
from peers import guidance_cases
from peers.guidance_report import page

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
OLD = "deepinv-0.3"
SETTINGS = ("colour", "grey", "small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "collect"))
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench", help="environments and records")
    parser.add_argument("--quick", action="store_true", help="few steps and pairs: whether all of it runs")
    given = parser.parse_args()
    cache = given.cache.resolve()
    folder = cache / ("guidance-quick" if given.quick else "guidance")
    if given.command == "run":
        for package, name, arguments in jobs(given.quick):
            run(cache, folder / f"{name}.json", package, arguments)
        return
    result = gathered(folder)
    (ROOT / "benchmarks" / "results" / "guidance.json").write_text(json.dumps(result, indent=1) + "\n")
    text = page(result, guidance_cases)
    (ROOT / "docs" / "guidance_peers.md").write_text(text)
    print(text)


def jobs(quick: bool) -> Iterator[tuple[str, str, list[str]]]:
    """Environment, name and arguments of every run."""
    pairs = ["--pairs", "2" if quick else "11"]
    for setting in SETTINGS[2:] if quick else SETTINGS:
        yield "deepinv", f"time.{setting}", ["time", "--setting", setting, *pairs]
        yield OLD, f"time-twice.{setting}", ["time", "--setting", setting, *pairs, "--methods", "DPS"]
        for package in ("fokker", "deepinv"):
            yield "deepinv", f"memory.{setting}.{package}", ["memory", "--setting", setting, "--package", package]
    yield "deepinv", "accuracy", ["accuracy", *(["--quick"] if quick else [])]


def run(cache: Path, out: Path, package: str, arguments: list[str]) -> None:
    """One run, unless it is there."""
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    variables = os.environ | {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    variables["PYTHONPATH"] = str(ROOT / "src")
    print(f"{out.stem}: {' '.join(arguments)}", flush=True)
    command = [environment(cache, package), PEERS / "run_guidance.py", *arguments, "--out", out]
    subprocess.run(list(map(str, command)), check=True, env=variables)


def gathered(folder: Path) -> dict[str, Any]:
    """What is there, with the machine, the versions and the date."""
    records = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    versions = {name: record["versions"] for name, record in records.items()}
    times = {name: record["found"] for name, record in records.items() if name.startswith("time")}
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores, one thread",
        "versions": {"fokker": version("fokker"), **versions["accuracy"]},
        "versions_twice": next((found for name, found in versions.items() if name.startswith("time-twice")), {}),
        "times": {name.removeprefix("time."): found for name, found in times.items() if "twice" not in name},
        "times_twice": {name.removeprefix("time-twice."): found for name, found in times.items() if "twice" in name},
        "memory": {
            setting: {who: records[f"memory.{setting}.{who}"]["found"] for who in ("fokker", "deepinv")}
            for setting in SETTINGS
            if f"memory.{setting}.deepinv" in records
        },
        "accuracy": records["accuracy"]["found"],
    }


def processor() -> str:
    """Its name, as the system tells."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
