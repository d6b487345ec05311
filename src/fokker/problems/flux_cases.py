"""The cases of a run of a channel problem, their models, and the methods that sample these.

A run has cases (a prior mean and a noise level), a case has one model or one for each process, a model has methods (a
process and a sampler).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fokker.likelihoods import Likelihood
from fokker.posterior import recipes
from fokker.posterior.recipes import Recipe

if TYPE_CHECKING:
    from fokker.problems.flux_settings import FluxRun


@dataclass(frozen=True)
class Case:
    """One prior mean and one noise level of a run."""

    run: FluxRun
    mean: float
    noise: float

    @property
    def name(self) -> str:
        """CASE in metric keys: mean2."""
        return f"mean{self.mean:g}"

    @property
    def folder(self) -> str:
        """In the names of its files: mean2-noise1."""
        return f"{self.name}-noise{self.noise:g}"

    @property
    def title(self) -> str:
        """Which case it is, for people."""
        return f"prior mean {self.mean:g}, noise {self.noise:g}"

    @property
    def likelihood(self) -> Likelihood:
        """The law of its measurements."""
        return self.run.likelihood(self.noise)

    @property
    def redrawn(self) -> bool:
        """Whether its noise is drawn anew at every training step."""
        return self.run.redrawn(self.mean)

    @property
    def pairs(self) -> int:
        """Training pairs."""
        return self.run.train or self.run.pairs(self.mean)

    @property
    def recipe(self) -> Recipe:
        """The named recipe with this problem's coordinates and length of training."""
        recipe = recipes.get(self.run.recipe)
        if recipe.name == "default":
            recipe = self.run.tuned(recipe, self.mean)
        if self.run.coordinates:
            recipe = replace(recipe, coordinates=self.run.coordinates)
        if self.run.training_steps:
            recipe = replace(recipe, training=replace(recipe.training, steps=self.run.training_steps))
        return recipe

    @property
    def models(self) -> list[Model]:
        """One for all processes, as they share a denoiser; one for each in the published recipe, which knows times."""
        if self.recipe.preconditioning == "edm":
            return [Model(self, self.run.process)]
        return [Model(self, (process,)) for process in self.run.process]

    @property
    def methods(self) -> list[Method]:
        """Every learned way to sample; the first is the one that is looked at most closely."""
        return [method for model in self.models for method in model.methods]


@dataclass(frozen=True)
class Model:
    """One training, and the processes that it is sampled by."""

    case: Case
    processes: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Of the model, under models/."""
        alone = len(self.case.models) == 1
        return self.case.folder if alone else f"{self.case.folder}-{self.processes[0]}"

    @property
    def methods(self) -> list[Method]:
        """Its processes and the run's alphas."""
        return [Method(self, process, alpha) for process in self.processes for alpha in self.case.run.alpha]


@dataclass(frozen=True)
class Method:
    """A model, a process and a weight alpha."""

    model: Model
    process: str
    alpha: float

    @property
    def name(self) -> str:
        """METHOD.SAMPLER in metric keys: ve.ode, vp2.sde, vp1.5.alpha=0.5."""
        process = "ve" if self.process == "ve" else f"vp{self.model.case.run.n:g}"
        return f"{process}.{ {0.0: 'ode', 1.0: 'sde'}.get(self.alpha, f'alpha={self.alpha:g}') }"
