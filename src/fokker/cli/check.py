"""`fokker check`: may this posterior be believed?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tyro.conf import Positional

from fokker.cli import options as given


@dataclass(frozen=True)
class Check:
    """Say in words whether a posterior that `fokker fit` has learned can be trusted, in general and for a measurement.

    By default on the rows that were held out of the fit.
    """

    model: Positional[Path]
    """Folder of the model."""
    data: Path | None = None
    """File of other pairs, with the names of the fit; rows that the fit has not seen."""
    y: Path | None = None
    """File of measurements to be judged one by one."""
    simulator: Path | None = None
    """Python file with simulate(x, rng), and prior(rng, n), to simulate again from the answer and near it."""
    near: int = 200
    """Simulations near each measurement (the first 10 of them), beside 499 from its answer; 0 for none."""
    out: Path | None = None
    """Folder of check.html and check.json, the model's unless given."""
    seed: int = 0
    """Of everything random."""
    device: str = "cpu"
    """Where the network runs: cpu, cuda."""
    quiet: bool = False
    """No progress bars."""


def check(options: list[str]) -> None:
    """`fokker check`."""
    asked = given.parse(Check, options, "fokker check", None)
    if asked is None:
        return
    from fokker import checking, file_samples, from_files
    from fokker.check_rows import as_rows
    from fokker.report import check_page
    from fokker.simulation.programs import ModelFile

    posterior, data = from_files.load_fit(asked.model, asked.device)
    rows = from_files.check_rows(asked.model, posterior, data, asked.data)
    simulator = None if asked.simulator is None else ModelFile.read(asked.simulator, ("simulate",))
    y, cond = (None, {}) if asked.y is None else file_samples.measurements(asked.y, posterior, data)
    if y is not None:
        y, cond = as_rows(y, cond, posterior.y_shape)
    with given.bars(asked.quiet) as progress:
        found = checking.check(
            posterior,
            rows,
            names=None if data is None else data.entries["x"],
            names_of_y=None if data is None else data.entries["y"],
            y=y,
            cond=cond,
            simulator=simulator,
            near=asked.near,
            fitted=from_files.fitted(asked.model, data),
            seed=asked.seed,
            progress=progress,
        )
    for text in found.words:
        print(f"- {text}")
    for title, texts in by_measurement([one.words for one in found.measured]):
        print(f"{title}:")
        for text in texts:
            print(f"  - {text}")
    for text in found.steps:
        print(f"next: {text}")
    for text in found.not_possible:
        print(f"not possible: {text}")
    print(f"report: {check_page.write(found, str(asked.model), asked.out or asked.model)}")


def by_measurement(words: Sequence[Sequence[str]]) -> list[tuple[str, list[str]]]:
    """What is said of each measurement under a title: what several have in common once, after what is their own."""
    said: dict[str, list[int]] = {}
    for k, texts in enumerate(words):
        for text in dict.fromkeys(texts):
            said.setdefault(text, []).append(k)
    groups: dict[tuple[int, ...], list[str]] = {}
    for text, which in said.items():
        groups.setdefault(tuple(which), []).append(text)
    ordered = sorted(groups, key=lambda which: (len(which) > 1, which))
    return [(f"measurement{'s' if len(which) > 1 else ''} {_runs(which)}", groups[which]) for which in ordered]


def _runs(numbers: Sequence[int]) -> str:
    """Numbers in their order, those that follow each other by the first and last: 0, 2 to 5."""
    runs = [[k for _, k in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
