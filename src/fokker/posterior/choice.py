"""Which guided posterior to take: the one that the guidance battery found nearest to exact for its cost."""

from __future__ import annotations

import math
from typing import Any

from fokker.likelihoods import Gaussian
from fokker.posterior.daps import DAPS
from fokker.posterior.gaussian_data import has_gaussian
from fokker.posterior.guided import GuidedPosterior
from fokker.posterior.known import KnownLikelihood
from fokker.posterior.moment_matching import MomentMatching
from fokker.posterior.normal_equations import DENSE
from fokker.posterior.pigdm import PiGDM
from fokker.posterior.problem import Problem
from fokker.posterior.smc import TwistedSMC
from fokker.score import MixtureScore

FEW = 8  # unknowns up to which the battery found particles exact
PARTICLES = 4096


def guided(prior: Any, forward: Any, likelihood: Any) -> GuidedPosterior:
    """The guided posterior for this problem; its `why` says in a sentence why it was chosen.

    In this order, each found best by the guidance battery (docs/guidance.md) for its kind of problem:
    - a prior that is a mixture (or a Gaussian), a linear operator, Gaussian noise: `KnownLikelihood`, exact;
    - up to 8 unknowns: `TwistedSMC` (4,096 particles), its guide PiGDM (DPS for one's own density of more than
      64 data): exact as particles and steps grow, and `checks["least_ess"]` tells whether they were enough;
    - more, with noise of any law but such a density: `MomentMatching` for up to 64 data, exact for Gaussian priors
      (for a mixture of 64 unknowns PiGDM was nearer, but a learned prior does not tell its law); `PiGDM` for more data,
      where it costs a tenth;
    - more, with such a density: `DAPS`, which needs no covariance and does not diverge where DPS does.

    The arguments are those of every method; raises InputError where they do not fit.
    """
    problem = Problem(prior, forward, likelihood)
    given: dict[str, Any] = {"forward": forward, "likelihood": likelihood}
    gaussian = isinstance(likelihood, Gaussian)
    with_covariance = has_gaussian(likelihood, problem)
    size, data = math.prod(problem.x_shape), math.prod(problem.y_shape)
    found: GuidedPosterior
    if gaussian and isinstance(problem.model, MixtureScore) and problem.linear is not None:
        found, why = KnownLikelihood(prior, **given), "p(y given x_t) is known for this prior: exact but for the steps"
    elif size <= FEW:
        found = TwistedSMC(prior, particles=PARTICLES, **given)
        why = f"{size} unknowns: weighted particles, exact as their number and the steps grow"
    elif with_covariance and data <= DENSE:
        found = MomentMatching(prior, **given)
        why = f"{size} unknowns are many for particles; with {data} data the denoiser's own covariance can be used"
    elif with_covariance:
        found, why = PiGDM(prior, **given), f"{size} unknowns and {data} data: one backward pass a step, least biased"
    else:
        found = DAPS(prior, **given)
        why = f"{size} unknowns, and noise without a covariance: Langevin moves take any likelihood"
    found.why = f"{type(found).__name__}: {why}"
    return found
