"""Boundary flux from sparse sensors: where a chemical enters a channel, seen by 30 sensors downstream.

    x  (30,) flux q through 15 segments of the bottom wall, then of the top: q = max(0, mean + g), g ~ N(0, RBF)
    y  (30,) concentrations at sensors above and below the segment midpoints, with Gaussian noise

Source: Dasgupta et al. 2025 (arXiv 2504.07437), section 6; constants that our copy of it lost are our choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from fokker.coordinates import KINDS
from fokker.errors import InputError
from fokker.pde.advection_diffusion import AdvectionDiffusion, Channel
from fokker.posterior import recipes
from fokker.posterior.recipes import Recipe
from fokker.problems.folder import plain
from fokker.processes import NoiseProcess, VarianceExploding, VariancePreserving
from fokker.random_fields import squared_exponential
from fokker.rng import check_seed
from fokker.samplers import RK45, EulerMaruyama, GaussianTransition, Heun, Transition
from fokker.samplers.base import Sampler

LENGTH = 2.0  # of the prior's correlation, in the units of the channel
NUGGET = 1e-4  # the RBF matrix alone has eigenvalues down to 4e-15
FEW_CLIPPED = 1.0  # prior means from here on leave so few fluxes at zero that 9,000 fixed pairs are enough
SAMPLERS = ("gaussian-transition", "transition", "euler-maruyama", "heun", "rk45")


@dataclass(frozen=True)
class BoundaryFlux:
    """Everything that a run is asked to do; `config.json` holds it whole."""

    prior_mean: tuple[float, ...] = (2.0, 0.3)
    """Means of the flux before it is clipped at zero; one model each."""
    noise: tuple[float, ...] = (1.0,)
    """Standard deviations of the sensors' noise; one model each."""
    process: str = "ve"
    """Diffusion process: ve (variance exploding) or vp (variance preserving, with --n)."""
    n: float = 2.0
    """Member of the variance preserving family."""
    alpha: float = 0.0
    """Weight of the reverse family: 0 is the probability-flow ODE, 1 the reverse SDE."""
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
    """Training pairs; 0 for 9,000 (prior mean from 1 on), or 100,000 with noise redrawn at every step."""
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
        for name in ("prior_mean", "noise"):
            values = getattr(self, name)
            if not values or len({f"{value:g}" for value in values}) < len(values):  # they name files and metrics
                raise InputError(
                    f"{name}: got {values!r}, one or more numbers that differ in their first six digits are accepted"
                )
        for noise in self.noise:
            if not 1e-6 <= noise <= 1e6:  # sensors see values from 0 to about 10 times the mean flux
                raise InputError(f"noise: got {noise!r}, standard deviations from 1e-6 to 1e6 are accepted")
        for mean in self.prior_mean:
            if not -2 <= mean <= 100:
                raise InputError(f"prior_mean: got {mean!r}, numbers from -2 to 100 are accepted")
        for name, least in (("test", 2), ("samples", 2), ("train", 0), ("training_steps", 0), ("steps", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: got {getattr(self, name)}, an integer of at least {least} is accepted")
        if 0 < self.train < 100:
            raise InputError(f"train: got {self.train}, at least 100 pairs (or 0 for the default) are accepted")
        if not 2 <= self.reference <= self.test:
            raise InputError(f"reference: got {self.reference}, 2 to {self.test} (the test cases) are accepted")
        if self.sampler and self.sampler not in SAMPLERS:
            raise InputError(f"sampler: got {self.sampler!r}, one of {', '.join(SAMPLERS)} is accepted")
        if self.alpha != 0 and self.sampler in ("heun", "rk45"):
            raise InputError(f"alpha: got {self.alpha} with {self.sampler}, which solves the ODE: 0 is accepted")
        if self.process not in ("ve", "vp"):
            raise InputError(f"process: got {self.process!r}, 've' or 'vp' is accepted")
        if not 0.3 <= self.n <= 100:  # the noise-to-signal at t = 1 is too small below, infinite above
            raise InputError(f"n: got {self.n!r}, numbers from 0.3 to 100 are accepted")
        recipes.get(self.recipe)
        if self.coordinates and self.coordinates not in KINDS:
            raise InputError(f"coordinates: got {self.coordinates!r}, one of {', '.join(KINDS)} is accepted")
        if min(self.mesh) < 2 or self.order not in (1, 2):
            raise InputError(
                f"mesh: got {self.mesh} elements of order {self.order}, at least 2 x 2 of order 1 or 2 is accepted"
            )
        check_seed(self.seed)
        self.build_sampler()  # has its own checks

    def build_process(self) -> NoiseProcess:
        """VE up to the highest training level, or 5 as published, in coordinates from 0 to 1; VP(n) with the default
        beta.
        """
        if self.process == "vp":
            return VariancePreserving(self.n)
        published = self.recipe == "published" and self.coordinates in ("", "minmax")
        return VarianceExploding(sigma_max=5.0 if published else 20.0)

    def build_sampler(self) -> Sampler:
        """The named sampler (else the recipe's own kind) with its alpha; both transitions are of second order."""
        kinds: dict[str, Any] = {
            "gaussian-transition": lambda: GaussianTransition(self.alpha),
            "transition": lambda: Transition(self.alpha, order=2),
            "euler-maruyama": lambda: EulerMaruyama(self.alpha),
            "heun": Heun,
            "rk45": lambda: RK45(rtol=1e-3, atol=1e-3),
        }
        return kinds[self.sampler or ("euler-maruyama" if self.recipe == "published" else "gaussian-transition")]()

    def simulator(self, mean: float) -> FluxSimulator:
        """The prior of this mean, and the channel on this run's mesh."""
        return FluxSimulator(mean, self.mesh, self.order)

    def cases(self) -> list[Case]:
        """Every combination of prior mean and noise."""
        return [Case(self, mean, noise) for mean in self.prior_mean for noise in self.noise]

    def settings(self) -> dict[str, Any]:
        """All options as JSON."""
        return {"problem": "boundary-flux", **{k: plain(v) for k, v in asdict(self).items()}}


@dataclass(frozen=True)
class Case:
    """One prior mean and one noise level of a run."""

    run: BoundaryFlux
    mean: float
    noise: float

    @property
    def name(self) -> str:
        """CASE in metric keys: mean2."""
        return f"mean{self.mean:g}"

    @property
    def method(self) -> str:
        """METHOD.SAMPLER in metric keys: ve.ode, vp2.sde, vp1.5.alpha=0.5."""
        process = "ve" if self.run.process == "ve" else f"vp{self.run.n:g}"
        return f"{process}.{ {0.0: 'ode', 1.0: 'sde'}.get(self.run.alpha, f'alpha={self.run.alpha:g}') }"

    @property
    def folder(self) -> str:
        """Name of the model's folder."""
        return f"{self.name}-noise{self.noise:g}"

    @property
    def redrawn(self) -> bool:
        """Whether the noise is drawn anew at every training step, from clean simulations."""
        return self.mean < FEW_CLIPPED

    @property
    def pairs(self) -> int:
        """Training pairs."""
        return self.run.train or (100_000 if self.redrawn else 9_000)

    @property
    def recipe(self) -> Recipe:
        """The named recipe with this problem's coordinates and length of training."""
        recipe = recipes.get(self.run.recipe)
        if self.run.coordinates:
            recipe = replace(recipe, coordinates=self.run.coordinates)
        training = recipe.training
        if recipe.name == "default" and not self.redrawn:
            # A few thousand fixed pairs are learned by heart soon: large batches and weight decay put that off.
            training = replace(training, steps=600, batch_size=2048, copies=2, weight_decay=1.0)
        if self.run.training_steps:
            training = replace(training, steps=self.run.training_steps)
        return replace(recipe, training=training)


@dataclass(frozen=True)
class FluxSimulator:
    """The prior of the flux and clean sensor values, for the simulation store. Matrices are made when first used."""

    mean: float
    mesh: tuple[int, int] = (128, 30)
    order: int = 2
    channel: ClassVar[Channel] = Channel()

    @property
    def settings(self) -> Mapping[str, Any]:
        """What identifies the simulations."""
        return {
            "prior_mean": self.mean,
            "length": LENGTH,
            "nugget": NUGGET,
            "mesh": list(self.mesh),
            "order": self.order,
            "channel": asdict(self.channel),
        }

    @cached_property
    def solver(self) -> AdvectionDiffusion:
        """The channel, assembled and factorised once."""
        return AdvectionDiffusion(self.channel, *self.mesh, order=self.order)

    @cached_property
    def matrix(self) -> np.ndarray:
        """B (30, 30): flux to sensors is linear."""
        return self.solver.sensor_matrix(self.channel.sensors)

    @cached_property
    def covariance(self) -> np.ndarray:
        """Prior covariance (30, 30) of the latent flux: the two walls are independent."""
        edges = self.channel.segment_edges
        middle = (edges[:-1] + edges[1:])[:, None] / 2
        wall = squared_exponential(middle, LENGTH) + NUGGET * np.eye(len(middle))
        return np.kron(np.eye(2), wall)

    @cached_property
    def _root(self) -> np.ndarray:
        return np.linalg.cholesky(self.covariance)

    def prior(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """max(0, mean + g) (n, 30)."""
        return np.maximum(0.0, self.mean + rng.standard_normal((n, len(self._root))) @ self._root.T)

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Concentrations at the sensors, without noise."""
        return x @ self.matrix.T
