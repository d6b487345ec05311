"""Moment matching: p(x_0 given x_t) as the Gaussian with the mean and the covariance that the denoiser itself tells.

Sources: Finzi et al. 2023; Rozet et al. 2024 (arXiv 2405.13712), who solve the system by conjugate gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fokker.posterior.evaluation import At
from fokker.posterior.gaussian_data import check_gaussian
from fokker.posterior.guided import GuidedPosterior, GuidedScore
from fokker.posterior.normal_equations import DENSE, projected, solve_dense
from fokker.score import ScoreModel
from fokker.states import column


class MomentMatching(GuidedPosterior):
    """p(x_0 given x_t) = N(D, (sigma^2 / m) J C), J = dD/dx_t, C the covariance of the diffusing noise.

    With the operator linearised at D (H its derivative there) and noise covariance R,

        grad log p(y given x_t) = J^T H^T ((sigma^2 / m) H C J^T H^T + R)^-1 (y - forward(D)).

    Exact for Gaussian priors, linear operators and an exact denoiser, whatever the noise. One evaluation of the
    denoiser per step, and one backward pass for each entry of y up to 64 of them; beyond, projections on up to 64
    directions, with one for each. J C is symmetric for an exact denoiser, not for a network. C J^T is taken as it is:
    the shift of the prediction then stays below the residual, where made symmetric it can be any multiple (see
    `solve_dense`).

    Counts are taken by their Gaussian approximation. Raises InputError for noise that has no covariance or no density.
    """

    def check(self) -> None:
        """Noise with a covariance."""
        check_gaussian("MomentMatching", self.problem)

    def model(self) -> ScoreModel:
        """The guided prior."""
        return GuidedScore(self.problem, self.guide)

    def guide(self, at: At) -> tuple[Tensor, Tensor]:
        """The gradient, and log p(y given x_t): whole up to 64 entries of y, without the determinant beyond."""
        clean = at.clean()
        flat = clean.flatten(1)
        data = at.linear_data(clean)
        r = data.residual
        adjoint, apply = at.linearised()
        gain = column(at.gain, r)
        if r.shape[1] > DENSE:

            def matvec(v: Tensor) -> Tensor:
                back = at.coloured(at.derivative_transposed(adjoint(data.whitened(v, transposed=True))))
                return gain * data.whitened(apply(back))

            u, value = projected(matvec, data.whitened(r))
            u = data.whitened(u, transposed=True)
            return at.pull(clean, u.to(clean).reshape(clean.shape)), value.to(clean)
        rows = torch.stack([at.pull(flat[:, k].sum(), keep=True) for k in range(r.shape[1])], 1)  # of H J
        covariance = torch.stack([apply(at.coloured(rows[:, k])) for k in range(r.shape[1])], 2)
        u, value = solve_dense(column(at.gain, covariance) * covariance, data.matrix(), r)
        return torch.einsum("bk,bk...->b...", u.to(rows), rows), value.to(clean)
