"""What a run of one of the three densities is asked to do, and which methods that makes."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from fokker.errors import InputError
from fokker.posterior.recipes import Recipe
from fokker.problems import densities
from fokker.problems.densities import Density
from fokker.problems.folder import plain
from fokker.processes import NoiseProcess, VarianceExploding, VariancePreserving
from fokker.rng import check_seed
from fokker.samplers.base import Sampler

RECIPES = ("default", "published")
ALPHA = {"ode": 0.0, "sde": 1.0}
FULL_LENGTH = densities.DENSITY_PUBLISHED.training.steps


@dataclass(frozen=True)
class DensityRun:
    """Everything that a run is asked to do; `config.json` holds it whole. `RUNS` has one kind for each density."""

    density: ClassVar[str]

    pairs: int = 10_000
    """Training pairs."""
    processes: tuple[str, ...] = ("ve", "vp2")
    """Diffusion processes: ve (variance exploding), vpN (variance preserving of exponent N, as vp2 or vp1.5)."""
    samplers: tuple[str, ...] = ("ode", "sde")
    """ode (alpha = 0), sde (alpha = 1)."""
    recipes: tuple[str, ...] = ("default", "published")
    """default: one model, sampled by every process; published: the source paper's set-up, a model each."""
    training_steps: int = 0
    """Length of the default recipe's training in steps; 0 for the problem's own."""
    published_steps: int = 4_000
    """Length of the published recipe's training in steps; its full length is 90,000."""
    draws: int = 10_000
    """Samples for each y."""
    points: int = 1_000
    """Samples that entropic transport (Sinkhorn) compares with as many reference points."""
    seed: int = 0
    """Fixes every number of the run."""

    def __post_init__(self) -> None:
        known = {"processes": "ve and vpN", "samplers": ", ".join(ALPHA), "recipes": ", ".join(RECIPES)}
        for name, accepted in known.items():
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"{name}: got {values!r}, one or more of {accepted}, each once, are accepted")
        for name, allowed in (("samplers", tuple(ALPHA)), ("recipes", RECIPES)):
            for value in getattr(self, name):
                if value not in allowed:
                    raise InputError(f"{name}: got {value!r}, {known[name]} are accepted")
        for process in self.processes:
            self.build_process(process, "default")
        least = {"pairs": 100, "training_steps": 0, "published_steps": 1, "draws": 10, "points": 10}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InputError(f"{name}: got {getattr(self, name)}, an integer of at least {lowest} is accepted")
        if self.points > min(self.draws, 1000):
            raise InputError(f"points: got {self.points}, at most {min(self.draws, 1000)} are accepted")
        check_seed(self.seed)

    @property
    def law(self) -> Density:
        """The density itself."""
        return densities.get(self.density)

    def recipe(self, name: str) -> Recipe:
        """The named recipe with this run's length of training."""
        recipe = densities.DENSITY if name == "default" else densities.DENSITY_PUBLISHED
        steps = self.training_steps or recipe.training.steps if name == "default" else self.published_steps
        return replace(recipe, training=replace(recipe.training, steps=steps))

    def build_process(self, name: str, recipe: str) -> NoiseProcess:
        """ve reaches the highest training level, or 12 as published; InputError for an unknown name."""
        if name == "ve":
            return VarianceExploding(densities.SIGMA_MAX) if recipe == "published" else VarianceExploding()
        found = re.fullmatch(r"vp(\d+(?:\.\d+)?)", name)
        if not found or not 0.3 <= float(found[1]) <= 100:  # the noise at t = 1 is too small below, infinite above
            raise InputError(f"processes: got {name!r}, ve and vpN with N from 0.3 to 100 (vp2, vp1.5) are accepted")
        return VariancePreserving(float(found[1]))

    def models(self) -> list[Model]:
        """One of the default recipe, one for each process of the published."""
        found = [Model(self, "default", self.processes)] if "default" in self.recipes else []
        if "published" in self.recipes:
            found += [Model(self, "published", (process,)) for process in self.processes]
        return found

    def methods(self) -> list[Method]:
        """Every learned way to sample."""
        return [method for model in self.models() for method in model.methods()]

    def settings(self) -> dict[str, Any]:
        """All options as JSON."""
        return {"problem": f"density-{self.density}", **{k: plain(v) for k, v in asdict(self).items()}}


@dataclass(frozen=True)
class TanhRun(DensityRun):
    """A sharp edge."""

    density: ClassVar[str] = "tanh"


@dataclass(frozen=True)
class BimodalRun(DensityRun):
    """Two modes."""

    density: ClassVar[str] = "bimodal"


@dataclass(frozen=True)
class SpiralRun(DensityRun):
    """One to four modes."""

    density: ClassVar[str] = "spiral"


RUNS: dict[str, type[DensityRun]] = {kind.density: kind for kind in (TanhRun, BimodalRun, SpiralRun)}


@dataclass(frozen=True)
class Model:
    """One training, and the processes that it is sampled by."""

    run: DensityRun
    recipe_name: str
    processes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its folder, and in metric keys with dots: default, published-ve."""
        return self.recipe_name if self.recipe_name == "default" else f"{self.recipe_name}-{self.processes[0]}"

    @property
    def recipe(self) -> Recipe:
        """Its recipe, with this run's length of training."""
        return self.run.recipe(self.recipe_name)

    def methods(self) -> list[Method]:
        """Its processes and the run's samplers."""
        return [Method(self, process, sampler) for process in self.processes for sampler in self.run.samplers]


@dataclass(frozen=True)
class Method:
    """A model, a process and a sampler."""

    model: Model
    process_name: str
    sampler_name: str

    @property
    def name(self) -> str:
        """RECIPE.METHOD.SAMPLER in metric keys: default.ve.ode."""
        return f"{self.model.recipe_name}.{self.process_name}.{self.sampler_name}"

    @property
    def process(self) -> NoiseProcess:
        """The process it samples by."""
        return self.model.run.build_process(self.process_name, self.model.recipe_name)

    @property
    def sampler(self) -> Sampler:
        """The recipe's sampler with alpha = 0 or 1."""
        return replace(self.model.recipe.sampler, alpha=ALPHA[self.sampler_name])  # type: ignore[type-var]
