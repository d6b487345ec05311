"""What a run of fields seen at a few points is asked to do, and what it trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from fokker.errors import InputError
from fokker.fields.fitting import FUNCTIONS
from fokker.fields.observations import PointObservations
from fokker.posterior.recipes import Recipe
from fokker.problems.field_data import FAMILIES, LARGEST, SHIFT, FieldProblem
from fokker.problems.folder import plain
from fokker.problems.shipped import is_shipped
from fokker.rng import check_seed

NETWORK, EXACT = "network", "exact"
NO_NETWORK = "no_network"  # the Gaussian with the spectrum that the model has estimated
COVARIANCE = "sample_covariance"  # the Gaussian with the sample covariance of the training fields
METHODS = (NETWORK, NO_NETWORK, COVARIANCE, EXACT)
LABELS = {
    NETWORK: "network", NO_NETWORK: "Gaussian, no network", COVARIANCE: "Gaussian, sample covariance",
    EXACT: "exact samples",
}  # fmt: skip
NOISE_RANGE = (5e-4, 5e-2)  # of the noise that the model of the warp is told, in standard deviations of the fields
DEFAULT_STEPS = {"gaussian": 300, "warp": 3000, "threshold": 3000}  # the equations have nothing to learn
MOST_ENTRIES = 2**26  # of the training fields, and of the cases: 512 MiB
MOST_DRAWN = 2**25  # entries of the samples of a case
DEFAULT_FIELDS = {64: 10_000}  # elsewhere 20,000, or as many as MOST_ENTRIES allows
STEP_SECONDS = {"gaussian": 0.02, "warp": 0.2, "threshold": 0.2}  # of training on 32 x 32, with two cores
SMALLEST = 8


@dataclass(frozen=True)
class FieldRun:
    """Everything that a run is asked to do; `config.json` holds it whole. `RUNS` has one kind for each family."""

    family: ClassVar[str]
    levels: ClassVar[tuple[float, ...]] = (0.0, 0.01)  # of the noise
    largest: ClassVar[int] = 64  # n; what the model is told of the data takes n^4 numbers in training

    n: int = 32
    """Cells of an axis of the grid: 32, 64 and 128 have 31, 123 and 500 observed points, others 3 %."""
    cases: int = 20
    """Fields that are inferred, each from points of its own."""
    draws: int = 64
    """Samples of each posterior."""
    steps: int = 16
    """Levels of the sampler."""
    fields: int = 0
    """Training fields, also those of the Gaussian with a sample covariance; 0: as many as suit the grid, namely 20,000
    on 32 x 32, 10,000 on 64 x 64 and 4,096 on 128 x 128."""
    train: int = 0
    """Train anew, for so many steps; 0: the weights of the package, or a training where none come for this grid."""
    seed: int = 0
    """Fixes every number of the run."""

    def __post_init__(self) -> None:
        if not SMALLEST <= self.n <= self.largest:
            raise InputError(f"n: got {self.n}, a whole number from {SMALLEST} to {self.largest} is accepted")
        least = {"cases": 2, "draws": 9, "steps": 2, "fields": 0, "train": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value < lowest:
                raise InputError(f"{name}: got {value}, an integer of at least {lowest} is accepted")
        check_seed(self.seed)
        count = self.problem(*self.parts()[0]).count
        most = MOST_ENTRIES // self.n**2
        if not 2 * count < self.field_count <= most:
            raise InputError(
                f"fields: got {self.fields} of {self.n} x {self.n} cells with {count} points, more than {2 * count} "
                f"and at most {most} are accepted, or 0 for {self._usual_count}"
            )
        for name, entries in (("cases", MOST_ENTRIES), ("draws", MOST_DRAWN)):
            value, highest = getattr(self, name), entries // self.n**2
            if value > highest:
                raise InputError(f"{name}: got {value} of {self.n} x {self.n} cells, at most {highest} are accepted")

    @property
    def field_count(self) -> int:
        """How many training fields there are."""
        return self.fields or self._usual_count

    @property
    def _usual_count(self) -> int:
        return DEFAULT_FIELDS.get(self.n, min(20_000, MOST_ENTRIES // self.n**2))

    def parts(self) -> list[tuple[str, float]]:
        """Tasks and noise levels."""
        return [(task, noise) for task in FAMILIES[self.family] for noise in self.levels]

    def problem(self, task: str, noise: float) -> FieldProblem:
        """The data of a part."""
        return FieldProblem(self.family, task, self.n, noise)

    @property
    def shipped(self) -> str:
        """Name of the model that the package may have for this grid."""
        return f"{_law(self.family)}-{self.n}"

    @property
    def training_steps(self) -> int:
        """0 where the weights of the package are taken."""
        return self.train or (0 if is_shipped(self.shipped) else DEFAULT_STEPS[_law(self.family)])

    @property
    def training_minutes(self) -> float:
        """What the training takes on two cores, roughly: its steps cost as many seconds as there are cells."""
        return self.training_steps * STEP_SECONDS[_law(self.family)] * (self.n / 32) ** 2 / 60

    @property
    def recipe(self) -> Recipe:
        """How the model is trained."""
        recipe = RECIPES[_law(self.family)]
        return replace(recipe, training=replace(recipe.training, steps=self.training_steps))

    def observations(self, std: float) -> PointObservations | None:
        """Data that the model is trained to be told, for fields of this standard deviation; None: an ordinary prior.

        The law of g is Gaussian, so that a prior is enough for the equations, whatever is seen of it.
        """
        if self.family in SHIFT:
            return None
        problem = self.problem("direct", self.levels[-1])
        low, high = (problem.noise_std,) * 2 if self.family == "threshold" else (std * r for r in NOISE_RANGE)
        return PointObservations(problem.count, problem.count, low, high, none=0.0)

    def settings(self) -> dict[str, Any]:
        """All options as JSON, with the number of fields where it was left open."""
        options = asdict(self) | {"fields": self.field_count}
        return {"problem": f"{self.family}-field", **{k: plain(v) for k, v in options.items()}}

    @classmethod
    def presets(cls) -> dict[str, FieldRun]:
        """quick and paper."""
        finest = {"n": 64} if is_shipped(f"{_law(cls.family)}-64") else {}
        return {"quick": cls(), "paper": cls(cases=100, **finest)}


def _law(family: str) -> str:
    """What a model is of: the equations share their Gaussian field."""
    return "gaussian" if family in SHIFT else family


# on 32 x 32 cells large batches bring nothing for their time: they have many cells and few decisions
_SMALL_BATCHES = replace(FUNCTIONS, training=replace(FUNCTIONS.training, batch_size=16))
RECIPES: dict[str, Recipe] = {
    # there is nothing to learn beyond the spectrum, so the network is small
    "gaussian": replace(_SMALL_BATCHES, network={**FUNCTIONS.network, "width": 12, "modes": 8, "depth": 3}),
    "warp": replace(_SMALL_BATCHES, training=replace(_SMALL_BATCHES.training, relative=0.1)),
    "threshold": _SMALL_BATCHES,
}


class PoissonField(FieldRun):
    """Lap u = g."""

    family = "poisson"
    largest = LARGEST


class HelmholtzField(FieldRun):
    """Lap u + u = g."""

    family = "helmholtz"
    largest = LARGEST


class WarpField(FieldRun):
    """A log-normal field."""

    family = "warp"


class ThresholdField(FieldRun):
    """A field of two values."""

    family = "threshold"
    levels = (0.05,)


RUNS: dict[str, type[FieldRun]] = {
    kind.family: kind for kind in (PoissonField, HelmholtzField, WarpField, ThresholdField)
}
