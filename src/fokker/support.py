"""Where a variable can be: bounds for its entries, as a bijection to the real line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError

LOG_ROOT = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Support:
    """lower < x < upper, entry by entry, with -inf and inf where there is no bound; float64 of the shape of x.

    What is learned is u = Phi^-1((x - lower) / (upper - lower)) between two bounds, which makes a uniform x standard
    normal; u = log(x - lower) above one, u = -log(upper - x) below one, and u = x without any. Phi is the standard
    normal distribution function.
    """

    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, bounds: tuple[Any, Any], x_shape: tuple[int, ...]) -> Support:
        """From (lower, upper), each a number, None, or as many as x has entries; InputError for anything else."""
        if not isinstance(bounds, tuple | list) or len(bounds) != 2:
            raise InputError(f"bounds: got {bounds!r}, (lower, upper) is accepted, each a number, None or an array")
        ends = []
        for name, value, none in zip(("lower", "upper"), bounds, (-math.inf, math.inf)):
            try:
                given = torch.as_tensor(_filled(value, none), dtype=torch.float64)
                end = given.expand(x_shape).clone()
            except (TypeError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"bounds: got {name} {value!r}, a number, None or {x_shape} of them are accepted"
                ) from error
            ends.append(end.nan_to_num(nan=none, posinf=math.inf, neginf=-math.inf))
        if bool((ends[0] >= ends[1]).any()) or bool((ends[0] == math.inf).any()):
            where = (ends[0] >= ends[1]).nonzero()[0].tolist()
            raise InputError(f"bounds: the lower is not below the upper at {where}, lower < upper is accepted")
        return cls(*ends)

    def to_line(self, x: Tensor) -> Tensor:
        """u of x (..., *x_shape), in float64; infinite or NaN where x is not strictly inside."""
        x = x.double()
        both, low, high = self._kinds()
        u = torch.where(low, (x - self.lower).log(), x)
        u = torch.where(high, -(self.upper - x).log(), u)
        return torch.where(both, torch.special.ndtri((x - self.lower) / (self.upper - self.lower)), u)

    def from_line(self, u: Tensor) -> Tensor:
        """x of u, in the dtype of u and strictly inside."""
        wide, (both, low, high) = u.double(), self._kinds()
        x = torch.where(low, self.lower + wide.exp(), wide)
        x = torch.where(high, self.upper - (-wide).exp(), x)
        x = torch.where(both, self.lower + (self.upper - self.lower) * torch.special.ndtr(wide), x).to(u)
        lower, upper = self.lower.to(u), self.upper.to(u)
        return x.clamp(
            lower.nextafter(torch.full_like(lower, math.inf)), upper.nextafter(-torch.full_like(upper, math.inf))
        )

    def log_slope(self, u: Tensor) -> Tensor:
        """log dx/du of every entry."""
        both, low, high = self._kinds()
        out = torch.where(low, u, torch.zeros_like(u)) - torch.where(high, u, torch.zeros_like(u))
        return torch.where(both, (self.upper - self.lower).log() - 0.5 * u.square() - LOG_ROOT, out)

    def check(self, x: Tensor, first: int = 0) -> None:
        """InputError names the first of rows (N, *x_shape) that is not strictly inside; first: the number of the first
        row.
        """
        bad = (~self.to_line(x).isfinite() & x.isfinite()).nonzero()
        if len(bad):
            row, *entry = bad[0].tolist()
            index = tuple(entry)
            raise InputError(
                f"x: got {float(x[(row, *entry)]):g} in row {first + row}, entry {entry}, numbers between its bounds "
                f"{float(self.lower[index]):g} and {float(self.upper[index]):g}, without these, are accepted; clip is "
                "for what is exactly at a bound with some probability"
            )

    def settings(self) -> list[Any]:
        """[lower, upper] as JSON: None where there is no bound."""
        return [_plain(self.lower), _plain(self.upper)]

    def _kinds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Which entries have both bounds, only a lower, only an upper."""
        low, high = self.lower.isfinite(), self.upper.isfinite()
        return low & high, low & ~high, high & ~low


def _filled(value: Any, none: float) -> Any:
    if value is None:
        return none
    return [_filled(v, none) for v in value] if isinstance(value, list | tuple) else value


def _plain(end: Tensor) -> Any:
    if not end.ndim:
        return float(end) if bool(end.isfinite()) else None
    return [_plain(part) for part in end]
