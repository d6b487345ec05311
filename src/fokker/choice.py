"""Which guided posterior to take: the one that the guidance battery found nearest to exact for its cost."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fokker.fields.posterior import FunctionPosterior
from fokker.fields.score import FunctionScore
from fokker.likelihoods import Gaussian
from fokker.posterior.daps import DAPS
from fokker.posterior.gaussian_data import check_gaussian, has_gaussian
from fokker.posterior.guided import GuidedPosterior
from fokker.posterior.known import KnownLikelihood
from fokker.posterior.moment_matching import MomentMatching
from fokker.posterior.normal_equations import DENSE
from fokker.posterior.pigdm import PiGDM
from fokker.posterior.problem import Problem
from fokker.posterior.smc import TwistedSMC
from fokker.processes import NoiseProcess
from fokker.rng import Key, Rows
from fokker.score import MixtureScore

STRAIGHT = 0.1  # bend up to which a prior counts as Gaussian
FEW = 8  # unknowns up to which the battery found particles exact
PARTICLES = 4096


def guided(prior: Any, forward: Any, likelihood: Any) -> GuidedPosterior:
    """The guided posterior for this problem; its `why` says in a sentence why it was chosen.

    In this order, each within 15 % of the nearest to exact that the guidance battery (docs/guidance.md) found for its
    kind of problem at that cost or less:
    - a prior that is a mixture (or a Gaussian), a linear operator, Gaussian noise: `KnownLikelihood`, exact;
    - a prior of functions, a linear operator, Gaussian noise: `FunctionPosterior`, exact where functions are Gaussian,
      without a gradient;
    - up to 8 unknowns: `TwistedSMC` (4,096 particles), its guide PiGDM (DPS for one's own density of more than
      64 data): exact as particles and steps grow, and `checks["least_ess"]` tells whether they were enough. Not where
      moment matching is exact: an almost Gaussian prior, a linear operator, Gaussian noise;
    - there, and beyond with noise of any law but such a density: `MomentMatching` for up to 64 data where the prior is
      almost Gaussian, as its denoiser tells (see `bend`); else `PiGDM`, which is nearer for mixtures and costs a tenth;
    - more, with such a density: `DAPS`, which needs no covariance and does not diverge where DPS does.

    The arguments are those of every method; raises InputError where they do not fit.
    """
    problem = Problem(prior, forward, likelihood)
    given: dict[str, Any] = {"forward": forward, "likelihood": likelihood}
    gaussian = isinstance(likelihood, Gaussian)
    with_covariance = has_gaussian(likelihood, problem)
    if with_covariance:
        check_gaussian("fokker.guided", problem)
    size, data = math.prod(problem.x_shape), math.prod(problem.y_shape)
    found: GuidedPosterior
    if gaussian and isinstance(problem.model, MixtureScore) and problem.linear is not None:
        found, why = KnownLikelihood(prior, **given), "p(y given x_t) is known for this prior: exact but for the steps"
        return _because(found, why)
    if gaussian and isinstance(problem.model, FunctionScore) and problem.linear is not None:
        why = "functions, told linear data by the law of their noise: exact where they are Gaussian, no gradient"
        return _because(FunctionPosterior(prior, **given), why)
    if size <= FEW and not (gaussian and problem.linear is not None and data <= DENSE and bend(problem) < STRAIGHT):
        found = TwistedSMC(prior, particles=PARTICLES, **given)
        why = f"{size} unknowns: particles led by {type(found.guided).__name__}, exact as they and the steps grow"
    elif with_covariance and data <= DENSE and (bent := bend(problem)) < STRAIGHT:
        found = MomentMatching(prior, **given)
        why = f"{size} unknowns, and a denoiser that bends by {100 * bent:.0f} %: for Gaussian priors it is exact"
    elif with_covariance:
        found = PiGDM(prior, **given)
        why = f"{size} unknowns are many for particles: one backward pass a step, least biased for priors of any shape"
    else:
        found = DAPS(prior, **given)
        why = f"{size} unknowns, and noise without a covariance: Langevin moves take any likelihood"
    return _because(found, why)


def _because(found: GuidedPosterior, why: str) -> GuidedPosterior:
    found.why = f"{type(found).__name__}: {why}"
    return found


@torch.no_grad()
def bend(problem: Problem) -> float:
    """How far the prior's denoiser is from affine at rho = d / 2, d the deviation of the data: 0 for Gaussians.

    The root mean square of D((a + b)/2) - (D(a) + D(b))/2 over that of (D(a) - D(b))/2, for 64 pairs of first draws at
    that level. A conditional posterior, diffused in coordinates in which it is nearly Gaussian, counts as 0.
    """
    model = problem.model
    if problem.given is not None or not isinstance(model.process, NoiseProcess):
        return 0.0
    t = float(model.process.time_of(model.data_std / 2))  # type: ignore[operator]
    pairs = model.start((128, *problem.x_shape), t, Key(0, Rows.grid(1, 128)), {})
    assert isinstance(pairs, Tensor)
    a, b = pairs.chunk(2)
    there, here, middle = (model.denoise(x, t) for x in (a, b, (a + b) / 2))
    apart = (there - here) / 2  # type: ignore[operator]
    return float((middle - (there + here) / 2).square().mean().sqrt() / apart.square().mean().sqrt())  # type: ignore
