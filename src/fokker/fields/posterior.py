"""The posterior of a function given linear data: the Gaussian part in closed form, the rest by the network."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.field_points import as_points, checked_points
from fokker.fields.flow import FunctionFlow
from fokker.fields.points import PointScore
from fokker.fields.prior import FunctionPrior
from fokker.fields.score import FunctionScore
from fokker.fields.update import Factor
from fokker.fields.values import BetweenCells, First, values_between
from fokker.grids import Grid
from fokker.likelihoods import Gaussian
from fokker.operators.base import LinearOperator
from fokker.operators.evaluation import PointValues
from fokker.posterior.guided import GuidedPosterior
from fokker.posterior.problem import Problem
from fokker.posterior.samples import PosteriorSamples
from fokker.samplers.base import Sampler


class FunctionPosterior(GuidedPosterior):
    """p(f given y = H f + noise) from a prior of functions and a known linear operator H, on the prior's points.

    With D the prior's denoiser, c^2 = rho^2 d^2 / (rho^2 + d^2) and C the law of the noise (that of the functions, as a
    Gaussian), E[f | f_t, y] is taken as

        D_y = D + c^2 C H^T (c^2 H C H^T + R)^-1 (y - H D),

    the exact update of N(D, c^2 C): no gradient is taken. Exact for Gaussian functions. Where the prior was trained
    with observations, D_y is that of the Gaussian and the network, which sees it with its standard deviation, adds what
    is left: no approximation but its training. The first draw is one of the Gaussian conditional, and the sampler
    follows that exactly (`FunctionFlow`): without a network samples are exact for any number of steps from two on.

    prior: `FunctionPrior.at(...)`. likelihood: Gaussian, of standard deviation 0 too. No observation at all (a forward
    operator of no rows) is the prior.

    Raises InputError for an operator that is not linear and for other likelihoods; PiGDM and MomentMatching take those.
    """

    steps = 32
    without_data = True
    dropped = 0  # entries at the front that only carry the data

    def check(self) -> None:
        """A linear operator, Gaussian noise, and a prior of functions."""
        model, operator, likelihood = self.problem.model, _affine(self.problem), self.problem.likelihood
        if not isinstance(model, FunctionScore):
            raise InputError(f"prior: got {type(model).__name__}, FunctionPrior.at(...) is accepted")
        if operator is None:
            raise InputError(
                "forward: got one that is not known to be linear, a LinearOperator is accepted; PiGDM, MomentMatching "
                "and DPS take any"
            )
        if not isinstance(likelihood, Gaussian):
            raise InputError(
                f"likelihood: got {type(likelihood).__name__}, Gaussian is accepted; PiGDM and MomentMatching take it"
            )
        self._tell(_variance(likelihood, self.problem.y_shape))

    def _tell(self, variance: Tensor) -> None:
        """The model given the data, with noise of this variance."""
        model, operator = self.problem.model, _affine(self.problem)
        assert isinstance(model, FunctionScore) and operator is not None
        rows = operator.matrix().to(model.device).unflatten(1, model.x_shape)
        seen_mean = self.problem.called(model.mean[None].double())[0]
        self._model = model.observing(Factor.of(model.process.noise, rows, variance), seen_mean)

    @classmethod
    def of_values(
        cls, prior: FunctionPrior, seen: Any, *, likelihood: Gaussian, where: Grid | tuple[int, ...] | Any = None
    ) -> FunctionPosterior:
        """p(f given values at the points `seen` (m, dim)), on the grid or at the points `where` (default: of training).

        Points may be anywhere in the domain, several at one place, or none at all ([]), which gives the prior; of one
        dimension they may be a list of numbers (m,). A network on points carries `seen` along and drops it at the end.
        One on grids is told what the values say of those on the cells: f at q given f on the cells X is taken as
        N(mean(q) + K (f - mean)(X), d^2 (C(q, q) - K C(X, q))), K = C(q, X) C(X, X)^-1, as of the Gaussian whose
        spectrum goes on beyond the waves of X as it falls below (`continued_fields`); that variance is noise to them.

        Raises InputError for what is no `FunctionPrior`, and for points outside the domain.
        """
        if not isinstance(prior, FunctionPrior):
            raise InputError(
                f"prior: got {type(prior).__name__}, a FunctionPrior (fit_functions) is accepted; `prior.at(grid)` of "
                "one is for FunctionPosterior(prior.at(grid), forward=...)"
            )
        points = checked_points(as_points(seen, prior.grid.dimension), prior.grid.dimension, (0.0, 1.0))
        if not prior.on_points:
            return cls._on_cells(prior, prior.at(where), points, likelihood)
        there = prior.at(where)
        assert isinstance(there, PointScore)
        model = prior.at(torch.cat([points, there.points]))
        found = cls(model, forward=First(len(points), model.x_shape), likelihood=likelihood)
        found.dropped = len(points)
        return found

    @classmethod
    def _on_cells(
        cls, prior: FunctionPrior, model: FunctionScore, points: Tensor, likelihood: Gaussian
    ) -> FunctionPosterior:
        """For a network on grids: what the cells leave open at the points is noise of the values."""
        plain = PointValues(model.x_shape, points)
        if not isinstance(likelihood, Gaussian) or not len(points):
            return cls(model, forward=plain, likelihood=likelihood)
        forward, unseen = values_between(prior, model, points)
        if not bool(unseen.any()):
            return cls(model, forward=plain, likelihood=likelihood)
        variance = _variance(likelihood, (len(points),))
        noise = variance if variance.ndim == 2 else torch.diag(variance.expand(len(points)))
        if bool((noise.diagonal() > 0).all()) and int(torch.linalg.cholesky_ex(noise + unseen)[1]) == 0:
            return cls(model, forward=forward, likelihood=Gaussian(covariance=noise + unseen))
        found = cls(model, forward=forward, likelihood=Gaussian(0.0))
        found._tell(noise + unseen)  # which may be singular, as a law with a density may not
        return found

    def finished(self, found: PosteriorSamples, n: int, first: int) -> PosteriorSamples:
        """The samples where they were asked for."""
        return replace(found, samples=found.samples[..., self.dropped :]) if self.dropped else found

    @property
    def sampler(self) -> Sampler:
        """The ODE, exact for the Gaussian given y: the first draw knows y."""
        return FunctionFlow(self._model)

    def remedy(self) -> str:
        """What to try where samples go astray: the update itself is exact for Gaussian functions."""
        return "more steps, or a prior trained for longer, may do better"

    def model(self) -> FunctionScore:
        """The prior, told the data."""
        return self._model


def _affine(problem: Problem) -> LinearOperator | None:
    """The linear part of the operator, where it is known to have one and a constant beside it at most."""
    return problem.forward.linear if isinstance(problem.forward, BetweenCells) else problem.linear


def _variance(likelihood: Gaussian, shape: tuple[int, ...]) -> Tensor:
    """The variance of the noise: (), one for each entry of y (m,), or its covariance (m, m)."""
    if likelihood.covariance is not None:
        if len(likelihood.covariance) != math.prod(shape):
            found = tuple(likelihood.covariance.shape)
            raise InputError(f"likelihood: got a covariance {found}, one for {math.prod(shape)} entries is accepted")
        return likelihood.covariance
    variance: Any = torch.as_tensor(likelihood.variance, dtype=torch.float64)
    if variance.ndim > len(shape) or any(k not in (1, n) for k, n in zip(reversed(variance.shape), reversed(shape))):
        raise InputError(f"likelihood: got noise of shape {tuple(variance.shape)}, {shape} or a number is accepted")
    return variance if variance.ndim == 0 else variance.expand(shape).flatten()
