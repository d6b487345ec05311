"""Linear systems over the entries of y, one for each row of a batch: (H C H^T + R) u = r.

`matvec` maps v (B, m) to the product, row by row. Few entries are solved by a Cholesky factor of all columns, many by
conjugate gradients. All in float64, as small noise makes them ill-conditioned.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DENSE = 64  # entries of y up to which all columns are computed
Matvec = Callable[[Tensor], Tensor]


def columns(matvec: Matvec, like: Tensor) -> Tensor:
    """The matrices (B, m, m) of `matvec`, made symmetric."""
    size = like.shape[1]
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    full = torch.stack([matvec(eye[k].expand_as(like)) for k in range(size)], 2)
    return (full + full.mT) / 2


def solve_dense(matrix: Tensor, floor: Tensor | float, r: Tensor) -> tuple[Tensor, Tensor]:
    """u with matrix u = r (B, m), and -r u / 2 - log det / 2 (B,).

    Eigenvalues below `floor` (B, 1) or a number, the least that the noise alone would give, are raised to it: a
    network's covariance need not be positive.
    """
    root, failed = torch.linalg.cholesky_ex(matrix)
    if not bool(failed.any()):
        u = torch.cholesky_solve(r[..., None], root)[..., 0]
        log_det = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
    else:
        values, vectors = torch.linalg.eigh(matrix)
        values = torch.maximum(values, torch.as_tensor(floor).to(values))
        u = (vectors @ ((vectors.mT @ r[..., None]) / values[..., None]))[..., 0]
        log_det = values.log().sum(1)
    return u, -0.5 * ((r * u).sum(1) + log_det)


def conjugate_gradients(
    matvec: Matvec, r: Tensor, diagonal: Tensor | None = None, tolerance: float = 1e-4, most: int = 200
) -> tuple[Tensor, Tensor]:
    """u (B, m) with |matvec(u) - r| <= tolerance |r| for each row, and -r u / 2 (B,), less half the log of `diagonal`.

    diagonal: that of the matrices, (m,) or (B, m), by which they are preconditioned: diagonal ones take one product. A
    row that is done no longer changes, so that no row depends on the others. Rows that have not converged after
    `most` products, or meet a direction in which `matvec` is not positive, keep what they have.
    """
    inverse = torch.ones(()).to(r) if diagonal is None else 1 / diagonal
    u, residual, direction = torch.zeros_like(r), r, inverse * r
    square = (r * direction).sum(1)
    goal = tolerance * torch.linalg.vector_norm(r, dim=1)
    active = square > 0
    for _ in range(most):
        if not bool(active.any()):
            break
        product = matvec(direction)
        curvature = (direction * product).sum(1)
        active = active & (curvature > 0)
        step = torch.where(active, square / torch.where(curvature > 0, curvature, 1.0), 0.0)[:, None]
        u = u + step * direction
        residual = residual - step * product
        scaled = inverse * residual
        after = (residual * scaled).sum(1)
        ratio = torch.where(active, after / torch.where(square > 0, square, 1.0), 0.0)[:, None]
        direction = scaled + ratio * direction
        square = torch.where(active, after, square)
        active = active & (torch.linalg.vector_norm(residual, dim=1) > goal)
    value = -0.5 * (r * u).sum(1)
    return u, value if diagonal is None else value - 0.5 * diagonal.log().sum(-1)
