"""Parallel-beam computed tomography: strip integrals of an image of square pixels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from torch import Tensor

from fokker.errors import InputError
from fokker.operators.base import LinearOperator
from fokker.operators.checks import checked_array, checked_image
from fokker.operators.least_squares import linear_map


class RadonTransform(LinearOperator):
    """Integrals of square images x (..., N, N) over strips one pixel wide: y (..., A, D), A angles, D detectors.

    y_ak = integral of the image over the strip k - D/2 <= u cos a + v sin a < k + 1 - D/2, with u to the right and v
    upwards from the middle of the image, in pixels, and x constant on each pixel. Exact for such images: the shadow of
    a pixel is a trapezoid, integrated in closed form, and every angle receives the whole mass. D = ceil(sqrt(2) N)
    covers the diagonal. At 0 degrees the strips are the columns (for N and D both even or both odd). The adjoint is
    the exact transpose. Unit: that of x times pixels, for strips are one pixel wide: y is the mean over their rays.

    angles: in degrees, (A,). Raises InputError for an image that is not square and angles that are not finite.
    Source: Kak and Slaney 1988, section 7.1 (weights by area).
    """

    def __init__(self, x_shape: Sequence[int], angles: ArrayLike) -> None:
        *lead, rows, columns = checked_image("RadonTransform: x_shape", x_shape)
        if rows != columns:
            raise InputError(f"RadonTransform: x_shape: got {rows} x {columns} pixels, square images are accepted")
        self.angles = checked_array("RadonTransform: angles", angles, 1)
        detectors = math.ceil(math.sqrt(2) * rows)
        super().__init__(x_shape, (*lead, len(self.angles), detectors))
        weights = strip_weights(rows, np.deg2rad(self.angles), detectors)
        self._forward, self._backward = _compressed(weights), _compressed(weights.T.tocsr())

    def _apply(self, x: Tensor) -> Tensor:
        return linear_map(x, self._project, self._project_back)

    def _adjoint(self, y: Tensor) -> Tensor:
        return linear_map(y, self._project_back, self._project)

    def _project(self, x: Tensor) -> Tensor:
        images = x.reshape(-1, self.x_shape[-1] ** 2)
        return (self._constant("_forward", x) @ images.T).T.reshape(len(x), *self.y_shape)

    def _project_back(self, y: Tensor) -> Tensor:
        rays = y.reshape(-1, math.prod(self.y_shape[-2:]))
        return (self._constant("_backward", y) @ rays.T).T.reshape(len(y), *self.x_shape)


def strip_weights(n: int, angles: np.ndarray, detectors: int) -> csr_array:
    """Area of pixel j in strip i, (A * D, n * n), for angles in radians: what the discretisation is."""
    middle = np.arange(n) - (n - 1) / 2
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    centre = (middle * cos - middle[:, None] * sin).reshape(len(angles), -1)  # rows count downwards
    wide = np.maximum(np.abs(cos), np.abs(sin))[:, :, 0]
    narrow = np.minimum(np.abs(cos), np.abs(sin))[:, :, 0]
    # A shadow is at most sqrt(2) wide: it meets three strips at most.
    first = np.floor(centre - (wide + narrow) / 2 + detectors / 2).astype(int)
    below = np.zeros_like(centre)
    entries: list[tuple[Any, ...]] = []
    for step in range(3):
        edge = first + step + 1 - detectors / 2 - centre
        up_to = _shadow(edge, wide, narrow)
        strip = np.arange(len(angles))[:, None] * detectors + np.clip(first + step, 0, detectors - 1)
        entries.append((up_to - below, strip, np.broadcast_to(np.arange(n * n), strip.shape)))
        below = up_to
    area, strip, pixel = (np.concatenate([part.ravel() for part in parts]) for parts in zip(*entries))
    kept = area > 0
    return csr_array((area[kept], (strip[kept], pixel[kept])), shape=(len(angles) * detectors, n * n))


def _shadow(edge: np.ndarray, wide: np.ndarray, narrow: np.ndarray) -> np.ndarray:
    """Share of a unit square's projection below `edge`: the distribution function of a sum of two uniform variables
    on intervals of these widths around zero."""
    ramp = np.clip((wide + narrow) / 2 - np.abs(edge), 0, narrow)
    share = np.divide(ramp, narrow, out=np.zeros_like(ramp), where=narrow > 0)
    beyond = ramp * share / (2 * wide) + np.clip((wide - narrow) / 2 - np.abs(edge), 0, None) / wide
    return np.where(edge < 0, beyond, 1 - beyond)


def _compressed(weights: csr_array) -> Tensor:
    with warnings.catch_warnings():  # torch calls its compressed rows a beta feature, once
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(weights.indptr, weights.indices, weights.data, weights.shape)
