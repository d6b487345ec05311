"""What a run of fields seen at a few points is asked to do, and what it trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from fokker.errors import InputError
from fokker.fields.fitting import FUNCTIONS
from fokker.fields.observations import PointObservations
from fokker.posterior.recipes import Recipe
from fokker.problems.field_data import FAMILIES, SHIFT, FieldProblem
from fokker.problems.folder import plain
from fokker.rng import check_seed

NETWORK, EXACT = "network", "exact"
NO_NETWORK = "no_network"  # the Gaussian with the spectrum that the model has estimated
COVARIANCE = "sample_covariance"  # the Gaussian with the sample covariance of the training fields
METHODS = (NETWORK, NO_NETWORK, COVARIANCE, EXACT)
LABELS = {
    NETWORK: "network", NO_NETWORK: "Gaussian, no network", COVARIANCE: "Gaussian, sample covariance",
    EXACT: "exact samples",
}  # fmt: skip
SHIPPED = Path(__file__).parent / "weights"
NOISE_RANGE = (5e-4, 5e-2)  # of the noise that the model of the warp is told, in standard deviations of the fields
DEFAULT_STEPS = {"gaussian": 300, "warp": 3000, "threshold": 3000}  # the equations have nothing to learn
MOST_ENTRIES = 2**26  # of the training fields: 512 MiB


@dataclass(frozen=True)
class FieldRun:
    """Everything that a run is asked to do; `config.json` holds it whole. `RUNS` has one kind for each family."""

    family: ClassVar[str]
    levels: ClassVar[tuple[float, ...]] = (0.0, 0.01)  # of the noise

    n: int = 32
    """Cells of an axis of the grid: 32, 64 and 128 have 31, 123 and 500 observed points, others 3 %."""
    cases: int = 20
    """Fields that are inferred, each from points of its own."""
    draws: int = 64
    """Samples of each posterior."""
    steps: int = 16
    """Levels of the sampler."""
    fields: int = 20_000
    """Training fields, also those of the Gaussian with a sample covariance."""
    train: int = 0
    """Train anew, for so many steps; 0: the weights of the package, or a training where none come for this grid."""
    seed: int = 0
    """Fixes every number of the run."""

    def __post_init__(self) -> None:
        least = {"n": 8, "cases": 2, "draws": 9, "steps": 2, "fields": 20, "train": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value < lowest:
                raise InputError(f"{name}: got {value}, an integer of at least {lowest} is accepted")
        check_seed(self.seed)
        count = self.problem(*self.parts()[0]).count
        most = MOST_ENTRIES // self.n**2
        if not 2 * count < self.fields <= most:
            raise InputError(
                f"fields: got {self.fields} of {self.n} x {self.n} cells with {count} points, more than {2 * count} "
                f"and at most {most} are accepted"
            )

    def parts(self) -> list[tuple[str, float]]:
        """Tasks and noise levels."""
        return [(task, noise) for task in FAMILIES[self.family] for noise in self.levels]

    def problem(self, task: str, noise: float) -> FieldProblem:
        """The data of a part."""
        return FieldProblem(self.family, task, self.n, noise)

    @property
    def shipped(self) -> Path:
        """Where the package keeps weights for this grid."""
        return SHIPPED / f"{_law(self.family)}-{self.n}"

    @property
    def training_steps(self) -> int:
        """0 where the weights of the package are taken."""
        has = (self.shipped / "weights.safetensors").is_file()
        return self.train or (0 if has else DEFAULT_STEPS[_law(self.family)])

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
        """All options as JSON."""
        return {"problem": f"{self.family}-field", **{k: plain(v) for k, v in asdict(self).items()}}

    @classmethod
    def presets(cls) -> dict[str, FieldRun]:
        """quick and paper."""
        finest = {"n": 64, "fields": 10_000} if (SHIPPED / f"{_law(cls.family)}-64").is_dir() else {}
        return {"quick": cls(), "paper": cls(cases=100, **finest)}


def _law(family: str) -> str:
    """What a model is of: the equations share their Gaussian field."""
    return "gaussian" if family in SHIFT else family


RECIPES: dict[str, Recipe] = {
    # there is nothing to learn beyond the spectrum, so the network is small
    "gaussian": replace(FUNCTIONS, network={**FUNCTIONS.network, "width": 12, "modes": 8, "depth": 3}),
    "warp": replace(FUNCTIONS, training=replace(FUNCTIONS.training, relative=0.1)),
    "threshold": FUNCTIONS,
}


class PoissonField(FieldRun):
    """Lap u = g."""

    family = "poisson"


class HelmholtzField(FieldRun):
    """Lap u + u = g."""

    family = "helmholtz"


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
