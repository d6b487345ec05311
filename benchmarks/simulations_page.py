"""docs/simulations.md from what `simulation_store.py` and `reaction_convergence.py` have measured.

python benchmarks/simulations_page.py
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "simulations.md"
SHOWN_WORKERS = ("1", "2", "8", "64", "256", "1000")
NAMES = {"linear": "linear channel", "reaction": "channel with growth"}


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def throughput(store: dict[str, Any]) -> list[str]:
    """What was measured, run by run."""
    rows = [
        [
            NAMES[row["simulator"]],
            str(row["workers"]),
            f"{row['simulations']:,}",
            f"{row['seconds']:.1f}",
            f"{row['per_second']:,.0f}",
            f"{row['largest_process_MB']:.0f}",
            f"{row['store_MB']:.1f}",
            f"{row['store_over_numbers']:.3f}",
            str(row["failed"]),
        ]
        for row in store["rows"]
    ]
    head = ["simulator", "processes", "simulations", "s", "per s", "largest process, MB", "store, MB"]
    return table([*head, "store over its numbers", "failed"], rows)


def projection(store: dict[str, Any]) -> list[str]:
    """Simulations per second by number of workers, and what limits them."""
    rows = []
    for name, found in store["projection"].items():
        each = [found["per_second"][workers] for workers in SHOWN_WORKERS]
        rows.append([NAMES[name], *(f"{e['per_second']:,.0f} ({e['limited_by']})" for e in each)])
    lines = table(["simulator", *(f"{int(workers):,}" for workers in SHOWN_WORKERS)], rows)
    kept = store["projection"]["reaction"]
    told = (
        f"A chunk of the channel with growth takes {kept['seconds_per_chunk']:.2f} s: one scheduler and one writer "
        f"keep {kept['workers_kept_busy']:.0f} workers busy with that; 1,000 are kept busy by chunks of "
        f"{kept['seconds_per_chunk_that_keep_1000_workers_busy']:.1f} s, that is "
        "by larger chunks or a slower simulator."
    )
    return [*lines, said(told)]


def meshes(convergence: dict[str, Any]) -> list[str]:
    """Error and cost of the channel with growth."""
    rows = [
        [
            row["mesh"],
            f"{row['unknowns']:,}",
            f"{row['max_relative_sensor_error']:.1e}",
            f"{row['cpu_milliseconds_per_solve']:.2f}",
            f"{row['max_relative_residual']:.1e}",
        ]
        for row in convergence["rows"]
    ]
    return table(["mesh", "unknowns", "largest sensor error", "ms a solution", "largest residual"], rows)


def page(store: dict[str, Any], convergence: dict[str, Any]) -> str:
    """The whole page."""
    costs, default = store["cost_of_a_task"], convergence["default_mesh"]
    many, newton = default["prior_mean_2"], default["newton"]
    slower = newton["cpu_milliseconds_per_solve"] / many["cpu_milliseconds_per_solve"]
    scheduler, writer = (
        [1e3 * costs[f"{part}_seconds_per_{unit}"] for unit in ("task", "MB")] for part in ("scheduler", "writer")
    )
    parts: list[str] = [
        "# Simulations: throughput, memory, size, and the mesh of the nonlinear channel",
        said(
            "Written by `benchmarks/simulations_page.py`. A store holds the same bytes however many processes filled "
            "it. Two processes are two workers on a dask cluster of this machine, its start included."
        ),
        *throughput(store),
        said(
            "Targets: 40,000 of the channel with growth in at most 360 s on one core; close to twice as fast with two "
            "workers; the linear ones in seconds. The linear channel gains nothing by workers, as its simulations "
            "cost less than being handed over: it runs in one process unless told otherwise."
        ),
        "## Projection to a cluster",
        said(
            "From measured costs: tasks that do nothing, and tasks that hand over one megabyte, through a scheduler, "
            "a worker and a writer, their processor time. A task costs the scheduler "
            f"{scheduler[0]:.1f} ms and the writer {writer[0]:.1f} ms, a megabyte {scheduler[1]:.1f} and "
            f"{writer[1]:.1f} ms. Nothing of this was run on more than two workers. Simulations per second by number "
            "of workers, in brackets what limits them:"
        ),
        *projection(store),
        "## The mesh of the channel with growth",
        said(
            f"Largest relative error of a sensor over 150 fluxes of three kinds, against {convergence['reference']}; "
            "CPU time of one thread, all fluxes of a batch by one factorisation. The default is 64x24 P2 grading 4."
        ),
        *meshes(convergence),
        said(
            f"On the default mesh {many['fluxes']:,} fluxes of prior mean 2 take {many['iterations_mean']:.1f} "
            f"iterations on average, {many['iterations_max']} at most; {many['by_newton']} had to be finished by "
            f"Newton's method, {many['failed']} failed. Newton's method flux by flux takes "
            f"{newton['cpu_milliseconds_per_solve']:.0f} ms, {slower:.0f} times as long."
        ),
        said(
            f"{store['machine']['cpu']}, {store['machine']['cores']} cores; numbers in `benchmarks/results/`, "
            f"{store['date']}."
        ),
    ]
    return "\n".join(_spaced(parts)) + "\n"


def said(text: str) -> str:
    """A paragraph."""
    return textwrap.fill(text, 120)


def _spaced(parts: list[str]) -> list[str]:
    """An empty line between parts, but for the rows of a table."""
    out: list[str] = []
    for part in parts:
        if part and out and out[-1] and not (part.startswith("|") and out[-1].startswith("|")):
            out.append("")
        out.append(part)
    return out


def main() -> None:
    """Write the page."""
    results = HERE / "results"
    read = [json.loads((results / f"{name}.json").read_text()) for name in ("simulation_store", "reaction_convergence")]
    PAGE.write_text(page(*read))


if __name__ == "__main__":
    main()
