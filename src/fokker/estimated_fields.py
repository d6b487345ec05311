"""A Gaussian random field with the spectrum of given fields, and the correlations of their lowest waves.

Without a network: the Gaussian nearest to training fields among those that have the cosines as eigenfunctions, as
stationary fields with mirrored boundary do, or, where fields that were held out ask for it, among those whose lowest
cosines are correlated in any way, as they are where fields differ from place to place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.grids import COSINES, Waves, along, cosine_matrix
from fokker.random_fields import SpectralField

MOST = 256  # modes whose correlations are estimated
LEAST = 100  # fields from which correlations are asked for
SHARES = 3, 10, 30  # fields for each of them
EVEN = 1e-9  # of the largest entry or eigenvalue, by which a covariance may miss symmetry or zero
_ROWS = 1024  # fields transformed at a time


@dataclass(frozen=True, eq=False)
class CosineSpectrum(SpectralField):
    """Cosines as in `CosineField`, with the variances of their amplitudes given: `spectrum` (m_1, ..., m_d) for m_j
    modes along axis j.

    leading: the covariance (k_1, ..., k_d, k_1, ..., k_d) of the amplitudes of the k_j <= m_j lowest modes along each
    axis, in place of their variances; the others are independent, of these and of each other.

    InputError for variances that are negative, not finite or all zero, and for a `leading` that is no covariance.
    """

    spectrum: Tensor
    leading: Tensor | None = None
    waves: ClassVar[Waves] = COSINES

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.spectrum).detach().to("cpu", torch.float64, copy=True)
        if not values.ndim or not bool((values >= 0).all() & values.isfinite().all() & (values > 0).any()):
            raise InputError(
                f"spectrum: got shape {tuple(values.shape)}, numbers that are finite, at least 0 and not all 0 are "
                "accepted, on one axis for each dimension"
            )
        if self.leading is not None:
            block = torch.as_tensor(self.leading).detach().to("cpu", torch.float64, copy=True)
            box = tuple(block.shape[: values.ndim])
            if block.shape != (*box, *box) or len(box) < values.ndim or any(k > m for k, m in zip(box, values.shape)):
                raise InputError(
                    f"leading: got shape {tuple(block.shape)} for a spectrum {tuple(values.shape)}, the shape of the "
                    "lowest modes twice is accepted"
                )
            matrix = block.reshape(math.prod(box), -1)
            if not bool(matrix.isfinite().all()) or float((matrix - matrix.T).abs().max()) > EVEN * float(matrix.max()):
                raise InputError("leading: got entries that are not finite or not symmetric, a covariance is accepted")
            lowest, highest = (float(v) for v in torch.linalg.eigvalsh(matrix)[[0, -1]])
            if lowest < -EVEN * highest:
                raise InputError(f"leading: got an eigenvalue {lowest:.3g}, none below 0 is accepted")
            object.__setattr__(self, "leading", block)
            values[tuple(slice(k) for k in box)] = matrix.diagonal().clamp(min=0).reshape(box)
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

    @classmethod
    def fitted(cls, values: Tensor | np.ndarray) -> CosineSpectrum:
        """As `estimate`, with the sample covariance of the lowest modes where that is the better description.

        Of so many modes that there are 3, 10 or 30 fields for each, at most 256. The covariance that makes every
        tenth field, left out of both estimates, most likely is taken if it does so by more than two standard errors
        against the spectrum alone: a field without a preferred place keeps that.
        """
        own, fields = cls.estimate(values), torch.as_tensor(values)
        if len(fields) < LEAST:
            return own
        boxes = [_box(fields.shape[1:], min(MOST, len(fields) // share)) for share in SHARES]
        low = fields.double() - fields.mean(0, dtype=torch.float64)
        for axis, k in zip(range(-own.dimension, 0), boxes[0]):
            waves = cosine_matrix(fields.shape[axis])[:k] / math.sqrt(fields.shape[axis])
            low = along(axis, waves, low)
        out = torch.arange(len(low)) % 10 == 9
        varies = (low.var(0) > EVEN * low.var(0).max()).flatten()
        seen, held = (part.flatten(1)[:, varies] for part in (low[~out], low[out]))
        covariance = seen.T.cov().reshape(seen.shape[1], -1)
        covariance = covariance + EVEN * torch.diag(covariance.diagonal())  # waves may depend on each other exactly
        alone = _log_normal(held, torch.diag(covariance.diagonal()))
        best, chosen = 0.0, None
        for box in dict.fromkeys(boxes):
            inside = torch.zeros(boxes[0], dtype=torch.bool)
            inside[tuple(slice(k) for k in box)] = True
            inside = inside.flatten()[varies]
            both = (inside[:, None] & inside) | torch.eye(len(inside), dtype=torch.bool)
            gain = _log_normal(held, covariance * both) - alone
            least = max(best, 2 * float(gain.std()) / math.sqrt(len(gain)))
            if float(gain.mean()) > least:
                best, chosen = float(gain.mean()), box
        if chosen is None:
            return own
        low = low[(slice(None), *(slice(k) for k in chosen))].flatten(1)
        return cls(own.spectrum, low.T.cov().reshape(*chosen, *chosen))

    def grid_eigenvalues(self, shape: tuple[int, ...]) -> Tensor:
        """As of any field; without the modes of `leading`, which `grid_coupling` adds."""
        if self.leading is None:
            return super().grid_eigenvalues(shape)
        rest = self.spectrum.clone()
        rest[tuple(slice(k) for k in self._box)] = 0
        if not bool((rest > 0).any()):
            return torch.zeros(self._checked_grid(shape), dtype=torch.float64)
        return CosineSpectrum(rest).grid_eigenvalues(shape)

    def grid_coupling(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        """The discrete waves that the modes of `leading` are on the cells, and their covariance."""
        if self.leading is None:
            return None
        shape = self._checked_grid(shape)
        place, weight = torch.zeros((), dtype=torch.long), torch.ones((), dtype=torch.float64)
        for k, n in zip(self._box, shape):
            index, factor = self.waves.fold(k, n)
            place, weight = place[..., None] * n + index, weight[..., None] * factor
        found, row = place.flatten().unique(return_inverse=True)
        mix = torch.zeros(len(found), weight.numel(), dtype=torch.float64)
        mix[row, torch.arange(weight.numel())] = weight.flatten()
        return found, mix @ self.leading.reshape(weight.numel(), -1) @ mix.T

    def _scaled(self, coefficients: Tensor) -> Tensor:
        out = super()._scaled(coefficients)
        if self.leading is None:
            return out
        inside, root = self._coupled
        index = inside.to(out.device)
        return out.index_copy(-1, index, coefficients[..., index].to(out.dtype) @ root.to(out.device))

    @property
    def _box(self) -> tuple[int, ...]:
        assert self.leading is not None
        return tuple(self.leading.shape[: self.dimension])

    @cached_property
    def _coupled(self) -> tuple[Tensor, Tensor]:
        """Which coefficients `leading` mixes, and its symmetric root."""
        assert self.leading is not None
        index = torch.arange(self.size).reshape(self.mode_shape)[tuple(slice(k) for k in self._box)].flatten()
        values, vectors = torch.linalg.eigh(self.leading.reshape(len(index), -1))
        return index, vectors * values.clamp(min=0).sqrt() @ vectors.T

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
        if not isinstance(other, CosineSpectrum) or (self.leading is None) != (other.leading is None):
            return False
        same = self.leading is None or other.leading is None or torch.equal(self.leading, other.leading)
        return same and torch.equal(self.spectrum, other.spectrum)

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


def _box(shape: torch.Size, most: int) -> tuple[int, ...]:
    """Modes along each axis, as many on each as there are or as make `most` of them in all; at least one."""
    side = int(most ** (1 / len(shape)) + 1e-9)
    return tuple(max(1, min(n, side)) for n in shape)


def _log_normal(x: Tensor, covariance: Tensor) -> Tensor:
    """log N(x; 0, covariance) of rows, up to what does not depend on the covariance."""
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, x.T, upper=False)
    return -0.5 * white.square().sum(0) - root.diagonal().log().sum()
