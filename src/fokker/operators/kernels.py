"""Blur kernels, float64, entries that are not negative and sum to one. Angles in degrees, from the columns upwards."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.operators.checks import checked_count
from fokker.rng import stream

_PER_PIXEL = 64  # points of a path per pixel of its length
_TURNING = 3.0  # standard deviation of a random path's heading at its end, radians


def gaussian_kernel(std: float, size: int | None = None) -> Tensor:
    """exp(-|i|^2 / (2 std^2)) on size x size pixels around the middle, normalised; size 2 ceil(3 std) + 1 by default.

    std in pixels. Raises InputError unless it is positive, and for an even size.
    """
    _check_positive("std", std)
    size = 2 * math.ceil(3 * std) + 1 if size is None else _odd(size)
    line = torch.exp(-((torch.arange(size, dtype=torch.float64) - size // 2) ** 2) / (2 * std**2))
    line = line / line.sum()
    return line[:, None] * line


def motion_kernel(length: float, angle: float) -> Tensor:
    """Uniform motion along a straight line of `length` pixels; the size is 2 ceil(length / 2) + 1.

    Points of the line are shared out bilinearly among the pixels around them. Raises InputError unless length > 0 and
    both are finite.
    """
    _check_positive("length", length)
    if not math.isfinite(angle):
        raise InputError(f"kernel: angle: got {angle!r}, a finite number of degrees is accepted")
    count = _PER_PIXEL * math.ceil(length)
    along = ((np.arange(count) + 0.5) / count - 0.5) * length
    turn = np.deg2rad(angle)
    return _trace(np.stack([-np.sin(turn) * along, np.cos(turn) * along], axis=1), 2 * math.ceil(length / 2) + 1)


def random_motion_kernel(size: int, seed: int = 0, index: int = 0) -> Tensor:
    """Motion at constant speed along a random path size - 1 pixels long, its bounding box centred: a shaken camera.

    The heading starts in any direction and then is a Brownian motion that reaches a standard deviation of 3 radians.
    (seed, index) fixes the path. Raises InputError for an even size.
    """
    rng = stream(seed, "motion kernel", index)
    count = _PER_PIXEL * (_odd(size) - 1)
    start, turns = rng.uniform(0, 2 * np.pi), rng.standard_normal(count)
    heading = start + np.cumsum(turns) * _TURNING / math.sqrt(max(count, 1))
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1), axis=0)])
    return _trace((path - (path.max(0) + path.min(0)) / 2) / _PER_PIXEL, size)


def _trace(points: np.ndarray, size: int) -> Tensor:
    """Equal masses at points (P, 2), (row, column) from the middle of size x size pixels, shared out bilinearly."""
    at = points + size // 2
    low = np.clip(np.floor(at).astype(int), 0, max(size - 2, 0))
    part = at - low
    kernel = np.zeros((size + 1, size + 1))  # the extra row and column only ever receive zeros
    for row in (0, 1):
        for column in (0, 1):
            share = np.abs(1 - row - part[:, 0]) * np.abs(1 - column - part[:, 1])
            np.add.at(kernel, (low[:, 0] + row, low[:, 1] + column), share)
    return torch.from_numpy(kernel[:size, :size] / kernel.sum())


def _odd(size: int) -> int:
    if checked_count("kernel: size", size, 1) % 2 == 0:
        raise InputError(f"kernel: size: got {size}, an odd number is accepted")
    return size


def _check_positive(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"kernel: {name}: got {value!r}, a positive number of pixels is accepted")
