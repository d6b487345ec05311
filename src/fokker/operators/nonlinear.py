"""Nonlinear operators on images: phase retrieval and clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from fokker.errors import InputError
from fokker.operators.checks import checked_image
from fokker.operators.forward import ForwardOperator


class PhaseRetrieval(ForwardOperator):
    """y = |F x|: moduli of the unitary Fourier transform of images (..., H, W), padded by zeros to `oversampling` times
    their size, rounded up: y (..., H', W').

    |y| = |x|, and x, -x and the image turned by 180 degrees have the same y. Where a coefficient is 0 the modulus has
    no derivative; the one taken there is 0, a subgradient, as torch has it. Raises InputError for oversampling below 1.
    Source: Fienup 1982; Chung et al. 2023 (DPS), where the oversampling is 2.
    """

    x_shape: tuple[int, ...]

    def __init__(self, x_shape: Sequence[int], oversampling: float = 2.0) -> None:
        *lead, rows, columns = checked_image("PhaseRetrieval: x_shape", x_shape)
        if not isinstance(oversampling, int | float) or not 1 <= oversampling < math.inf:
            raise InputError(f"PhaseRetrieval: oversampling: got {oversampling!r}, a number from 1 on is accepted")
        super().__init__(x_shape, (*lead, math.ceil(oversampling * rows), math.ceil(oversampling * columns)))

    def _apply(self, x: Tensor) -> Tensor:
        assert self.y_shape is not None
        below, right = (new - old for new, old in zip(self.y_shape[-2:], self.x_shape[-2:]))
        return torch.fft.fft2(pad(x, (0, right, 0, below)), norm="ortho").abs()


class Clip(ForwardOperator):
    """y = min(max(gain x, low), high), entry by entry: a sensor of high dynamic range that saturates.

    The derivative is `gain` inside and 0 where y is clipped. x of any shape unless x_shape is given. Raises InputError
    unless gain is finite and not zero and low < high. Source: Chung et al. 2023; gain 2 on images in [-1, 1] is usual.
    """

    def __init__(
        self, gain: float = 2.0, low: float = -1.0, high: float = 1.0, x_shape: Sequence[int] | None = None
    ) -> None:
        if not isinstance(gain, int | float) or not math.isfinite(gain) or gain == 0:
            raise InputError(f"Clip: gain: got {gain!r}, a finite number other than zero is accepted")
        if not (isinstance(low, int | float) and isinstance(high, int | float) and low < high):
            raise InputError(f"Clip: low and high: got {low!r} and {high!r}, numbers with low < high are accepted")
        self.gain, self.low, self.high = float(gain), float(low), float(high)
        super().__init__(x_shape, x_shape)

    def _apply(self, x: Tensor) -> Tensor:
        return (self.gain * x).clamp(self.low, self.high)
