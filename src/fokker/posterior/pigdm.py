"""Pseudo-inverse guidance: p(x_0 given x_t) as an isotropic Gaussian around the denoised value.

Source: Song et al. 2023 (PiGDM, ICLR), here for any Gaussian noise and any differentiable operator.
"""

from __future__ import annotations

import math

from torch import Tensor

from fokker.operators.base import SpectralOperator
from fokker.posterior.evaluation import At
from fokker.posterior.gaussian_data import check_gaussian
from fokker.posterior.guided import GuidedPosterior, GuidedScore
from fokker.posterior.normal_equations import DENSE, columns, conjugate_gradients, solve_dense
from fokker.processes import NoiseProcess
from fokker.score import ScoreModel

CLOSE = 1e-8  # of the residual; products need no network here, so that they cost little
LARGEST = 2**24  # entries of a matrix that may be made for its diagonal


class PiGDM(GuidedPosterior):
    """p(x_0 given x_t) = N(D, c^2 I), c^2 = rho^2 d^2 / (rho^2 + d^2), d the standard deviation of the data.

    With the operator linearised at D (H its derivative there) and noise covariance R,

        grad log p(y given x_t) = J^T H^T (c^2 H H^T + R)^-1 (y - forward(D)),      J = dD/dx_t.

    Exact for data N(mean, d^2 I) with a linear operator; biased for all others, which the battery of `fokker run
    guidance-battery` measures. One evaluation and one backward pass per step. An operator with a known singular value
    decomposition and noise of one standard deviation is solved in its spectrum, other linear ones by conjugate
    gradients, nonlinear ones by a Cholesky factor up to 64 entries of y and by conjugate gradients beyond.

    Counts are taken by their Gaussian approximation. Raises InputError for noise that has no covariance or no density.
    """

    def check(self) -> None:
        """Noise with a covariance."""
        check_gaussian("PiGDM", self.problem)
        operator, process = self.problem.linear, self.problem.model.process
        white = isinstance(process, NoiseProcess) and process.noise.white
        known = operator is not None and white and math.prod(operator.shape) <= LARGEST
        self.gram = operator.matrix().square().sum(1) if known and operator is not None else None  # diagonal of A A^T

    def model(self) -> ScoreModel:
        """The guided prior."""
        return GuidedScore(self.problem, self.guide)

    def guide(self, at: At) -> tuple[Tensor, Tensor]:
        """The gradient, and log p(y given x_t) up to a constant."""
        rho2, d2 = float(at.rho) ** 2, at.data_std**2
        spread = rho2 * d2 / (rho2 + d2)
        clean = at.clean()
        data, operator = at.linear_data(clean), self.problem.linear
        r, variance = data.residual, data.law.variance
        if isinstance(operator, SpectralOperator) and variance is not None and variance.ndim == 0 and at.white:
            u = operator.solve_normal(r.reshape(clean.shape), spread, float(variance)).flatten(1)
            value = -0.5 * (r * u).sum(1)
        else:
            adjoint, apply = at.linearised()

            def gram(v: Tensor) -> Tensor:
                return spread * apply(at.coloured(adjoint(v)))

            def matvec(v: Tensor) -> Tensor:
                return gram(v) + data.noisy(v)

            if self.gram is not None:
                u, value = conjugate_gradients(matvec, r, spread * self.gram.to(r) + data.diagonal(), CLOSE)
            elif r.shape[1] <= DENSE:
                u, value = solve_dense(columns(gram, r), data.matrix(), r)
            else:
                u, value = conjugate_gradients(matvec, r, tolerance=CLOSE)
        return at.pull(clean, u.to(clean).reshape(clean.shape)), value.to(clean)
