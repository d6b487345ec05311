"""Distributions over measurement operators: which entries of y are observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fokker.errors import InputError


class Layouts(Protocol):
    """p(omega): draws which entries of y are observed; the repr identifies it."""

    def sample(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """omega (count, *shape), True where y is observed."""
        ...


@dataclass(frozen=True)
class RandomLayouts:
    """Every entry of y is observed with the same probability, whatever the others: omega_j ~ Bernoulli(probability).

    blank: probability that nothing is observed at all, so that a model trained on these layouts learns p(x) too.

    Source: Dasgupta et al. 2025 (arXiv 2504.07437), section 6, where the probability is 0.7; Ho and Salimans 2022 for
    blank. Raises InputError for a probability outside (0, 1] and blank outside [0, 1).
    """

    probability: float
    blank: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.probability, int | float) or not 0 < self.probability <= 1:
            raise InputError(f"probability: got {self.probability!r}, numbers above 0 and up to 1 are accepted")
        if not isinstance(self.blank, int | float) or not 0 <= self.blank < 1:
            raise InputError(f"blank: got {self.blank!r}, numbers from 0 to below 1 are accepted")

    def sample(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """omega (count, *shape)."""
        on = torch.rand((count, *shape), generator=generator, dtype=torch.float64) < self.probability
        kept = torch.rand(count, generator=generator, dtype=torch.float64) >= self.blank
        return on & kept.reshape(-1, *[1] * len(shape))


def with_count(count: int, seen: int, size: int, generator: torch.Generator) -> Tensor:
    """Layouts (count, size) with exactly `seen` of `size` sensors on, all of them equally likely.

    Raises InputError unless 0 <= seen <= size.
    """
    if not 0 <= seen <= size:
        raise InputError(f"seen: got {seen}, 0 to {size} sensors are accepted")
    order = torch.rand((count, size), generator=generator, dtype=torch.float64).argsort(1)
    return order.argsort(1) < seen
