"""Twisted sequential Monte Carlo: guided proposals with the weights that make them right.

Source: Wu et al. 2023 (TDS, arXiv 2306.17775).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fokker.errors import Diverges, InputError
from fokker.posterior.dps import DPS, Held
from fokker.posterior.gaussian_data import check_gaussian, has_gaussian
from fokker.posterior.guided import Guide, GuidedPosterior, GuidedScore
from fokker.posterior.pigdm import PiGDM
from fokker.posterior.problem import MEASURED, Problem
from fokker.posterior.samples import PosteriorSamples
from fokker.processes import NoiseProcess
from fokker.rng import uniform_of
from fokker.samplers.base import Carried, GaussianStep, Sampler, StepNoise
from fokker.score import ScoreModel
from fokker.states import Cond, State

LEAST_ESS = 0.1  # of the particles; below, a warning


class TwistedSMC(GuidedPosterior):
    """A population of particles follows the guided prior; weights undo what the guidance approximates.

    With ptilde(y given x_t) the approximation of the method `twist` (DPS, PiGDM or MomentMatching; by default PiGDM
    where the noise has a Gaussian approximation, DPS for other laws), p the prior's step and q the guided one, a step
    from t to s multiplies the weights by

        ptilde(y given x_s) p(x_s given x_t) / (ptilde(y given x_t) q(x_s given x_t, y)),

    the first by ptilde(y given x_T), and at the end ptilde is replaced by p(y given forward(x_0)). Particles are
    resampled (systematically) where the effective sample size falls below half of them, and at the end. As their number
    grows, they are samples of the posterior of the discretised chain, whatever the twist; what the steps leave vanishes
    with more steps.

    `sample` runs max(n, particles) of them for each measurement and returns n, equally weighted, some of them alike;
    `log_evidence` is an estimate of log p(y), `checks["ess"]` the effective sample size before the last resampling,
    `checks["least_ess"]` the smallest of all. A UserWarning says where it fell below a tenth of the particles.

    Raises InputError for a twist that does not take the problem, and samplers without noise or without Gaussian steps.
    """

    def __init__(
        self,
        prior: Any,
        *,
        forward: Any,
        likelihood: Any,
        twist: type[GuidedPosterior] | None = None,
        particles: int = 1024,
    ):
        if isinstance(particles, bool) or not isinstance(particles, int) or particles < 1:
            raise InputError(f"particles: got {particles!r}, an integer of at least 1 is accepted")
        if twist is not None and not (isinstance(twist, type) and issubclass(twist, GuidedPosterior)):
            raise InputError(f"twist: got {twist!r}, one of the classes DPS, PiGDM and MomentMatching is accepted")
        if twist is None:
            problem, twist = Problem(prior, forward, likelihood), DPS
            if has_gaussian(likelihood, problem):
                check_gaussian("TwistedSMC", problem)
                twist = PiGDM
        self.guided = twist(prior, forward=forward, likelihood=likelihood)
        found = self.guided.model()
        if not isinstance(found, GuidedScore):
            raise InputError(f"twist: got {twist.__name__}, DPS, PiGDM or MomentMatching is accepted")
        self.guide, self.particles = found.guide, particles
        super().__init__(prior, forward=forward, likelihood=likelihood)

    def model(self) -> ScoreModel:
        """The prior alone; the steps guide it."""
        return self.problem.model

    def count(self, n: int) -> int:
        """Rows for each measurement: the whole population."""
        return max(n, self.particles)

    def run_by(self, sampler: Sampler, count: int) -> Sampler:
        """The sampler's Gaussian steps, for populations of `count`."""
        if not isinstance(sampler, GaussianStep) or getattr(sampler, "alpha", 1.0) == 0:
            raise InputError(
                f"sampler: got {sampler!r}, one with Gaussian steps and noise is accepted, such as "
                "GaussianTransition(alpha=1.0)"
            )
        return Particles(self.problem, self.guide, sampler, count)

    def finished(self, found: PosteriorSamples, n: int, first: int) -> PosteriorSamples:
        """n of the population, evenly over its ancestors, and what it says of itself."""
        axis = 1 if found.batched else 0
        size = found.samples.shape[axis]
        one = {name: value.select(axis, 0) for name, value in found.info.items()}
        _warn(one["least_ess"].reshape(-1), size, first)
        evidence = one.pop("log_evidence")
        samples = found.samples.index_select(axis, torch.arange(n) * size // n)
        return replace(found, samples=samples, info={}, log_evidence=evidence, checks=one)

    def remedy(self) -> str:
        """What to try where samples go astray."""
        return "more steps, more particles, another twist or DAPS may do better"

    def settings(self) -> dict[str, Any]:
        """Those of the base, the twist and the number of particles."""
        return {**super().settings(), "twist": type(self.guided).__name__, "particles": self.particles}


class _Memory(NamedTuple):
    """What a population carries: the inner sampler's memory, weights, and what they still lack."""

    inner: Any
    weight: Tensor  # log, (B,), without the twist at the present state
    evidence: Tensor  # log, (B,), the same for a whole population
    least: Tensor  # the smallest effective sample size so far


@dataclass(frozen=True)
class Particles:
    """The step described in `TwistedSMC`: rows come in populations of `population`, one after another."""

    problem: Problem
    guide: Guide
    inner: GaussianStep
    population: int
    adaptive: ClassVar[bool] = False

    def init(self, model: ScoreModel, x: State) -> Carried:
        """Equal weights."""
        assert isinstance(x, Tensor)
        zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Carried(x, _Memory(self.inner.init(model, x).memory, zero, zero, zero + self.population))

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """Weigh the present states, resample where weights are uneven, propose. One evaluation."""
        x, memory = state.x, state.memory
        process = model.process
        assert isinstance(x, Tensor) and isinstance(process, NoiseProcess)
        d, guided, twist = GuidedScore(self.problem, self.guide, model).both(x, t, cond)
        weight = memory.weight + twist.double()
        if not bool(weight.isfinite().all()):
            self.problem.check_near(d)  # weights of zero are then the sampler's failure
        if s == 0:
            log = self.problem.likelihood.log_prob(cond[MEASURED], self.problem.clean(d, cond))
            return self._end(d, memory.weight + log.double(), memory, noise)
        ess = self._ess(weight)
        least = torch.minimum(memory.least, ess)
        index, weight, evidence = self._resampled(weight, memory.evidence, ess < self.population / 2, noise)
        x, d, guided, twist = x[index], d[index], guided[index], twist[index]
        before = Carried(x, _taken(memory.inner, index))
        free, std = self.inner.kernel(Held(model, d), before, t, s, cond)
        drawn, _ = self.inner.kernel(Held(model, guided), before, t, s, cond)
        xi = noise()
        assert isinstance(free.x, Tensor) and isinstance(drawn.x, Tensor)
        assert isinstance(xi, Tensor) and isinstance(std, Tensor)
        # log p - log q at drawn + std xi: with g = (drawn - free) / std it is -<g, C^-1 (2 xi + g)> / 2
        shift = (drawn.x - free.x) / float(std)
        product = (shift * process.noise.solve(2 * xi + shift, cond.get("points"))).flatten(1).sum(1)
        weight = weight - twist.double() - 0.5 * product.double()
        moved = drawn.x + float(std) * xi
        info = {name: torch.zeros_like(ess) for name in ("ess", "least_ess", "log_evidence")}
        return Carried(moved, _Memory(free.memory, weight, evidence, least)), info

    def _end(self, x_0: Tensor, weight: Tensor, memory: _Memory, noise: StepNoise) -> tuple[Carried, dict[str, Any]]:
        ess = self._ess(weight)
        index, _, evidence = self._resampled(weight, memory.evidence, torch.ones_like(ess, dtype=torch.bool), noise)
        info = {"ess": ess, "least_ess": torch.minimum(memory.least, ess), "log_evidence": evidence}
        return Carried(x_0[index]), info

    def _ess(self, weight: Tensor) -> Tensor:
        """The effective sample size of each row's population (B,); 0 where all weights are zero."""
        log = weight.reshape(-1, self.population)
        log = log - log.amax(1, keepdim=True).clamp(min=torch.finfo(log.dtype).min)
        w = log.exp()
        ess = w.sum(1).square() / w.square().sum(1).clamp(min=1e-300)
        return ess.repeat_interleave(self.population)

    def _resampled(
        self, weight: Tensor, evidence: Tensor, wanted: Tensor, noise: StepNoise
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Systematic resampling of the populations that want it: the rows taken, their weights, the evidence."""
        size = self.population
        rows = torch.arange(len(weight), device=weight.device)
        if not bool(wanted.any()):
            return rows, weight, evidence
        log = weight.reshape(-1, size)
        total = torch.logsumexp(log, 1, keepdim=True)
        if not bool(torch.isfinite(total).all()):
            if bool((total == -math.inf).any()):
                raise Diverges(
                    f"y: its probability is zero for all {size} particles: y contradicts the prior or the likelihood "
                    "(counts: a background above 0 allows for more), or particles and steps are too few"
                )
            raise FloatingPointError("the weights of the particles are not finite")
        edges = (log - total).exp().cumsum(1)
        xi = noise(1)
        assert isinstance(xi, Tensor)
        offset = uniform_of(xi).to(weight).reshape(-1, size)[:, :1]
        places = (torch.arange(size, dtype=weight.dtype, device=weight.device) + offset) / size * edges[:, -1:]
        picked = torch.searchsorted(edges, places).clamp(max=size - 1)
        picked = (picked + rows[::size, None]).flatten()
        gained = evidence + (total - math.log(size)).expand_as(log).flatten()
        return (
            torch.where(wanted, picked, rows),
            torch.where(wanted, torch.zeros_like(weight), weight),
            torch.where(wanted, gained, evidence),
        )

    def settings(self) -> dict[str, Any]:
        """Those of the inner sampler, and the size of a population."""
        return {**self.inner.settings(), "population": self.population}


def _taken(memory: Any, index: Tensor) -> Any:
    """The rows of every tensor in a sampler's memory."""
    if isinstance(memory, Tensor) and memory.ndim:
        return memory[index]
    if isinstance(memory, tuple):
        return tuple(_taken(part, index) for part in memory)
    return memory


def _warn(least: Tensor, size: int, first: int) -> None:
    poor = (least < LEAST_ESS * size).nonzero().flatten().tolist()
    if poor:
        worst = min(poor, key=lambda k: float(least[k]))
        warnings.warn(
            f"the weights leave {float(least[worst]):.0f} of {size} particles in measurement {first + worst} "
            f"({len(poor)} below a tenth): use more particles, more steps or another twist",
            stacklevel=4,
        )
