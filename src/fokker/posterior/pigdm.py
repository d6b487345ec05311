"""Pseudo-inverse guidance: p(x_0 given x_t) as an isotropic Gaussian around the denoised value.

Source: Song et al. 2023 (PiGDM, ICLR), here for any Gaussian noise and any differentiable operator.
"""

from __future__ import annotations

from torch import Tensor

from fokker.operators.base import SpectralOperator
from fokker.posterior.evaluation import At
from fokker.posterior.gaussian_data import check_gaussian
from fokker.posterior.guided import GuidedPosterior, GuidedScore
from fokker.posterior.normal_equations import DENSE, columns, conjugate_gradients, solve_dense
from fokker.score import ScoreModel


class PiGDM(GuidedPosterior):
    """p(x_0 given x_t) = N(D, c^2 I), c^2 = rho^2 d^2 / (rho^2 + d^2), d the standard deviation of the data.

    With the operator linearised at D (H its derivative there) and noise covariance R,

        grad log p(y given x_t) = J^T H^T (c^2 H H^T + R)^-1 (y - forward(D)),      J = dD/dx_t.

    Exact for data N(mean, d^2 I) with a linear operator; biased for all others, which the battery of `fokker run
    guidance-battery` measures. One evaluation and one backward pass per step. An operator with a known singular value
    decomposition and noise of one standard deviation is solved in its spectrum, others by a Cholesky factor up to 64
    entries of y and by conjugate gradients beyond.

    Raises InputError for noise that is not Gaussian or has no density.
    """

    def check(self) -> None:
        """Gaussian noise only."""
        self.noise_floor = check_gaussian("PiGDM", self.problem)

    def model(self) -> ScoreModel:
        """The guided prior."""
        return GuidedScore(self.problem, self.guide)

    def guide(self, at: At) -> tuple[Tensor, Tensor]:
        """The gradient, and log p(y given x_t) up to a constant."""
        rho2, d2 = float(at.rho) ** 2, at.data_std**2
        spread = rho2 * d2 / (rho2 + d2)
        clean = at.clean()
        r = (at.y - clean.detach()).flatten(1).double()
        likelihood, operator = self.problem.likelihood, self.problem.linear
        if isinstance(operator, SpectralOperator) and isinstance(likelihood.std, float) and at.white:
            u = operator.solve_normal(r.reshape(clean.shape), spread, likelihood.std**2).flatten(1)
            value = -0.5 * (r * u).sum(1)
        else:
            adjoint, apply = at.linearised()

            def matvec(v: Tensor) -> Tensor:
                return spread * apply(at.coloured(adjoint(v))) + at.noisy(v)

            if r.shape[1] <= DENSE:
                u, value = solve_dense(columns(matvec, r), self.noise_floor, r)
            else:
                u, value = conjugate_gradients(matvec, r)
        return at.pull(clean, u.to(clean).reshape(clean.shape)), value.to(clean)
