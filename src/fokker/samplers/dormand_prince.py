"""Adaptive Runge-Kutta of Dormand and Prince for many rows at once, each with steps of its own.

Every row has its own step size and its own error control, so a result never depends on who else is in the batch; rows
that have arrived leave it.

Source: Dormand and Prince 1980 (the 5(4) pair).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fokker.states import Cond, column, row_mean

Parts = tuple[Tensor, ...]
Slope = Callable[[Parts, Tensor, Tensor, Cond], Parts]

_A = [
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
]
_C = [0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0]
# Fifth-order weights minus the embedded fourth-order ones.
_E = [71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40]


def integrate(
    slope: Slope,
    parts: Parts,
    start: float,
    end: float,
    cond: Cond,
    *,
    rtol: float,
    atol: float,
    max_evaluations: int,
    name: str,
) -> tuple[Parts, Tensor]:
    """The parts of the state (B, ...) taken from u = start to u = end (either direction), and evaluations per row (B,).

    slope(parts, u, rows, cond) gives d/du of every part for the rows that are still on their way: u (B',) is where
    each stands, rows (B',) which they are, cond their conditions. A step is taken where, in every part, the local error
    is within rtol |part| + atol, root mean square over the entries of the row (cond["mask"] zero is padding and leaves
    that mean; a part (B,) is one entry, with no padding). A row whose slope is not finite however short the step comes
    back as NaN. FloatingPointError beyond max_evaluations.
    """
    forward = 1.0 if end > start else -1.0
    result = tuple(part.clone() for part in parts)
    first = parts[0]
    count = torch.zeros(len(first), dtype=torch.int64, device=first.device)
    rows = torch.arange(len(first), device=first.device)
    u = torch.full((len(first),), start, dtype=torch.float64, device=first.device)
    width = torch.full_like(u, (end - start) / 50)
    k1 = slope(parts, u, rows, cond)
    spent, too_short = 1, abs(end - start) * 1e-9
    count += 1
    while len(rows):
        if spent > max_evaluations:
            slowest = forward * float((forward * u).min())
            raise FloatingPointError(
                f"{name}: {len(rows)} samples unfinished after {spent} evaluations, at rho = "
                f"{math.exp(slowest):.3g}; a larger tolerance may help"
            )
        width = forward * torch.minimum(forward * width, forward * (end - u))  # not beyond the end
        ks, stage = [k1], parts
        for weights, c in zip(_A, _C[1:]):
            stage = tuple(_advanced(part, width, weights, [k[i] for k in ks]) for i, part in enumerate(parts))
            at = forward * (forward * (u + c * width)).clamp(max=forward * end)
            ks.append(slope(stage, at, rows, cond))
        spent += 6
        count[rows] += 6
        error = torch.zeros_like(u)
        for i, (part, new) in enumerate(zip(parts, stage)):
            tolerance = atol + rtol * torch.maximum(part.abs(), new.abs())
            local = column(width, part) * sum(e * k[i] for e, k in zip(_E, ks) if e) / tolerance
            size = row_mean(local.to(torch.float64).square(), cond if part.ndim > 1 else {}).sqrt()
            error = torch.maximum(error, size)
        accept = error <= 1
        parts = tuple(torch.where(_wide(accept, part), new, part) for part, new in zip(parts, stage))
        # The last stage is the next first one.
        k1 = tuple(torch.where(_wide(accept, old), new, old) for old, new in zip(k1, ks[-1]))
        lost = error.isnan() & (forward * width < too_short)
        parts = tuple(torch.where(_wide(lost, part), torch.nan, part) for part in parts)
        done = lost | (accept & (forward * (u + width - end) >= -1e-12))
        u = torch.where(accept, u + width, u)
        width = width * (0.9 * error.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0).nan_to_num(nan=0.2)
        if bool(done.any()):
            go = ~done
            for whole, part in zip(result, parts):
                whole[rows[done]] = part[done]
            rows, u, width = rows[go], u[go], width[go]
            parts, k1 = tuple(part[go] for part in parts), tuple(k[go] for k in k1)
            cond = {key: value[go.to(value.device)] for key, value in cond.items()}
    return result, count


def _advanced(part: Tensor, width: Tensor, weights: list[float], slopes: list[Tensor]) -> Tensor:
    return part + column(width, part) * sum(a * k for a, k in zip(weights, slopes) if a)


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.ndim - 1))
