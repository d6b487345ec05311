"""Counts: the Poisson likelihood, and its Gaussian approximation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.likelihood_checks import Exact, check_entries, matched, number_or_array, paired, positive, total
from fokker.likelihoods import Gaussian

MOST = 1e15  # from about 1e18 on counts overflow the integers by which torch draws them
FLOOR = 1.0  # the variance of a count of zero
LEAST_RATE = 0.25  # counts that are expected at least, where the variance is told by them


@dataclass(frozen=True, eq=False, repr=False)
class Poisson(Exact):
    """y ~ Poisson(rate), rate = gain * clean + background, for each entry: counts 0, 1, 2, ...

    log p = y log rate - rate - log y!, computed in float64. A rate below zero, as a prior that knows no sign gives it,
    counts as zero: y is 0 with certainty. So at rate <= 0 log_prob is 0 where y = 0, with slope 0, and -inf where
    y > 0. No derivative would lead back from there; slope, and autograd of log_prob, give that of the Gaussian
    approximation instead, gain (y - rate) / max(y, 1), which is finite and points to where the data are possible.
    Towards rate = 0 from above the slope gain (y / rate - 1) has no bound where y > 0; a background > 0 bounds it.

    gain: counts per unit of clean, > 0; background: counts >= 0 expected without a signal, a number or an array of
    y_shape (or of (B, *y_shape), each row its own). Raises InputError for anything else, and for draws where the rate
    is more than 1e15.
    """

    gain: float = 1.0
    background: float | Tensor = 0.0

    def __post_init__(self) -> None:
        positive("gain", self.gain)
        accepted = "a finite number of counts >= 0, or an array of them,"
        object.__setattr__(self, "background", number_or_array("background", self.background, accepted, zero=True))

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Counts for clean values (B, *y_shape); NaN where these are."""
        rate = self._rate(clean.detach()).cpu()
        if (rate > MOST).any():
            raise InputError(f"rate: got {float(rate.nan_to_num().max()):g} counts, up to {MOST:g} are accepted")
        counts = torch.poisson(rate.nan_to_num().clamp(min=0.0), generator=generator)
        return torch.where(rate.isnan(), math.nan, counts).to(dtype=clean.dtype, device=clean.device)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,), with a gradient where it is -inf, as said above."""
        counts, rate = self._counts(y, clean)
        seen = rate > 0
        at = torch.where(seen, rate, 1.0)
        density = torch.xlogy(counts, at) - at - torch.lgamma(counts + 1)
        back = (counts - rate.detach()) / counts.clamp(min=FLOOR) * (rate - rate.detach())  # 0, with a gradient
        outside = torch.where(counts > 0, back - math.inf, 0.0)
        return total(torch.where(seen, density, outside)).to(clean.dtype)

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """gain (y / rate - 1), the derivative of log_prob by clean (B, *y_shape); at rate <= 0 as said above."""
        counts, rate = self._counts(y, clean)
        seen = rate > 0
        inside = counts / torch.where(seen, rate, 1.0) - 1
        back = torch.where(counts > 0, (counts - rate) / counts.clamp(min=FLOOR), 0.0)
        return (self.gain * torch.where(seen, inside, back)).to(clean.dtype)

    def gaussian(self, y: Tensor, clean: Tensor | None = None) -> tuple[Tensor, Gaussian]:
        """The data (y - background) / gain in units of clean, and the Gaussian law that approximates theirs.

        Without `clean` its variance is max(y, 1) / gain^2, each row (B, *y_shape) its own: y itself estimates the
        variance of a count, and a count of 0, which would claim certainty, is given that of a count of 1. Good where
        counts are many; at rates of a few counts it is biased (y below the rate weighs more than y above it).

        Near a `clean` that is known it is max(rate, 1/4) / gain^2: the Gaussian with the likelihood's own slope and
        Fisher information there, which is less biased.

        Source: Chung et al. 2023 (diffusion posterior sampling), Poisson noise with weights 1 / (2 y).
        """
        self.check(y)
        counts = y.to(torch.float64)
        expected = counts.clamp(min=FLOOR) if clean is None else self._rate(clean).clamp(min=LEAST_RATE)
        data = (counts - matched("background", self.background, counts)) / self.gain
        kind = y.dtype if y.dtype.is_floating_point else torch.get_default_dtype()
        return data.to(kind), Gaussian(expected.sqrt() / self.gain)

    def check(self, y: Tensor) -> None:
        """InputError unless y (B, *y_shape) are counts 0, 1, 2, ..., as large as the background."""
        check_entries(y, y.isfinite() & (y >= 0) & (y == y.floor()), "counts 0, 1, 2, ... are accepted")
        matched("background", self.background, y)

    def _rate(self, clean: Tensor) -> Tensor:
        clean = clean.to(torch.float64)
        return self.gain * clean + matched("background", self.background, clean)

    def _counts(self, y: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """y and the rate, in float64: their log probabilities differ in digits that float32 has not."""
        counts = paired(y.to(torch.float64), clean.to(torch.float64))
        return counts, self._rate(clean)
