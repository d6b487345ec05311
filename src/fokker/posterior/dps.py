"""Diffusion posterior sampling: the data act on the denoised value as if it were certain.

Source: Chung et al. 2023 (arXiv 2209.14687); the released code differs from its printed step (see `DPS`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.likelihood_counts import Poisson
from fokker.posterior.evaluation import At
from fokker.posterior.gaussian_data import as_gaussian
from fokker.posterior.guided import GuidedPosterior, GuidedScore
from fokker.posterior.problem import MEASURED, Problem
from fokker.processes import Time
from fokker.samplers.base import Carried, GaussianStep, Sampler, StepNoise
from fokker.samplers.loop import Counted
from fokker.samplers.transition import Transition
from fokker.score import ScoreModel
from fokker.states import Cond, State


class DPS(GuidedPosterior):
    """p(x_0 given x_t) taken as a point at D: log p(y given x_t) = log p(y given forward(D)).

    scale None: the step follows from the noise, D_y = D + (sigma^2 / m) grad log p(y given forward(D)). It is stiff:
    where the noise of y is small, it diverges unless steps are many.
    scale zeta': the released form. After each step without guidance, x_s loses zeta' grad |r|, r = y - forward(D), for
    counts r divided by the square root of twice their variance; the norm is taken for each sample, so that results do
    not depend on the batch. 1000 steps are its default, as published.

    Both are biased even with a perfect score and many steps: for a Gaussian prior the variance may come out anywhere
    from hundredths to several times the right one. The battery of `fokker run guidance-battery` has the numbers.

    Raises InputError for a scale that is not above 0, and in the released form for samplers that evaluate the model
    more than once in a step.
    """

    def __init__(self, prior: Any, *, forward: Any, likelihood: Any, scale: float | None = None):
        if scale is not None and not (isinstance(scale, int | float) and math.isfinite(scale) and scale > 0):
            raise InputError(f"scale: got {scale!r}, None (from the noise) or a finite number above 0 is accepted")
        self.scale = scale
        if scale is not None:
            self.steps = 1000  # type: ignore[misc]
        super().__init__(prior, forward=forward, likelihood=likelihood)

    @property
    def sampler(self) -> Sampler:
        """The default; for the released form DDPM's ancestral step, as published."""
        return super().sampler if self.scale is None else Transition(alpha=1.0)

    def model(self) -> ScoreModel:
        """The guided prior, or the prior alone where the data act after the step."""
        return GuidedScore(self.problem, point_guide) if self.scale is None else self.problem.model

    def run_by(self, sampler: Sampler, count: int) -> Sampler:
        """The sampler, followed by the correction in the released form."""
        if self.scale is None:
            return sampler
        if not isinstance(sampler, GaussianStep):
            raise InputError(f"sampler: got {sampler!r}, with a scale one such as Transition or Ancestral is accepted")
        return AfterStep(sampler, self.problem, self.scale)

    def settings(self) -> dict[str, Any]:
        """Those of the base, and the scale."""
        return {**super().settings(), "scale": self.scale}


def point_guide(at: At) -> tuple[Tensor, Tensor]:
    """grad log p(y given forward(D)) by x_t, and that log density."""
    value = at.problem.likelihood.log_prob(at.y, at.clean())
    return at.pull(value.sum()), value.detach()


@dataclass(frozen=True)
class AfterStep:
    """A step without guidance, then x_s - scale grad |y - forward(D)|."""

    inner: GaussianStep
    problem: Problem
    scale: float
    adaptive: ClassVar[bool] = False

    def init(self, model: ScoreModel, x: State) -> Carried:
        """As the inner sampler."""
        return self.inner.init(model, x)

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """One evaluation, one backward pass."""
        assert isinstance(state.x, Tensor)
        with torch.enable_grad():
            x = state.x.detach().requires_grad_()
            d = model.denoise(x, t, cond)
            assert isinstance(d, Tensor)
            residual = self._residual(self.problem.clean(d, cond), cond[MEASURED])
            norm = torch.linalg.vector_norm(residual, dim=1)  # its gradient at zero is zero: nothing is to be corrected
            gradient = torch.autograd.grad(norm.sum(), x)[0]
        after, info = self.inner.step(Held(model, d.detach()), state, t, s, noise, cond)
        assert isinstance(after.x, Tensor)
        return Carried(torch.sub(after.x, gradient, alpha=self.scale), after.memory), info

    def _residual(self, clean: Tensor, y: Tensor) -> Tensor:
        if not isinstance(self.problem.likelihood, Poisson):
            return (y - clean).flatten(1)
        data, law = as_gaussian(self.problem.likelihood, y)
        assert law.variance is not None
        return ((data - clean) / (2 * law.variance.to(clean)).sqrt()).flatten(1)

    def settings(self) -> dict[str, Any]:
        """Those of the inner sampler, and the scale."""
        return {**self.inner.settings(), "after_step_scale": self.scale}


class Held(Counted):
    """A model whose denoised value at the present state is known already."""

    def __init__(self, model: ScoreModel, x_0_hat: Tensor):
        super().__init__(model)
        self.x_0_hat = x_0_hat

    def denoise(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> Tensor:
        """The known value."""
        return self.x_0_hat
