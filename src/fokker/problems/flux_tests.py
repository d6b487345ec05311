"""The test cases of a channel problem: true fluxes, their measurements, and which sensors were on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fokker.problems.flux_cases import Case
from fokker.problems.flux_settings import FluxRun
from fokker.rng import torch_generator
from fokker.simulation.store import SimulationStore


@dataclass(frozen=True)
class TestSet:
    """Test cases x (M, 30), y (M, 30) with NaN where a sensor is off; the first `reference` have an exact posterior.

    name: "" for the run's own test cases, or what is special about them, which is a part of metric keys.
    """

    name: str
    x: np.ndarray
    y: Tensor
    reference: int

    def title(self, case: Case) -> str:
        """Which test cases these are, in progress bars."""
        return f"{case.folder} {self.name}".strip()

    @property
    def omega(self) -> np.ndarray | None:
        """(M, 30), True where a sensor is on; None where all are."""
        seen = ~self.y.isnan().numpy()
        return None if seen.all() else seen


def measurements(case: Case, clean: np.ndarray, name: str) -> Tensor:
    """Clean sensor values (N, 30) with the noise that the seed, the case and the name ("train", "test") fix."""
    generator = torch_generator(case.run.seed, f"boundary-flux/{case.folder}/{name}")
    return case.likelihood.sample(torch.as_tensor(clean), generator)


def layouts(run: FluxRun, count: int, size: int, name: str) -> Tensor | None:
    """Layouts (count, size) that the seed and the name fix; None where a problem has one operator only."""
    if run.layouts is None:
        return None
    return run.layouts.sample(count, (size,), torch_generator(run.seed, f"layouts/{name}"))


def test_sets(case: Case, store: SimulationStore) -> list[TestSet]:
    """The run's own test cases; the sets that a problem adds to them come after."""
    run = case.run
    x, clean = store.load()
    y = measurements(case, clean, "test")
    own = slice(0, min(run.test, len(x)))  # fewer where simulations have failed
    seen = layouts(run, own.stop, y.shape[1], "test")
    shown = y[own] if seen is None else torch.where(seen, y[own], torch.nan)
    sets, start = [TestSet("", x[own], shown, min(run.reference, own.stop))], own.stop
    for name, more in run.extra_tests(case).items():
        part = slice(start, start + len(more))
        sets.append(TestSet(name, x[part], torch.where(more, y[part], torch.nan), len(more)))
        start += len(more)
    return sets
