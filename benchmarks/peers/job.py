"""What every method's script is given and what it leaves: pairs in, samples and seconds out. Needs NumPy alone."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Draw = Callable[[], np.ndarray]  # samples (4, draws), one row for each y

FIRST_MARK = 15.0  # CPU seconds of training at the first checkpoint; every next one at twice as many


@dataclass(frozen=True)
class Job:
    """x (N, 1), y (N, 1), at (4, 1) float32. limit: CPU seconds of training after which the method is cut short.

    curve: whether checkpoints of the training are sampled too.
    """

    method: str
    x: np.ndarray
    y: np.ndarray
    at: np.ndarray
    draws: int
    seed: int
    limit: float | None
    curve: bool
    out: Path

    @classmethod
    def from_command_line(cls) -> Job:
        parser = argparse.ArgumentParser()
        parser.add_argument("--method", required=True)
        parser.add_argument("--data", type=Path, required=True)
        parser.add_argument("--seed", type=int, required=True)
        parser.add_argument("--draws", type=int, required=True)
        parser.add_argument("--limit", type=float)
        parser.add_argument("--curve", action="store_true")
        parser.add_argument("--out", type=Path, required=True)
        given = parser.parse_args()
        with np.load(given.data) as data:
            x, y, at = data["x"], data["y"], data["at"]
        return cls(given.method, x, y, at, given.draws, given.seed, given.limit, given.curve, given.out)


class Stopwatch:
    """Wall seconds, and CPU seconds of all threads, since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}


class Watch:
    """Asked once an epoch: whether the training is to be cut; keeps weights at doubling times for a curve."""

    def __init__(self, job: Job):
        self.job, self.clock, self.mark, self.cut = job, Stopwatch(), FIRST_MARK, False
        self.kept: list[tuple[int, dict[str, float], Any]] = []  # epoch, seconds, weights

    def over(self, epoch: int, weights: Callable[[], Any]) -> bool:
        """`weights` gives a copy of what the method would return if it stopped now."""
        seconds = self.clock.seconds()
        if self.job.curve and seconds["cpu"] >= self.mark:
            self.kept.append((epoch, seconds, weights()))
            while self.mark <= seconds["cpu"]:
                self.mark *= 2
        self.cut = self.job.limit is not None and seconds["cpu"] >= self.job.limit
        return self.cut


@dataclass
class Outcome:
    """settings: the method in words, with its stopping rule. training: seconds, epochs, updates, cut."""

    job: Job
    settings: dict[str, Any]
    packages: tuple[str, ...]
    training: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, dict[str, Any]] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, np.ndarray] = field(default_factory=dict)

    def draw(self, sampler: str, draw: Draw, **more: Any) -> None:
        """Time `draw` and keep its samples. more: what else is known, such as network evaluations."""
        clock = Stopwatch()
        drawn = draw()
        self.sampling[sampler] = clock.seconds() | more
        self._keep(sampler, drawn)

    def checkpoint(self, epoch: int, seconds: dict[str, float], sampler: str, draw: Draw) -> None:
        """A point of the curve: the samples of weights that had been trained for `seconds`."""
        clock, key = Stopwatch(), f"epoch{epoch}"
        drawn = draw()
        self._keep(key, drawn)
        self.curve.append(
            {"epoch": epoch, "training": seconds, "sampler": sampler, "sampling": clock.seconds(), "samples": key}
        )

    def write(self) -> None:
        """The samples, then the record: where there is a record, the run is whole."""
        out = self.job.out
        np.savez(out.with_suffix(".samples.npz"), **self.samples)
        record = {
            "method": self.job.method,
            "seed": self.job.seed,
            "pairs": len(self.job.x),
            "draws": self.job.draws,
            "limit": self.job.limit,
            "settings": self.settings,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in self.packages},
            "training": self.training,
            "sampling": self.sampling,
            "curve": self.curve,
        }
        part = out.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.rename(out.with_suffix(".json"))

    def _keep(self, key: str, drawn: np.ndarray) -> None:
        expected = (len(self.job.at), self.job.draws)
        if drawn.shape != expected:
            raise ValueError(f"{key}: samples of shape {drawn.shape}, {expected} were asked for")
        self.samples[key] = drawn.astype(np.float32)
