"""Convolution of images and signals with a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import pad

from fokker.errors import InputError
from fokker.operators.base import RANK_CUT, LinearOperator
from fokker.operators.checks import checked_array, checked_shape
from fokker.operators.selection import Selection

BOUNDARIES = ("periodic", "zero", "reflect", "replicate")


class Blur(LinearOperator):
    """y_i = sum_j k_j x_{i + c - j} on images x (..., H, W), y of the same shape; k (h, w), c = (h // 2, w // 2).

    boundary: what x is outside the image. "periodic": itself again; then this is a SpectralOperator, `PeriodicBlur`.
    "zero"; "reflect": mirrored at the centres of the outermost pixels, which are not repeated (numpy's "reflect",
    scipy's "mirror"); "replicate": the nearest pixel. All channels have the same kernel. By FFT; the adjoint is the
    exact transpose for every boundary. A signal x (L,) with k (w,) is an image of one row.

    Raises InputError for a kernel that has not two axes (for a signal one), is empty, not finite, zero everywhere or
    larger than the image, and for another boundary.
    """

    def __new__(cls, kernel: ArrayLike | Tensor, x_shape: Sequence[int], boundary: str = "periodic") -> Blur:
        return super().__new__(PeriodicBlur if boundary == "periodic" else cls)

    def __getnewargs__(self) -> tuple[Tensor, tuple[int, ...], str]:
        return self.kernel, self.x_shape, self.boundary

    def __init__(self, kernel: ArrayLike | Tensor, x_shape: Sequence[int], boundary: str = "periodic") -> None:
        if boundary not in BOUNDARIES:
            raise InputError(f"Blur: boundary: got {boundary!r}, one of {', '.join(BOUNDARIES)} is accepted")
        shape = checked_shape("Blur: x_shape", x_shape)
        if not shape:
            raise InputError("Blur: x_shape: got (), the shape of an image (..., H, W) or of a signal (L,) is accepted")
        k = checked_array("Blur: kernel", kernel, min(len(shape), 2))
        if not k.any() or any(size > most for size, most in zip(k.shape[::-1], shape[::-1])):
            what = "is zero everywhere" if not k.any() else f"has shape {k.shape}"
            most = " x ".join(map(str, shape[-2:]))
            raise InputError(f"Blur: kernel {what}, one of at most {most} not all zero is accepted")
        self.kernel, self.boundary = torch.from_numpy(k), boundary
        self._prepare(shape)

    def _prepare(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape, shape)
        # Pixels before and after the image that the kernel reaches.
        (h, w), (rows, columns) = self._sides, self._image[-2:]
        self._reach = ((h - 1 - h // 2, h // 2), (w - 1 - w // 2, w // 2))
        self._padded = (rows + h - 1, columns + w - 1)
        self._transfer = torch.fft.rfft2(self.kernel.reshape(h, w), s=self._padded)
        if self.boundary != "zero":
            self._rows, self._columns = (
                _outside(torch.arange(-before, n + after), n, self.boundary)
                for n, (before, after) in zip((rows, columns), self._reach)
            )

    @property
    def _image(self) -> tuple[int, ...]:
        """The shape of x as an image."""
        return self.x_shape if len(self.x_shape) > 1 else (1, *self.x_shape)

    @property
    def _sides(self) -> tuple[int, int]:
        """The sides of the kernel as an image."""
        return (1, len(self.kernel)) if self.kernel.ndim == 1 else (self.kernel.shape[0], self.kernel.shape[1])

    def _apply(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), *self._image)
        if self.boundary == "zero":
            around = pad(x, (*self._reach[1], *self._reach[0]))
        else:
            around = x[..., self._constant("_rows", x), :][..., self._constant("_columns", x)]
        waves = torch.fft.rfft2(around) * self._constant("_transfer", x)
        h, w = self._sides
        return torch.fft.irfft2(waves, s=self._padded)[..., h - 1 :, w - 1 :].reshape(len(x), *self.y_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        (h, w), y = self._sides, y.reshape(len(y), *self._image)
        waves = torch.fft.rfft2(pad(y, (w - 1, 0, h - 1, 0))) * self._constant("_transfer", y).conj()
        around = torch.fft.irfft2(waves, s=self._padded)
        *lead, rows, columns = y.shape
        if self.boundary == "zero":
            (top, _), (left, _) = self._reach
            return around[..., top : top + rows, left : left + columns].reshape(len(y), *self.x_shape)
        out = y.new_zeros(*lead, rows, self._padded[1]).index_add(-2, self._constant("_rows", y), around)
        whole = y.new_zeros(*lead, rows, columns).index_add(-1, self._constant("_columns", y), out)
        return whole.reshape(len(y), *self.x_shape)


class PeriodicBlur(Blur, Selection):
    """A blur of periodic images: A = P D, diagonal in Fourier space, spectral in a real basis.

    Q is the Hartley transform, Re F x - Im F x with the unitary Fourier transform F: real, orthogonal, its own inverse.
    With the transfer function T of the kernel, D multiplies by |T|, the singular values, and P by T / |T|. D is
    diagonal in Q because |T| is even; P is real and orthogonal. So V = Q, U = P Q, the largest singular values first.
    Source: Bracewell 1983 for the transform. Made by `Blur(kernel, x_shape)`.
    """

    def _prepare(self, shape: tuple[int, ...]) -> None:
        self.x_shape = shape
        (h, w), (rows, columns) = self._sides, self._image[-2:]
        whole = pad(self.kernel.reshape(h, w), (0, columns - w, 0, rows - h)).roll((-(h // 2), -(w // 2)), (0, 1))
        transfer = torch.fft.fft2(whole)
        size = transfer.abs()
        seen = size > RANK_CUT * size.max()
        values, order = size.expand(self._image).flatten().sort(descending=True, stable=True)
        rank = int(seen.expand(self._image).sum())
        self._transfer = transfer
        self._phase = torch.where(seen, transfer / size.clamp(min=1e-300), 1.0)
        self._power = torch.where(seen, size**2, torch.inf)
        Selection.__init__(self, shape, shape, order[:rank], values[:rank])

    def _apply(self, x: Tensor) -> Tensor:
        return self._times(x, self._constant("_transfer", x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._times(y, self._constant("_transfer", y).conj())

    def _solve_normal(self, y: Tensor, spread: float, variance: float) -> Tensor:
        return self._times(y, 1 / (spread * self._constant("_power", y) + variance))  # zero where nothing is seen

    def _transform(self, x: Tensor) -> Tensor:
        return _hartley(x.reshape(len(x), *self._image)).flatten(1)

    def _restore(self, coefficients: Tensor) -> Tensor:
        return _hartley(coefficients.unflatten(1, self._image)).reshape(len(coefficients), *self.x_shape)

    def _data_to_spectrum(self, y: Tensor) -> Tensor:
        turned = self._times(y, self._constant("_phase", y).conj())
        return self._to_spectrum(turned)[:, : self.rank]

    def _data_from_spectrum(self, coefficients: Tensor) -> Tensor:
        return self._times(self._from_seen(coefficients), self._constant("_phase", coefficients))

    def _times(self, x: Tensor, factor: Tensor) -> Tensor:
        return _multiplied(x.reshape(len(x), *self._image), factor).reshape(x.shape)


def _hartley(image: Tensor) -> Tensor:
    waves: Any = torch.fft.fft2(image, norm="ortho")
    return waves.real - waves.imag


def _multiplied(image: Tensor, factor: Tensor) -> Tensor:
    """The real image whose Fourier transform is multiplied by a factor (H, W) with the symmetry of real images."""
    half = factor[..., : image.shape[-1] // 2 + 1]
    return torch.fft.irfft2(torch.fft.rfft2(image) * half, s=image.shape[-2:])


def _outside(index: Tensor, n: int, boundary: str) -> Tensor:
    """The pixel 0 to n - 1 that stands at each index, which is less than n away from the image."""
    if boundary == "replicate":
        return index.clamp(0, n - 1)
    return (n - 1) - ((n - 1) - index.abs()).abs()
