"""Scores of all runs there are, as JSON, as a figure and as a table."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
from peers.figure import draw
from peers.tasks import TASKS, Exact

Record = dict[str, Any]


def score(path: Path, exact: Exact) -> Record:
    """The record of a run with W1 and KS for each y, of every sampler and every checkpoint."""
    record = json.loads(path.read_text())
    with np.load(path.with_suffix(".samples.npz")) as samples:
        for name, found in record["sampling"].items():
            found |= distances(exact, samples[name])
        for point in record["curve"]:
            point |= distances(exact, samples[point["samples"]])
    return record


def distances(exact: Exact, samples: np.ndarray) -> Record:
    """W1 and KS of samples (4, n). Samples that are not finite are left out, and counted."""
    finite = np.isfinite(samples)
    found = [exact.distances(index, row[keep]) for index, (row, keep) in enumerate(zip(samples, finite))]
    return {"w1": [w1 for w1, _ in found], "ks": [ks for _, ks in found], "not_finite": int((~finite).sum())}


HEAD = """# fokker beside sbi, azula and BayesFlow on the three densities

Written by `benchmarks/densities.py collect` from the runs of `benchmarks/densities.py run`.

![W1 against seconds of training and sampling](densities_peers.png)

Every method gets the same 10,000 pairs and draws 10,000 samples at each of four y, in one process pinned to one core,
one thread; seconds are of the CPU, while the other core was busy with other work. Peers run with their defaults to
their own end (the rules are in [densities.json](../benchmarks/results/densities.json)); fokker runs with the recipe of
these densities, `fokker.problems.densities.DENSITY`, for 125, 250, ..., 4,000 steps. That recipe (a small network, its
learning rate and noise levels) was chosen on these three densities, partly on these very pairs, and is not what
`fokker.fit` does by default; the peers' defaults were not tuned. W1 and KS are means over the four y and over the
seeds, each with its own pairs; between sets of pairs they move by a third, so rows with one seed are to be read with
care. In the figure thin lines are trainings of the peers cut short, small dots single seeds.

