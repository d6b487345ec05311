"""Linear systems over the entries of y, one for each row of a batch: (H C H^T + R) u = r.

`matvec` maps v (B, m) to the product, row by row. Few entries are solved by a factor of all columns, many by products:
conjugate gradients where the matrix is known to be symmetric and positive, projections where a network tells it.
All in float64, as small noise makes them ill-conditioned.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DENSE = 64  # entries of y up to which all columns are computed
CHECKED = (2, 4, 8, 12, 16, 24, 32, 48, 64)  # products after which a projection is solved
ROUNDING = 1e-9  # of the largest entry: symmetric parts this little below zero count as positive
Matvec = Callable[[Tensor], Tensor]


def columns(matvec: Matvec, like: Tensor) -> Tensor:
    """The matrices (B, m, m) of `matvec`, made symmetric."""
    size = like.shape[1]
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    full = torch.stack([matvec(eye[k].expand_as(like)) for k in range(size)], 2)
    return (full + full.mT) / 2


def solve_dense(gram: Tensor, noise: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """u with (gram + noise) u = r (B, m), and -r u / 2 - log det / 2 (B,).

    gram (B, m, m): H C H^T, as a network tells it: it need be neither symmetric nor positive, and the shift gram u that
    it brings could then be any multiple of r. Noise (m, m) or (B, m, m) is whitened. Where the symmetric part is
    positive, |gram u| <= |r|, symmetric or not. Other rows have gram replaced by its polar factor (gram^T gram)^1/2 in
    the matrix, for which the same holds. Both are the plain solution where gram is a covariance.
    """
    whiten = torch.linalg.inv(torch.linalg.cholesky(noise.expand_as(gram[:1]) if noise.ndim == 2 else noise))
    gram, data = whiten @ gram @ whiten.mT, (whiten @ r[..., None])
    eye = torch.eye(r.shape[1], dtype=r.dtype, device=r.device)
    size = gram.diagonal(dim1=1, dim2=2).abs().amax(1)[:, None, None]
    astray = torch.linalg.cholesky_ex((gram + gram.mT) / 2 + ROUNDING * (1 + size) * eye)[1] != 0
    if bool(astray.any()):
        _, values, right = torch.linalg.svd(gram[astray])
        gram = gram.clone()
        gram[astray] = right.mT @ (values[..., None] * right)
    factor, pivots = torch.linalg.lu_factor(gram + eye)
    u = torch.linalg.lu_solve(factor, pivots, data)
    log_det = factor.diagonal(dim1=1, dim2=2).abs().log().sum(1) - 2 * whiten.diagonal(dim1=1, dim2=2).log().sum(1)
    return (whiten.mT @ u)[..., 0], -0.5 * ((data * u).sum((1, 2)) + log_det)


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


def projected(matvec: Matvec, r: Tensor, tolerance: float = 1e-4) -> tuple[Tensor, Tensor]:
    """u (B, m) with u + matvec(u) = r, and -r u / 2 (B,), for a product that need be neither symmetric nor positive.

    The full orthogonalisation method (Saad 1981): `solve_dense` for the product projected on r, matvec(r), ..., so that
    what is said there of overshooting holds here. A row whose residual is tolerance |r| no longer changes, so that no
    row depends on the others; after the last of `CHECKED` products it keeps what it has.
    """
    size = torch.linalg.vector_norm(r, dim=1)
    active, u = size > 0, torch.zeros_like(r)
    basis, columns = [r / size.clamp(min=1e-300)[:, None]], list[Tensor]()
    for k in range(1, min(CHECKED[-1], r.shape[1]) + 1):
        new, column = matvec(basis[-1]), []
        for old in basis:
            column.append((old * new).sum(1))
            new = new - column[-1][:, None] * old
        whole = torch.stack(column, 1).norm(dim=1)
        left = torch.linalg.vector_norm(new, dim=1)
        left = torch.where(left > ROUNDING**1.5 * whole, left, 0.0)  # else nothing new: rounding alone
        columns.append(torch.nn.functional.pad(torch.stack([*column, left], 1), (0, CHECKED[-1] - k)))
        if k in CHECKED or k == r.shape[1]:
            small = torch.stack(columns, 2)[active, :k]
            start = torch.zeros_like(small[:, 0])
            start[:, 0] = size[active]
            weights, _ = solve_dense(small, torch.eye(k).to(r), start)
            u[active] = torch.einsum("bk,kbj->bj", weights, torch.stack([b[active] for b in basis]))
            active = active.masked_scatter(active, (left[active] * weights[:, -1]).abs() > tolerance * size[active])
            if not bool(active.any()):
                break
        basis.append(torch.where(left > 0, 1 / left, 0.0)[:, None] * new)
    return u, -0.5 * (r * u).sum(1)
