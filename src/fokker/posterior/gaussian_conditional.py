"""The Gaussian conditional that needs no network, and what every posterior does with its measurements."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from fokker.coordinates import Coordinates
from fokker.errors import InputError
from fokker.posterior.samples import PosteriorSamples, as_measurements, check_count
from fokker.posterior_coordinates import Posterior
from fokker.rng import Key, Rows
from fokker.states import Cond

CHUNK = 65_536  # rows of x mapped back from coordinates at a time, in float64


class GaussianConditional:
    """N(mu(y), L L^T) of posterior coordinates, clipped like the posterior it is compared with: no network at all."""

    def __init__(
        self,
        coordinates: Posterior,
        x_shape: tuple[int, ...],
        y_shape: tuple[int, ...],
        clip: tuple[float | None, float | None] | None = None,
    ):
        self.coordinates, self.x_shape, self.y_shape, self.clip = coordinates, x_shape, y_shape, clip

    def sample(self, y: Any, n: int, seed: int = 0, *, omega: Any = None) -> PosteriorSamples:
        """n samples for each measurement, as `ConditionalPosterior.sample` gives them."""
        check_count(n)
        conditions, given, batched = conditions_of(y, omega, None, self.y_shape)
        started = time.perf_counter()
        xi = Key(seed, Rows.grid(len(given), n), part="no_network").normal(self.x_shape)
        x = to_x(self.coordinates, xi, conditions, n, self.clip)
        return PosteriorSamples(
            samples=x if batched else x[0],
            y=given if batched else given[0],
            batched=batched,
            nfe=0,
            seconds=time.perf_counter() - started,
            settings={"sampler": "no_network", "seed": seed},
        )

    def mean(self, y: Any, *, omega: Any = None) -> Tensor:
        """mu(y) (*x_shape), or (M, *x_shape) for y (M, *y_shape), before clipping, in float64."""
        conditions, _, batched = conditions_of(y, omega, None, self.y_shape)
        found = self.coordinates.mean(conditions)
        return found if batched else found[0]


def conditions_of(y: Any, omega: Any, cond: Cond | None, y_shape: tuple[int, ...]) -> tuple[Cond, Tensor, bool]:
    """Conditions by name, y (M, *y_shape), and whether y came with an axis of measurements."""
    given, batched = as_measurements(y, y_shape)
    conditions: Cond = {**(cond or {}), "y": given}
    if omega is not None:
        seen, _ = as_measurements(omega, y_shape, "omega")
        if len(seen) not in (1, len(given)):
            raise InputError(f"omega: got {len(seen)} rows for {len(given)} measurements, 1 or as many are accepted")
        conditions["omega"] = seen.expand_as(given) != 0
    elif bool(given.isnan().any()):
        conditions["omega"] = ~given.isnan()
    return conditions, given, batched


def to_x(
    coordinates: Coordinates, xi: Tensor, cond: Cond, n: int, clip: tuple[float | None, float | None] | None
) -> Tensor:
    """xi (M n, *x_shape) in coordinates to x (M, n, *x_shape), a group of measurements at a time."""
    xi = xi.reshape(-1, n, *xi.shape[1:])
    group, out = max(1, CHUNK // n), torch.empty_like(xi)
    for start in range(0, len(xi), group):
        part = slice(start, start + group)
        local = {name: v[part].repeat_interleave(n, 0) for name, v in cond.items() if name in ("y", "omega")}
        x = coordinates.inverse(xi[part].flatten(0, 1), local).reshape(xi[part].shape)
        out[part] = x if clip is None else x.clamp(*clip)
    return out


def to_xi(coordinates: Coordinates, x: Tensor, cond: Cond) -> Tensor:
    """x (M, n, *x_shape) to xi (M n, *x_shape) in coordinates, a group of measurements at a time."""
    n, parts = x.shape[1], []
    group = max(1, CHUNK // n)
    for start in range(0, len(x), group):
        part = slice(start, start + group)
        local = {name: v[part].repeat_interleave(n, 0) for name, v in cond.items() if name in ("y", "omega")}
        parts.append(coordinates.forward(x[part].flatten(0, 1), local))
    return torch.cat(parts)
