"""Moment matching: p(x_0 given x_t) as the Gaussian with the mean and the covariance that the denoiser itself tells.

Sources: Finzi et al. 2023; Rozet et al. 2024 (arXiv 2405.13712), who solve the system by conjugate gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fokker.posterior.evaluation import At
from fokker.posterior.gaussian_data import check_gaussian
from fokker.posterior.guided import GuidedPosterior, GuidedScore
from fokker.posterior.normal_equations import DENSE, conjugate_gradients, solve_dense
from fokker.score import ScoreModel
from fokker.states import column


class MomentMatching(GuidedPosterior):
    """p(x_0 given x_t) = N(D, (sigma^2 / m) J C), J = dD/dx_t, C the covariance of the diffusing noise.

    With the operator linearised at D (H its derivative there) and noise covariance R,

        grad log p(y given x_t) = J^T H^T ((sigma^2 / m) H J C H^T + R)^-1 (y - forward(D)).

    Exact for Gaussian priors, linear operators and an exact denoiser, whatever the noise. One evaluation of the
    denoiser per step, and one backward pass for each entry of y up to 64 of them; beyond, conjugate gradients with two
    or three backward passes for each product. The covariance of a network need not be symmetric or positive: it is made
    so.

    Counts are taken by their Gaussian approximation. Raises InputError for noise that has no covariance or no density.
    """

    def check(self) -> None:
        """Noise with a covariance."""
        self.noise_floor = check_gaussian("MomentMatching", self.problem)

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
                back = adjoint(v)
                both = at.derivative(at.coloured(back)) + at.coloured(at.derivative_transposed(back))
                return gain * apply(both / 2) + data.noisy(v)

            u, value = conjugate_gradients(matvec, r)
            return at.pull(clean, u.to(clean).reshape(clean.shape)), value.to(clean)
        rows = torch.stack([at.pull(flat[:, k].sum(), keep=True) for k in range(r.shape[1])], 1)  # of H J
        covariance = torch.stack([apply(at.coloured(rows[:, k])) for k in range(r.shape[1])], 2)
        matrix = column(at.gain, covariance) * (covariance + covariance.mT) / 2 + data.matrix()
        u, value = solve_dense(matrix, self.noise_floor, r)
        return torch.einsum("bk,bk...->b...", u.to(rows), rows), value.to(clean)
