"""The Gaussian conditional that needs no network, and what every posterior does with its measurements."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fokker.coordinates import Coordinates
from fokker.errors import InputError
from fokker.posterior.samples import PosteriorSamples, as_measurements, check_count
from fokker.posterior_coordinates import Posterior
from fokker.rng import Key, Rows
from fokker.states import Cond
from fokker.support import Support

CHUNK = 65_536  # rows of x mapped back from coordinates at a time, in float64


class GaussianConditional:
    """N(mu(y), L L^T) of posterior coordinates, clipped like the posterior it is compared with: no network at all."""

    def __init__(
        self,
        coordinates: Posterior,
        x_shape: tuple[int, ...],
        y_shape: tuple[int, ...],
        clip: tuple[float | None, float | None] | None = None,
        support: Support | None = None,
        extra: Mapping[str, tuple[int, ...]] | None = None,
    ):
        self.coordinates, self.x_shape, self.y_shape, self.clip = coordinates, x_shape, y_shape, clip
        self.support, self.extra = support, dict(extra or {})

    def sample(
        self,
        y: Any,
        n: int,
        seed: int = 0,
        *,
        omega: Any = None,
        cond: Mapping[str, Any] | None = None,
        first: int = 0,
    ) -> PosteriorSamples:
        """n samples for each measurement, as `ConditionalPosterior.sample` gives them."""
        check_count(n)
        conditions, given, batched = conditions_of(y, omega, cond, self.y_shape, self.extra)
        started = time.perf_counter()
        xi = Key(seed, Rows.grid(len(given), n, first), part="no_network").normal(self.x_shape)
        x = to_x(self.coordinates, xi, conditions, n, self.clip, self.support)
        return PosteriorSamples(
            samples=x if batched else x[0],
            y=given if batched else given[0],
            batched=batched,
            nfe=0,
            seconds=time.perf_counter() - started,
            settings={"sampler": "no_network", "seed": seed},
        )

    def mean(self, y: Any, *, omega: Any = None, cond: Mapping[str, Any] | None = None) -> Tensor:
        """mu(y) (*x_shape), or (M, *x_shape) for y (M, *y_shape), before clipping and on the real line where x has
        bounds, in float64.
        """
        conditions, _, batched = conditions_of(y, omega, cond, self.y_shape, self.extra)
        found = self.coordinates.mean(conditions)
        return found if batched else found[0]


def conditions_of(
    y: Any,
    omega: Any,
    cond: Mapping[str, Any] | None,
    y_shape: tuple[int, ...],
    extra: Mapping[str, tuple[int, ...]],
) -> tuple[Cond, Tensor, bool]:
    """What the model sees, y as given (M, *y_shape), and whether it came with an axis of measurements.

    extra: names and shapes of further conditions. Where there are any, the model sees y and them as one vector.
    """
    given, batched = as_measurements(y, y_shape)
    seen = ~given.isnan()
    if omega is not None:
        mask, _ = as_measurements(omega, y_shape, "omega")
        seen = seen & (_rows("omega", mask, given) != 0)
    cond = dict(cond or {})
    if set(cond) != set(extra):
        got, wanted = (", ".join(map(repr, names)) or "none" for names in (cond, extra))
        raise InputError(f"cond: got conditions {got}, {wanted} is what this posterior was trained with")
    if extra:
        more = [_rows(name, as_measurements(cond[name], shape, name)[0], given) for name, shape in extra.items()]
        for name, value in zip(extra, more):
            if bool(value.isnan().any()):
                raise InputError(f"cond: got NaN in {name!r}, only y may have missing entries")
        given_flat, *rest = (value.flatten(1) for value in (given, *more))
        conditions: Cond = {"y": torch.cat([given_flat, *rest], 1)}
        seen = torch.cat([seen.flatten(1), *(torch.ones_like(value, dtype=torch.bool) for value in rest)], 1)
    else:
        conditions = {"y": given}
    if omega is not None or not bool(seen.all()):
        conditions["omega"] = seen
    return conditions, given, batched


def _rows(name: str, value: Tensor, like: Tensor) -> Tensor:
    if len(value) not in (1, len(like)):
        raise InputError(f"{name}: got {len(value)} rows for {len(like)} measurements, 1 or as many are accepted")
    return value.expand(len(like), *value.shape[1:])


def to_x(
    coordinates: Coordinates,
    xi: Tensor,
    cond: Cond,
    n: int,
    clip: tuple[float | None, float | None] | None,
    support: Support | None,
) -> Tensor:
    """xi (M n, *x_shape) in coordinates to x (M, n, *x_shape), a group of measurements at a time."""
    xi = xi.reshape(-1, n, *xi.shape[1:])
    group, out = max(1, CHUNK // n), torch.empty_like(xi)
    for start in range(0, len(xi), group):
        part = slice(start, start + group)
        local = {name: v[part].repeat_interleave(n, 0) for name, v in cond.items() if name in ("y", "omega")}
        x = coordinates.inverse(xi[part].flatten(0, 1), local).reshape(xi[part].shape)
        x = x if support is None else support.from_line(x)
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
