"""Forward operators: any differentiable callable, x (B, *x_shape) -> y (B, *y_shape), row by row.

The classes here add what can be checked and used when it is known: shapes, and composition.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.operators.checks import checked_shape
from fokker.operators.least_squares import Map


class ForwardOperator(ABC):
    """y = A(x), x (..., *x_shape) -> y (..., *y_shape): differentiable by autograd, each row for itself.

    Calls work in the dtype (float32 or float64) and on the device of their argument; constants are kept in float64.
    A shape of None is any shape. Raises InputError, naming the operator, for another shape or dtype.
    """

    def __init__(self, x_shape: Sequence[int] | None, y_shape: Sequence[int] | None) -> None:
        self.x_shape = None if x_shape is None else checked_shape(f"{self.name}: x_shape", x_shape)
        self.y_shape = None if y_shape is None else checked_shape(f"{self.name}: y_shape", y_shape)
        self._converted: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def __call__(self, x: Tensor) -> Tensor:
        """A(x) (..., *y_shape) for x (..., *x_shape)."""
        return self._on_rows("x", x, self.x_shape, self._apply)

    @abstractmethod
    def _apply(self, x: Tensor) -> Tensor:
        """A(x) for rows (B, *x_shape) that have been checked."""

    def _on_rows(self, what: str, value: Tensor, shape: tuple[int, ...] | None, function: Map) -> Tensor:
        """function of the rows of a value (..., *shape), with the leading axes put back; all checks are here."""
        if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.float64):
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{self.name}: got {what} of type {kind}, a tensor of float32 or float64 is accepted")
        if shape is None:
            return function(value)
        lead = value.ndim - len(shape)
        if lead < 0 or value.shape[lead:] != shape:
            accepted = ", ".join(["...", *map(str, shape)])
            raise InputError(f"{self.name}: got {what} of shape {tuple(value.shape)}, ({accepted}) is accepted")
        rows = function(value.reshape(math.prod(value.shape[:lead]), *shape))
        return rows.reshape(*value.shape[:lead], *rows.shape[1:])

    def _constant(self, name: str, like: Tensor) -> Tensor:
        """The attribute of that name on the device and in the precision of `like`, converted once."""
        value: Tensor = getattr(self, name)
        if value.is_complex():
            dtype = like.dtype.to_complex()
        else:
            dtype = like.dtype if value.is_floating_point() else value.dtype
        key = (name, dtype, like.device)
        if key not in self._converted:
            self._converted[key] = value.to(like.device, dtype)
        return self._converted[key]


class Composed:
    """x -> outer(inner(x)) for two callables; shapes where they are known, InputError where they do not fit."""

    def __init__(self, outer: Callable[[Tensor], Tensor], inner: Callable[[Tensor], Tensor]) -> None:
        self.name = f"{_name(outer)} @ {_name(inner)}"
        check_fit(self.name, outer, inner)
        self.outer, self.inner = outer, inner
        self.x_shape, self.y_shape = getattr(inner, "x_shape", None), getattr(outer, "y_shape", None)

    def __call__(self, x: Tensor) -> Tensor:
        """outer(inner(x))."""
        return self.outer(self.inner(x))


def _name(operator: Callable[[Tensor], Tensor]) -> str:
    return str(getattr(operator, "name", getattr(operator, "__name__", type(operator).__name__)))


def check_fit(name: str, outer: Callable[[Tensor], Tensor], inner: Callable[[Tensor], Tensor]) -> None:
    """InputError unless what `inner` gives is what `outer` takes, as far as both shapes are known."""
    gives, takes = getattr(inner, "y_shape", None), getattr(outer, "x_shape", None)
    if gives is not None and takes is not None and tuple(gives) != tuple(takes):
        raise InputError(f"{name}: got shape {tuple(gives)} from the second, {tuple(takes)} is accepted by the first")
