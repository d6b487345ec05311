"""What a run of one of the channel problems is asked to do.

A problem is a kind of `FluxRun`: it names its simulator, its noise and its exact posterior. What a run consists of is
said in `flux_cases`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from fokker.coordinates import KINDS
from fokker.errors import InputError
from fokker.likelihoods import Likelihood
from fokker.operators.layouts import RandomLayouts
from fokker.posterior import recipes
from fokker.posterior.recipes import Recipe
from fokker.problems.channel import FluxSimulator
from fokker.problems.flux_cases import Case
from fokker.problems.flux_targets import Reference, Targets
from fokker.problems.folder import plain
from fokker.processes import NoiseProcess, VarianceExploding, VariancePreserving
from fokker.rng import check_seed
from fokker.samplers import RK45, EulerMaruyama, GaussianTransition, Heun, Transition
from fokker.samplers.base import Sampler

SAMPLERS: dict[str, Callable[[float], Sampler]] = {
    "gaussian-transition": GaussianTransition,
    "transition": lambda alpha: Transition(alpha, order=2),
    "euler-maruyama": EulerMaruyama,
    "heun": lambda alpha: Heun(),
    "rk45": lambda alpha: RK45(rtol=1e-3, atol=1e-3),
}
PROCESSES = ("ve", "vp")


@dataclass(frozen=True)
class FluxRun:
    """Everything that a run is asked to do; `config.json` holds it whole."""

    problem: ClassVar[str]
    expensive: ClassVar[bool] = False  # whether simulations take so long that all cores should make them
    chunk: ClassVar[int] = 1000  # simulations in one file of the store
    competitors: ClassVar[tuple[str, ...]] = ()  # approximations that `exact` gives besides

    noise: tuple[float, ...] = (1.0,)
    """Standard deviations of the sensors' noise; one model each."""
    process: tuple[str, ...] = ("ve",)
    """Diffusion processes: ve (variance exploding), vp (variance preserving, with --n)."""
    n: float = 2.0
    """Member of the variance preserving family."""
    alpha: tuple[float, ...] = (0.0,)
    """Weights of the reverse family: 0 is the probability-flow ODE, 1 the reverse SDE."""
    sampler: str = ""
    """gaussian-transition, transition, euler-maruyama, heun or rk45; the recipe's own unless given."""
    steps: int = 0
    """Levels of the sampler's grid; 0 for the recipe's own."""
    coordinates: str = ""
    """posterior, standard, minmax or none; the recipe's own unless given."""
    recipe: str = "default"
    """default, or published: the source paper's set-up."""
    mesh: tuple[int, int] = (128, 30)
    """Finite elements along and across the channel."""
    order: int = 2
    """Order of the finite elements, 1 or 2."""
    train: int = 0
    """Training pairs; 0 for the problem's own number."""
    training_steps: int = 0
    """Length of the training in steps; 0 for the problem's own."""
    test: int = 1000
    """Test cases."""
    samples: int = 1000
    """Posterior samples for each test case."""
    reference: int = 200
    """Test cases that get an exact posterior by Markov chains."""
    seed: int = 0
    """Fixes every number of the run."""

    def __post_init__(self) -> None:
        for name in ("noise", "process", "alpha"):
            values = getattr(self, name)
            if not isinstance(values, tuple):  # one alone is meant as a tuple of it
                values = (values,)
                object.__setattr__(self, name, values)
            named = {value if isinstance(value, str) else f"{value:g}" for value in values}
            if not values or len(named) < len(values):  # they name files and metrics
                what = "names, each once," if name == "process" else "numbers that differ in their first six digits"
                raise InputError(f"{name}: got {values!r}, one or more {what} are accepted")
        for process in self.process:
            if process not in PROCESSES:
                raise InputError(f"process: got {process!r}, 've' or 'vp' is accepted")
        for noise in self.noise:
            self.check_noise(noise)
        for name, least in (("test", 2), ("samples", 2), ("train", 0), ("training_steps", 0), ("steps", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: got {getattr(self, name)}, an integer of at least {least} is accepted")
        if 0 < self.train < 100:
            raise InputError(f"train: got {self.train}, at least 100 pairs (or 0 for the default) are accepted")
        if not 2 <= self.reference <= self.test:
            text = f"2 to {self.test} are accepted, as it is the first of the {self.test} test cases that get one"
            raise InputError(f"reference: got {self.reference}, {text}")
        if self.sampler and self.sampler not in SAMPLERS:
            raise InputError(f"sampler: got {self.sampler!r}, one of {', '.join(SAMPLERS)} is accepted")
        if not 0.3 <= self.n <= 100:  # the noise-to-signal at t = 1 is too small below, infinite above
            raise InputError(f"n: got {self.n!r}, numbers from 0.3 to 100 are accepted")
        recipes.get(self.recipe)
        if self.coordinates and self.coordinates not in KINDS:
            raise InputError(f"coordinates: got {self.coordinates!r}, one of {', '.join(KINDS)} is accepted")
        if self.order not in (1, 2):
            raise InputError(f"order: got {self.order}, 1 or 2 is accepted")
        if min(self.mesh) < 2:
            raise InputError(f"mesh: got {self.mesh}, at least 2 elements along and across are accepted")
        check_seed(self.seed)
        for alpha in self.alpha:
            if alpha != 0 and self.sampler in ("heun", "rk45"):
                raise InputError(f"alpha: got {alpha} with {self.sampler}, which solves the ODE: 0 is accepted")
            self.build_sampler(alpha)  # has its own checks

    # What a problem says about itself

    @classmethod
    def presets(cls) -> dict[str, Any]:
        """What can be run by name, the default first."""
        return {"quick": cls()}

    @property
    def means(self) -> tuple[float, ...]:
        """Prior means of the flux; one model each."""
        return (2.0,)

    def check_noise(self, noise: float) -> None:
        """InputError for a noise level that the problem does not have."""
        if not (noise == 0 or 1e-6 <= noise <= 1e6):  # sensors see values from 0 to about 10 times the mean flux
            raise InputError(f"noise: got {noise!r}, 0 or standard deviations from 1e-6 to 1e6 are accepted")

    def simulator(self, mean: float) -> FluxSimulator:
        """The prior of this mean, and the channel on this run's mesh."""
        raise NotImplementedError

    def likelihood(self, noise: float) -> Likelihood:
        """The law of the measurements given clean sensor values."""
        raise NotImplementedError

    def pairs(self, mean: float) -> int:
        """Training pairs."""
        raise NotImplementedError

    def redrawn(self, mean: float) -> bool:
        """Whether the noise is drawn anew at every training step, from clean simulations."""
        return True

    @property
    def layouts(self) -> RandomLayouts | None:
        """The distribution over measurement operators, where there is one."""
        return None

    @property
    def training_layouts(self) -> RandomLayouts | None:
        """The one that is trained for."""
        return self.layouts

    @property
    def test_rows(self) -> int:
        """Simulations that all test cases together take."""
        return self.test

    def extra_tests(self, case: Case) -> dict[str, Tensor]:
        """Layouts (M, 30) of further test cases, by the name that their metrics have."""
        return {}

    def describe(self, test: str) -> str:
        """A set of further test cases, for people."""
        return test

    def encoded(self, y: Tensor) -> Tensor:
        """Measurements with NaN where a sensor is off, as the model is to see them."""
        return y

    def tuned(self, recipe: Recipe, mean: float) -> Recipe:
        """The default recipe as this problem uses it."""
        return recipe

    def exact(
        self, case: Case, y: np.ndarray, omega: np.ndarray | None, n: int, progress: Callable[[int], None]
    ) -> Reference:
        """n samples of the exact posterior for each of y (M, 30), and of the competitors; `progress(cases done)`."""
        raise NotImplementedError

    def targets(self, case: Case) -> Targets:
        """What the learned posterior of a case must reach."""
        return Targets()

    # What follows from it

    def build_process(self, name: str) -> NoiseProcess:
        """VE up to the highest training level, or 5 as published, in coordinates from 0 to 1; VP(n) with the default
        beta.
        """
        if name == "vp":
            return VariancePreserving(self.n)
        published = self.recipe == "published" and self.coordinates in ("", "minmax")
        return VarianceExploding(sigma_max=5.0 if published else 20.0)

    def build_sampler(self, alpha: float) -> Sampler:
        """The named sampler (else the recipe's own kind) with this alpha; both transitions are of second order."""
        own = "euler-maruyama" if self.recipe == "published" else "gaussian-transition"
        return SAMPLERS[self.sampler or own](alpha)

    def cases(self) -> list[Case]:
        """Every combination of prior mean and noise."""
        return [Case(self, mean, noise) for mean in self.means for noise in self.noise]

    def settings(self) -> dict[str, Any]:
        """All options as JSON."""
        return {"problem": self.problem, **{k: plain(v) for k, v in asdict(self).items()}}
