"""What a run of a field problem is asked to do, and which tasks and methods that makes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from fokker.errors import InputError
from fokker.fields.observations import PointObservations
from fokker.problems.field_data import FAMILIES, LARGEST, FieldProblem
from fokker.problems.folder import plain
from fokker.rng import check_seed

NETWORK, NO_NETWORK, EXACT = "network", "no_network", "exact"
METHODS = (NETWORK, NO_NETWORK, EXACT)
LABELS = {NETWORK: "network", NO_NETWORK: "no network", EXACT: "exact samples"}
BLOCK = 10  # cases that are done, and kept, at a time


@dataclass(frozen=True)
class FieldRun:
    """Everything that a run is asked to do; `config.json` holds it whole."""

    family: ClassVar[str]
    noises: ClassVar[tuple[float, ...]] = (0.0, 0.01)

    n: int = 32
    """Cells per axis of the fields, 8 to 128; 3 % of them are observed."""
    cases: int = 20
    """Test cases of each task, the same for all methods."""
    draws: int = 64
    """Samples for each case."""
    steps: int = 16
    """Levels of the sampler."""
    fields: int = 20_000
    """Fields that the network is trained on."""
    training_steps: int = 1_500
    """Length of the training."""
    seed: int = 0
    """Fixes every number of the run but the seconds."""

    def __post_init__(self) -> None:
        if not 8 <= self.n <= LARGEST:
            raise InputError(f"n: got {self.n}, 8 to {LARGEST} cells per axis are accepted")
        least = {"cases": 2, "draws": 9, "steps": 2, "fields": 100, "training_steps": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InputError(f"{name}: got {getattr(self, name)}, an integer of at least {lowest} is accepted")
        check_seed(self.seed)

    @property
    def problem(self) -> str:
        """Its name for `fokker run`."""
        return f"{self.family}-field"

    def settings(self) -> dict[str, Any]:
        """All options as JSON."""
        return {"problem": self.problem, **{k: plain(v) for k, v in asdict(self).items()}}

    def tasks(self) -> list[FieldTask]:
        """Every task of the family at every noise."""
        return [FieldTask(self, task, noise) for task in FAMILIES[self.family] for noise in self.noises]

    @property
    def observations(self) -> PointObservations | None:
        """What the network is trained to be told: nothing for the equations, whose data are of many kinds."""
        if self.family in ("poisson", "helmholtz"):
            return None
        (task,) = self.tasks()
        noise = task.data.noise_std
        return PointObservations(task.data.count, task.data.count, noise, noise)

    @classmethod
    def presets(cls) -> dict[str, FieldRun]:
        """quick and paper."""
        return {"quick": cls(), "paper": cls(n=64, cases=100, fields=10_000, training_steps=3_000)}


class PoissonField(FieldRun):
    """Lap u = g."""

    family = "poisson"


class HelmholtzField(FieldRun):
    """Lap u + u = g."""

    family = "helmholtz"


@dataclass(frozen=True)
class WarpField(FieldRun):
    """exp(g / s), without noise: its multiplicative noise is no Gaussian, which is what the network is told."""

    family: ClassVar[str] = "warp"
    noises: ClassVar[tuple[float, ...]] = (0.0,)

    steps: int = 32
    """Levels of the sampler."""


@dataclass(frozen=True)
class ThresholdField(FieldRun):
    """12 where g > 0, else 3."""

    family: ClassVar[str] = "threshold"
    noises: ClassVar[tuple[float, ...]] = (0.05,)

    steps: int = 32
    """Levels of the sampler."""

    @classmethod
    def presets(cls) -> dict[str, FieldRun]:
        """quick and paper, both on the grid of the target."""
        return {"quick": cls(), "paper": cls(cases=100, training_steps=8_000)}


RUNS: dict[str, type[FieldRun]] = {
    kind.family: kind for kind in (PoissonField, HelmholtzField, WarpField, ThresholdField)
}


@dataclass(frozen=True)
class FieldTask:
    """One task of a run at one noise."""

    run: FieldRun
    task: str
    noise: float

    @property
    def data(self) -> FieldProblem:
        """Its fields, cases and operators."""
        return FieldProblem(self.run.family, self.task, self.run.n, self.noise)

    @property
    def key(self) -> str:
        """TASK.noise=S in names of files and metrics."""
        return f"{self.task}.noise={self.noise:g}"

    @property
    def title(self) -> str:
        """In words."""
        noise = f"{100 * self.noise:g} % noise" if self.noise else "no noise"
        return f"{self.run.family}, {self.task}, {noise}"

    def blocks(self) -> list[range]:
        """Numbers of its cases, some at a time."""
        return [range(low, min(low + BLOCK, self.run.cases)) for low in range(0, self.run.cases, BLOCK)]
