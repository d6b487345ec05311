"""Guidance by counts: the Gaussian of PiGDM, with the variance that the counts have where the denoiser stands."""

from __future__ import annotations

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.likelihood_counts import Poisson
from fokker.operators import Identity
from fokker.posterior.evaluation import At
from fokker.posterior.guided import GuidedPosterior, GuidedScore
from fokker.score import ScoreModel


class GaussianCounts(GuidedPosterior):
    """p(y given x_t) of Poisson counts of x itself, y ~ Poisson(g x + b), as that of independent Gaussians:

        y_j ~ N(g D_j + b, g^2 c^2 + max(g D_j + b, b)),      c^2 = rho^2 d^2 / (rho^2 + d^2) as in PiGDM,

    the variance held fixed in the gradient. DPS, which takes D as certain, makes steps that are far too long where
    rates are low. Biased, as PiGDM is; as the twist of `TwistedSMC` its weights put it right.

    Raises InputError for another operator or likelihood, or a background of zero.
    """

    def check(self) -> None:
        """Poisson counts of every pixel above a background."""
        likelihood = self.problem.likelihood
        if not isinstance(likelihood, Poisson) or not isinstance(self.problem.forward, Identity):
            raise InputError(f"likelihood: got {likelihood!r}, Poisson counts of x itself (Identity) are accepted")
        if not float(torch.as_tensor(likelihood.background).min()) > 0:
            raise InputError("background: got 0, GaussianCounts needs some counts above it")

    def model(self) -> ScoreModel:
        """The guided prior."""
        return GuidedScore(self.problem, self.guide)

    def guide(self, at: At) -> tuple[Tensor, Tensor]:
        """The gradient, and log p(y given x_t) up to a constant."""
        gain, background = self.problem.likelihood.gain, self.problem.likelihood.background
        rho2, d2 = float(at.rho) ** 2, at.data_std**2
        clean = at.clean()
        rate = (gain * clean.detach() + background).double()
        variance = gain**2 * rho2 * d2 / (rho2 + d2) + rate.clamp(min=background)
        r = at.y.double() - rate
        value = -0.5 * (r.square() / variance + variance.log()).flatten(1).sum(1)
        return at.pull(clean, (gain * r / variance).to(clean)), value.to(clean)
