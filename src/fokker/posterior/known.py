"""p(y given x_t) itself: in closed form, given by the user, or as an average over draws of x_0 given x_t.

Source: Song et al. 2021, section 5 (conditional sampling by Bayes' rule for scores).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from scipy.special import ndtri
from scipy.stats import qmc
from torch import Tensor

from fokker.composition import Composed
from fokker.errors import InputError
from fokker.likelihoods import Gaussian
from fokker.posterior.evaluation import At
from fokker.posterior.gaussian_data import check_gaussian, matrix_of
from fokker.posterior.guided import GuidedPosterior, GuidedScore
from fokker.posterior.problem import MEASURED, Problem
from fokker.processes import NoiseProcess, Time, as_time
from fokker.score import MixtureScore, ScoreModel
from fokker.states import Cond, State, as_cond, column

LogLikelihood = Callable[[Tensor, Tensor, Tensor], Tensor]
GROUP = 2**22  # numbers of x_0 that are held at a time


class KnownLikelihood(GuidedPosterior):
    """Guided by p(y given x_t) itself: nothing is approximated but by the steps.

    log_prob(y, x_t, t) -> (B,): a differentiable function, t a float64 scalar. None: the closed form for a prior
    `MixtureScore` (or `GaussianScore`), a linear operator A and Gaussian noise R: with N(mu_k(x_t), S_k) the law of x_0
    given x_t and component k, and w_k(x_t) its weight,

        p(y given x_t) = sum_k w_k(x_t) N(y; A mu_k(x_t), A S_k A^T + R).

    Raises InputError where there is neither.
    """

    def __init__(self, prior: Any, *, forward: Any, likelihood: Any, log_prob: LogLikelihood | None = None):
        self.log_prob = log_prob
        super().__init__(prior, forward=forward, likelihood=likelihood)

    def check(self) -> None:
        """A function, or what the closed form needs."""
        if self.log_prob is None:
            if not isinstance(self.problem.likelihood, Gaussian):
                got = type(self.problem.likelihood).__name__
                raise InputError(
                    f"likelihood: got {got}, KnownLikelihood needs fokker.Gaussian, or log_prob(y, x_t, t)"
                )
            check_gaussian("KnownLikelihood", self.problem)
            if not isinstance(self.problem.model, MixtureScore) or self.problem.linear is None:
                raise InputError(
                    "prior: KnownLikelihood needs a MixtureScore and a LinearOperator, or log_prob(y, x_t, t); PiGDM, "
                    "MomentMatching and TwistedSMC take others"
                )

    def model(self) -> ScoreModel:
        """The guided prior."""
        return GuidedScore(self.problem, self.guide)

    def guide(self, at: At) -> tuple[Tensor, Tensor]:
        """The gradient by x_t of log p(y given x_t), and its value."""
        value = self._of_mixture(at) if self.log_prob is None else self.log_prob(at.y, at.x_t, at.t)
        if not isinstance(value, Tensor) or value.shape != (len(at.x_t),) or not value.requires_grad:
            raise InputError(f"log_prob: a differentiable tensor of shape ({len(at.x_t)},) is accepted")
        return torch.autograd.grad(value.sum(), at.x_t)[0], value.detach()

    def _of_mixture(self, at: At) -> Tensor:
        model, operator = self.problem.model, self.problem.linear
        assert isinstance(model, MixtureScore) and operator is not None
        log_w, means, factors = model.given(at.z, at.rho)
        a = operator.matrix().to(means)
        y, law = at.y.flatten(1), self.problem.likelihood
        assert isinstance(law, Gaussian)
        r = matrix_of(law, at.y.shape).to(means)
        spread = a @ factors
        root = torch.linalg.cholesky(spread @ spread.mT + r)  # (K, m, m), or (B, K, m, m)
        offset = y.to(means)[:, None] - means @ a.T
        white = torch.linalg.solve_triangular(root, offset[..., None], upper=False)[..., 0]
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.logsumexp(log_w - 0.5 * white.square().sum(-1) - log_det, 1) - 0.5 * y.shape[1] * math.log(
            2 * math.pi
        )


class MonteCarlo(GuidedPosterior):
    """p(y given x_t) as the average of p(y given forward(x_0)) over draws of x_0 given x_t, for any operator.

    The prior is a `MixtureScore`, which knows the law of x_0 given x_t. With the same `draws` standard normal vectors
    (of a scrambled Sobol sequence) for every component k, x_t and step, so that the average is a fixed function, with
    weights w_k(x_t) and likelihoods l_kj,

        D_y = sum_kj w_k l_kj x_0^kj / sum_kj w_k l_kj.

    No derivative is needed. Where the data are far more precise than x_0 given x_t, few draws carry all the weight, and
    samples are attracted to them: the number of draws has to grow with the precision and with the dimension.

    Raises InputError for another prior, and for fewer than 2 draws.
    """

    def __init__(self, prior: Any, *, forward: Any, likelihood: Any, draws: int = 1024):
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 2:
            raise InputError(f"draws: got {draws!r}, an integer of at least 2 is accepted")
        self.draws = draws
        super().__init__(prior, forward=forward, likelihood=likelihood)

    def check(self) -> None:
        """A prior that knows the law of x_0 given x_t."""
        if not isinstance(self.problem.model, MixtureScore):
            got = type(self.problem.model).__name__
            raise InputError(f"prior: got {got}, MonteCarlo needs a MixtureScore; DPS, DAPS and TwistedSMC take any")

    def model(self) -> ScoreModel:
        """The prior with its denoised value weighed by the data."""
        return _Averaged(self.problem, self.draws)

    def settings(self) -> dict[str, Any]:
        """Those of the base, and the number of draws."""
        return {**super().settings(), "draws": self.draws}


class _Averaged(Composed):
    """See `MonteCarlo`."""

    def __init__(self, problem: Problem, draws: int, prior: ScoreModel | None = None):
        super().__init__(problem.model if prior is None else prior)
        self.problem, self.draws = problem, draws
        size = math.prod(problem.x_shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the number of points is no power of two
            points = qmc.Sobol(size, seed=0).random(draws)
        self.xi = torch.from_numpy(ndtri(points))

    def on(self, process: NoiseProcess) -> _Averaged:
        """The same on another process."""
        return _Averaged(self.problem, self.draws, self._first.on(process))

    def prepare(self, cond: Tensor | Cond | None) -> Cond:
        """As the prior."""
        return self._first.prepare(cond)

    def denoise(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> Tensor:
        """D_y, see `MonteCarlo`."""
        prior, cond, t = self._first, as_cond(cond), as_time(t)
        assert isinstance(x_t, Tensor) and isinstance(prior, MixtureScore)
        z = x_t / column(prior.process.scale(t), x_t)
        xi = self.xi.to(z)
        group = max(1, GROUP // (xi.numel() * len(prior.weights)))
        parts = []
        for start in range(0, len(z), group):
            part = slice(start, start + group)
            parts.append(self._of(prior, z[part], prior.process.noise_to_signal(t), xi, cond[MEASURED][part]))
        return torch.cat(parts)

    def _of(self, prior: MixtureScore, z: Tensor, rho: Tensor, xi: Tensor, y: Tensor) -> Tensor:
        log_w, means, factors = prior.given(z, rho)
        x = means[:, :, None] + torch.einsum("kij,nj->kni", factors, xi)  # (B, K, draws, d)
        rows = x[0, :, :, 0].numel()
        clean = self.problem.clean(x.reshape(-1, x.shape[-1]), {})
        log_l = self.problem.likelihood.log_prob(y.repeat_interleave(rows, 0), clean).reshape(x.shape[:3])
        weight = (log_l + log_w[:, :, None]).flatten(1).softmax(1)
        return torch.einsum("bn,bni->bi", weight, x.flatten(1, 2))
