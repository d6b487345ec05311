"""Operators that see some coefficients of x in an orthonormal basis: pixels, block means, cosines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fokker.errors import InputError
from fokker.grids import cosine_matrix
from fokker.operators.base import Matrix, SpectralOperator
from fokker.operators.checks import checked_count, checked_image, checked_shape
from fokker.rng import stream


class Selection(SpectralOperator):
    """A x = s * (Q x)[chosen]: chosen coefficients in the basis Q, times the singular values s (r,). U = I.

    chosen: their r indices among the n coefficients. Q is the identity unless a subclass overrides `_transform` and
    `_restore`, its inverse and transpose.
    """

    def __init__(self, x_shape: Sequence[int], y_shape: Sequence[int], chosen: Tensor, singular_values: Tensor) -> None:
        super().__init__(x_shape, y_shape)
        self.singular_values = singular_values.double()
        others = torch.ones(self.shape[1], dtype=torch.bool)
        others[chosen] = False
        self._order = torch.cat([chosen, others.nonzero()[:, 0]])
        self._back = self._order.argsort()

    def _transform(self, x: Tensor) -> Tensor:
        """Q x (B, n) for rows (B, *x_shape)."""
        return x.flatten(1)

    def _restore(self, coefficients: Tensor) -> Tensor:
        """Q^T c (B, *x_shape) for rows (B, n)."""
        return coefficients.unflatten(1, self.x_shape)

    def _apply(self, x: Tensor) -> Tensor:
        # of the permutation only the seen part is needed, and index_select has the faster derivative
        seen = self._transform(x).index_select(1, self._constant("_order", x)[: self.rank])
        return self._data_from_spectrum(self._constant("singular_values", x) * seen)

    def _to_spectrum(self, x: Tensor) -> Tensor:
        return self._transform(x)[:, self._constant("_order", x)]

    def _from_spectrum(self, coefficients: Tensor) -> Tensor:
        return self._restore(coefficients[:, self._constant("_back", coefficients)])

    def _data_to_spectrum(self, y: Tensor) -> Tensor:
        return y.flatten(1)

    def _data_from_spectrum(self, coefficients: Tensor) -> Tensor:
        return coefficients.unflatten(1, self.y_shape)


class Identity(Selection):
    """y = x: denoising."""

    def __init__(self, x_shape: Sequence[int]) -> None:
        n = math.prod(checked_shape("Identity: x_shape", x_shape))
        super().__init__(x_shape, x_shape, torch.arange(n), torch.ones(n))

    def _apply(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        return y


class Inpainting(Selection):
    """y (r,) = the entries of x where the mask is True, in the order of `flatten`.

    mask: booleans of x_shape, or of a shape that broadcasts to it (one mask for all channels). Raises InputError for
    a mask that is not boolean, does not broadcast, or keeps nothing.
    """

    def __init__(self, mask: ArrayLike | Tensor, x_shape: Sequence[int] | None = None) -> None:
        kept = torch.as_tensor(mask)
        if kept.dtype != torch.bool:
            raise InputError(f"Inpainting: mask is of type {kept.dtype}, booleans are accepted, True where x is seen")
        shape = checked_shape("Inpainting: x_shape", tuple(kept.shape) if x_shape is None else x_shape)
        try:
            kept = kept.cpu().broadcast_to(shape)
        except RuntimeError:
            raise InputError(
                f"Inpainting: got a mask of shape {tuple(kept.shape)}, one that broadcasts to {shape} is accepted"
            ) from None
        chosen = kept.flatten().nonzero()[:, 0]
        if len(chosen) == 0:
            raise InputError("Inpainting: got a mask without True, one that keeps an entry is accepted")
        self._chosen = chosen
        super().__init__(shape, (len(chosen),), chosen, torch.ones(len(chosen)))

    def _apply(self, x: Tensor) -> Tensor:
        return x.flatten(1).index_select(1, self._constant("_chosen", x))

    @classmethod
    def box(cls, x_shape: Sequence[int], top: int, left: int, height: int, width: int) -> Inpainting:
        """A rectangle of an image (..., H, W) is hidden: `height` rows from `top`, `width` columns from `left`.

        Raises InputError for a rectangle that is empty, leaves the image or hides all of it.
        """
        *_, rows, columns = checked_image("Inpainting: x_shape", x_shape)
        checked_count("Inpainting: top", top, 0, rows - 1)
        checked_count("Inpainting: left", left, 0, columns - 1)
        checked_count("Inpainting: height", height, 1, rows - top)
        checked_count("Inpainting: width", width, 1, columns - left)
        mask = torch.ones(rows, columns, dtype=torch.bool)
        mask[top : top + height, left : left + width] = False
        return cls(mask, x_shape)

    @classmethod
    def random(cls, x_shape: Sequence[int], keep: float, seed: int = 0) -> Inpainting:
        """round(keep H W) pixels of an image (..., H, W) are seen, at least one, all sets of so many equally likely.

        All channels see the same pixels. Raises InputError for keep outside (0, 1].
        """
        *_, rows, columns = checked_image("Inpainting: x_shape", x_shape)
        if not isinstance(keep, int | float) or not 0 < keep <= 1:
            raise InputError(f"Inpainting: keep: got {keep!r}, a number above 0 and up to 1 is accepted")
        mask = torch.zeros(rows * columns, dtype=torch.bool)
        mask[_draw(seed, "inpainting", rows * columns, max(1, round(keep * rows * columns)))] = True
        return cls(mask.reshape(rows, columns), x_shape)


class Subsampling(Selection):
    """Every factor-th pixel along both axes of an image (..., H, W), from the first: y (..., H / f, W / f), rounded up.

    Super-resolution with a blur of one's own is Subsampling(x_shape, factor) @ Blur(kernel, x_shape).
    """

    def __init__(self, x_shape: Sequence[int], factor: int) -> None:
        shape = checked_image("Subsampling: x_shape", x_shape)
        checked_count("Subsampling: factor", factor, 1, min(shape[-2:]))
        chosen = torch.arange(math.prod(shape)).reshape(shape)[..., ::factor, ::factor]
        super().__init__(shape, tuple(chosen.shape), chosen.flatten(), torch.ones(chosen.numel()))


class SuperResolution(Selection):
    """Means of factor x factor pixels: x (..., H, W) -> y (..., H / f, W / f), all singular values 1 / f.

    Q is the orthonormal cosine transform of the f^2 pixels of each block, whose first coefficient is f times the mean.
    Raises InputError unless the factor divides both sides.
    """

    def __init__(self, x_shape: Sequence[int], factor: int) -> None:
        *lead, rows, columns = checked_image("SuperResolution: x_shape", x_shape)
        f = checked_count("SuperResolution: factor", factor, 1)
        if rows % f or columns % f:
            raise InputError(
                f"SuperResolution: factor: got {f}, a divisor of both sides of {rows} x {columns} is accepted"
            )
        y_shape = (*lead, rows // f, columns // f)
        size = math.prod(y_shape)
        self.factor, self._cosines = f, cosine_matrix(f * f)
        super().__init__(x_shape, y_shape, torch.arange(size), torch.full((size,), 1 / f, dtype=torch.float64))

    def _transform(self, x: Tensor) -> Tensor:
        f, (*_, h, w) = self.factor, self.y_shape
        blocks = x.reshape(len(x), math.prod(self.x_shape[:-2]), h, f, w, f).permute(0, 3, 5, 1, 2, 4)
        return (self._constant("_cosines", x) @ blocks.reshape(len(x), f * f, self.rank)).flatten(1)

    def _restore(self, coefficients: Tensor) -> Tensor:
        f, (*_, h, w) = self.factor, self.y_shape
        blocks = self._constant("_cosines", coefficients).T @ coefficients.unflatten(1, (f * f, self.rank))
        pixels = blocks.reshape(len(blocks), f, f, math.prod(self.x_shape[:-2]), h, w).permute(0, 3, 4, 1, 5, 2)
        return pixels.reshape(len(blocks), *self.x_shape)


class CosineSensing(Selection):
    """y (count,) = randomly chosen coefficients of the orthonormal cosine transform (DCT-II) of an image (..., H, W).

    All sets of `count` coefficients, channels together, are equally likely. Raises InputError for a count above n.
    """

    def __init__(self, x_shape: Sequence[int], count: int, seed: int = 0) -> None:
        shape = checked_image("CosineSensing: x_shape", x_shape)
        n = math.prod(shape)
        count = checked_count("CosineSensing: count", count, 1, n)
        self._down, self._across = cosine_matrix(shape[-2]), cosine_matrix(shape[-1])
        super().__init__(shape, (count,), _draw(seed, "cosine sensing", n, count), torch.ones(count))

    def _transform(self, x: Tensor) -> Tensor:
        return (self._constant("_down", x) @ x @ self._constant("_across", x).T).flatten(1)

    def _restore(self, coefficients: Tensor) -> Tensor:
        waves = coefficients.unflatten(1, self.x_shape)
        return self._constant("_down", waves).T @ waves @ self._constant("_across", waves)


class CompressedSensing(Matrix):
    """y (count,) = G x with independent entries N(0, 1 / count), so that E |G x|^2 = |x|^2. Source: Donoho 2006."""

    def __init__(self, x_shape: Sequence[int], count: int, seed: int = 0) -> None:
        n = math.prod(checked_shape("CompressedSensing: x_shape", x_shape))
        checked_count("CompressedSensing: count", count, 1)
        rows = stream(seed, "compressed sensing").standard_normal((count, n))
        super().__init__(rows / math.sqrt(count), x_shape)


def _draw(seed: int, name: str, n: int, count: int) -> Tensor:
    """`count` of n indices, sorted, all sets equally likely."""
    return torch.from_numpy(np.sort(stream(seed, name).permutation(n)[:count]))
