"""Decoupled annealing: at every level x_0 is drawn anew given the data, and noise is put back.

Source: Zhang et al. 2024 (DAPS, arXiv 2407.01521). Its unadjusted Langevin steps of hand-tuned size are here Metropolis
steps (Roberts and Tweedie 1996) whose size adapts itself for each sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.posterior.guided import GuidedPosterior
from fokker.posterior.problem import MEASURED, Problem
from fokker.processes import NoiseProcess
from fokker.rng import uniform_of
from fokker.samplers.base import Carried, Sampler, StepNoise
from fokker.samplers.gaussian_transition import GaussianTransition
from fokker.score import ScoreModel
from fokker.states import Cond, State, column
from fokker.time_grid import Karras

ACCEPTED = 0.574  # the rate at which Metropolis-adjusted Langevin mixes fastest (Roberts and Rosenthal 1998)


class DAPS(GuidedPosterior):
    """At each level: x_0_hat by the probability-flow ODE from x_t; x_0 by `moves` Metropolis-adjusted Langevin moves on

        N(x_0; x_0_hat, c^2 I) p(y given forward(x_0)),      c^2 = rho^2 d^2 / (rho^2 + d^2);

    then x_s = m_s x_0 + sigma_s noise, s the next level. Any likelihood; the operator is differentiated, the denoiser
    is not. Evaluations: ode_steps for each level. Biased where p(x_0 given x_t) is no such Gaussian.

    Raises InputError for numbers of moves and steps below 1.
    """

    def __init__(self, prior: Any, *, forward: Any, likelihood: Any, ode_steps: int = 5, moves: int = 40):
        for name, value in (("ode_steps", ode_steps), ("moves", moves)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: got {value!r}, an integer of at least 1 is accepted")
        self.ode_steps, self.moves = ode_steps, moves
        super().__init__(prior, forward=forward, likelihood=likelihood)

    def model(self) -> ScoreModel:
        """The prior alone."""
        return self.problem.model

    def run_by(self, sampler: Sampler, count: int) -> Sampler:
        """Its own steps; `sampler` makes those of the ODE if it has alpha = 0."""
        return Decoupled(self.problem, self.ode_steps, self.moves)

    def settings(self) -> dict[str, Any]:
        """Those of the base, and the numbers of moves and steps."""
        return {**super().settings(), "ode_steps": self.ode_steps, "moves": self.moves}


@dataclass(frozen=True)
class Decoupled:
    """The step from t to s described in `DAPS`."""

    problem: Problem
    ode_steps: int
    moves: int
    adaptive: ClassVar[bool] = False

    def init(self, model: ScoreModel, x: State) -> Carried:
        """Nothing remembered."""
        return Carried(x)

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """One level; at s = 0 the drawn x_0 itself."""
        process = model.process
        assert isinstance(process, NoiseProcess) and isinstance(model.data_std, float)
        rho2, d2 = float(process.noise_to_signal(t)) ** 2, model.data_std**2
        centre = self._by_ode(model, state, t, noise, cond)
        x_0, accepted = self._moved(centre, rho2 * d2 / (rho2 + d2), noise, cond)
        if s > 0:
            m, sigma = column(process.scale(s), x_0), column(process.sigma(s), x_0)
            x_0 = m * x_0 + sigma * noise(0)  # type: ignore[operator]
        return Carried(x_0), {"accepted": accepted if s == 0 else torch.zeros_like(accepted)}

    def _by_ode(self, model: ScoreModel, state: Carried, t: float, noise: StepNoise, cond: Cond) -> Tensor:
        ode, carried = GaussianTransition(), Carried(state.x)
        assert isinstance(model.process, NoiseProcess)
        low = model.time_range[0]
        times = [t]
        if self.ode_steps > 1 and t > low:
            times = Karras()(model.process, self.ode_steps, low, t).tolist()
        for a, b in zip(times, [*times[1:], 0.0]):
            carried, _ = ode.step(model, carried, a, b, noise, cond)
        assert isinstance(carried.x, Tensor)
        return carried.x

    def _moved(self, centre: Tensor, variance: float, noise: StepNoise, cond: Cond) -> tuple[Tensor, Tensor]:
        """Metropolis-adjusted Langevin from the centre; each row adapts its own step."""
        y = cond[MEASURED]

        def finite(x: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                offset = (x - centre).flatten(1)
                value = self.problem.likelihood.log_prob(y, self.problem.clean(x, cond))
                value = value - 0.5 * (offset / variance**0.5).square().sum(1)
                return value.detach(), torch.autograd.grad(value.sum(), x)[0]

        def value_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
            try:
                return finite(x)
            except FloatingPointError:  # proposals so far away that the operator overflows are refused
                clean = self.problem.forward(self.problem.to_x(x, cond))
                lost = ~clean.isfinite().flatten(1).all(1)
                value, slope = finite(torch.where(lost.reshape(-1, *[1] * (x.ndim - 1)), centre, x))
                return value.masked_fill(lost, -torch.inf), slope

        x = centre
        value, slope = value_and_slope(x)
        size = torch.full_like(value, variance)
        accepted = torch.zeros_like(value)
        for move in range(1, self.moves + 1):
            xi = noise(move)
            assert isinstance(xi, Tensor)
            h = column(size, x)
            proposal = x + 0.5 * h * slope + h.sqrt() * xi
            new, new_slope = value_and_slope(proposal)
            back = (x - proposal - 0.5 * h * new_slope).flatten(1).square().sum(1) / size
            log_ratio = new - value - 0.5 * (back - xi.flatten(1).square().sum(1))
            chance = log_ratio.nan_to_num(nan=-torch.inf).clamp(max=0).exp()
            take = uniform_of(xi).to(chance) < chance
            keep = take.reshape(-1, *[1] * (x.ndim - 1))
            x, slope = torch.where(keep, proposal, x), torch.where(keep, new_slope, slope)
            value = torch.where(take, new, value)
            accepted = accepted + take.to(accepted) / self.moves
            # large changes first, to reach the scale of the data; smaller ones later
            size = (size * torch.exp((chance - ACCEPTED) * 3 / move**0.6)).clamp(max=variance)
        return x, accepted

    def settings(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "decoupled", "ode_steps": self.ode_steps, "moves": self.moves}
