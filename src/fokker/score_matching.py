"""Score matching for a score function alone, s: x (B, *shape) -> (B, *shape), each row on its own.

    explicit   tr(grad s) + |s|^2 / 2                                         (Hyvarinen 2005)
    sliced     v.grad(s) v + (v.s)^2 / 2, or + |s|^2 / 2                      (Song et al. 2019)
    denoising  |s(x + sigma z) + z / sigma|^2 / 2                             (Vincent 2011)
    annealed   the sum over levels sigma of sigma^2 times that                (Song and Ermon 2019)

All return one number for each row, a sum over its entries; their averages differ from E |s - grad log p|^2 / 2 by a
constant, with p the law of the data, or of the noisy data. A model at a fixed time is such a function:
`functools.partial(model.score, t=0.3)`. Gradients pass through to the parameters of s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.losses import check_rows

Score = Callable[[Tensor], Tensor]


def explicit(score: Score, x: Tensor) -> Tensor:
    """tr(grad s) + |s|^2 / 2 at x (B, *shape) -> (B,), with the exact trace: one pass back for each entry of a row.

    Raises InputError for NaN, fewer than two rows, and a score of another shape or without a gradient.
    """
    _check_data(x)
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x, s = _with_gradient(score, x)
        trace = torch.zeros_like(s[:, 0])
        for i in range(s.shape[1]):
            trace = trace + _gradient(s[:, i], x, graph)[:, i]
        loss = trace + s.square().sum(1) / 2
    return loss if graph else loss.detach()


def sliced(score: Score, x: Tensor, directions: Tensor, *, variance_reduced: bool = False) -> Tensor:
    """v.grad(s) v + (v.s)^2 / 2 at x (B, *shape) -> (B,), averaged over directions v (M, B, *shape) with E[v v^T] = I.

    variance_reduced: |s|^2 / 2, the average of (v.s)^2 / 2 over v; minimisers then vary less.
    Raises what `explicit` raises, and InputError for directions of another shape.
    """
    _check_data(x)
    check_rows("directions", directions)
    check_rows("directions", directions, torch.Size([max(1, len(directions)), *x.shape]))
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x, s = _with_gradient(score, x)
        total = torch.zeros_like(s[:, 0])
        for v in directions.flatten(2).to(s):
            along = (v * s).sum(1)
            square = s.square().sum(1) if variance_reduced else along.square()
            total = total + (v * _gradient(along, x, graph)).sum(1) + square / 2
        loss = total / len(directions)
    return loss if graph else loss.detach()


def draw_directions(x: Tensor, count: int, generator: torch.Generator, law: str = "rademacher") -> Tensor:
    """`count` directions for each row of x, (count, *x.shape), independent, with E[v v^T] = I.

    law: "rademacher" (entries +1 and -1, least variance of the trace: Hutchinson 1989) or "gaussian".
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"count: got {count!r}, an integer of at least 1 is accepted")
    shape = (count, *x.shape)
    match law:
        case "rademacher":
            return torch.randint(2, shape, generator=generator).mul(2).sub(1).to(x)
        case "gaussian":
            return torch.randn(shape, generator=generator, dtype=x.dtype).to(x)
    raise InputError(f"law: got {law!r}, 'rademacher' or 'gaussian' is accepted")


def denoising_at(score: Score, x: Tensor, sigma: float, noise: Tensor) -> Tensor:
    """|s(x + sigma z) + z / sigma|^2 / 2 at x (B, *shape) -> (B,), with noise z of the shape of x.

    Raises InputError for NaN, fewer than two rows, sigma <= 0 and a score or noise of another shape.
    """
    (sigma,) = _levels("sigma", [sigma])
    _check_data(x)
    check_rows("noise", noise, x.shape)
    return _squared(score(x + sigma * noise), x, sigma, noise)


def annealed(
    score: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: Sequence[float] | Tensor, noise: Tensor
) -> Tensor:
    """sum_i sigma_i^2 |s(x + sigma_i z_i, sigma_i) + z_i / sigma_i|^2 / 2 at x (B, *shape) -> (B,).

    sigmas (L,) fall; noise is (L, B, *shape); score takes (x, sigma), sigma a number. Raises InputError for no level,
    levels that rise or are not above zero, and what `denoising_at` refuses.
    """
    levels = _levels("sigmas", sigmas)
    if not levels or any(low >= high for high, low in pairwise(levels)):
        raise InputError(f"sigmas: got {levels}, at least one level, strictly falling, is accepted")
    _check_data(x)
    check_rows("noise", noise, torch.Size([len(levels), *x.shape]))
    total = torch.zeros_like(x.flatten(1)[:, 0])
    for sigma, z in zip(levels, noise):
        total = total + sigma**2 * _squared(score(x + sigma * z, sigma), x, sigma, z)
    return total


def _squared(s: Tensor, x: Tensor, sigma: float, noise: Tensor) -> Tensor:
    _check_score(s, x)
    return (s + noise / sigma).flatten(1).square().sum(1) / 2


def _levels(name: str, sigmas: Sequence[float] | Tensor) -> list[float]:
    levels = torch.as_tensor(sigmas, dtype=torch.float64)
    if levels.ndim != 1 or not bool((levels.isfinite() & (levels > 0)).all()):
        raise InputError(f"{name}: got {levels.tolist()}, finite numbers > 0 are accepted")
    return levels.tolist()


def _check_data(x: Tensor) -> None:
    check_rows("x", x)
    if len(x) < 2:
        raise InputError(f"x: got {len(x)} rows, at least 2 are accepted: the loss of a single point has no minimum")


def _check_score(s: Tensor, x: Tensor) -> None:
    if s.shape != x.shape:
        raise InputError(f"score: got values of shape {tuple(s.shape)}, {tuple(x.shape)} as x is accepted")


def _with_gradient(score: Score, x: Tensor) -> tuple[Tensor, Tensor]:
    """x as a leaf, and s(x) as rows (B, d)."""
    x = x.detach().requires_grad_()
    s = score(x)
    _check_score(s, x)
    if not s.requires_grad:
        raise InputError("score: its values carry no gradient, a differentiable function of x is accepted")
    return x, s.flatten(1)


def _gradient(value: Tensor, x: Tensor, graph: bool) -> Tensor:
    """d sum(value) / dx as rows; zero where the value does not depend on x."""
    (out,) = torch.autograd.grad(value.sum(), x, create_graph=graph, retain_graph=True, materialize_grads=True)
    return out.flatten(1)
