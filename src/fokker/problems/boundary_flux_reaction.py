"""Boundary flux with growth in the channel: the chemical multiplies on its way, and sensors respond nonlinearly.

    x  (30,) flux through the walls, as in boundary-flux
    y  (30,) concentrations at the sensors, a . grad c - kappa Lap c = r c (1 - c / 2), with Gaussian noise

Source: Dasgupta et al. 2025 (arXiv 2504.07437), section 6; constants that our copy of it lost are our choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from fokker.errors import InputError
from fokker.likelihoods import Gaussian, Likelihood
from fokker.pde.channel import Channel
from fokker.pde.reaction import LogisticReaction
from fokker.problems.channel import FluxSimulator
from fokker.problems.flux_cases import Case
from fokker.problems.flux_settings import FluxRun
from fokker.problems.flux_targets import Reference, Targets
from fokker.reference.latent import latent_posterior

RATE = 5.0  # of growth
CAPACITY = 2.0
LAPLACE = "laplace"
MORE = 4  # times as many reference samples: few cases, whose means are compared one by one
SCALE = 1 / 200  # of noise, against boundary-flux: sensors vary by 0.157 here (standard deviation), by 31.0 there
LEVELS = tuple(round(SCALE * noise, 6) for noise in (0.5, 1.0, 2.0, 5.0, 20.0, 50.0, 1000.0))


@dataclass(frozen=True)
class ReactionSimulator(FluxSimulator):
    """The same prior, and sensors in a channel with growth; a flux whose equation cannot be solved has NaN."""

    channel: ClassVar[Channel] = Channel(velocity=12.0, diffusivity=4.0)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What identifies the simulations."""
        return {**super().settings, "rate": RATE, "capacity": CAPACITY}

    @cached_property
    def reaction(self) -> LogisticReaction:
        """The channel, assembled and factorised once, at the prior's mean."""
        return LogisticReaction(self.channel, RATE, CAPACITY, self.mean, *self.mesh, order=self.order)

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Concentrations at the sensors, without noise."""
        return self.reaction.observe(x).values

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """Derivative (n, 30, 30) of the sensors by the fluxes x (n, 30), exact for the discrete equations."""
        return self.reaction.jacobian(self.reaction.solve(x))

    def field(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and the concentration of one flux (30,), on a grid for a picture."""
        return self.reaction.field(x)


@dataclass(frozen=True)
class BoundaryFluxReaction(FluxRun):
    """Everything that a run is asked to do; `config.json` holds it whole."""

    problem: ClassVar[str] = "boundary-flux-reaction"
    expensive: ClassVar[bool] = True
    chunk: ClassVar[int] = 500
    competitors: ClassVar[tuple[str, ...]] = (LAPLACE,)

    noise: tuple[float, ...] = (SCALE,)
    """Standard deviations of the sensors' noise; one model each."""
    mesh: tuple[int, int] = (64, 24)
    """Finite elements along and across the channel."""
    test: int = 4000
    """Test cases."""
    reference: int = 20
    """Test cases that get an exact posterior by Markov chains."""

    @classmethod
    def presets(cls) -> dict[str, Any]:
        """quick and paper."""
        return {"quick": cls(), "paper": cls(noise=LEVELS, alpha=(0.0, 1.0))}

    def check_noise(self, noise: float) -> None:
        """Without noise the posterior is a point, which is not what is asked here."""
        super().check_noise(noise)
        if noise == 0:
            raise InputError("noise: got 0 with a nonlinear model, standard deviations from 1e-6 on are accepted")

    def simulator(self, mean: float) -> FluxSimulator:
        """The prior, and the channel with growth on this run's mesh."""
        return ReactionSimulator(mean, self.mesh, self.order)

    def likelihood(self, noise: float) -> Likelihood:
        """Gaussian."""
        return Gaussian(noise)

    def pairs(self, mean: float) -> int:
        """As published."""
        return 36_000

    def exact(
        self, case: Case, y: np.ndarray, omega: np.ndarray | None, n: int, progress: Callable[[int], None]
    ) -> Reference:
        """By Hamiltonian Monte Carlo on the latent flux, and the Laplace approximation it starts from."""
        simulator = self.simulator(case.mean)
        assert isinstance(simulator, ReactionSimulator)
        rng = np.random.default_rng(0)  # the simulator draws nothing
        found = latent_posterior(
            y,
            case.mean,
            simulator.covariance,
            lambda x: simulator.simulate(x, rng),
            simulator.jacobian,
            case.noise,
            n=MORE * n,
            seed=self.seed,
        )
        progress(len(y))
        others = {LAPLACE: found.laplace.sample(n, self.seed)}
        return Reference(found.samples, found.rhat, found.ess, found.resolved, found.seconds, others)

    def targets(self, case: Case) -> Targets:
        """Means and spreads of the exact posterior, calibrated, better than a Gaussian and than Laplace's."""
        return Targets(points=None, gain=5.0, distance=0.10, spread=0.05, calibration=0.05)
