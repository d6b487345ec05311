"""Points and coefficients that fields are asked with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError

EDGE = 1e-9  # how far outside its domain a point may lie, relative to the domain


def check_size(coefficients: Tensor, size: int, accepted: str, found: tuple[int, ...]) -> None:
    """InputError where the axis `found` of the coefficients is not of the size of the field."""
    if found != (size,):
        raise InputError(f"coefficients: got shape {tuple(coefficients.shape)}, {accepted.format(size)} is accepted")


def checked_points(points: Tensor, dimension: int, bounds: tuple[float, float] | None = None) -> Tensor:
    """Points (..., P, dimension) in float64; InputError for another dimension, for what are no real numbers, and naming
    the first point that is not finite or not within the bounds on every axis."""
    if not isinstance(points, Tensor) or points.is_complex():
        kind = str(points.dtype) if isinstance(points, Tensor) else type(points).__name__
        raise InputError(f"points: got {kind}, a tensor of real numbers (..., P, {dimension}) is accepted")
    if points.ndim < 2 or points.shape[-1] != dimension:
        raise InputError(
            f"points: got shape {tuple(points.shape)}, a field of dimension {dimension} takes (..., P, {dimension})"
        )
    where = points.to(torch.float64)
    low, high = bounds or (-math.inf, math.inf)
    inside = (where.isfinite() & (where >= low - EDGE) & (where <= high + EDGE)).all(-1)
    if not bool(inside.all()):
        place = f"within [{low:g}, {high:g}] on every axis" if bounds else "with finite coordinates"
        refuse_point(where, inside, place)
    return where


def refuse_point(points: Tensor, inside: Tensor, accepted: str) -> None:
    """The InputError for the first point (..., P, d) where `inside` (..., P) is False."""
    index = tuple(int(i) for i in (~inside).nonzero()[0])
    shown = ", ".join(f"{v:.8g}" for v in points[index].tolist())
    number = index[0] if len(index) == 1 else index
    raise InputError(f"points: got ({shown}) as point {number}, points {accepted} are accepted")


def as_points(given: Any, dimension: int) -> Tensor:
    """Points (m, dimension) from an array, from numbers where the dimension is 1, from an empty list; not checked.

    InputError for what is no array of real numbers.
    """
    try:
        points = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
    except (TypeError, ValueError, RuntimeError):
        points = None
    if points is None or points.is_complex():
        kind = type(given).__name__ if points is None else points.dtype
        raise InputError(f"points: got {kind}, an array of real numbers (m, {dimension}) is accepted")
    if points.ndim == 1 and (dimension == 1 or len(points) == 0):
        return points.reshape(len(points), dimension)
    return points
