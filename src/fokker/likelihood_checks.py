"""What the likelihoods share: parameters that may be arrays, which rows of y and clean fit, the noise on clean."""

from __future__ import annotations

import hashlib
import math
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError


class Exact:
    """Equality, hash and repr of a frozen dataclass some of whose fields are arrays.

    An array is printed as its shape and a digest of its numbers, so laws that differ print differently.
    """

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(map(_same, _values(self), _values(other)))

    def __hash__(self) -> int:
        return hash((type(self), *(tuple(v.shape) if isinstance(v, Tensor) else v for v in _values(self))))

    def __repr__(self) -> str:
        names = (f.name for f in fields(self) if f.compare)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{n}={_printed(v)}' for n, v in zip(names, _values(self)))})"


def _values(law: Any) -> list[Any]:
    return [getattr(law, f.name) for f in fields(law) if f.compare]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)


def _printed(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    digest = hashlib.sha256(value.numpy().tobytes()).hexdigest()[:16]
    return f"array({tuple(value.shape)}, {digest})"


def number_or_array(name: str, value: Any, accepted: str, *, zero: bool) -> float | Tensor:
    """A finite number >= 0 as it is, or a copy in float64 of an array of them; where not `zero`, > 0."""
    try:
        array = torch.as_tensor(value, dtype=torch.float64).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name}: got {value!r}, {accepted} is accepted") from None
    good = array.isfinite() & ((array >= 0) if zero else (array > 0))
    if not good.all():
        got = f"{value!r}" if array.ndim == 0 else _first(array, ~good)
        raise InputError(f"{name}: got {got}, {accepted} is accepted")
    if array.ndim:
        return array
    return value if isinstance(value, int | float) else float(array)


def positive(name: str, value: Any) -> None:
    """InputError unless value is a finite number > 0."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise InputError(f"{name}: got {value!r}, a finite number > 0 is accepted")


def check_std(std: float) -> None:
    """InputError unless std is a finite number >= 0."""
    if not (isinstance(std, int | float) and math.isfinite(std) and std >= 0):
        raise InputError(f"noise: got {std!r}, a finite standard deviation >= 0 is accepted")


def check_density(std: float | Tensor | None) -> None:
    """InputError where there is no noise, hence no density."""
    if (std == 0).any() if isinstance(std, Tensor) else std == 0:
        raise InputError("noise: got 0, a density needs a standard deviation > 0")


def check_entries(y: Tensor, good: Tensor, accepted: str) -> None:
    """InputError with the first entry of y that is not good."""
    if not good.all():
        raise InputError(f"y: got {_first(y, ~good)}, {accepted}")


def _first(values: Tensor, wrong: Tensor) -> str:
    where = tuple(wrong.nonzero()[0].tolist())
    return f"{values[where].item()!r} at {list(where)}"


def paired(y: Tensor, clean: Tensor) -> Tensor:
    """y in the dtype and on the device of clean; InputError unless both are (B, *y_shape), or one has a single row."""
    fits = y.ndim == clean.ndim > 0 and y.shape[1:] == clean.shape[1:]
    if not fits or (len(y) != len(clean) and 1 not in (len(y), len(clean))):
        raise InputError(f"y: got shape {tuple(y.shape)}, that of the clean values {tuple(clean.shape)} is accepted")
    return y.to(dtype=clean.dtype, device=clean.device)


def matched(name: str, value: float | Tensor, like: Tensor) -> float | Tensor:
    """A number, or an array of y_shape or (B, *y_shape) in the dtype and on the device of like (B, *y_shape)."""
    if not isinstance(value, Tensor):
        return value
    rows = value if value.ndim == like.ndim else value[None]
    if rows.shape[1:] != like.shape[1:] or len(rows) not in (1, len(like)):
        raise InputError(
            f"{name}: got shape {tuple(value.shape)}, one number, shape {tuple(like.shape[1:])} or "
            f"{tuple(like.shape)} is accepted, as y is"
        )
    return rows.to(dtype=like.dtype, device=like.device)


def flat(rows: Tensor) -> Tensor:
    """(B, k) of (B, *y_shape), where y_shape may be ()."""
    return rows[:, None].flatten(1)


def total(entries: Tensor) -> Tensor:
    """The sum of each row (B,) of (B, *y_shape)."""
    return flat(entries).sum(1)


def normal(clean: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, 1) of the shape and dtype of clean, drawn on the CPU, on its device."""
    return torch.randn(clean.shape, generator=generator, dtype=clean.dtype).to(clean.device)


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform in (0, 1), without its ends, in float64 on the CPU."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).clamp(min=2.0**-54)


def log_gaussian(residual: Tensor, std: float | Tensor) -> Tensor:
    """log of N(residual; 0, std^2), entry by entry."""
    log_std = std.log() if isinstance(std, Tensor) else math.log(std)
    return -0.5 * (residual / std).square() - log_std - 0.5 * math.log(2 * math.pi)
