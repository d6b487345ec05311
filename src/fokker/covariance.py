"""Means and covariances of incomplete or few data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fokker.errors import InputError


def ledoit_wolf(scaled: Tensor, correlation: Tensor) -> float:
    """The weight in [0, 1] of the identity, in a mean with the correlation, that minimises the expected squared error.

    scaled: rows (N, D) of mean 0 and variance 1; correlation: theirs (D, D). Source: Ledoit and Wolf 2004.
    """
    count, size = scaled.shape
    target = torch.eye(size, dtype=scaled.dtype, device=scaled.device)
    distance = (correlation - target).square().sum()
    spread = (scaled.square().sum(1).square().sum() / count - correlation.square().sum()) / count
    return float((spread / distance).clamp(0, 1)) if math.isfinite(float(spread / distance)) else 1.0


def from_incomplete(scaled: Tensor, start: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of most likelihood for rows (N, D) with NaN, by expectation and maximisation.

    Pairwise estimates are no start for coordinates: where entries are strongly correlated they have negative
    eigenvalues, and x would seem to be known exactly given y. Here every iterate is positive definite.
    Source: Dempster, Laird, Rubin 1977.
    """
    largest = int(scaled.isnan().sum(1).max())
    # Rows are exchangeable: the first ones are enough where all would take too long (never fewer than five per entry).
    rows = scaled[: max(5 * scaled.shape[1], int(1e10 / largest**3))]
    count, size = rows.shape
    patterns, which = torch.unique(rows.isnan(), dim=0, return_inverse=True)
    order = torch.argsort(which, stable=True)
    rows, sizes = rows[order], torch.bincount(which).tolist()
    chunk = max(1, int(2e7 / largest**2))  # patterns at a time, to bound memory
    eye = torch.eye(size, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(start)
    covariance = 0.9 * (vectors * values.clamp(min=0)) @ vectors.T + 0.1 * eye
    mean, before = torch.zeros(size, dtype=torch.float64), math.inf
    for _ in range(100):
        precision = torch.linalg.inv(covariance)
        total, square = torch.zeros_like(mean), torch.zeros_like(covariance)
        first = 0
        for start_at in range(0, len(patterns), chunk):
            gone, repeats = patterns[start_at : start_at + chunk], torch.tensor(sizes[start_at : start_at + chunk])
            last = first + int(repeats.sum())
            at = gone.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :largest]
            real = gone.gather(1, at)
            both = real[:, :, None] & real[:, None]
            block = torch.where(both, precision[at[:, :, None], at[:, None]], eye[:largest, :largest])
            inside = torch.cholesky_inverse(torch.linalg.cholesky(block)) * both  # covariance of what is missing
            group = torch.arange(len(gone)).repeat_interleave(repeats)
            z = (rows[first:last] - mean).nan_to_num()
            pull = (z @ precision).gather(1, at[group]) * real[group]
            z = z.scatter_add(1, at[group], -(inside[group] @ pull[..., None])[..., 0])
            total += z.sum(0)
            square += z.T @ z
            places = (at[:, :, None] * size + at[:, None]).flatten()
            square.view(-1).index_add_(0, places, (inside * repeats[:, None, None]).flatten())
            first = last
        shift = total / count
        mean = mean + shift
        covariance = (1 - shrinkage) * (square / count - shift[:, None] * shift) + shrinkage * eye
        now = float(torch.linalg.slogdet(covariance)[1])
        if abs(before - now) < 1e-3 * size:
            break
        before = now
    return mean, covariance


def check_varies(name: str, spread: Tensor) -> None:
    """InputError that names the entries of `name` whose spread is zero: they could not be scaled."""
    flat = spread.flatten().nan_to_num()
    if bool((flat <= 0).any()):
        where = (flat <= 0).nonzero().flatten().tolist()
        shown = ", ".join(map(str, where[:5])) + (", ..." if len(where) > 5 else "")
        raise InputError(f"{name}: entries {shown} never vary; leave them out, only entries that vary are accepted")
