"""Which data a model of functions is trained to take: operators drawn anew at every step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError


@dataclass(frozen=True)
class PointObservations:
    """Values at points drawn at random without replacement, with Gaussian noise.

    fewest and most: their number, uniform between both. noise_std: the standard deviation of the noise, uniform in log
    between `noise_low` and `noise_high` (both 0: none). none: the fraction of draws with no observation at all, from
    which the prior itself is learned.
    """

    fewest: int
    most: int
    noise_low: float = 0.0
    noise_high: float = 0.0
    none: float = 0.1

    def __post_init__(self) -> None:
        whole = all(isinstance(n, Integral) for n in (self.fewest, self.most))
        if not (whole and 1 <= self.fewest <= self.most):
            raise InputError(
                f"fewest and most: got {self.fewest!r} and {self.most!r}, whole numbers 1 <= fewest <= most "
                "are accepted"
            )
        if not 0 <= self.noise_low <= self.noise_high or (self.noise_low == 0) != (self.noise_high == 0):
            raise InputError(
                f"noise: got {self.noise_low} to {self.noise_high}; both 0, or 0 < noise_low <= noise_high is accepted"
            )
        if not 0 <= self.none <= 1:
            raise InputError(f"none: got {self.none}, a fraction from 0 to 1 is accepted")

    def draw(self, cells: int, generator: torch.Generator) -> tuple[Tensor, float]:
        """Indices of the observed entries of a state of `cells`, and the standard deviation of their noise."""
        if self.most > cells:
            raise InputError(f"most: got {self.most} observations of {cells} points, no more than these are accepted")
        few, share = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        count = self.fewest + int(few * (self.most - self.fewest + 1))
        count = 0 if share < self.none else count
        std = (
            self.noise_low * (self.noise_high / self.noise_low) ** ((share - self.none) / (1 - self.none))
            if (self.noise_low > 0 and count)
            else 0.0
        )
        return torch.randperm(cells, generator=generator)[:count], std

    def settings(self) -> dict[str, Any]:
        """All of it as JSON."""
        return asdict(self)
