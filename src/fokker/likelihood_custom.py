"""A likelihood from a function of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError, told
from fokker.likelihood_checks import check_entries, paired
from fokker.likelihoods import Gaussian

MOST = 64  # entries whose curvatures are computed


class LogDensity:
    """p(y given clean) from a function log_prob(y, clean) -> (B,), with or without one that draws data.

    log_prob is given y and clean of one shape (B, *y_shape); its value in row i may depend on row i alone, -inf says
    that the data are impossible, and its constant matters only for the evidence. slope is its derivative by clean, by
    autograd. sample(clean, generator) -> (B, *y_shape), where it is given, has to draw from that density. Two such
    laws are equal if their functions are the same objects, and are printed by the functions' names.

    Raises InputError, in one line, where a function is none, and when called: where log_prob returns another shape,
    NaN, +inf or nothing that depends on clean, where its derivative is NaN, where sample returns another shape or
    there is none.
    """

    def __init__(
        self,
        log_prob: Callable[[Tensor, Tensor], Tensor],
        sample: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    ):
        for name, value in (("log_prob", log_prob), ("sample", sample)):
            if not callable(value) and (name == "log_prob" or value is not None):
                raise InputError(f"{name}: got {value!r}, a function is accepted")
        self._log_prob, self._sample = log_prob, sample

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogDensity) and (self._log_prob, self._sample) == (other._log_prob, other._sample)

    def __hash__(self) -> int:
        return hash((self._log_prob, self._sample))

    def __repr__(self) -> str:
        return f"LogDensity({_name(self._log_prob)}, {_name(self._sample)})"

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Data for clean values (B, *y_shape), by the function that was given."""
        if self._sample is None:
            raise InputError("sample: got none, LogDensity(log_prob, sample) with a function that draws is accepted")
        y = self._sample(clean, generator)
        if not isinstance(y, Tensor) or y.shape != clean.shape:
            raise InputError(f"sample: returned {_shape(y)}, a tensor of shape {tuple(clean.shape)} is accepted")
        return y.to(dtype=clean.dtype, device=clean.device)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y given clean) for each row (B,)."""
        return self._value(*torch.broadcast_tensors(paired(y, clean), clean))

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """Derivative of log_prob by clean (B, *y_shape), itself differentiable where clean is being differentiated."""
        kept = torch.is_grad_enabled() and clean.requires_grad
        y, at = torch.broadcast_tensors(paired(y, clean), clean if kept else clean.detach())
        with torch.enable_grad():
            at = at if kept else at.requires_grad_()
            (slope,) = torch.autograd.grad(self._value(y, at).sum(), at, create_graph=kept, allow_unused=True)
        if slope is None:
            raise _lost()
        if slope.isnan().any():
            row = int(slope.isnan().nonzero()[0, 0])
            raise InputError(f"log_prob: its derivative by clean is NaN in row {row}, finite numbers are accepted")
        return slope

    def gaussian(self, y: Tensor, clean: Tensor | None = None) -> tuple[Tensor, Gaussian]:
        """Data and a Gaussian law that have the slope s of log_prob at clean, entry by entry.

        The data are clean + v s. The variance v is the smaller of 1 / c, c the curvature there (Newton's step), and of
        (y - clean) / s, with which the data are y itself; where neither is positive it is 1 / s^2, as the mean of s^2
        is that of c. Entries have to be independent given clean for this to be good. Without clean, that at y.

        Raises InputError for more than 64 entries: their curvatures take a backward pass each.
        """
        at = (y if clean is None else clean).detach()
        entries = at[0].numel()
        if entries > MOST:
            raise InputError(f"log_prob: its curvature at {entries} entries is too much, up to {MOST} are accepted")
        with torch.enable_grad():
            at = at.requires_grad_()
            slope = self.slope(y, at)
            flat = slope.flatten(1)
            seconds = [
                torch.autograd.grad(flat[:, k].sum(), at, retain_graph=True, allow_unused=True)[0] if flat.requires_grad
                else None
                for k in range(entries)
            ]  # fmt: skip
        own = [torch.zeros(len(at)).to(at) if s is None else s.flatten(1)[:, k] for k, s in enumerate(seconds)]
        curvature = -torch.stack(own, 1).reshape(at.shape).double()
        slope, at = slope.detach().double(), at.detach().double()
        residual = y.double() - at
        other = torch.where(residual * slope > 0, slope / residual, 0.0)
        precision = torch.maximum(curvature, other)
        precision = torch.where(precision > 0, precision, slope.square()).clamp(min=1e-12)
        return at + slope / precision, Gaussian(precision.rsqrt())

    def check(self, y: Tensor) -> None:
        """InputError unless y is finite."""
        check_entries(y, y.isfinite(), "finite numbers are accepted")

    def _value(self, y: Tensor, clean: Tensor) -> Tensor:
        try:
            value: Any = self._log_prob(y, clean)
        except InputError:
            raise
        except Exception as error:  # a user's function may fail in any way
            raise InputError(f"log_prob: fails on clean of shape {tuple(clean.shape)}: {told(error)}") from error
        if not isinstance(value, Tensor) or value.shape != (len(clean),):
            raise InputError(f"log_prob: returned {_shape(value)}, a tensor of shape ({len(clean)},) is accepted")
        wrong = value.isnan() | value.isposinf()
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise InputError(f"log_prob: returned {value[row].item()} in row {row}, numbers or -inf are accepted")
        if torch.is_grad_enabled() and clean.requires_grad and not value.requires_grad:
            raise _lost()
        return value.to(dtype=clean.dtype, device=clean.device)


def _lost() -> InputError:
    return InputError("log_prob: its value does not depend on clean, a differentiable function is accepted")


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _name(function: Any) -> str:
    if function is None:
        return "None"
    return f"{function.__module__}.{function.__qualname__}" if hasattr(function, "__qualname__") else repr(function)