"To that W1" is the target of this comparison: how many times less training and sampling together the cheapest of
fokker's trainings takes whose W1, over the same seeds, is not above the peer's; the length is chosen afterwards, and
its KS may be above the peer's. "At 2,000 steps" is without any choice: fokker's ODE after 2,000 steps (the recipe's own
length is 2,300), how many times less it takes, and its W1 / KS over the same seeds. Both are for score and flow
matching. Spline flows (sbi-npe) are another method: they draw in one pass and are strong in one dimension.
"""


def collect(runs: Path, result: Path, figure: Path, page: Path) -> str:
    """Write the three files; the table."""
    methods: dict[str, Record] = {}
    tasks: dict[str, Record] = {}
    for name, task in TASKS.items():
        exact, found = Exact(task), {}
        for path in sorted(runs.glob(f"*.{name}.seed*.json")):
            record = score(path, exact)
            found.setdefault(record["method"], []).append(record)
            methods[record["method"]] = record["settings"] | {"versions": record["versions"]}
        rows = [row for records in found.values() for row in means(records)]
        tasks[name] = {
            "at": task.at,
            "target": dict(zip(("w1", "ks"), task.targets)),
            "floor": dict(zip(("w1", "ks"), exact.floor())),
            "methods": rows,
            "fokker_at_2000_steps": {
                f"{row['method']}.{row['sampler']}": at_length(row, found) for row in rows if matching(row)
            },
            "fokker_to_the_same_w1": [faster(row, found) for row in rows if matching(row)],
            "runs": [record for records in found.values() for record in map(plain, records)],
        }
    content = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "used": "one core, one thread"},
        "python": platform.python_version(),
        "seconds": "of the CPU unless called wall; w1 and ks of `methods` are means over four y and the seeds",
        "methods": methods,
        "tasks": tasks,
    }
    result.write_text(json.dumps(content, indent=1) + "\n")
    draw(tasks, figure)
    page.write_text("\n".join([HEAD, table(tasks), foot(content)]))
    return table(tasks)


def foot(content: Record) -> str:
    """The machine, versions and the date."""
    versions = {name: number for method in content["methods"].values() for name, number in method["versions"].items()}
    told = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    return f"{content['machine']['cpu']}, {content['machine']['used']}; {told}; {content['date']}.\n"


def means(records: list[Record]) -> list[Record]:
    """One row for each sampler of a method, over its seeds."""
    rows = []
    for sampler in records[0]["sampling"]:
        of = [record["sampling"][sampler] for record in records]
        training = [record["training"] for record in records]
        w1 = [float(np.mean(found["w1"])) for found in of]
        row = {
            "method": records[0]["method"],
            "sampler": sampler,
            "seeds": [record["seed"] for record in records],
            "w1": float(np.mean(w1)),
            "w1_of_seeds": w1,
            "ks": float(np.mean([found["ks"] for found in of])),
            "training": float(np.mean([found["cpu"] for found in training])),
            "sampling": float(np.mean([found["cpu"] for found in of])),
            "training_wall": float(np.mean([found["wall"] for found in training])),
            "sampling_wall": float(np.mean([found["wall"] for found in of])),
            "evaluations": float(np.mean([found["evaluations"] for found in of])) if "evaluations" in of[0] else None,
            "not_finite": sum(found["not_finite"] for found in of),
            "cut": any(found["cut"] for found in training),
        }
        rows.append(row | {"seconds": row["training"] + row["sampling"]})
    return rows


def plain(record: Record) -> Record:
    """A run as it is kept: without what is the same for all seeds."""
    return {key: record[key] for key in ("method", "seed", "limit", "training", "sampling", "curve")}


def matching(row: Record) -> bool:
    """Whether a row is a score or flow matching peer that ran to its own end."""
    return not row["cut"] and not row["method"].startswith(("fokker", "sbi-npe"))


def faster(peer: Record, found: dict[str, list[Record]]) -> Record:
    """The cheapest of fokker's trainings that reaches the peer's W1 over the same seeds, and how many times less."""
    mine = [
        row
        for method, records in found.items()
        if method.startswith("fokker")
        for row in means([record for record in records if record["seed"] in peer["seeds"]])
    ]
    reached = [row for row in mine if row["w1"] <= peer["w1"]]
    out = {key: peer[key] for key in ("method", "sampler", "w1", "seconds")}
    if not reached:
        return out | {"fokker": None}
    best = min(reached, key=lambda row: row["seconds"])
    chosen = {key: best[key] for key in ("method", "sampler", "w1", "seconds")}
    return out | {"fokker": chosen, "times_less": peer["seconds"] / best["seconds"]}


def at_length(peer: Record, found: dict[str, list[Record]], method: str = "fokker-2000") -> str:
    """How many times less one length of training takes than a peer, and its W1 / KS over the same seeds."""
    rows = means([record for record in found.get(method, []) if record["seed"] in peer["seeds"]])
    row = next(row for row in rows if row["sampler"] == "ode")
    return f"{peer['seconds'] / row['seconds']:.1f} times less, {row['w1']:.4f} / {row['ks']:.4f}"


def table(tasks: dict[str, Record]) -> str:
    """Everything as Markdown."""
    lines = []
    for name, task in tasks.items():
        lines += [
            f"**{name}**: floor W1 {task['floor']['w1']:.4f}, KS {task['floor']['ks']:.4f}; "
            f"target W1 {task['target']['w1']}, KS {task['target']['ks']}",
            "",
            "| method | sampler | seeds | W1 | KS | training, s | draw 40,000, s | evaluations | fokker to that W1 "
            "| fokker at 2,000 steps |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        less = {(row["method"], row["sampler"]): row.get("times_less") for row in task["fokker_to_the_same_w1"]}
        for row in sorted(task["methods"], key=lambda row: row["seconds"]):
            times, evaluations = less.get((row["method"], row["sampler"])), row["evaluations"]
            fixed = task["fokker_at_2000_steps"].get(f"{row['method']}.{row['sampler']}", "")
            lines.append(
                f"| {row['method']}{' (cut)' if row['cut'] else ''} | {row['sampler']} | {len(row['seeds'])} "
                f"| {row['w1']:.4f} | {row['ks']:.4f} | {row['training']:.1f} | {row['sampling']:.2f} "
                f"| {'' if evaluations is None else f'{evaluations:.0f}'} "
                f"| {'' if times is None else f'{times:.1f} times less'} "
                f"| {fixed} |"
            )
        lines.append("")
    return "\n".join(lines)


def cpu() -> str:
    """The processor's name as the system gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
