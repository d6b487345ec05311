"""The limit lines of the field problems: the exact posterior of every case, and the Gaussian without a network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from fokker.problems.field_data import HIGH, LOW, FieldProblem
from fokker.reference.gaussian_field import EmpiricalField, FieldPosterior
from fokker.reference.thresholded import ThresholdedPosterior

_DRAWS = 1000  # of the orthant, for the mean of a threshold: its error is then a thirtieth of the posterior's spread


class ExactPosterior:
    """The exact law of the wanted field of one case, given y (m,) at the points (m,).

    case: its number, which keeps its random numbers apart from those of others.
    """

    def __init__(self, problem: FieldProblem, points: Tensor, y: Tensor, case: int = 0) -> None:
        self.problem, self.y, self.case = problem, y, case
        operator = problem.operator(points)
        self._of = problem.solve if problem.task == "forward" else None
        self._threshold: ThresholdedPosterior | None = None
        if problem.family == "threshold":
            self._threshold = ThresholdedPosterior(problem.field, operator, y, problem.noise_std, LOW, HIGH)
            return
        self._latent = FieldPosterior(problem.field, operator, problem.noise_std)
        if problem.family == "warp":
            self.y = problem.spread * y.log()

    def mean(self) -> Tensor:
        """Posterior mean (n, n): closed form, for the threshold the mean of 1,000 conditional probabilities."""
        if self._threshold is not None:
            return self._threshold.mean(_DRAWS, case=self.case)
        mean = self._latent.mean(self.y, of=self._of)
        if self.problem.family == "warp":
            s = self.problem.spread
            return (mean / s + 0.5 * (self._latent.std() / s) ** 2).exp()
        return mean

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n independent samples (n, n, n) of the wanted field."""
        if self._threshold is not None:
            return self._threshold.values(self._threshold.sample(n, seed, case=self.case))
        x = self._latent.sample(self.y, n, seed, of=self._of, case=self.case)
        return self.problem.of_latent(x).wanted if self.problem.family == "warp" else x


class NoNetwork:
    """The Gaussian conditional with the mean and covariance of training fields: what a network has to beat.

    It knows the points and the noise, and of the prior the training fields alone; for the warp and the threshold it
    sees x and a themselves, and the noise of the warp, which is not additive, as N(0, (noise rms(x))^2).
    """

    def __init__(self, problem: FieldProblem, count: int = 10_000, seed: int = 0) -> None:
        self.problem = problem
        g = problem.latent(count, seed)
        fields = g if problem.solve is not None else problem.of_latent(g).wanted
        self._size = float(fields.square().mean().sqrt()) if problem.family == "warp" else 1.0
        self.field = EmpiricalField(fields)

    def on(self, problem: FieldProblem) -> NoNetwork:
        """The same training fields for another task or noise of the same family and grid."""
        other = copy.copy(self)
        other.problem = problem
        return other

    def posterior(self, points: Tensor) -> FieldPosterior:
        """The law of g (equations) or of the wanted field given y at the points (m,)."""
        problem = self.problem
        noise = problem.noise * self._size if problem.family == "warp" else problem.noise_std
        return self.field.posterior(problem.operator(points), noise)

    @property
    def of(self) -> object:
        """What turns that law into the wanted field's: the solve in forward tasks, else nothing."""
        return self.problem.solve if self.problem.task == "forward" else None


def limit_means(problem: FieldProblem, points: Tensor, y: Tensor) -> Tensor:
    """Exact posterior means (M, n, n) of the cases with points (M, m) and data y (M, m)."""
    rows = [ExactPosterior(problem, *row, case=case).mean() for case, row in enumerate(zip(points, y))]
    return torch.stack(rows)
