"""Orthonormal cosine and sine transforms on cell-centred grids, as matrix products: any device, and differentiable.

The n cells of (0, 1) have their centres at (j + 1/2) / n. cos(pi k x) there are the rows of the DCT-II, sin(pi k x)
those of the DST-II. Up to a few hundred cells a product with the dense matrix is as fast as a fast transform.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def cosine_matrix(n: int) -> Tensor:
    """Orthonormal DCT-II (n, n): entry (k, j) is sqrt((2 - [k = 0]) / n) cos(pi k (j + 1/2) / n), float64."""
    k = np.arange(n)[:, None]
    waves = np.cos(np.pi * k * (np.arange(n) + 0.5) / n) * math.sqrt(2 / n)
    waves[0] = 1 / math.sqrt(n)
    return torch.from_numpy(waves)


def sine_matrix(n: int) -> Tensor:
    """Orthonormal DST-II (n, n): row k - 1 is sqrt((2 - [k = n]) / n) sin(pi k (j + 1/2) / n), k = 1..n, float64."""
    k = np.arange(1, n + 1)[:, None]
    waves = np.sin(np.pi * k * (np.arange(n) + 0.5) / n) * math.sqrt(2 / n)
    waves[-1] /= math.sqrt(2)
    return torch.from_numpy(waves)


def dct(x: Tensor) -> Tensor:
    """Orthonormal DCT-II of the last two axes of x (..., H, W), in its dtype."""
    down, across = _matrix("cosine", x.shape[-2], x), _matrix("cosine", x.shape[-1], x)
    return down @ x @ across.T


def idct(coefficients: Tensor) -> Tensor:
    """The inverse, and transpose, of `dct`."""
    c = coefficients
    return _matrix("cosine", c.shape[-2], c).T @ c @ _matrix("cosine", c.shape[-1], c)


def dst(x: Tensor) -> Tensor:
    """Orthonormal DST-II of the last two axes of x (..., H, W), in its dtype."""
    down, across = _matrix("sine", x.shape[-2], x), _matrix("sine", x.shape[-1], x)
    return down @ x @ across.T


def idst(coefficients: Tensor) -> Tensor:
    """The inverse, and transpose, of `dst`."""
    c = coefficients
    return _matrix("sine", c.shape[-2], c).T @ c @ _matrix("sine", c.shape[-1], c)


def _matrix(kind: str, n: int, like: Tensor) -> Tensor:
    return _converted(kind, n, like.dtype, like.device)


@lru_cache(maxsize=32)
def _converted(kind: str, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return (cosine_matrix if kind == "cosine" else sine_matrix)(n).to(device, dtype)
