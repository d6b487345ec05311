"""Boundary flux seen by a family of sensor layouts: one model for every set of sensors that may be working.

    x      (30,) flux through the walls, as in boundary-flux
    omega  (30,) which sensors are on, each with probability 0.7, whatever the others and the flux
    y      (30,) concentrations at the sensors that are on, with Gaussian noise

Source: Dasgupta et al. 2025 (arXiv 2504.07437), section 6: p(x, y, omega) = p(y given x, omega) p(x) p(omega).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from fokker.errors import InputError
from fokker.likelihoods import Gaussian, Likelihood
from fokker.operators.layouts import RandomLayouts, with_count
from fokker.problems.channel import FluxSimulator
from fokker.problems.flux_cases import Case
from fokker.problems.flux_settings import FluxRun
from fokker.problems.flux_targets import Reference, Targets
from fokker.reference.rectified import rectified_posterior
from fokker.rng import torch_generator

ENCODINGS = ("mask", "minus-one")
BLANK = 0.03  # of the training layouts have no sensor on, so that the prior is learned too
OFF = -1.0  # what a sensor that is off reads in the source paper
COUNTS = (0, 5, 10, 15, 20, 25, 30)
RARE = 0.001  # numbers of sensors rarer than this in the training are marked as extrapolation


@dataclass(frozen=True)
class BoundaryFluxSensors(FluxRun):
    """Everything that a run is asked to do; `config.json` holds it whole."""

    problem: ClassVar[str] = "boundary-flux-sensors"

    probability: float = 0.7
    """With which a sensor is on, in training and in the test cases."""
    encoding: str = "mask"
    """mask: the network is told which sensors are on; minus-one: those that are off read -1, as published."""
    per_count: int = 100
    """Test cases for every number of working sensors from 0 to 30, in steps of 5; they have an exact posterior each."""

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise InputError(f"encoding: got {self.encoding!r}, one of {', '.join(ENCODINGS)} is accepted")
        if self.per_count < 0 or self.per_count == 1:
            raise InputError(f"per_count: got {self.per_count}, 0 or an integer of at least 2 is accepted")
        RandomLayouts(self.probability)
        super().__post_init__()

    @classmethod
    def presets(cls) -> dict[str, Any]:
        """quick and paper."""
        levels = (0.5, 1.0, 2.0, 5.0, 20.0, 50.0, 1000.0)
        return {"quick": cls(), "paper": cls(noise=levels, process=("ve", "vp"), alpha=(0.0, 1.0))}

    @property
    def layouts(self) -> RandomLayouts:
        """Those of the test cases."""
        return RandomLayouts(self.probability)

    @property
    def training_layouts(self) -> RandomLayouts:
        """The same, and a few with no sensor on."""
        return RandomLayouts(self.probability, blank=BLANK)

    @property
    def shown_noise(self) -> float:
        """The noise level at which numbers of working sensors are compared."""
        return 1.0 if 1.0 in self.noise else self.noise[0]

    @property
    def test_rows(self) -> int:
        """The test cases, and those with fixed numbers of sensors."""
        return self.test + self.per_count * len(COUNTS)

    def check_noise(self, noise: float) -> None:
        """Without noise and with fewer sensors than fluxes, a posterior has no density."""
        super().check_noise(noise)
        if noise == 0:
            raise InputError("noise: got 0 with sensors that may be off, standard deviations from 1e-6 on are accepted")

    def simulator(self, mean: float) -> FluxSimulator:
        """The prior, and the channel on this run's mesh."""
        return FluxSimulator(mean, self.mesh, self.order)

    def likelihood(self, noise: float) -> Likelihood:
        """Gaussian."""
        return Gaussian(noise)

    def pairs(self, mean: float) -> int:
        """As published."""
        return 36_000

    def redrawn(self, mean: float) -> bool:
        """Noise and layouts, unless triples are fixed as published."""
        return self.encoding == "mask"

    def encoded(self, y: Tensor) -> Tensor:
        """NaN, or -1, where a sensor is off."""
        return y if self.encoding == "mask" else torch.where(y.isnan(), OFF, y)

    def extra_tests(self, case: Case) -> dict[str, Tensor]:
        """Layouts with a fixed number of sensors on, at one noise level."""
        if case.noise != self.shown_noise or not self.per_count:
            return {}
        size = len(FluxSimulator.channel.sensors)
        draws = {count: torch_generator(self.seed, f"layouts/{count}") for count in COUNTS}
        return {f"sensors={count}": with_count(self.per_count, count, size, draw) for count, draw in draws.items()}

    def describe(self, test: str) -> str:
        """How many sensors work."""
        count = int(test.partition("=")[2])
        rare = ", hardly any in the training" if self.extrapolates(count) else ""
        return f"{count:2d} sensors on{rare}" if count else "no sensor on (the answer is the prior)"

    def extrapolates(self, count: int) -> bool:
        """Whether the training has hardly seen a layout with this number of sensors on; it has seen some with none."""
        return count > 0 and float(binom.pmf(count, len(FluxSimulator.channel.sensors), self.probability)) < RARE

    def exact(
        self, case: Case, y: np.ndarray, omega: np.ndarray | None, n: int, progress: Callable[[int], None]
    ) -> Reference:
        """By Hamiltonian Monte Carlo on the latent flux, each case with its own sensors."""
        simulator = self.simulator(case.mean)
        covariance, matrix = simulator.covariance, simulator.matrix
        found = rectified_posterior(y, case.mean, covariance, matrix, case.noise, omega=omega, n=n, seed=self.seed)
        progress(len(y))
        return Reference(found.samples, found.rhat, found.ess, found.resolved, found.seconds, {})

    def targets(self, case: Case) -> Targets:
        """Near the exact posterior; none for the published encoding, which is there to compare with."""
        return Targets(error=1.03) if self.encoding == "mask" else Targets(points=None)
