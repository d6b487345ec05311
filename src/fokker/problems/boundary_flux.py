"""Boundary flux from sparse sensors: where a chemical enters a channel, seen by 30 sensors downstream.

    x  (30,) flux q through 15 segments of the bottom wall, then of the top: q = max(0, mean + g), g ~ N(0, RBF)
    y  (30,) concentrations at sensors above and below the segment midpoints, with noise

Source: Dasgupta et al. 2025 (arXiv 2504.07437), section 6; constants that our copy of it lost are our choices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fokker.errors import InputError
from fokker.likelihoods import Gaussian, Likelihood, LogNormal, Saturating
from fokker.posterior.recipes import Recipe
from fokker.problems.channel import FluxSimulator
from fokker.problems.flux_cases import Case
from fokker.problems.flux_settings import FluxRun
from fokker.problems.flux_targets import Reference, Targets
from fokker.reference.rectified import rectified_posterior

FEW_CLIPPED = 1.0  # prior means from here on leave so few fluxes at zero that 9,000 simulations are enough
SENSORS = ("gaussian", "lognormal", "saturating")
LONGEST = 2.0  # of the logarithm's standard deviation: sensors wrong by a factor of seven


@dataclass(frozen=True)
class BoundaryFlux(FluxRun):
    """Everything that a run is asked to do; `config.json` holds it whole."""

    problem: ClassVar[str] = "boundary-flux"

    prior_mean: tuple[float, ...] = (2.0, 0.3)
    """Means of the flux before it is clipped at zero; one model each."""
    sensors: str = "gaussian"
    """Law of the noise: gaussian; lognormal (readings are off by a factor, --noise is the standard deviation of its
    logarithm); saturating (gaussian, but no reading is above --saturation)."""
    saturation: float = 120.0
    """Highest reading of saturating sensors."""

    def __post_init__(self) -> None:
        names = {f"{value:g}" for value in self.prior_mean}
        if not names or len(names) < len(self.prior_mean):
            raise InputError(
                f"prior_mean: got {self.prior_mean!r}, one or more numbers that differ in their first six digits are "
                "accepted"
            )
        for mean in self.prior_mean:
            if not -2 <= mean <= 100:
                raise InputError(f"prior_mean: got {mean!r}, numbers from -2 to 100 are accepted")
        if self.sensors not in SENSORS:
            raise InputError(f"sensors: got {self.sensors!r}, one of {', '.join(SENSORS)} is accepted")
        if not 0 < self.saturation < np.inf:
            raise InputError(f"saturation: got {self.saturation!r}, a number above 0 is accepted")
        super().__post_init__()

    @classmethod
    def presets(cls) -> dict[str, BoundaryFlux]:
        """quick, paper and published."""
        levels = (0.0, 0.5, 1.0, 2.0, 5.0, 20.0, 50.0, 1000.0)
        every = {"process": ("ve", "vp"), "alpha": (0.0, 1.0)}
        paper = cls(prior_mean=(2.0,), noise=levels, training_steps=1500, **every)  # type: ignore[arg-type]
        published = cls(prior_mean=(2.0,), noise=(0.0, 1.0, 50.0), recipe="published", test=100, reference=100)
        return {"quick": cls(), "paper": paper, "published": published}

    @property
    def means(self) -> tuple[float, ...]:
        """Those asked for."""
        return self.prior_mean

    def check_noise(self, noise: float) -> None:
        """Noise that is not Gaussian has no limit of none at all."""
        super().check_noise(noise)
        if self.sensors == "lognormal" and not 0 < noise <= LONGEST:
            raise InputError(f"noise: got {noise!r} with lognormal sensors, above 0 and up to {LONGEST:g} is accepted")
        if self.sensors == "saturating" and noise == 0:
            raise InputError("noise: got 0 with saturating sensors, standard deviations from 1e-6 on are accepted")

    def simulator(self, mean: float) -> FluxSimulator:
        """The prior of this mean, and the channel on this run's mesh."""
        return FluxSimulator(mean, self.mesh, self.order)

    def likelihood(self, noise: float) -> Likelihood:
        """The law of the noise that was asked for."""
        if self.sensors == "lognormal":
            return LogNormal(noise)
        return Gaussian(noise) if self.sensors == "gaussian" else Saturating(noise, self.saturation)

    def pairs(self, mean: float) -> int:
        """As the source paper; clipped fluxes and sensors that are not Gaussian take many."""
        return 9_000 if self._few(mean) else 100_000

    def redrawn(self, mean: float) -> bool:
        """Always, but for the source paper's recipe where it is on as many pairs as the paper's: those are fixed."""
        return self.recipe != "published" or not self._few(mean)

    def tuned(self, recipe: Recipe, mean: float) -> Recipe:
        """A few thousand simulations are learned by heart soon: large batches and weight decay put that off."""
        if not self._few(mean):
            return recipe
        training = replace(recipe.training, steps=600, batch_size=2048, copies=2, weight_decay=1.0)
        return replace(recipe, training=training)

    def _few(self, mean: float) -> bool:
        return mean >= FEW_CLIPPED and self.sensors == "gaussian"

    def targets(self, case: Case) -> Targets:
        """Near the exact posterior; where many fluxes are clipped, clearly better than a Gaussian too."""
        if self.sensors != "gaussian":
            return Targets(points=None)
        if case.noise == 0:  # the posterior is a point: ratios and coverage are of rounding errors
            return Targets(error_percent=0.05, points=None)
        if case.mean < FEW_CLIPPED:
            return Targets(error=1.05, crps=1.05, gain=5.0)
        return Targets(error=1.02 if case.noise >= 0.5 else None)

    def exact(
        self, case: Case, y: np.ndarray, omega: np.ndarray | None, n: int, progress: Callable[[int], None]
    ) -> Reference:
        """By Hamiltonian Monte Carlo on the latent flux."""
        simulator = self.simulator(case.mean)
        found = rectified_posterior(
            y,
            case.mean,
            simulator.covariance,
            simulator.matrix,
            case.noise if self.sensors == "gaussian" else None,
            likelihood=None if self.sensors == "gaussian" else case.likelihood,
            n=n,
            seed=self.seed,
        )
        progress(len(y))
        return Reference(found.samples, found.rhat, found.ess, found.resolved, found.seconds, {})
