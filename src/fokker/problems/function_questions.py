"""How a sampler of functions should start, answered in closed form for a Gaussian process.

Training diffuses f to f_t = m f + sigma g, g ~ N(0, C). At the last level m is not zero, and yet sampling is often
started from sigma g alone. Where f ~ N(mean, K) and K and C share their waves, with eigenvalues l and c, everything is
known wave by wave: with rho = sigma/m there and

    q = l / (l + rho^2 c),     the fraction of the last state's variance that is signal,

an exact sampler that starts from noise alone ends at N(mean (1 - s), l (1 - s^2)), with s = sqrt(q) for the ODE and
s = q for the reverse SDE, which forgets its start. Started from m mean + sigma g the mean is right and the variance as
before; from the right law, N(m mean, m^2 K + sigma^2 C), everything is. For C = K, s is 1/sqrt(1 + rho^2), or its
square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fokker.errors import InputError

NOISE, WITH_MEAN, RIGHT = "noise alone", "mean and noise", "right law"
STARTS = (NOISE, WITH_MEAN, RIGHT)


@dataclass(frozen=True)
class EndLaw:
    """The law of samples, wave by wave: mean (K,) and variance (K,)."""

    mean: Tensor
    variance: Tensor


def end_law(data: Tensor, noise: Tensor, mean: Tensor, rho: float, start: str, sde: bool = False) -> EndLaw:
    """What an exact sampler gives that starts at rho = sigma/m: data l, noise c and mean, (K,) each.

    start: one of `STARTS`. sde: the reverse SDE in place of the ODE. InputError for another start or rho <= 0.
    """
    if start not in STARTS:
        raise InputError(f"start: got {start!r}, one of {', '.join(STARTS)} is accepted")
    if not 0 < rho < math.inf:
        raise InputError(f"rho: got {rho!r}, a number > 0 is accepted")
    if start == RIGHT:
        return EndLaw(mean, data)
    q = data / (data + rho**2 * noise)
    left = q if sde else q.sqrt()  # of the start in what it ends as
    return EndLaw(mean if start == WITH_MEAN else mean * (1 - left), data * (1 - left.square()))


def distance(law: EndLaw, data: Tensor, mean: Tensor) -> float:
    """The 2-Wasserstein distance of the law to N(mean, data), over the root of the data's mean square norm.

    Gaussians with the same waves: W2^2 = |mean difference|^2 + sum of squared differences of standard deviations.
    """
    gap = (law.mean - mean).square().sum() + (law.variance.sqrt() - data.sqrt()).square().sum()
    return float((gap / (mean.square().sum() + data.sum())).sqrt())
