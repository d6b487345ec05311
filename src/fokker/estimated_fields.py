"""A Gaussian random field with the spectrum of given fields.

The spectrum of a stationary field with mirrored boundary, without a network: the Gaussian nearest to training fields
among those that have the cosines as eigenfunctions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.grids import COSINES, Waves, along
from fokker.random_fields import SpectralField

_ROWS = 1024  # fields transformed at a time


@dataclass(frozen=True, eq=False)
class CosineSpectrum(SpectralField):
    """Cosines as in `CosineField`, with eigenvalues given: `spectrum` (m_1, ..., m_d) for m_j modes along axis j.

    InputError for eigenvalues that are negative, not finite or all zero.
    """

    spectrum: Tensor
    waves: ClassVar[Waves] = COSINES

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.spectrum).detach().to("cpu", torch.float64, copy=True)
        if not values.ndim or not bool((values >= 0).all() & values.isfinite().all() & (values > 0).any()):
            raise InputError(
                f"spectrum: got shape {tuple(values.shape)}, numbers that are finite, at least 0 and not all 0 are "
                "accepted, on one axis for each dimension"
            )
        object.__setattr__(self, "spectrum", values)

    @classmethod
    def estimate(cls, values: Tensor | np.ndarray, smoothing: float = 0.0) -> CosineSpectrum:
        """From N fields (N, *grid) on the cells of a grid: the sample variance of each of their cosine coefficients.

        The fields are centred by their mean, so lambda_k = sum_n (DCT of field n - mean)_k^2 / (N - 1) / cells, which
        is unbiased for the variance on the grid of every mode of every field, Gaussian or not. It relies on the
        cosine coefficients being uncorrelated, as in a field without a preferred place.

        A mode comes with a relative error of sqrt(2 / (N - 1)). `smoothing` s in [0, 1) trades it for a bias: each
        lambda_k becomes the geometric mean over the modes within floor(s k_j) of it along each axis j (fewer at the
        upper end, where the window stays symmetric), corrected for what that mean loses with few Gaussian fields. No
        isotropy is assumed. The window grows with k: the steep low modes stay as they are, and a power law k^-p along
        an axis grows by a factor of no more than about 1 + p s^2 / 6. Modes that never vary stay zero.
        InputError for fewer than two fields, values that are not finite, and fields that are all equal.
        """
        fields = torch.as_tensor(values)
        if fields.ndim < 2 or len(fields) < 2:
            raise InputError(f"values: got shape {tuple(fields.shape)}, (N, *grid) with N at least 2 is accepted")
        if not 0 <= smoothing < 1:
            raise InputError(f"smoothing: got {smoothing}, at least 0 and less than 1 is accepted")
        dimension = fields.ndim - 1
        mean = fields.mean(0, dtype=torch.float64)
        if not bool(mean.isfinite().all()):
            raise InputError("values: got entries that are not finite, finite numbers are accepted")
        total = torch.zeros_like(mean)
        for block in fields.split(_ROWS):
            total += COSINES.analyse(block.double() - mean, dimension).square().sum(0)
        freedom = len(fields) - 1
        return cls(_smoothed(total / freedom / mean.numel(), smoothing, freedom))

    @property
    def dimension(self) -> int:  # type: ignore[override]
        """Number of axes of the spectrum."""
        return self.spectrum.ndim

    @property
    def mode_shape(self) -> tuple[int, ...]:
        """The shape of the spectrum."""
        return tuple(self.spectrum.shape)

    @property
    def eigenvalues(self) -> Tensor:
        """The spectrum, flattened."""
        return self.spectrum.flatten()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CosineSpectrum) and torch.equal(self.spectrum, other.spectrum)

    def __hash__(self) -> int:
        return hash((self.mode_shape, float(self.spectrum.sum())))


def _smoothed(values: Tensor, smoothing: float, freedom: int) -> Tensor:
    """Geometric means of the positive values over windows of half width floor(smoothing k) along each axis.

    Divided by their expectation for n independent chi-square variables of `freedom` degrees f, divided by f:
    (2 / f) (Gamma(f / 2 + 1 / n) / Gamma(f / 2))^n, which is 1 for n = 1.
    """
    positive = values > 0
    logs, count = torch.where(positive, values, 1.0).log(), positive.double()
    for axis in range(-values.ndim, 0):
        k = torch.arange(values.shape[axis])
        half = torch.minimum((smoothing * k).floor().long(), len(k) - 1 - k)
        window = ((k[:, None] - k).abs() <= half[:, None]).double()
        logs, count = along(axis, window, logs), along(axis, window, count)
    n, shape = count.clamp(min=1.0), torch.tensor(freedom / 2, dtype=torch.float64)
    excess = n * (torch.lgamma(shape + 1 / n) - torch.lgamma(shape)) - shape.log()
    return torch.where(positive, (logs / n - excess).exp(), 0.0)
