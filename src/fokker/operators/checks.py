"""What constructors of operators accept: shapes, images, arrays of finite numbers."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fokker.errors import InputError


def checked_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as a tuple; InputError unless it is a sequence of whole numbers, all at least 1."""
    if not isinstance(shape, Sequence) or not all(isinstance(n, Integral) and n >= 1 for n in shape):
        raise InputError(f"{name}: got {shape!r}, a tuple of whole numbers from 1 on is accepted")
    return tuple(int(n) for n in shape)


def checked_image(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The same for images: (..., H, W)."""
    if len(found := checked_shape(name, shape)) < 2:
        raise InputError(f"{name}: got {found}, the shape of an image (..., H, W) is accepted")
    return found


def checked_count(name: str, value: int, least: int, most: int | None = None) -> int:
    """A whole number from `least` to `most`; InputError otherwise."""
    if not isinstance(value, Integral) or value < least or (most is not None and value > most):
        upper = "on" if most is None else f"to {most}"
        raise InputError(f"{name}: got {value!r}, a whole number from {least} {upper} is accepted")
    return int(value)


def checked_array(name: str, value: ArrayLike | Tensor, axes: int) -> NDArray[np.float64]:
    """A copy in float64; InputError unless it has so many axes, is not empty and all its entries are finite."""
    try:
        given = np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
        array = np.array(given.real if np.iscomplexobj(given) else given, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name}: got {type(value).__name__}, an array of numbers is accepted") from None
    if np.iscomplexobj(given):
        raise InputError(f"{name}: got complex numbers, real ones are accepted")
    if array.ndim != axes or array.size == 0:
        raise InputError(f"{name}: got shape {array.shape}, an array with {axes} axes that is not empty is accepted")
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(f"{name}: entry {where} is {array[where]:g}, finite numbers are accepted")
    return array
