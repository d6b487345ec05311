"""Data with Gaussian noise, for methods that need its covariance."""

from __future__ import annotations

import torch

from fokker.errors import InputError
from fokker.likelihoods import Gaussian
from fokker.posterior.problem import Problem


def check_gaussian(method: str, problem: Problem) -> float:
    """The least variance of the noise in any direction; InputError unless it is Gaussian with a density."""
    likelihood = problem.likelihood
    if not isinstance(likelihood, Gaussian):
        raise InputError(
            f"likelihood: got {type(likelihood).__name__}, {method} needs fokker.Gaussian; DPS, DAPS and TwistedSMC "
            "take any likelihood"
        )
    if likelihood.covariance is not None:
        floor = float(torch.linalg.eigvalsh(torch.as_tensor(likelihood.covariance, dtype=torch.float64))[0])
    else:
        floor = float(torch.as_tensor(likelihood.std, dtype=torch.float64).min()) ** 2
    if floor == 0:
        raise InputError(f"likelihood: got noise of 0, {method} needs a standard deviation above 0")
    probe = torch.zeros(1, *problem.y_shape, dtype=torch.float64)
    likelihood.log_prob(probe, probe)  # says so where the shape of the noise is not that of y
    return floor
